"""docs/cli.md shows what the commands print. To write it anew: ``PYTHONPATH=. python tests/unit/test_cli_docs.py``."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelzone.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "cli.md"
EXAMPLE = re.compile(r"```console\n\$ modelzone (?P<words>[^\n]*)\n(?P<shown>.*?)```\n", re.DOTALL)
# Nobody has this folder.
NOT_RUN = re.compile("COMMIT")


def printed(words: str) -> str:
    """What a command prints, with paths as seen from the project."""
    done = CliRunner().invoke(app, ["--project", str(ROOT), *shlex.split(words)])
    return done.output.replace(f"{ROOT}/", "")


def examples() -> list[re.Match[str]]:
    return [m for m in EXAMPLE.finditer(FILE.read_text(encoding="utf-8")) if not NOT_RUN.search(m["words"])]


@pytest.mark.parametrize("example", examples(), ids=lambda match: match["words"])
def test_the_documentation_shows_what_the_command_prints(example: re.Match[str]) -> None:
    assert example["shown"] == printed(example["words"])


KEYS = {
    "plan": "plan mixtral-8x7b-instruct --json",
    "plan --search": "plan mixtral-8x7b-instruct --search --json",
    "cost": "cost dev --json",
    "params": "params dev mixtral batch_size=2 --json",
    "models": "models --json",
    "engines": "engines --json",
    "instances": "instances --json",
    "environments": "environments --json",
    "prices show": "prices show --json",
}


@pytest.mark.parametrize("command", KEYS)
def test_the_documented_keys_are_those_of_the_document(command: str) -> None:
    (row,) = re.findall(rf"^\| `{command}` \| (.*) \|$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall("`(.*?)`", row) == list(json.loads(printed(KEYS[command])))


def write_again() -> None:
    """Run every example and put its output into the file."""

    def replaced(match: re.Match[str]) -> str:
        shown = match["shown"] if NOT_RUN.search(match["words"]) else printed(match["words"])
        return f"```console\n$ modelzone {match['words']}\n{shown}```\n"

    FILE.write_text(EXAMPLE.sub(replaced, FILE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_again()
