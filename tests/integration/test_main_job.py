"""The main job for real: the CDK CLI deploys the stacks to the embedded AWS, a client streams through the API.

One environment is deployed for the whole file; the tests change it in the order in which they stand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from modelzone.client import ApiError, Client
from modelzone.errors import ModelzoneError
from modelzone.local.cdk_cli import CdkCli
from modelzone.local.main_job import Embedded, MainJob
from modelzone.local.processes import STATE_VARIABLE, stop_everything
from modelzone.local.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
STACK = "InferentiaMixtralStack"
# The CLI takes parameters by CloudFormation's name of the stack, not by its construct id.
PARAMETERS_OF = "modelzone-dev-deployment-mixtral"
# Said nowhere else, so that it can be looked for in the logs.
MARKER = "zebra-marker-4711"
WRONG_IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:9.9.9"

pytestmark = pytest.mark.filterwarnings(
    # boto3's own use of datetime in some of its versions.
    "ignore:datetime.datetime.utcnow:DeprecationWarning"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace(ROOT, tmp_path_factory.mktemp("embedded"))
    # Slow enough that a stream which is held back anywhere on its way arrives visibly late.
    before = os.environ.get("MODELZONE_LOCAL_TOKEN_DELAY_MS")
    os.environ["MODELZONE_LOCAL_TOKEN_DELAY_MS"] = "20"
    try:
        yield workspace
    finally:
        if before is None:
            del os.environ["MODELZONE_LOCAL_TOKEN_DELAY_MS"]
        else:
            os.environ["MODELZONE_LOCAL_TOKEN_DELAY_MS"] = before
        stop_everything(workspace)


@pytest.fixture(scope="module")
def job(workspace: Workspace) -> MainJob:
    return MainJob(workspace, environment="dev")


@pytest.fixture(scope="module")
def embedded(job: MainJob) -> Embedded:
    embedded, cdk = job.prepare()
    job.deploy(embedded, cdk)
    return embedded


@pytest.fixture(scope="module")
def cdk(job: MainJob, embedded: Embedded) -> CdkCli:
    return job.cdk(embedded)


def ask(embedded: Embedded, prompt: str = "What is Modelzone?") -> str:
    with Client(embedded.base_url, embedded.api_key) as client, client.stream(prompt, model="mixtral") as stream:
        return "".join(piece.text for piece in stream)


def endpoint(embedded: Embedded) -> dict:
    name = embedded.outputs("deployment-mixtral")["EndpointName"]
    described: dict = embedded.client("sagemaker").describe_endpoint(EndpointName=name)
    del described["ResponseMetadata"]
    return described


def capacity(embedded: Embedded) -> tuple[int, int]:
    scaling = embedded.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    return target["MinCapacity"], target["MaxCapacity"]


def test_the_answer_streams_through_the_whole_deployed_path(embedded: Embedded) -> None:
    started = time.monotonic()
    with Client(embedded.base_url, embedded.api_key) as client:
        stream = client.stream("What is Modelzone?", model="mixtral")
        arrivals = [time.monotonic() - started for piece in stream if piece.text]
    assert len(arrivals) > 5
    assert stream.answer.finish_reason in {"stop", "length"}
    # 20 ms a token at the model: held back anywhere, all pieces, or all after the first, would arrive together.
    span = arrivals[-1] - arrivals[0]
    assert span > 0.6 * 0.020 * len(arrivals)
    assert max(later - earlier for earlier, later in pairwise(arrivals)) < 0.5 * span


def test_the_official_client_works_unchanged(embedded: Embedded) -> None:
    with openai.OpenAI(base_url=embedded.base_url, api_key=embedded.api_key, max_retries=0) as client:
        assert {m.id for m in client.models.list()} >= {"mixtral"}
        messages: list = [{"role": "user", "content": "What is deep learning?"}]
        whole = client.chat.completions.create(model="mixtral", messages=messages, max_tokens=16, temperature=0)
        stream = client.chat.completions.create(
            model="mistralai/Mixtral-8x7B-Instruct-v0.1", messages=messages, max_tokens=16, temperature=0, stream=True
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert whole.choices[0].message.content == streamed
        with pytest.raises(openai.NotFoundError, match="gpt-4"):
            client.chat.completions.create(model="gpt-4", messages=messages)


def test_tgi_routes_work_beside_it(embedded: Embedded) -> None:
    base = embedded.base_url.removesuffix("/v1")
    headers = {"x-api-key": embedded.api_key}
    body = {"inputs": "[INST] What is Modelzone? [/INST]", "parameters": {"max_new_tokens": 8, "details": True}}
    with httpx.Client(headers=headers, timeout=60) as http:
        answer = http.post(f"{base}/generate", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["details"]["generated_tokens"] == 8
        events = [
            json.loads(line.removeprefix("data:"))
            for line in http.post(f"{base}/generate_stream", json=body).text.splitlines()
            if line.startswith("data:")
        ]
        assert len(events) == 8
        assert events[-1]["generated_text"] == answer.json()["generated_text"]
        assert all(event["token"]["logprob"] <= 0 for event in events)
        assert http.get(f"{base}/health").status_code == 200


def test_unknown_routes_are_not_found_as_openai_says_it(embedded: Embedded) -> None:
    headers = {"authorization": f"Bearer {embedded.api_key}"}
    answer = httpx.post(f"{embedded.base_url}/images/generations", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
def test_nobody_gets_in_without_the_key(embedded: Embedded, headers: dict[str, str]) -> None:
    body = {"model": "mixtral", "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(f"{embedded.base_url}/chat/completions", json=body, headers=headers)
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_lacks_something_is_refused_by_its_name(embedded: Embedded) -> None:
    answer = httpx.post(
        f"{embedded.base_url}/chat/completions", json={"model": "mixtral"}, headers={"x-api-key": embedded.api_key}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"


def test_what_does_not_fit_is_refused_before_the_model_is_asked(embedded: Embedded) -> None:
    with pytest.raises(ApiError) as caught, Client(embedded.base_url, embedded.api_key) as client:
        client.chat("What is Modelzone?", model="mixtral", max_tokens=1020)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_what_the_model_refuses_comes_back_in_its_words(embedded: Embedded) -> None:
    # The gateway does not read what it passes on here.
    body = {"inputs": "x", "parameters": {"temperature": -1.0, "do_sample": True}}
    url = f"{embedded.base_url.removesuffix('/v1')}/invocations"
    answer = httpx.post(url, json=body, headers={"x-api-key": embedded.api_key})
    assert answer.status_code == 422
    assert "temperature" in answer.text


def test_no_prompt_no_key_in_any_log_template_or_process(embedded: Embedded, workspace: Workspace) -> None:
    ask(embedded, f"tell me about {MARKER}")
    secrets = [MARKER.encode(), embedded.api_key.encode()]
    files = [p for folder in (workspace.logs, workspace.assembly) for p in folder.rglob("*") if p.is_file()]
    assert any(p.stat().st_size for p in workspace.logs.iterdir())
    for file in files:
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret in content], file
    logs = embedded.client("logs")
    groups = [
        g["logGroupName"] for page in logs.get_paginator("describe_log_groups").paginate() for g in page["logGroups"]
    ]
    assert any("invoke" in group.lower() or "proxy" in group.lower() for group in groups)
    for group in groups:
        for event in logs.filter_log_events(logGroupName=group)["events"]:
            assert not [secret for secret in secrets if secret in event["message"].encode()], group
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert MARKER not in command
        assert embedded.api_key not in command


def test_diff_after_a_deploy_is_empty(cdk: CdkCli) -> None:
    assert "Number of stacks with differences: 0" in cdk.diff()


def test_deploying_again_changes_nothing(cdk: CdkCli, embedded: Embedded, capfd: pytest.CaptureFixture[str]) -> None:
    before = endpoint(embedded)
    cdk.deploy([STACK])
    assert capfd.readouterr().out.count("(no changes)") == 5
    assert endpoint(embedded)["LastModifiedTime"] == before["LastModifiedTime"]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("MaxInstanceCount", "many"),
        ("MaxInstanceCount", "0"),
        ("HealthCheckTimeoutSeconds", "3601"),
        ("VolumeSizeGiB", "513"),
        ("TensorParallelDegree", "4"),
        ("TensorParallelDegree", "16"),
        ("InstanceType", "ml.inf2.xlarge"),
        ("SequenceLength", "512"),
        ("ModelRevision", "main"),
        ("ImageUri", "not an image"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_changes(
    cdk: CdkCli, embedded: Embedded, parameter: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = endpoint(embedded)
    with pytest.raises(ModelzoneError, match="cdk deploy failed"):
        cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:{parameter}": value})
    shown = capfd.readouterr().out
    assert parameter in shown
    assert "Traceback" not in shown
    assert endpoint(embedded) == before
    events = embedded.client("cloudformation").describe_stacks(StackName=embedded.stack_name("deployment-mixtral"))
    assert events["Stacks"][0]["StackStatus"] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}


def hosts(embedded: Embedded, *states: str) -> list[str]:
    answer = embedded.client("ec2").describe_instances(
        Filters=[{"Name": "instance-state-name", "Values": list(states)}]
    )
    return [host["InstanceId"] for reservation in answer["Reservations"] for host in reservation["Instances"]]


def container_environment(embedded: Embedded) -> dict[str, str]:
    name = endpoint(embedded)["EndpointConfigName"]
    sagemaker = embedded.client("sagemaker")
    (variant,) = sagemaker.describe_endpoint_config(EndpointConfigName=name)["ProductionVariants"]
    found: dict[str, str] = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]["Environment"]
    return found


def test_the_deploy_compiled_what_it_serves_on_a_host_that_is_gone(embedded: Embedded) -> None:
    uri = embedded.outputs("deployment-mixtral")["ArtifactUri"]
    (execution,) = executions(embedded)
    assert execution["status"] == "SUCCEEDED"
    described = embedded.client("stepfunctions").describe_execution(executionArn=execution["executionArn"])
    assert json.loads(described["output"])["artifact"] == uri
    assert hosts(embedded, "pending", "running", "stopping", "stopped") == []
    events = embedded.client("cloudformation").describe_stack_events(StackName=PARAMETERS_OF)["StackEvents"]
    windows = {e["PhysicalResourceId"] for e in events if e["ResourceType"] == "Custom::ArtifactCompilation"}
    assert any("window 1 of" in str(window) for window in windows)


def executions(embedded: Embedded) -> list[dict]:
    machine = embedded.outputs("compile")["StateMachineArn"]
    found: list[dict] = embedded.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
    return found


def test_a_compilation_that_fails_fails_the_deploy_and_the_old_keeps_serving(
    cdk: CdkCli, embedded: Embedded, capfd: pytest.CaptureFixture[str]
) -> None:
    before, uri = endpoint(embedded), embedded.outputs("deployment-mixtral")["ArtifactUri"]
    embedded.set_faults({"export": "oom"})
    try:
        with pytest.raises(ModelzoneError):
            cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:BatchSize": "2"})
    finally:
        embedded.set_faults({})
    shown = " ".join(capfd.readouterr().out.split())
    assert "step 'export' failed" in shown
    assert "modelzone compile logs mixtral" in shown
    assert "Traceback" not in shown
    assert " at " not in shown.partition("step 'export' failed")[2][:600].partition("modelzone compile logs")[0]
    assert endpoint(embedded) == before
    assert embedded.outputs("deployment-mixtral")["ArtifactUri"] == uri
    assert hosts(embedded, "pending", "running") == []
    assert ask(embedded)


def test_another_shape_is_compiled_and_served_as_its_manifest_says(cdk: CdkCli, embedded: Embedded) -> None:
    before = embedded.outputs("deployment-mixtral")["ArtifactUri"]
    count = len(executions(embedded))
    cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:BatchSize": "2"})
    after = embedded.outputs("deployment-mixtral")["ArtifactUri"]
    assert after != before
    assert len(executions(embedded)) == count + 1
    variables = container_environment(embedded)
    assert (variables["MAX_BATCH_SIZE"], variables["MAX_BATCH_PREFILL_TOKENS"]) == ("2", "1024")
    assert ask(embedded)
    # Back to the first artifact, which is still there: nothing is compiled.
    cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:BatchSize": ""})
    assert embedded.outputs("deployment-mixtral")["ArtifactUri"] == before
    assert len(executions(embedded)) == count + 1
    assert ask(embedded)


def test_another_instance_type_is_refused_before_the_endpoint(
    cdk: CdkCli, embedded: Embedded, capfd: pytest.CaptureFixture[str]
) -> None:
    before = endpoint(embedded)
    with pytest.raises(ModelzoneError):
        cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:InstanceType": "ml.inf2.48xlarge"})
    assert "InstanceType cannot change from ml.inf2.24xlarge to ml.inf2.48xlarge" in capfd.readouterr().out
    assert endpoint(embedded) == before


def test_a_parameter_overrides_and_stays(cdk: CdkCli, embedded: Embedded) -> None:
    assert capacity(embedded) == (1, 2)
    before = endpoint(embedded)["EndpointConfigName"]
    cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:MaxInstanceCount": "3"})
    assert capacity(embedded) == (1, 3)
    cdk.deploy([STACK])
    assert capacity(embedded) == (1, 3)
    cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:MaxInstanceCount": ""})
    assert capacity(embedded) == (1, 2)
    assert endpoint(embedded)["EndpointConfigName"] == before


def test_an_update_from_the_settings_replaces_the_endpoint_configuration(cdk: CdkCli, embedded: Embedded) -> None:
    before = endpoint(embedded)
    cdk.synth({"environment": "dev", "deployment.mixtral.health_check_timeout_seconds": "1200"})
    cdk.deploy([STACK])
    after = endpoint(embedded)
    assert after["EndpointName"] == before["EndpointName"]
    assert after["EndpointConfigName"] != before["EndpointConfigName"]
    config = embedded.client("sagemaker").describe_endpoint_config(EndpointConfigName=after["EndpointConfigName"])
    (variant,) = config["ProductionVariants"]
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 1200
    assert ask(embedded)


def test_an_update_that_fails_rolls_back_and_the_old_keeps_serving(cdk: CdkCli, embedded: Embedded) -> None:
    before = endpoint(embedded)
    with pytest.raises(ModelzoneError):
        cdk.deploy([STACK], parameters={f"{PARAMETERS_OF}:ImageUri": WRONG_IMAGE})
    name = embedded.stack_name("deployment-mixtral")
    (stack,) = embedded.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    after = endpoint(embedded)
    assert after["EndpointStatus"] == "InService"
    assert after["EndpointConfigName"] == before["EndpointConfigName"]
    assert ask(embedded)


def test_one_run_at_a_time(workspace: Workspace) -> None:
    with workspace.lock(), pytest.raises(ModelzoneError, match="another run is using"), workspace.lock():
        pass


def test_destroy_leaves_nothing(cdk: CdkCli, embedded: Embedded) -> None:
    cdk.destroy()
    stacks = embedded.client("cloudformation").describe_stacks()["Stacks"]
    assert {s["StackName"] for s in stacks} == {"CDKToolkit"}
    assert embedded.client("sagemaker").list_endpoints()["Endpoints"] == []
    assert embedded.client("sagemaker").list_endpoint_configs()["EndpointConfigs"] == []
    assert embedded.client("sagemaker").list_models()["Models"] == []
    assert embedded.client("apigateway").get_rest_apis()["items"] == []
    assert embedded.client("lambda").list_functions()["Functions"] == []
    assert (
        embedded.client("ec2").describe_nat_gateways(Filters=[{"Name": "state", "Values": ["available"]}])[
            "NatGateways"
        ]
        == []
    )
    assert embedded.client("stepfunctions").list_state_machines()["stateMachines"] == []
    assert embedded.client("events").list_rules()["Rules"] == []
    assert embedded.client("sns").list_topics()["Topics"] == []
    assert hosts(embedded, "pending", "running", "stopping", "stopped") == []
    buckets = [b["Name"] for b in embedded.client("s3").list_buckets()["Buckets"]]
    assert not [b for b in buckets if not b.startswith("cdk-")]
    assert embedded.client("secretsmanager").list_secrets()["SecretList"] == []
    # But for one role, which API Gateway logs with for every API of the account.
    roles = [
        r["RoleName"] for r in embedded.client("iam").list_roles()["Roles"] if r["RoleName"].startswith("modelzone")
    ]
    assert [name for name in roles if "CloudWatchRole" not in name] == []
    assert len(roles) == 1
    assert not [
        g["logGroupName"]
        for g in embedded.client("logs").describe_log_groups()["logGroups"]
        if "modelzone" in g["logGroupName"]
    ]


def test_down_leaves_no_process(workspace: Workspace, embedded: Embedded) -> None:
    assert stop_everything(workspace) > 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(embedded.state.url, timeout=2)
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(STATE_VARIABLE) == str(workspace.folder):
                left.append(process)
        except psutil.Error:
            continue
    assert left == []
    assert stop_everything(workspace) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chat", "hi"], "start it with: make local"),
        (["status"], "start it with: make local"),
        (["up", "--environment", "nowhere"], "no environment named 'nowhere'"),
    ],
)
def test_the_command_fails_in_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelzone", "local", *arguments],
        cwd=ROOT,
        env={**os.environ, STATE_VARIABLE: str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
