"""``modelzone artifacts``: what there is, whether it is whole, and a clean-up that first says what it would do."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from unit.compile_world import MACHINE, NOW, OTHER, Run, S3Object, World, facts

from modelzone.artifacts import artifact_prefix
from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", lambda *_, **__: found)
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(ROOT), "artifacts", *words])


def document(result: Result, code: int = ExitCode.DONE) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_the_list_has_users_and_incomplete_artifacts(world: World) -> None:
    used, half = world.artifact(), world.artifact(batch_size="2", manifest=False)
    world.deploy("prod", "big", world.uri())
    world.models["theirs"] = {"PrimaryContainer": {"ModelDataUrl": world.uri()}}
    world.parameters[f"/modelzone/dev/artifacts/{used}"] = [
        json.dumps({"artifact": world.uri(), "deployment": "mixtral", "seconds": 3000.0, "bytes": 6})
    ]
    world.runs.append(Run(f"mixtral-{half}-20261121120000"))
    shown = run("list").stdout
    users = "deployment prod/big; plan of dev/mixtral; model theirs"
    row = rf"^{used} +mistralai/Mixtral.* sizes agree +0.00 +2026-10-22 +{users}$"
    assert re.search(row, shown, re.MULTILINE)
    assert re.search(rf"^{half} +mistralai--mixtral.* incomplete .* running compilation mixtral-", shown, re.MULTILINE)
    found = {item["key"]: item for item in document(run("list", "--json"))["artifacts"]}
    assert found[used]["registered"] == [{"environment": "dev", "deployment": "mixtral", "seconds": 3000.0}]
    assert found[half]["problems"] == ["it has no manifest: its upload was not finished"]


def test_an_empty_store(world: World) -> None:
    assert run("list").stdout == "s3://models/compiled/ holds no artifact\n"
    assert run("gc").stdout.startswith("\n0 of 0 go: 0.00 GiB")


def test_one_artifact_with_its_objects(world: World) -> None:
    key = world.artifact()
    world.put(artifact_prefix(facts()) + "stray", b"x")
    shown = run("show", key[:6]).stdout
    assert re.search(r"^by image_digest +sha256:1$", shown, re.MULTILINE)
    assert re.search(r"^used by +plan of dev/mixtral$", shown, re.MULTILINE)
    assert re.search(r"^stray +1 +not in the manifest$", shown, re.MULTILINE)
    found = document(run("show", key, "--json"))
    assert found["facts"] == facts()
    assert [item["path"] for item in found["objects"]] == ["compiled/a.neff", "config.json", "manifest.json", "stray"]
    assert "there is no artifact 'x'" in run("show", "x").stderr
    assert (found["state"], found["unlisted"]) == ("complete", ["stray"])
    stray = "problem: stray is not in the manifest: SageMaker would load it with the rest; delete it\n"
    assert stray in shown
    assert "sizes agree, 1 unlisted" in run("list").stdout
    checked = run("verify", key)
    assert (checked.exit_code, checked.stdout) == (ExitCode.REFUSED, stray)
    world.objects[artifact_prefix(facts()) + "config.json"].metadata = {"sha256": "else"}
    assert re.search("^state +incomplete$", run("show", key).stdout, re.MULTILINE)
    assert document(run("show", key, "--json"))["problems"][0].startswith("config.json is marked sha256 else")


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_an_artifact_that_agrees(world: World, deep: list[str]) -> None:
    key = world.artifact()
    shown = run("verify", key, *deep)
    content = "S3's checksum, content, metadata" if deep else "S3's checksum, metadata"
    assert shown.stdout == f"{world.uri()}: 2 objects, 0.00 GiB, agree by {content}, size\n"
    assert document(run("verify", key, *deep, "--json"))["complete"] is True


def test_an_artifact_that_differs(world: World) -> None:
    key = world.artifact()
    world.objects[artifact_prefix(facts()) + "config.json"].body = b"[]"
    assert run("verify", key).exit_code == ExitCode.DONE
    shown = run("verify", key, "--deep")
    assert shown.exit_code == ExitCode.REFUSED
    assert shown.stdout.startswith("problem: config.json holds sha256 ")
    found = document(run("verify", key, "--deep", "--json"), ExitCode.REFUSED)
    assert (found["complete"], len(found["problems"])) == (False, 1)


def test_an_artifact_without_a_manifest_is_none(world: World) -> None:
    key = world.artifact(manifest=False)
    shown = run("verify", key)
    assert (shown.exit_code, shown.stdout) == (
        ExitCode.REFUSED,
        "problem: it has no manifest: its upload was not finished\n",
    )


def test_copying_to_another_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelzone.cli.account._transfers", lambda *_, **__: world("s3"))
    key = world.artifact()
    place = f"s3://{OTHER}/{artifact_prefix(facts())}"
    assert run("copy", key[:6], "--to", "prod").stdout == f"{place}: 2 of 2 objects copied, 0.00 GiB; complete\n"
    world.buckets[OTHER][artifact_prefix(facts()) + "stray"] = S3Object(b"", NOW)
    again = run("copy", key, "--to", "prod")
    assert again.stdout == f"{place}: 0 of 2 objects copied, 0.00 GiB, 2 were there; complete\n"
    assert "stray is not in the manifest" in again.stderr
    found = document(run("copy", key, "--to", "dev", "-e", "prod", "--json"))
    assert (found["source"], found["target"], found["objects"]) == (place, world.uri(), 2)
    prefix = world.mirror()
    assert f"s3://{OTHER}/{prefix}: 2 of 2" in run("copy", "--weights", "mixtral", "--to", "prod").stdout


def test_copies_that_cannot_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelzone.cli.account._transfers", lambda *_, **__: world("s3"))
    key = world.artifact()
    for words in ([], [key, "--weights", "mixtral"]):
        assert "name either an artifact's KEY or --weights" in run("copy", *words, "--to", "prod").stderr
    assert "dev and dev use the same store" in run("copy", key, "--to", "dev").stderr
    assert "prod has no deployment 'typo'" in run("copy", "--weights", "typo", "--to", "prod").stderr
    answer = run("copy", "--weights", "mixtral", "--to", "prod")
    assert answer.exit_code == ExitCode.REFUSED
    assert "fix: modelzone compile mixtral --weights-only -e dev" in answer.stderr
    world.stacks["modelzone-prod-compile"] = {"StateMachineArn": MACHINE}
    world.runs.append(Run(f"mixtral-{key}-20261121120000"))
    answer = run("copy", key, "--to", "prod")
    assert "makes the same artifact in prod now" in answer.stderr
    world.runs.clear()
    del world.objects[artifact_prefix(facts()) + "config.json"]
    assert "is not complete: config.json is missing" in run("copy", key, "--to", "prod").stderr
    assert not world.buckets.get(OTHER)


def test_a_dry_run_says_what_would_go_and_deletes_nothing(world: World) -> None:
    planned, unused = world.artifact(), world.artifact(batch_size="2", files={"weights": b"x" * 10**6})
    before = dict(world.objects)
    shown = run("gc")
    assert shown.exit_code == ExitCode.DONE
    assert re.search(rf"^goes +{unused} .* nothing uses it$", shown.stdout, re.MULTILINE)
    assert re.search(rf"^stays +{planned} .* plan of dev/mixtral$", shown.stdout, re.MULTILINE)
    assert "1 of 2 go: 0.00 GiB, about 0.0000 USD a month" in shown.stdout
    assert "assumed: S3 Standard" in shown.stdout
    assert shown.stdout.endswith("nothing was deleted; delete them with: modelzone artifacts gc -e dev --delete\n")
    assert world.objects == before
    assert not [name for name, _ in world.asked if "Delete" in name]
    assert document(run("gc", "--json"))["deleted"] is False


def test_deleting(world: World) -> None:
    planned, unused = world.artifact(), world.artifact(batch_size="2")
    shown = run("gc", "--delete", "--keep-versions", "1")
    assert f"{unused}: 3 objects and 0 parameters deleted" in shown.stdout
    assert shown.stderr == f"{unused}: deleted\n"
    assert {name.split("/")[2] for name in world.objects} == {planned}
    found = document(run("gc", "--delete", "--json"))
    assert (found["deleted"], found["removed"]) == (True, [])


def test_a_compilation_that_starts_meanwhile_keeps_its_artifact(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.artifact(batch_size="2")
    describe = World.cloudformation_describe_stacks
    asked: list[str] = []

    def later(self: World, params: Any) -> Any:
        asked.append(params["StackName"])
        if asked.count("modelzone-dev-compile") == 2 and not world.runs:
            world.runs.append(Run(f"mixtral-{key}-20261121120000"))
        return describe(self, params)

    monkeypatch.setattr(World, "cloudformation_describe_stacks", later)
    shown = run("gc", "--delete")
    assert f"{key}: left, it is used since: running compilation mixtral-{key}-20261121120000" in shown.stdout
    assert len(world.objects) == 3


def test_options_that_shaped_the_dry_run_are_in_the_command(world: World) -> None:
    world.artifact(batch_size="2")
    shown = run("gc", "--keep-versions", "5", "--min-age-days", "0")
    assert "modelzone artifacts gc -e dev --keep-versions 5 --min-age-days 0 --delete" in shown.stdout


def test_young_artifacts_stay(world: World) -> None:
    world.artifact(batch_size="2", changed=datetime.now(UTC) - timedelta(days=3))
    assert "younger than 7 days" in run("gc").stdout
    assert "1 of 1 go" in run("gc", "--min-age-days", "2").stdout


@pytest.mark.parametrize("operation", ["ListModels", "GetParametersByPath", "ListExecutions", "DescribeStacks"])
def test_without_all_sources_nothing_is_decided(world: World, operation: str) -> None:
    world.artifact(batch_size="2")
    world.broken[operation] = "AccessDenied"
    answer = run("gc", "--delete")
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert f"not allowed to call {operation}" in answer.stderr
    assert len(world.objects) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gc", "--keep-versions", "0"], "greater than or equal to 1"),
        (["gc", "--min-age-days", "-1"], "greater than or equal to 0"),
        (["show"], "Missing argument"),
    ],
)
def test_wrong_usage(words: list[str], says: str) -> None:
    answer = run(*words)
    assert answer.exit_code == ExitCode.USAGE
    assert says in answer.stderr


@pytest.mark.parametrize("words", [[], ["list"], ["show"], ["verify"], ["copy"], ["gc"]])
def test_help_has_examples_and_whole_sentences(words: list[str]) -> None:
    shown = run(*words, "--help").stdout
    assert "Examples:\n    modelzone artifacts " in shown
    assert "..." not in shown.replace("[ARGS]...", "")
