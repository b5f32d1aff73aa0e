"""The cost table, and that the README shows what the command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelzone.planning import plan_environment
from modelzone.planning.cost import environment_costs, markdown

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_what_the_command_prints() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- costs:begin.*?-->\n(.*)<!-- costs:end -->", readme, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == markdown(plan_environment(ROOT, "dev")).strip()


def test_every_deployment_is_counted_with_its_smallest_number_of_instances() -> None:
    costs = {line.stack: line for line in environment_costs(plan_environment(ROOT, "prod"))}
    assert costs["InferentiaMixtralStack"].count == 2
    assert costs["InferentiaMixtralStack"].usd_per_hour == pytest.approx(2 * 7.79)


def test_without_egress_there_is_no_nat_gateway() -> None:
    assert "NAT gateway" in {line.what for line in environment_costs(plan_environment(ROOT, "dev"))}
    assert "NAT gateway" not in {line.what for line in environment_costs(plan_environment(ROOT, "prod"))}


def test_the_command_refuses_an_unknown_environment_in_one_line() -> None:
    command = [sys.executable, "-m", "modelzone.planning.cost", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no environment named 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr
