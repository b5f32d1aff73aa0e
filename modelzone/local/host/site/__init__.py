"""On the ``PYTHONPATH`` of emulated hosts; holds their ``sitecustomize``."""
