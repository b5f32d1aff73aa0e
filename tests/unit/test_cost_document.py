"""docs/costs.md shows what its command prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_document_shows_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "tools.costs", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "run: python -m tools.costs"


def test_no_block_is_empty() -> None:
    text = (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")
    assert text.count("<!-- printed: ") == text.count("<!-- end -->") == 6
    assert "-->\n<!-- end -->" not in text
