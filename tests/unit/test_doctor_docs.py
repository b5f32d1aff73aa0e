"""docs/doctor.md shows what the commands print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modelzone.doctor.preflight import permissions_markdown
from modelzone.doctor.signatures import signatures_markdown

ROOT = Path(__file__).resolve().parents[2]
LOG = "tests/unit/doctor_logs/failing_endpoint.log"


def page() -> str:
    return (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")


def output(*command: str, code: int) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def test_the_tables_are_those_of_the_code() -> None:
    assert permissions_markdown() in page()
    assert signatures_markdown() in page()
    assert output("modelzone.doctor", code=0).startswith(permissions_markdown().splitlines()[0])


def test_the_log_is_diagnosed_as_shown() -> None:
    assert f"modelzone doctor log {LOG}" in page()
    assert output("modelzone", "doctor", "log", LOG, code=1) in page()
