"""The embedded AWS: MiniStack in a process of ours, with what it lacks beside it.

Start it with ``python -m modelzone.local.emulator --port PORT --state-dir DIR``. Importing this package imports
nothing of MiniStack: its modules read the environment while they load, so
:func:`modelzone.local.emulator.environment.prepare` has to run first.
"""
