"""What a command does not need is not imported: a shell waits for completion at each press of the key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTING = """
import json, sys
from modelzone.cli import main
sys.argv = ["modelzone", *{words!r}]
status = main()
sys.stderr.write(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def imported(*words: str, **environment: str) -> set[str]:
    """Top-level packages that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", LISTING.format(words=words)],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


HEAVY = {"rich", "boto3", "botocore", "yaml", "msgspec", "aws_cdk"}


def test_help_imports_typer_alone() -> None:
    assert imported("--help") & HEAVY == set()
    assert imported("plan", "--help") & HEAVY == set()
    assert imported("chat", "--help") & {*HEAVY, "http", "ssl"} == set()


def test_json_needs_no_tables_and_planning_no_aws() -> None:
    assert imported("plan", "mixtral-8x7b-instruct", "--json") & {"rich", "boto3", "aws_cdk"} == set()
    assert imported("plan", "mixtral-8x7b-instruct") & {"boto3", "aws_cdk"} == set()


def test_a_chat_with_a_named_gateway_needs_no_aws_and_no_tables() -> None:
    # Nobody listens there; all that a question needs has been imported by then.
    words = ("chat", "--base-url", "http://127.0.0.1:9/api", "--model", "m", "Hi")
    assert imported(*words, MODELZONE_API_KEY="mz_x") & {*HEAVY, "httpx", "asyncio"} == set()


@pytest.mark.parametrize("line", ["modelzone pl", "modelzone cost d", "modelzone plan mix"])
def test_completion_of_verbs_and_files_reads_nothing(line: str) -> None:
    variables = {"_MODELZONE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert imported(**variables) & HEAVY == set()
