"""The progress of a compilation as it goes: redrawn on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from modelzone.cli.output import note, write

if TYPE_CHECKING:
    from modelzone.compiling.snapshot import Snapshot

__all__ = ["ProgressView", "progress_view"]

# As Rich has them.
_DUMB = {"dumb", "unknown"}


class ProgressView:
    """Prints a line whenever something has changed; a context manager."""

    def __init__(self, *, apart: bool) -> None:
        self._say = note if apart else write
        self._marks: tuple[object, ...] | None = None

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, snapshot: Snapshot) -> None:
        """Show how far it is."""
        from modelzone.compiling.text import line_of, marks_of  # noqa: PLC0415

        if (marks := marks_of(snapshot)) != self._marks:
            self._marks = marks
            self._say(line_of(snapshot))
            sys.stdout.flush()


class LiveView(ProgressView):
    """Redraws a view in place; what it showed last stays on the screen."""

    def __init__(self) -> None:
        super().__init__(apart=False)
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415

        console = Console(markup=False, highlight=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> ProgressView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw it anew."""
        self._live.update(drawing(snapshot), refresh=True)


def drawing(snapshot: Snapshot) -> Any:
    """The view: what runs, its steps with their durations, a bar, host and cost."""
    from rich.console import Group  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from modelzone.compiling.text import clean, duration, host_text, progress_text, step_rows, usd_text  # noqa: PLC0415

    execution, job = snapshot.execution, snapshot.job
    parts: list[Any] = [Text(f"{execution.name}  {execution.word}, {duration(snapshot.seconds)}", style="bold")]
    steps = Table.grid(padding=(0, 2, 0, 0))
    steps.add_column(no_wrap=True)
    steps.add_column(no_wrap=True)
    steps.add_column(justify="right", no_wrap=True)
    for mark, name, took in step_rows(snapshot):
        style = {"FAILED": "red", "...": "bold"}.get(mark, "")
        steps.add_row(Text(mark, style=style), Text(name, style=style), Text(took))
    parts.append(steps)
    if execution.running and job and job.state == "running":
        if job.percent is not None:
            parts.append(ProgressBar(total=100.0, completed=job.percent, width=50))
        if said := progress_text(job):
            parts.append(Text(said))
    if snapshot.waiting:
        parts.append(Text(f"tries again: {clean(snapshot.waiting)}"))
    facts = [("host", host_text(snapshot.host) if snapshot.host else ""), ("cost", usd_text(snapshot))]
    parts += [Text(f"{name}  {value}") for name, value in facts if value]
    return Group(*parts)


def progress_view(*, apart: bool) -> ProgressView:
    """A view that suits where the output goes; with `apart` it goes to stderr, because stdout is for JSON.

    Who wants no colours, or has a terminal that cannot move its cursor, gets lines.
    """
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "").lower() in _DUMB
    return LiveView() if sys.stdout.isatty() and not apart and not plain else ProgressView(apart=apart)
