"""Override sets become the cdk command that deploys with them, and the parameter table is the stack's."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.planning import plan_environment
from modelzone.planning.parameters import deploy_parameters, stack_name

ROOT = Path(__file__).resolve().parents[2]
STACK = "modelzone-dev-deployment-mixtral"
BEGIN = ["cdk", "deploy", "InferentiaMixtralStack", "-c", "environment=dev"]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(ROOT), "params", *words])


def document(*words: str) -> Any:
    answer = run("dev", "mixtral", "--json", *words)
    assert answer.exit_code == ExitCode.DONE, answer.output
    return json.loads(answer.stdout)


def pasted(*words: str) -> list[list[str]]:
    """What a shell makes of the printed commands."""
    answer = run("dev", "mixtral", *words)
    assert answer.exit_code == ExitCode.DONE, answer.output
    shell = f"cdk() {{ printf '%s\\0' cdk \"$@\"; printf '\\n'; }}; {answer.stdout}"
    seen = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=30, check=True)
    return [line.split("\0")[:-1] for line in seen.stdout.splitlines()]


def parameters_of_the_stack() -> dict[str, Any]:
    os.environ.setdefault("CDK_VALIDATION", "false")
    from aws_cdk import App, Stack  # noqa: PLC0415 - a second that other tests need not pay
    from aws_cdk.assertions import Template  # noqa: PLC0415

    from zone_constructs.deployment_parameters import DeploymentParameters  # noqa: PLC0415

    (plan,) = plan_environment(ROOT, "dev").deployments
    stack = Stack(App(analytics_reporting=False), "Test")
    DeploymentParameters(stack, deployment=plan)
    found: dict[str, Any] = Template.from_stack(stack).to_json()["Parameters"]
    return found


def test_the_table_is_what_the_stack_has() -> None:
    (plan,) = plan_environment(ROOT, "dev").deployments
    known = deploy_parameters(plan)
    found = {name: row for name, row in parameters_of_the_stack().items() if name != "BootstrapVersion"}
    assert [parameter.name for parameter in known] == list(found)
    for parameter in known:
        row = found[parameter.name]
        assert row["AllowedPattern"] == f"^({parameter.pattern})?$"
        assert row["Description"] == f"{parameter.description}. Empty: as planned, {parameter.planned}"
        assert row["ConstraintDescription"].endswith(parameter.constraint)
        assert re.fullmatch(row["AllowedPattern"], parameter.planned)
        assert parameter.takes(parameter.planned)


def test_the_stack_name_is_the_stacks() -> None:
    (plan,) = plan_environment(ROOT, "dev").deployments
    assert stack_name(plan) == STACK


def test_what_the_stack_has_a_parameter_for() -> None:
    (command,) = pasted("scaling.max_instances=4", "health_check_timeout_seconds=3600")
    assert command == [
        *BEGIN,
        *("--parameters", f"{STACK}:MaxInstanceCount=4"),
        *("--parameters", f"{STACK}:HealthCheckTimeoutSeconds=3600"),
    ]
    (command,) = pasted("MaxInstanceCount=4")
    assert command[-1] == f"{STACK}:MaxInstanceCount=4"


def test_everything_else_goes_with_the_context() -> None:
    (command,) = pasted('environment.GREETING=it\'s a "test" $HOME', "scaling.max_instances=3")
    assert command == [
        *BEGIN,
        *("-c", 'deployment.mixtral.environment.GREETING=it\'s a "test" $HOME'),
        *("--parameters", f"{STACK}:MaxInstanceCount=3"),
    ]


def test_all_of_it_with_the_context() -> None:
    (command,) = pasted("--synth", "scaling.max_instances=4", "health_check_timeout_seconds=3600")
    assert command == [
        *BEGIN,
        *("-c", "deployment.mixtral.scaling.max_instances=4"),
        *("-c", "deployment.mixtral.health_check_timeout_seconds=3600"),
    ]


def test_a_parameter_that_does_not_take_the_value_is_no_parameter() -> None:
    """The stack that is made without the override has the planned prompt length as its lower bound."""
    found = document("max_input_tokens=100", "sequence_length=256")
    assert found["parameters"] == {"SequenceLength": "256"}
    assert found["context"] == {"deployment.mixtral.max_input_tokens": "100"}
    found = document("volume_size_gib=null", "scaling.max_instances=3")
    assert found["parameters"] == {}
    assert set(found["context"]) == {"deployment.mixtral.volume_size_gib", "deployment.mixtral.scaling.max_instances"}


def test_the_model_itself_only_as_a_parameter() -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    assert document(f"ModelRevision={revision}")["parameters"] == {"ModelRevision": revision}
    assert run("dev", "mixtral", "ModelRevision=main").exit_code == ExitCode.REFUSED
    assert "edit the profile" in run("dev", "mixtral", "--synth", f"ModelRevision={revision}").stderr


def notes(*words: str) -> str:
    return "\n".join(document(*words)["notes"])


@pytest.mark.parametrize("synth", [[], ["--synth"]])
def test_what_has_to_be_compiled_is_compiled_by_the_deploy_itself(synth: list[str]) -> None:
    words = ["instance_type=ml.inf2.48xlarge", "tensor_parallel_degree=24", "scaling.max_instances=3"]
    (command,) = pasted(*words, *synth)
    assert command[:3] == ["cdk", "deploy", "InferentiaMixtralStack"]
    overrides = {"mixtral": dict(word.split("=") for word in words)}
    (plan,) = plan_environment(ROOT, "dev", overrides=overrides).deployments
    said = notes(*words, *synth)
    assert plan.artifact_prefix in said
    assert "the deploy compiles it first" in said


def test_what_changes_no_artifact_needs_no_compilation() -> None:
    for words in (["scaling.max_instances=3"], ["max_input_tokens=100"], ["instance_type=ml.inf2.48xlarge"]):
        assert "artifact" not in notes(*words)


def test_another_model_is_another_artifact() -> None:
    assert "compiled/org--model/" in notes("ModelId=org/model")


def test_without_a_way_to_the_hub_the_weights_come_from_the_store() -> None:
    found = json.loads(run("prod", "mixtral", "batch_size=2", "--json").stdout)
    assert "from weights in the model store (egress: none)" in found["notes"][0]


def test_a_deployed_endpoint_keeps_its_instance_type() -> None:
    for words in (["InstanceType=ml.inf2.48xlarge"], ["InstanceType="], ["--synth", "instance_type=ml.inf2.48xlarge"]):
        assert "a deployed endpoint keeps its instance type" in notes(*words)
    assert "instance type" not in notes("scaling.max_instances=3")


def test_a_parameter_is_reset_by_an_empty_value() -> None:
    (command,) = pasted("MaxInstanceCount=", "ModelId=", "BatchSize=")
    assert command == [
        *BEGIN,
        *(
            word
            for name in ("MaxInstanceCount", "ModelId", "BatchSize")
            for word in ("--parameters", f"{STACK}:{name}=")
        ),
    ]
    assert document("MaxInstanceCount=")["notes"] == []
    # The plan holds again for what is reset, beside what is given.
    assert document("MinInstanceCount=2", "MaxInstanceCount=")["parameters"] == {
        "MinInstanceCount": "2",
        "MaxInstanceCount": "",
    }
    assert run("dev", "mixtral", "MinInstanceCount=3", "MaxInstanceCount=").exit_code == ExitCode.REFUSED
    answer = run("dev", "mixtral", "--synth", "BatchSize=")
    assert answer.exit_code == ExitCode.REFUSED
    assert "leave out --synth" in answer.stderr


def test_an_earlier_parameter_hides_what_goes_with_the_context() -> None:
    said = notes("--synth", "batch_size=2", "scaling.max_instances=3", "environment.A=b")
    assert "wins over -c; to reset: modelzone params dev mixtral MaxInstanceCount= BatchSize=" in said
    assert "wins over" not in notes("environment.A=b", "batch_size=2")
    assert "stays until it is reset: modelzone params dev mixtral BatchSize=" in notes(
        "environment.A=b", "batch_size=2"
    )


@pytest.mark.parametrize("name", ["ImageUri", "image_uri"])
def test_an_image_of_ones_own_is_a_parameter(name: str) -> None:
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/own-tgi:1"
    assert document(f"{name}={image}", "scaling.max_instances=3")["parameters"] == {
        "MaxInstanceCount": "3",
        "ImageUri": image,
    }
    synth = run("dev", "mixtral", "--synth", f"{name}={image}")
    assert synth.exit_code == ExitCode.REFUSED
    assert "the stack's parameter ImageUri" in synth.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["dev", "mixtral", "batch_size=9999"], 1, "-c deployment.mixtral.batch_size=9999"),
        (["dev", "mixtral", "tensor_parallel_degree=4"], 1, "GiB"),
        (["dev", "mixtral", "batch_sise=2"], 1, "did you mean batch_size?"),
        (["dev", "mixtrall", "batch_size=2"], 1, "environment dev has no deployment 'mixtrall'; it has: mixtral"),
        (["nowhere", "mixtral", "batch_size=2"], 1, "there is no environment named 'nowhere'"),
        (["dev", "mixtral", "batch_size"], 2, "'batch_size' is not FIELD=VALUE"),
        (["dev", "mixtral", "=2"], 2, "'=2' is not FIELD=VALUE"),
        (["dev", "mixtral", "batch_size=1", "batch_size=2"], 2, "batch_size is given twice"),
        (["dev", "mixtral", "batch_size=1", "BatchSize=2"], 2, "BatchSize and batch_size are the same"),
        (["dev", "mixtral", "ImageUri=", "image_uri=x"], 2, "image_uri and ImageUri are the same"),
        (["dev", "mixtral", "ImageUri=latest"], 1, "ImageUri=latest is refused: it must be an image in ECR"),
        (["dev", "mixtral", "environment.A=b\nc"], 2, "control characters"),
        (["dev", "mixtral"], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_deployed_is_refused(words: list[str], code: int, says: str) -> None:
    answer = run(*words)
    assert (answer.exit_code, answer.stdout) == (code, "")
    assert says in answer.stderr
