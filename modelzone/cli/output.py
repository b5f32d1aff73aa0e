"""What verbs print: one JSON document, or tables and lines for people. Messages go to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["note", "write", "write_facts", "write_heading", "write_json", "write_table"]

# Wider than any line: what is piped is neither wrapped nor cut.
_UNLIMITED = 100_000
# A column of text is not squeezed below this; a terminal that is narrower gets a block of lines for each row.
_NARROWEST_TEXT = 22


def note(text: str) -> None:
    """Tell the person at the terminal something that is no result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Print a line as it is, for whoever copies it."""
    sys.stdout.write(f"{text}\n")


def write_json(document: object) -> None:
    """Print the one JSON document of a command."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that --json and --help do not pay

    # Rich keeps bold with NO_COLOR; without a colour system it prints no escape sequence at all.
    plain = bool(os.environ.get("NO_COLOR"))
    console = Console(markup=False, highlight=False, emoji=False, color_system=None if plain else "auto")
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


def _print(console: Console, *parts: Any, style: str | None = None) -> None:
    with console.capture() as capture:
        console.print(*parts, style=style)
    # Rich pads every line to its full width.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def write_heading(text: str) -> None:
    """Print what a table is about."""
    _print(_console(), f"\n{text}", style="bold")


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair in a line."""
    from rich.table import Table  # noqa: PLC0415

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, value)
    _print(_console(), grid)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their columns. A column whose title ends in ``>`` holds numbers: right, never wrapped."""
    lines = [tuple(row) for row in rows]
    console = _console()
    table = _table(columns, lines)
    unbounded = console.options.update(max_width=_UNLIMITED)
    if console.measure(table, options=unbounded).minimum <= console.width:
        _print(console, table)
        return
    for number, line in enumerate(lines):
        if number:
            write("")
        write_facts(zip((title.removesuffix(">") for title in columns), line, strict=True))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for index, title in enumerate(columns):
        if title.endswith(">"):
            table.add_column(title.removesuffix(">"), justify="right", no_wrap=True)
        else:
            longest = max((len(row[index]) for row in rows), default=0)
            width = min(max(longest, len(title)), _NARROWEST_TEXT)
            table.add_column(title, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*row)
    return table
