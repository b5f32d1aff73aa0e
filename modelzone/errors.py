"""The one error that a user sees."""

from __future__ import annotations

__all__ = ["ModelzoneError", "SettingsError"]


class ModelzoneError(Exception):
    """Something the user can mend. Its text is complete: entry points print it and no traceback."""


class SettingsError(ModelzoneError):
    """A value in a settings file, or an override of one, is refused.

    Parameters
    ----------
    source
        Where the value was read: a file's path or ``-c deployment.mixtral.batch_size``.
    key
        The dotted key inside the source, empty when the source as a whole is at fault.
    problem
        What is wrong, with the value.
    fix
        What to do about it.
    """

    def __init__(self, *, source: str, key: str = "", problem: str, fix: str) -> None:
        self.source, self.key, self.problem, self.fix = source, key, problem, fix
        where = f"{source}: {key}" if key else source
        super().__init__(f"{where}: {problem}\n  fix: {fix}")
