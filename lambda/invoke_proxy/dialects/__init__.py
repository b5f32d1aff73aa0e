"""Dialects: how each family of engines is asked, and how it answers."""

from __future__ import annotations

from . import tgi_generate
from .base import Dialect, StreamEvent, WholeAnswer

__all__ = ["DIALECTS", "Dialect", "StreamEvent", "WholeAnswer"]

DIALECTS: dict[str, Dialect] = {"tgi-generate": tgi_generate}
