"""Constructs: each owns the resources of one concern and offers them as attributes and ``grant_*`` methods."""
