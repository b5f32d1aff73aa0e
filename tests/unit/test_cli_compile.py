"""``modelzone compile``: refuses early, starts once, shows how far it is, and cancels without leaving a host."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner, Result
from unit.compile_world import MACHINE, NOW, Run, World, facts, order

from modelzone.artifacts import artifact_key, artifact_prefix
from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.cli.live import LiveView, drawing, progress_view
from modelzone.compiling.executions import Machine
from modelzone.compiling.snapshot import Snapshot, Watch

ROOT = Path(__file__).resolve().parents[2]
KEY = artifact_key(facts())
NAME = f"mixtral-{KEY}-20261121120000"
PROGRESS = f"/modelzone/dev/compile/progress/{KEY}"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", lambda *_, **__: found)
    monkeypatch.setattr("modelzone.cli.account._INTERVAL", 0.0)
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(ROOT), "compile", *words])


def document(result: Result, code: int = ExitCode.DONE) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def progress(**changed: Any) -> str:
    return json.dumps(
        {
            "key": KEY,
            "step": "export",
            "state": "running",
            "percent": 50,
            "bytes": 1024**3,
            "total_bytes": 2 * 1024**3,
            "rate": 1024**2,
            "seconds_left": 600,
            "steps": {},
            "message": "",
            "updated": NOW.isoformat(),
            **changed,
        }
    )


@pytest.mark.parametrize("words", [["mixtral"], ["start", "mixtral"], ["-e", "dev", "mixtral"], ["--", "mixtral"]])
def test_it_starts_a_compilation_and_says_what_that_costs(world: World, words: list[str]) -> None:
    shown = run(*words)
    assert shown.exit_code == ExitCode.DONE, shown.output
    (started,) = world.asked_for("StartExecution")
    assert started["stateMachineArn"] == MACHINE
    assert re.fullmatch(rf"mixtral-{KEY}-\d{{14}}", started["name"])
    assert json.loads(started["input"]) == {"deployment": "mixtral", "requested_by": "modelzone compile"}
    assert "inf2.24xlarge, on-demand, 6.49 USD an hour; else inf2.48xlarge" in shown.stdout
    # The dearest type that may be started, for as long as a host may last.
    assert "6 h; a host ends after 7.5 h at most: 97.36 USD at the dearest type's price" in shown.stdout
    assert "modelzone compile mixtral -e dev --follow" in shown.stdout
    assert "tgi-neuronx 0.0.25, degree 8, batch 1, sequence 1024, fp16" in shown.stdout


def test_as_json(world: World) -> None:
    found = document(run("mixtral", "--json"))
    assert found["execution"] == world.runs[0].name
    assert (found["key"], found["already"], found["attached"]) == (KEY, False, False)
    assert (found["usd_per_hour"], found["most_hours"], found["most_usd"]) == (6.49063, 7.5, 97.36)
    assert found["artifact"] == world.uri()


def test_a_complete_artifact_is_not_compiled_again(world: World) -> None:
    world.artifact()
    shown = run("mixtral", "--follow")
    assert (shown.exit_code, shown.stdout) == (
        ExitCode.DONE,
        f"{world.uri()} is complete: there is nothing to compile\n",
    )
    assert document(run("mixtral", "--json"))["already"] is True
    result = document(run("mixtral", "--json", "--follow"))["result"]
    assert (result["status"], result["artifact"], result["failure"]) == ("succeeded", world.uri(), None)
    assert set(result) == set(snapshot_keys(world))
    assert world.asked_for("StartExecution") == []


def snapshot_keys(world: World) -> list[str]:
    world.runs.append(Run(NAME))
    found = list(snapshot(world).as_dict())
    world.runs.clear()
    return found


def test_what_verify_calls_broken_is_compiled_again(world: World) -> None:
    world.artifact()
    world.objects[artifact_prefix(facts()) + "config.json"].metadata = {"sha256": "else"}
    assert re.search("^started ", run("mixtral").stdout, re.MULTILINE)


def test_what_the_manifest_does_not_list_is_said(world: World) -> None:
    world.artifact()
    world.put(artifact_prefix(facts()) + "stray", b"x")
    shown = run("mixtral")
    assert "is complete: there is nothing to compile" in shown.stdout
    assert "holds stray, which its manifest does not list: SageMaker would load it" in shown.stderr


def test_an_incomplete_artifact_is_compiled(world: World) -> None:
    world.artifact(manifest=False)
    assert run("mixtral").exit_code == ExitCode.DONE
    assert len(world.runs) == 1


def test_one_that_runs_is_attached_to(world: World) -> None:
    world.runs.append(Run(NAME))
    shown = run("mixtral")
    assert re.search(rf"^attached to +{NAME}$", shown.stdout, re.MULTILINE)
    assert len(world.runs) == 1


def test_another_shape_is_planned_and_goes_with_the_execution(world: World) -> None:
    shown = run("mixtral", "--set", "batch_size=2", "--set", "sequence_length=2048")
    assert shown.exit_code == ExitCode.DONE, shown.output
    changes = {"batch_size": "2", "sequence_length": "2048"}
    assert world.runs[0].given["facts"] == changes
    assert artifact_key(facts(**changes)) in world.runs[0].name
    assert "--set batch_size=2 --set sequence_length=2048 --follow" in shown.stdout


def test_another_model_is_compiled_with_a_warning(world: World) -> None:
    shown = run("mixtral", "--set", f"model_revision={'0' * 40}")
    assert world.runs[0].given["facts"] == {"model_revision": "0" * 40}
    assert "whether another model fits is not checked" in shown.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nothing"], 1, "environment dev has no deployment 'nothing'; it has: mixtral"),
        (["mixtral", "-e", "nowhere"], 1, "there is no environment named 'nowhere'"),
        (["mixtral", "--set", "tensor_parallel_degree=4"], 1, "does not fit on ml.inf2.24xlarge"),
        (["mixtral", "--set", "tensor_parallel_degree=24"], 1, "is not possible on ml.inf2.24xlarge"),
        (["mixtral", "--set", "model_revision=main"], 1, "a commit of the hub, 40 hexadecimal digits"),
        (["mixtral", "--set", "batch_size=0"], 1, "--set batch_size=0"),
        (["mixtral", "-c", "deployment.mixtral.batch_size=0"], 1, "-c deployment.mixtral.batch_size=0"),
        (["mixtral", "-c", "environment=dev"], 1, "is not an override"),
        (["mixtral", "--set", "dtype=bf16"], 2, "a compilation may be given batch_size, model_id, model_revision"),
        (["mixtral", "--set", "batch_size"], 2, "is not FIELD=VALUE"),
        (["mixtral", "--set", "batch_size=2", "--set", "batch_size=4"], 2, "batch_size is given twice"),
        (["mixtral", "--local", "--profile", "x"], 2, "--local names the endpoint"),
        (["mixtral", "--endpoint-url", "x"], 2, "is not like http://127.0.0.1:5000"),
        (["mixtral", "--nothing"], 2, "No such option"),
        (["mixtral", "other"], 2, "unexpected extra argument"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    world: World, words: list[str], code: int, says: str
) -> None:
    answer = run(*words)
    assert (answer.exit_code, answer.stdout) == (code, "")
    assert says in answer.stderr
    assert "Traceback" not in answer.output
    assert ("--set" in words) <= ("-c deployment" not in answer.stderr)
    assert not [name for name, _ in world.asked if "StartExecution" in name]


def test_a_stack_that_is_not_deployed(world: World) -> None:
    del world.stacks["modelzone-dev-compile"]
    answer = run("mixtral")
    assert answer.exit_code == ExitCode.REFUSED
    assert "stack modelzone-dev-compile is not deployed in this account and region" in answer.stderr
    assert "fix: cdk deploy CompileStack -c environment=dev" in answer.stderr


def test_an_order_of_other_settings(world: World) -> None:
    ordered = order(facts=facts(engine_version="0.0.28", batch_size="4"))
    world.parameters["/modelzone/dev/compile/orders/mixtral"] = [json.dumps(ordered)]
    answer = run("mixtral", "-c", "deployment.mixtral.batch_size=2")
    assert answer.exit_code == ExitCode.REFUSED
    said = "was deployed from other settings than those of this folder: engine_version '0.0.28' there, '0.0.25' here"
    assert (
        f"{said}\n  fix: cdk deploy CompileStack -c environment=dev -c deployment.mixtral.batch_size=2" in answer.stderr
    )
    world.parameters.clear()
    assert "knows no deployment mixtral" in run("mixtral").stderr


def test_an_order_of_another_shape_is_overridden(world: World) -> None:
    other = facts(batch_size="4", sequence_length="2048", model_revision="0" * 40)
    world.parameters["/modelzone/dev/compile/orders/mixtral"] = [json.dumps(order(facts=other))]
    shown = run("mixtral")
    assert shown.exit_code == ExitCode.DONE, shown.output
    planned = {name: facts()[name] for name in ("batch_size", "sequence_length", "model_revision")}
    assert world.runs[0].given["facts"] == planned
    assert KEY in world.runs[0].name
    assert "note: the compile stack orders batch_size 4; 1 is compiled, as here" in shown.stderr
    world.runs.clear()
    run("mixtral", "--set", "batch_size=4", "--set", "sequence_length=2048")
    assert world.runs[0].given["facts"] == {"model_revision": facts()["model_revision"]}


def test_overrides_of_the_cdk(world: World) -> None:
    shown = run("mixtral", "-c", "deployment.mixtral.batch_size=4", "--set", "sequence_length=2048")
    assert shown.exit_code == ExitCode.DONE, shown.output
    assert world.runs[0].given["facts"] == {"batch_size": "4", "sequence_length": "2048"}
    again = "modelzone compile mixtral -e dev -c deployment.mixtral.batch_size=4 --set sequence_length=2048 --follow"
    assert again in shown.stdout


def test_other_differences_are_said(world: World) -> None:
    world.parameters["/modelzone/dev/compile/orders/mixtral"] = [json.dumps(order(purchase="spot", max_hours=2))]
    answer = run("mixtral")
    assert answer.exit_code == ExitCode.DONE
    assert "note: the compile stack has purchase spot, this folder on-demand: deploy CompileStack" in answer.stderr
    assert "6.49 USD an hour on demand, less as Spot" in answer.stdout
    assert "2 h; a host ends after 3.5 h at most: 45.43 USD" in answer.stdout


def test_weights_only_on_the_small_host(world: World) -> None:
    shown = run("mixtral", "--weights-only")
    assert "inf2.xlarge, on-demand, 0.76 USD an hour" in shown.stdout
    assert world.runs[0].given["weights_only"] is True
    assert "--weights-only --follow" in shown.stdout
    world.runs[0].name = NAME
    # The compilation proper is another one, which waits for it.
    answer = run("mixtral")
    assert answer.exit_code == ExitCode.DONE, answer.output
    assert f"{NAME} mirrors the weights now; this compilation waits for its end" in answer.stderr
    assert [run.given.get("weights_only", False) for run in world.runs] == [True, False]
    world.runs.reverse()
    for words, attached in ((["mixtral"], world.runs[0].name), (["mixtral", "--weights-only"], NAME)):
        assert document(run(*words, "--json"))["execution"] == attached


def test_a_start_in_the_second_of_another_kind_gets_a_name_of_its_own(world: World) -> None:
    machine = Machine(world("stepfunctions"), MACHINE)
    names = [
        machine.start(deployment="mixtral", key=KEY, facts={}, weights_only=only, requested_by="me", now=NOW).name
        for only in (True, False, False, True)
    ]
    later = f"mixtral-{KEY}-20261121120001"
    assert names == [NAME, later, later, NAME]


def test_weights_that_are_mirrored_are_not_mirrored_again(world: World) -> None:
    world.mirror()
    assert "is complete" in run("mixtral", "--weights-only").stdout
    assert world.runs == []


@pytest.mark.parametrize("damage", ["emptied", "gone", "short", "no JSON"])
def test_a_mirror_that_is_not_whole_is_none(world: World, damage: str) -> None:
    prefix = world.mirror(listed=damage != "emptied")
    if damage == "gone":
        del world.objects[f"{prefix}model.safetensors"]
    elif damage == "short":
        world.objects[f"{prefix}model.safetensors"].body = b"w"
    elif damage == "no JSON":
        world.put(f"{prefix}manifest.json", b"{")
    assert re.search("^started ", run("mixtral", "--weights-only").stdout, re.MULTILINE)


def test_without_a_way_to_the_hub_the_weights_have_to_be_there(world: World) -> None:
    closed = order()
    closed["job"]["weights"]["source"] = "s3"
    world.parameters["/modelzone/dev/compile/orders/mixtral"] = [json.dumps(closed)]
    answer = run("mixtral")
    assert answer.exit_code == ExitCode.REFUSED
    assert "no way to the model hub (egress: none)" in answer.stderr
    assert "modelzone compile mixtral --weights-only -e ENV" in answer.stderr
    assert "modelzone artifacts copy --weights mixtral -e ENV --to dev" in answer.stderr
    assert run("mixtral", "--weights-only").exit_code == ExitCode.REFUSED
    world.mirror()
    assert run("mixtral").exit_code == ExitCode.DONE


def going_on(world: World, monkeypatch: pytest.MonkeyPatch, *stages: Callable[[Run], None]) -> None:
    """Let each look at the execution find it a stage further."""
    left = iter(stages)

    def look(_: World, execution: Run) -> None:
        next(left, lambda _: None)(execution)

    monkeypatch.setattr(World, "on_look", look)


def begun(world: World) -> Callable[[Run], None]:
    def stage(execution: Run) -> None:
        execution.started = NOW
        execution.enter("Look", 0).enter("StartHost", 1).enter("Follow", 70)
        world.host(execution=execution.name)
        world.parameters[PROGRESS] = [progress()]

    return stage


def succeeded(execution: Run) -> None:
    execution.status, execution.stopped = "SUCCEEDED", NOW + timedelta(minutes=50)
    execution.output = {"artifact": "s3://models/compiled/x/", "key": KEY}


def failed(execution: Run) -> None:
    execution.status, execution.stopped, execution.error = "FAILED", NOW + timedelta(minutes=5), "CompileFailed"
    execution.cause = "step 'image' failed: pull denied. Allow ecr:BatchGetImage. Log: logs abc"


def test_following_prints_a_line_for_each_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on(world, monkeypatch, begun(world), lambda _: None, succeeded)
    shown = run("mixtral", "--follow")
    assert shown.exit_code == ExitCode.DONE, shown.output
    lines = shown.stdout.splitlines()
    assert "export  50%, 1.0 GiB of 2.0 GiB, 1.0 MiB/s, 10 min left  i-00000000000000001, inf2.24xlarge" in lines[-3]
    assert "succeeded" in lines[-2]
    assert lines[-1] == "artifact: s3://models/compiled/x/"


def test_following_with_json_keeps_stdout_for_the_document(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on(world, monkeypatch, begun(world), succeeded)
    answer = run("mixtral", "--follow", "--json")
    found = document(answer)
    assert found["result"]["artifact"] == "s3://models/compiled/x/"
    assert "export  50%" in answer.stderr


def test_a_failure_is_one_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on(world, monkeypatch, begun(world), failed)
    answer = run("mixtral", "--follow")
    assert answer.exit_code == ExitCode.REFUSED
    message = "step 'image' failed: pull denied. Allow ecr:BatchGetImage. Log: logs abc"
    assert answer.stderr == f"error: {message}\n"
    world.runs.clear()
    going_on(world, monkeypatch, begun(world), failed)
    answer = run("mixtral", "-f", "--json")
    found = document(answer, ExitCode.REFUSED)
    assert found["error"] == {"kind": "refused", "message": message}
    assert (found["execution"], found["result"]["status"]) == (world.runs[0].name, "failed")
    assert found["result"]["failure"] == message
    assert answer.stderr.endswith(f"error: {message}\n")


def test_ctrl_c_leaves_the_compilation_running(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Run) -> None:
        raise KeyboardInterrupt

    going_on(world, monkeypatch, begun(world), interrupt)
    answer = run("mixtral", "--set", "batch_size=2", "--follow")
    assert answer.exit_code == ExitCode.INTERRUPTED
    assert "goes on; come back with: modelzone compile mixtral -e dev --set batch_size=2 --follow" in answer.stderr
    name = world.runs[0].name
    assert f"cancel it with: modelzone compile cancel mixtral -e dev --execution {name}" in answer.stderr
    assert world.runs[0].status == "RUNNING"


def test_when_aws_refuses_on_the_way_the_compilation_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def expire(_: Run) -> None:
        world.broken["DescribeInstances"] = "ExpiredToken"

    going_on(world, monkeypatch, begun(world), expire)
    answer = run("mixtral", "--follow")
    assert answer.exit_code == ExitCode.REFUSED
    assert "no longer valid" in answer.stderr
    assert "the compilation goes on; come back with: modelzone compile mixtral" in answer.stderr


def snapshot(world: World) -> Snapshot:
    machine = Machine(world("stepfunctions"), MACHINE)
    watch = Watch(
        machine.describe(world.runs[0].arn),
        machine=machine,
        ec2=world("ec2"),
        ssm=world("ssm"),
        environment="dev",
        region="us-east-1",
    )
    return watch.look(NOW + timedelta(minutes=4))


def test_the_view_on_a_terminal(world: World) -> None:
    world.runs.append(Run(NAME))
    begun(world)(world.runs[0])
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(drawing(snapshot(world)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(rf"^{NAME}  running, 4 min *$", shown, re.MULTILINE)
    assert re.search(r"^done +start-host +69 s", shown, re.MULTILINE)
    assert re.search(r"^\.\.\. +export +", shown, re.MULTILINE)
    assert "━" in shown
    assert "50%, 1.0 GiB of 2.0 GiB, 1.0 MiB/s, 10 min left" in shown
    assert "host  i-00000000000000001, inf2.24xlarge in us-east-1a, on-demand" in shown
    assert "cost  0.43 USD at the on-demand price" in shown
    with LiveView() as view:
        view.show(snapshot(world))


def test_status_of_all_and_of_one(world: World) -> None:
    assert run("status").stdout == "environment dev has had no compilation\n"
    assert run("status", "mixtral").stdout == "environment dev has had no compilation of mixtral\n"
    world.runs += [Run(f"other-{KEY}-20261121110000"), Run(NAME)]
    failed(world.runs[0])
    begun(world)(world.runs[1])
    shown = run("status").stdout
    assert re.search(r"^mixtral +running +export +50%, 1.0 GiB of 2.0 GiB", shown, re.MULTILINE)
    assert f"other-{KEY}-20261121110000\n  step 'image' failed: pull denied." in shown
    one = run("status", "mixtral").stdout
    assert re.search(r"^step +export: 50%", one, re.MULTILINE)
    assert re.search(r"^\.\.\. +export", one, re.MULTILINE)
    found = document(run("status", "--json"))
    assert [row["status"] for row in found["compilations"]] == ["running", "failed"]
    assert found["compilations"][0]["progress"]["percent"] == 50


def test_cancelling_waits_until_the_host_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.runs += [Run(NAME), Run(f"other-{KEY}-20261121120000")]
    host = world.host(execution=NAME)
    seen: list[str] = []
    look = World.ec2_describe_instances

    def later(self: World, params: Any) -> Any:
        seen.append(host["State"]["Name"])
        if len(seen) == 3:
            host["State"] = {"Name": "shutting-down"}
        return look(self, params)

    monkeypatch.setattr(World, "ec2_describe_instances", later)
    shown = run("cancel", "mixtral")
    assert shown.stdout == f"{NAME}: cancelled, host i-00000000000000001 is gone\n"
    assert [row.status for row in world.runs] == ["ABORTED", "RUNNING"]
    assert run("cancel", "mixtral").stdout == "no compilation of mixtral runs in dev\n"
    assert document(run("cancel", "mixtral", "--json"))["cancelled"] == []
    assert re.search("^status +cancelled$", run("status", "mixtral").stdout, re.MULTILINE)


def test_all_are_stopped_before_the_first_is_waited_for(world: World) -> None:
    names = [f"mixtral-{key}-20261121120000" for key in ("0" * 20, "1" * 20)]
    for number, name in enumerate(names, 1):
        world.runs.append(Run(name))
        world.host(number, state="shutting-down", execution=name)
    assert len(document(run("cancel", "mixtral", "--json"))["cancelled"]) == 2
    order_of = [name.partition(".")[2] for name, _ in world.asked]
    assert max(i for i, name in enumerate(order_of) if name == "StopExecution") < order_of.index("DescribeInstances")


def test_one_of_several_is_cancelled(world: World) -> None:
    other = f"mixtral-{'1' * 20}-20261121120000"
    world.runs += [Run(NAME), Run(other)]
    world.host(execution=other, state="shutting-down")
    assert f"{other}: cancelled" in run("cancel", "mixtral", "--execution", other).stdout
    assert [row.status for row in world.runs] == ["RUNNING", "ABORTED"]
    assert run("cancel", "mixtral", "--execution", other).stdout == f"{other} has ended in dev\n"
    answer = run("cancel", "other", "--execution", NAME)
    assert (answer.exit_code, world.runs[0].status) == (ExitCode.REFUSED, "RUNNING")


@pytest.mark.parametrize("words", [["status"], ["status", "--all"], ["cancel"], ["logs"]])
def test_an_unknown_deployment(world: World, words: list[str]) -> None:
    answer = run(words[0], "typo", *words[1:])
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert "environment dev has no deployment 'typo'; it has: mixtral" in answer.stderr
    # One that was removed from the settings, and has been compiled.
    world.runs.append(Run(f"typo-{KEY}-20261121120000", "FAILED"))
    assert run(words[0], "typo", *words[1:]).exit_code == ExitCode.DONE


def test_all_that_there_were(world: World) -> None:
    assert run("status", "--all").stdout == "environment dev has had no compilation\n"
    first = f"mixtral-{KEY}-20261121110000"
    world.runs += [Run(first, "ABORTED"), Run(NAME), Run(f"other-{KEY}-20261121110000", "TIMED_OUT")]
    shown = run("status", "--all").stdout
    assert re.search(rf"^{first} +cancelled +2026-11-21 12:00 ", shown, re.MULTILINE)
    assert re.search(r"^other-.* timed out ", shown, re.MULTILINE)
    assert "other-" not in run("status", "mixtral", "--all").stdout
    found = document(run("status", "mixtral", "--all", "--json"))["compilations"]
    assert [row["execution"] for row in found] == [NAME, first]
    assert re.search(rf"^compilation +{first}$", run("status", "--execution", first).stdout, re.MULTILINE)
    assert "not of other" in run("status", "other", "--execution", first).stderr
    assert run("status", "--all", "--execution", first).exit_code == ExitCode.USAGE


def test_a_step_that_is_tried_again_says_why(world: World) -> None:
    world.runs.append(Run(NAME).enter("Look", 0).enter("StartHost", 1).fail("no zone has a host to give", after=2))
    assert re.search("^tries again +no zone has a host to give$", run("status", "mixtral").stdout, re.MULTILINE)
    assert "tries again: no zone has a host to give" in run("status").stdout
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(drawing(snapshot(world)))
    assert "tries again: no zone has" in console.file.getvalue()  # type: ignore[attr-defined]
    assert document(run("status", "--json"))["compilations"][0]["waiting"] == "no zone has a host to give"
    world.runs[0].leave("StartHost", {}).enter("WaitForAgent", 9)
    assert snapshot(world).waiting == ""


def test_logs_of_both_streams(world: World) -> None:
    world.runs.append(Run(NAME).enter("Run", 0).leave("Run", {"command_id": "abc"}))
    event = json.dumps({"time": "2026-11-21T12:00:01+00:00", "event": "start", "step": "look"})
    world.streams["abc/i-1/Compile/stdout"] = [(1, event)]
    world.streams["abc/i-1/Compile/stderr"] = [(2, "compile_job: step 'look' failed")]
    assert run("logs", "mixtral").stdout == "12:00:01  look: started\n00:00:00  compile_job: step 'look' failed\n"
    assert run("logs", "mixtral", "--raw").stdout == f"{event}\ncompile_job: step 'look' failed\n"
    assert [line["stream"] for line in document(run("logs", "mixtral", "--json"))["lines"]] == ["stdout", "stderr"]
    assert run("logs", "mixtral", "--execution", NAME).exit_code == ExitCode.DONE
    assert "is a compilation of mixtral, not of other" in run("logs", "other", "--execution", NAME).stderr


def test_logs_are_followed_until_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.runs.append(Run(NAME).enter("Run", 0))

    def says(text: str) -> Callable[[Run], None]:
        return lambda _: world.streams.setdefault("abc/i-1/Compile/stdout", []).append((1, text))

    going_on(
        world,
        monkeypatch,
        lambda _: None,
        lambda execution: (says("one")(execution), execution.leave("Run", {"command_id": "abc"}))[0],
        says("two"),
        lambda execution: (says("three")(execution), succeeded(execution))[0],
    )
    assert run("logs", "mixtral", "--follow", "--raw").stdout == "one\ntwo\nthree\n"


def test_no_log_yet(world: World) -> None:
    assert "has had no compilation of mixtral" in run("logs", "mixtral").stderr
    world.runs.append(Run(NAME))
    answer = run("logs", "mixtral")
    assert (answer.exit_code, answer.stdout) == (ExitCode.DONE, "")
    seen = f"modelzone compile status mixtral -e dev --execution {NAME}"
    assert f"{NAME} has logged nothing; see: {seen}" in answer.stderr
    said = "there is no compilation 'nothing'\n  fix: modelzone compile status --all"
    assert said in run("logs", "mixtral", "--execution", "nothing").stderr


def test_where_no_job_ran_the_steps_are_shown(world: World) -> None:
    world.runs.append(Run(NAME, "FAILED"))
    line = json.dumps({"event": "step", "step": "look", "execution": NAME, "status": "CompileError", "message": "no"})
    world.streams["steps/a"] = [(1, line), (2, '{"event": "step", "execution": "else"}')]
    answer = run("logs", "mixtral")
    assert answer.stdout == f"00:00:00  look: step  execution={NAME} status=CompileError message=no\n"
    assert f"no job of {NAME} ran on a host; this is what the steps said (steps):" in answer.stderr
    assert [row["stream"] for row in document(run("logs", "mixtral", "--json"))["lines"]] == ["steps"]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_cursor_control_there_are_lines(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress_view(apart=False), LiveView)
    assert not isinstance(progress_view(apart=True), LiveView)
    monkeypatch.setenv(name, value)
    assert not isinstance(progress_view(apart=False), LiveView)


def test_the_embedded_aws_has_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELZONE_LOCAL_STATE", str(tmp_path))
    for words in (["mixtral"], ["status"], ["cancel", "mixtral"], ["logs", "mixtral"]):
        assert run(*words, "--local").stderr == "error: the embedded AWS does not run; start it with: make local\n"


def complete(line: str) -> list[str]:
    words = line.split(" ")
    variables = {"_MODELZONE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = CliRunner().invoke(app, [], env=variables)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("modelzone compile mi", ["mixtral"]),
        ("modelzone compile st", ["start", "status"]),
        ("modelzone compile --fol", ["--follow"]),
        ("modelzone compile mixtral --fol", ["--follow"]),
        ("modelzone compile mixtral --set ba", ["batch_size="]),
        ("modelzone compile -e d", ["dev"]),
        ("modelzone compile -e prod mi", ["mixtral"]),
        ("modelzone compile start mi", ["mixtral"]),
        ("modelzone compile cancel mi", ["mixtral"]),
        ("modelzone compile logs mixtral --ra", ["--raw"]),
        ("modelzone compile -e nowhere mi", []),
        ("modelzone host start mi", ["mixtral"]),
        ("modelzone artifacts gc --del", ["--delete"]),
    ],
)
def test_names_are_completed(monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert complete(line) == offered


@pytest.mark.parametrize("words", [[], ["start"], ["status"], ["cancel"], ["logs"]])
def test_help_has_examples_and_whole_sentences(words: list[str]) -> None:
    shown = run(*words, "--help")
    assert shown.exit_code == ExitCode.DONE
    assert "Examples:\n    modelzone compile " in shown.stdout
    assert "..." not in shown.stdout.replace("[ARGS]...", "")


WORDS = st.one_of(
    st.sampled_from(
        ["start", "status", "cancel", "logs", "mixtral", "-e", "dev", "prod", "--follow", "--set", "batch_size=2"]
    ),
    st.sampled_from(["--json", "--weights-only", "--raw", "--", "-h", "", "-", "--local", "--execution", "x=y"]),
    st.text(max_size=6),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=5))
def test_any_words(world: World, words: list[str]) -> None:
    world.runs.clear()
    done = run(*[word for word in words if word not in {"--follow", "--local"}])
    assert done.exit_code in {ExitCode.DONE, ExitCode.REFUSED, ExitCode.USAGE}, (words, done.output)
    assert "Traceback" not in done.output


def test_the_documentation_shows_what_is_printed(world: World) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```\n\$ modelzone compile mixtral\n(.*?)```", text, re.DOTALL)
    shown = run("mixtral").stdout.replace(facts()["model_revision"][:12], "1234567890ab")
    shown = shown.replace(KEY, "KEY").replace("s3://models/", "s3://BUCKET/")
    assert example == re.sub(r"-\d{14}", "-20261121120000", shown)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("compile", ["compile", "mixtral"]),
        ("compile status", ["compile", "status"]),
        ("compile cancel", ["compile", "cancel", "mixtral"]),
        ("compile logs", ["compile", "logs", "mixtral"]),
        ("artifacts list", ["artifacts", "list"]),
        ("artifacts show", ["artifacts", "show", "KEY"]),
        ("artifacts verify", ["artifacts", "verify", "KEY"]),
        ("artifacts copy", ["artifacts", "copy", "KEY", "--to", "prod"]),
        ("artifacts gc", ["artifacts", "gc"]),
        ("host start", ["host", "start", "mixtral", "--hours", "1"]),
        ("host list", ["host", "list"]),
        ("host connect", ["host", "connect"]),
        ("host stop", ["host", "stop", "i-00000000000000001"]),
    ],
)
def test_the_documented_keys_are_those_of_the_document(
    world: World, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str]
) -> None:
    other = world.artifact(batch_size="2")
    monkeypatch.setattr("modelzone.cli.account._transfers", lambda *_, **__: world("s3"))
    if "cancel" not in words:
        world.runs.append(Run(NAME))
    world.host(1, role="debug-host")
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{command}` \| (.*) \|$", text, re.MULTILINE)
    keys = re.findall("`(.*?)`", row.partition(";")[0])
    asked = ["--project", str(ROOT), *(other if word == "KEY" else word for word in words), "--json"]
    assert list(document(CliRunner().invoke(app, asked))) == keys
