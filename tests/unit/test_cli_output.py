"""Tables are plain and whole in pipes, and readable on terminals of any width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from modelzone.cli.formats import UNKNOWN, gib, parameters, usd, whole
from modelzone.cli.output import write_facts, write_table

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["NAME", "BYTES>", "WHERE"]
LONG = "a text of many words that goes on and on until nobody wants to read what it says in the end"
ROWS = [["weights", "93,405,585,408", LONG], ["cache", "7", "exact"]]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "NAME              BYTES  WHERE",
        f"weights  93,405,585,408  {LONG}",
        "cache                 7  exact",
    ]


def test_markup_in_values_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(["NAME"], [["[bold]x[/bold] :smile: [/nothing]"]])
    write_facts([("[red]", "[/]")])
    assert capsys.readouterr().out == "NAME\n[bold]x[/bold] :smile: [/nothing]\n[red]  [/]\n"


def test_an_empty_table_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(COLUMNS, [])
    assert capsys.readouterr().out.split() == ["NAME", "BYTES", "WHERE"]


def on_a_terminal(width: int, **environment: str) -> str:
    """What the table looks like on a terminal of that width."""
    program = f"from modelzone.cli.output import write_table; write_table({COLUMNS!r}, {ROWS!r})"
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}}
    environment = {**kept, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=slave, stdin=slave, cwd=ROOT, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux: the other end was closed
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait(30) == 0
    return seen.decode().replace("\r\n", "\n")


def test_a_wide_terminal_has_bold_titles() -> None:
    shown = on_a_terminal(160)
    assert shown.startswith("\x1b[1mNAME")
    assert ESCAPE.sub("", shown).splitlines()[1] == f"weights  93,405,585,408  {LONG}"


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_dumb_terminals_get_no_escape_sequences(variable: dict[str, str]) -> None:
    shown = on_a_terminal(160, **variable)
    assert "\x1b" not in shown
    assert shown.startswith("NAME")
    assert "93,405,585,408" in shown


def test_a_narrower_terminal_wraps_text_and_never_numbers() -> None:
    lines = ESCAPE.sub("", on_a_terminal(60)).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert "93,405,585,408" in lines[1]
    assert " ".join(" ".join(line[25:].strip() for line in lines[1:-1]).split()) == LONG


def test_a_terminal_that_is_too_narrow_gets_a_block_for_each_row() -> None:
    lines = ESCAPE.sub("", on_a_terminal(36)).splitlines()
    assert all(len(line) <= 36 for line in lines)
    assert lines[0].split() == ["NAME", "weights"]
    assert lines[1].split() == ["BYTES", "93,405,585,408"]
    assert lines[-1].split() == ["WHERE", "exact"]


def test_numbers_for_people() -> None:
    assert whole(93_405_585_408) == "93,405,585,408"
    assert gib(16 * 1024**3) == "16.00"
    assert (parameters(46_702_792_704), parameters(124_439_808)) == ("46.70 B", "124.4 M")
    assert (usd(None), usd(7.79), usd(0.0005), usd(0)) == (UNKNOWN, "7.79", "0.0005", "0.00")
    assert usd(1234567.891) == "1,234,567.89"
