"""What the documents say of compiling is what the programs do."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from modelzone.cli.app import app
from modelzone.compiling.snapshot import STEPS
from modelzone.settings.loading import load_environment

ROOT = Path(__file__).resolve().parents[2]
# Of the job on the host.
JOB_STEPS = {"look", "devices", "resources", "image", "weights", "export", "verify", "publish"}


def text(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_the_memory_of_mixtral_is_what_plan_prints() -> None:
    shown = CliRunner().invoke(app, ["--project", str(ROOT), "plan", "mixtral-8x7b-instruct"]).stdout
    rows = dict(re.findall(r"^([A-Za-z][\w ]*?) +[\d,]+ +([\d.]+)(?:  |$)", shown, re.MULTILINE))
    parts = ", ".join(f"{name} {rows[name]}" for name in ("weights", "KV cache", "activations", "code"))
    said = f"{parts} and a reserve of {rows['reserve']} make {rows['needed']} of {rows['available']} GiB"
    assert said in text("inferentia")


def test_messages_are_of_steps_that_there_are() -> None:
    table = text("compiling").partition("| step | what happened |")[2]
    named = [row.split(", ") for row in re.findall(r"^\| ([a-z][a-z, -]*) \| ", table, re.MULTILINE)]
    assert len(named) > 10
    assert {step for row in named for step in row} <= {*STEPS, *JOB_STEPS}


def test_prod_needs_a_copy_as_long_as_it_has_a_store_of_its_own_and_no_egress() -> None:
    prod = load_environment(ROOT, "prod")
    assert (prod.model_store, prod.network.egress) == (None, "none")
    assert "modelzone artifacts copy --weights mixtral --to prod" in text("compiling")
