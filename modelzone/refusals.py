"""Why something cannot be deployed as asked, before anybody pays for it."""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.errors import SettingsError

__all__ = ["Refusal"]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One value that cannot work.

    Attributes
    ----------
    key
        Dotted key of the value below a profile's ``serving`` or a deployment: ``tensor_parallel_degree``.
    value
        The value as it was given.
    problem
        What is wrong with it, with numbers; reads on from the value: ``does not fit on ml.inf2.24xlarge: …``.
    fix
        What would work.
    """

    key: str
    value: object
    problem: str
    fix: str

    def error(self, *, source: str, prefix: str = "") -> SettingsError:
        """Say it of a file: `prefix` is where the serving keys stand in it, such as ``deployments.mixtral``."""
        key = f"{prefix}.{self.key}" if prefix else self.key
        return SettingsError(source=source, key=key, problem=f"{self.value!r} {self.problem}", fix=self.fix)
