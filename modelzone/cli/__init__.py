"""The command line: ``modelzone VERB …`` or ``python -m modelzone VERB …``.

One file of ``verbs/`` for each verb, and its line in ``app.VERBS``. What all of them share: errors and exit codes
(``frame``), output (``output``), the project's folder (``project``) and completion (``completion``).
"""

from __future__ import annotations

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process; returns the exit status."""
    try:
        # Imported here, so that Ctrl-C during the import is quiet as well.
        from modelzone.cli.app import app  # noqa: PLC0415

        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0
