"""The custom resource that lets a deployment go on only with a complete, matching artifact."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws
from unit.compiled_artifact_aws import DIGEST, EXECUTION, IMAGE, MACHINE, NAME, FakeAws, client_error
from unit.compiled_artifact_aws import publish as publish_complete

from compiled_artifact import handler as handler_module
from compiled_artifact import shutdown
from compiled_artifact.aws import Clients
from compiled_artifact.check import CheckError, Order, artifact_key, artifact_prefix, check_artifact
from compiled_artifact.errors import MissingArtifactError
from compiled_artifact.handler import NO_ARTIFACT, handler
from compiled_artifact.response import MAX_REASON_BYTES, put_response, shorten
from modelzone import artifacts

BUCKET = "models-bucket"
FACTS = {
    "engine": "tgi-neuronx",
    "engine_version": "0.0.25",
    "model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "model_revision": "main",
    "instance_family": "inf2",
    "tensor_parallel_degree": "8",
    "batch_size": "1",
    "sequence_length": "1024",
    "dtype": "fp16",
}
OBJECTS = {"config.json": b"{}", "compiled/a.neff": b"neff", "checkpoint/model.safetensors": b"weights"}
HINT = "Run: modelzone compile mixtral"


def properties(**overrides: Any) -> dict[str, Any]:
    facts = {**FACTS, **overrides.pop("facts", {})}
    planned = {
        "MinInstanceCount": "1",
        "MaxInstanceCount": "2",
        "InstanceType": "ml.inf2.24xlarge",
        "HealthCheckTimeoutSeconds": "2400",
        "ModelId": facts["model_id"],
        "ModelRevision": facts["model_revision"],
        "TensorParallelDegree": facts["tensor_parallel_degree"],
        "BatchSize": facts["batch_size"],
        "SequenceLength": facts["sequence_length"],
    }
    planned |= {name: overrides.pop(name) for name in list(planned) if name in overrides}
    return {
        "ServiceToken": "arn:aws:lambda:us-east-1:123456789012:function:check",
        "Bucket": BUCKET,
        "Deployment": "mixtral",
        "Facts": facts,
        "Planned": planned,
        "Given": dict.fromkeys(planned, ""),
        "AllowedTensorParallelDegrees": {"ml.inf2.24xlarge": "1,2,4,8", "ml.inf2.48xlarge": "1, 2, 4, 8, 24"},
        "MaxSequenceLength": "32768",
        "MaxInputTokens": "512",
        "CompileHint": HINT,
        **overrides,
    }


def order(**overrides: Any) -> Order:
    return Order.from_properties(properties(**overrides))


def manifest(**overrides: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "facts": FACTS,
        "key": artifact_key(FACTS),
        "created": "2026-11-21T10:00:00Z",
        "objects": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in OBJECTS.items()
        ],
        "producer": {"tool": "compile_job", "image": "none"},
        **overrides,
    }


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def publish(s3: Any, *, content: Any = None, leave_out: str | None = None) -> bytes:
    prefix = artifact_prefix(FACTS)
    for path, data in OBJECTS.items():
        if path != leave_out:
            s3.put_object(Bucket=BUCKET, Key=prefix + path, Body=data)
    raw = content if isinstance(content, bytes) else json.dumps(content or manifest()).encode()
    s3.put_object(Bucket=BUCKET, Key=prefix + "manifest.json", Body=raw)
    return raw


def test_key_and_prefix_are_the_library_s() -> None:
    assert artifact_key(FACTS) == artifacts.artifact_key(FACTS)
    assert artifact_prefix(FACTS) == artifacts.artifact_prefix(FACTS)
    assert artifact_prefix(FACTS).startswith("compiled/mistralai--mixtral-8x7b-instruct-v0.1/")


def test_complete_artifact_gives_what_the_stack_reads(s3: Any) -> None:
    raw = publish(s3)

    found = check_artifact(order(), s3=s3)

    prefix = artifact_prefix(FACTS)
    assert found.attributes == {
        "Key": artifact_key(FACTS),
        "Prefix": prefix,
        "S3Uri": f"s3://{BUCKET}/{prefix}",
        "ManifestSha256": hashlib.sha256(raw).hexdigest(),
        **properties()["Planned"],
        "Dtype": "fp16",
        "MaxBatchPrefillTokens": "512",
    }
    assert found.s3_uri.endswith("/")


def refusal(s3: Any, **overrides: Any) -> str:
    with pytest.raises(CheckError) as caught:
        check_artifact(order(**overrides), s3=s3)
    return str(caught.value)


def test_absent_artifact_names_uri_facts_and_remedy(s3: Any) -> None:
    reason = refusal(s3)

    assert f"s3://{BUCKET}/{artifact_prefix(FACTS)}manifest.json does not exist or may not be read" in reason
    assert "sequence_length 1024" in reason
    assert HINT in reason


def test_another_sequence_length_is_another_artifact(s3: Any) -> None:
    publish(s3)

    assert "sequence_length 2048" in refusal(s3, facts={"sequence_length": "2048"})


def test_forbidden_reads_as_absent() -> None:
    def get_object(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")

    assert "does not exist or may not be read" in refusal(SimpleNamespace(get_object=get_object))


def test_other_failures_of_s3_keep_their_words() -> None:
    def get_object(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": "Please reduce"}}, "GetObject")

    reason = refusal(SimpleNamespace(get_object=get_object))
    assert "could not be read: SlowDown: Please reduce" in reason
    assert "does not exist" not in reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not json", "is not JSON"),
        ([], "has format None"),
        (manifest(format=2), "has format 2, this deployment reads format 1"),
        (manifest(facts=None), "has no facts"),
        (
            manifest(facts={**FACTS, "batch_size": "4"}),
            "compiled with batch_size '4', deployment 'mixtral' wants '1'",
        ),
        (manifest(facts={**FACTS, "extra": "x"}), "compiled with extra 'x', deployment 'mixtral' wants None"),
        (manifest(key="0" * 20), "has key '00000000000000000000', its facts give"),
        (manifest(objects=[]), "lists no objects"),
        (manifest(objects=None), "lists no objects"),
        (manifest(objects=[{"path": "", "size": 1}]), "without a proper path and size"),
        (manifest(objects=[{"path": "a", "size": "1"}]), "without a proper path and size"),
        (manifest(objects=[{"path": "a", "size": 1}] * 2), "without a proper path and size"),
    ],
)
def test_wrong_manifest_is_refused(s3: Any, content: Any, words: str) -> None:
    publish(s3, content=content if content != [] else b"[]")

    reason = refusal(s3)

    assert words in reason
    assert HINT in reason


def test_missing_object_is_named(s3: Any) -> None:
    publish(s3, leave_out="compiled/a.neff")

    assert "incomplete: compiled/a.neff does not exist or may not be read. The compile job completes it" in refusal(s3)


def test_truncated_object_is_named_with_both_sizes(s3: Any) -> None:
    publish(s3)
    s3.put_object(Bucket=BUCKET, Key=artifact_prefix(FACTS) + "config.json", Body=b"{")

    assert "config.json has 1 bytes, the manifest says 2" in refusal(s3)


def test_many_missing_objects_are_counted(s3: Any) -> None:
    publish(s3, content=manifest(objects=[{"path": f"weights-{n}", "size": 1} for n in range(9)]))

    reason = refusal(s3)

    assert "weights-4 does not" in reason
    assert "weights-5" not in reason
    assert "and 4 more" in reason


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"MinInstanceCount": "3"}, "MinInstanceCount is 3 and MaxInstanceCount is 2"),
        ({"MinInstanceCount": "0"}, "MinInstanceCount is 0; an endpoint needs at least 1"),
        ({"MinInstanceCount": "one"}, "MinInstanceCount is 'one', expected a whole number"),
        ({"MaxInstanceCount": ""}, "Property Planned.MaxInstanceCount is missing or empty"),
        (
            {"facts": {"tensor_parallel_degree": "16"}},
            "16 is not possible on ml.inf2.24xlarge: choose one of 1, 2, 4, 8",
        ),
        ({"facts": {"tensor_parallel_degree": "-8"}}, "TensorParallelDegree is '-8'"),
        ({"InstanceType": "ml.g5.2xlarge"}, "'ml.g5.2xlarge' is not one this deployment can run on"),
        ({"facts": {"instance_family": "trn1"}}, "does not belong to the instance family 'trn1'"),
        ({"facts": {"batch_size": "0"}}, "BatchSize is '0'"),
        ({"facts": {"sequence_length": "99999"}}, "SequenceLength is 99999; this model takes 32768 at most"),
        ({"AllowedTensorParallelDegrees": "8"}, "AllowedTensorParallelDegrees must be a map"),
        ({"AllowedTensorParallelDegrees": {"ml.inf2.24xlarge": "8,x"}}, "'x', expected a whole number"),
        ({"facts": {"flags": "x"}}, "missing or unknown: flags"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_read(overrides: dict[str, Any], words: str) -> None:
    assert words in refusal(SimpleNamespace(), **overrides)


def test_degree_24_is_possible_on_the_large_instance(s3: Any) -> None:
    reason = refusal(s3, facts={"tensor_parallel_degree": "24"}, InstanceType="ml.inf2.48xlarge")

    assert "does not exist" in reason, "the numbers are fine, only the artifact is missing"


class Receiver:
    """Stands for the signed address that CloudFormation gives."""

    def __init__(self) -> None:
        self.failures = 0
        self.answers: list[dict[str, Any]] = []
        self.content_types: list[str | None] = []
        self.sizes: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def do_PUT(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                status = 200
                if receiver.failures:
                    receiver.failures -= 1
                    status = 503
                else:
                    receiver.answers.append(json.loads(raw))
                    receiver.content_types.append(self.headers["content-type"])
                    receiver.sizes.append(len(raw))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def event(self, kind: str, **overrides: Any) -> dict[str, Any]:
        return {
            "RequestType": kind,
            "ResponseURL": f"http://127.0.0.1:{self.server.server_port}/answer?signature=secret",
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/s/1",
            "RequestId": "request-1",
            "LogicalResourceId": "Artifact",
            "ResourceProperties": properties(),
            **overrides,
        }

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join(timeout=5)
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


CONTEXT = SimpleNamespace(log_stream_name="2026/11/21/[1]abc")


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_handler_answers_success(s3: Any, receiver: Receiver, kind: str) -> None:
    publish(s3)

    handler(receiver.event(kind), CONTEXT)

    (answer,) = receiver.answers
    assert answer["Status"] == "SUCCESS"
    assert answer["PhysicalResourceId"] == f"s3://{BUCKET}/{artifact_prefix(FACTS)}@ml.inf2.24xlarge"
    assert answer["Data"]["SequenceLength"] == "1024"
    assert (answer["StackId"], answer["RequestId"], answer["LogicalResourceId"]) == (
        "arn:aws:cloudformation:us-east-1:123456789012:stack/s/1",
        "request-1",
        "Artifact",
    )
    assert receiver.content_types == [""], "the signed address allows no content type"


def test_handler_answers_failure_with_the_reason(s3: Any, receiver: Receiver) -> None:
    del s3
    handler(receiver.event("Create"), CONTEXT)

    (answer,) = receiver.answers
    assert answer["Status"] == "FAILED"
    assert HINT in answer["Reason"]
    assert answer["PhysicalResourceId"] == NO_ARTIFACT


def test_failed_update_keeps_the_resource(s3: Any, receiver: Receiver) -> None:
    del s3
    handler(receiver.event("Update", PhysicalResourceId="s3://old/"), CONTEXT)

    assert receiver.answers[0]["PhysicalResourceId"] == "s3://old/"


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_a_store_that_does_not_answer_says_nothing_of_the_artifact(operation: str) -> None:
    aws = FakeAws()
    publish_complete(aws.s3)
    for error in (client_error("SlowDown"), EndpointConnectionError(endpoint_url="https://aws.invalid")):
        aws.s3.planted[operation] = [error]
        with pytest.raises(CheckError, match=r"could not be read: (SlowDown|Could not connect)") as caught:
            check_artifact(order(), s3=aws.s3)
        assert not isinstance(caught.value, MissingArtifactError)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Metadata": {"sha256": "0" * 64}}, f"config.json has SHA-256 {'0' * 64}, the manifest says"),
        (
            {"ChecksumSHA256": "other"},
            "config.json has checksum SHA256:other in S3, the manifest says SHA256:sum-compiled/",
        ),
        (
            {"ChecksumSHA256": "", "ChecksumCRC32": "AAAAAA==-2"},
            "config.json has checksum CRC32:AAAAAA==-2 in S3, the manifest says SHA256:sum-compiled/",
        ),
        ({"ChecksumSHA256": ""}, "config.json has checksum unknown in S3, the manifest says SHA256:sum-compiled/"),
    ],
)
def test_a_changed_object_is_named_with_both_sums(change: dict[str, Any], words: str) -> None:
    aws = FakeAws()
    publish_complete(aws.s3)
    aws.s3.objects[artifact_prefix(FACTS) + "config.json"] |= change

    with pytest.raises(MissingArtifactError, match="is incomplete") as caught:
        check_artifact(order(), s3=aws.s3)

    assert words in str(caught.value)


def image_attributes(
    *, given: str = "", producer: dict[str, str] | None = None, planned: str = IMAGE
) -> dict[str, str]:
    aws = FakeAws()
    publish_complete(aws.s3, **({} if producer is None else {"producer": producer}))
    wanted = properties()
    wanted["Planned"]["ImageUri"], wanted["Given"]["ImageUri"] = planned, given
    attributes = check_artifact(Order.from_properties(wanted), s3=aws.s3).attributes
    return {name: attributes[name] for name in ("ImageUri", "RegistryAccount", "RegistryRegion", "Repository")}


def test_the_image_that_compiled_is_the_one_that_serves() -> None:
    repository = "huggingface-pytorch-tgi-inference"

    assert image_attributes() == {
        "ImageUri": f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{repository}@{DIGEST}",
        "RegistryAccount": "763104351884",
        "RegistryRegion": "us-east-1",
        "Repository": repository,
    }


@pytest.mark.parametrize(
    "producer",
    [
        {},
        {"image": IMAGE},
        {"image": IMAGE, "image_digest": "latest"},
        {"image": IMAGE + "-newer", "image_digest": DIGEST},
    ],
)
def test_without_a_known_digest_the_tag_serves(producer: dict[str, str]) -> None:
    assert image_attributes(producer=producer)["ImageUri"] == IMAGE


def test_the_operator_s_image_is_taken_as_it_is() -> None:
    own = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/own:1"

    assert image_attributes(given=own) == {
        "ImageUri": own,
        "RegistryAccount": "123456789012",
        "RegistryRegion": "eu-west-1",
        "Repository": "team/own",
    }
    assert image_attributes(given=IMAGE)["ImageUri"] == IMAGE


def test_an_image_that_is_planned_by_digest_stays() -> None:
    planned = f"{IMAGE.rpartition(':')[0]}@{DIGEST}"

    assert image_attributes(planned=planned)["ImageUri"] == planned


@pytest.mark.parametrize("uri", ["docker.io/python:3", IMAGE.rpartition(":")[0], IMAGE + "@sha256:12"])
def test_an_image_outside_of_ecr_is_refused(uri: str) -> None:
    with pytest.raises(CheckError, match="expected an image in ECR with a tag or a digest"):
        image_attributes(given=uri)


def deletion(receiver: Receiver, **overrides: Any) -> dict[str, Any]:
    uri = f"s3://{BUCKET}/{artifact_prefix(FACTS)}"
    event = receiver.event("Delete", PhysicalResourceId=overrides.pop("physical_id", f"{uri}@ml.inf2.24xlarge"))
    event["ResourceProperties"] |= {"DeleteArtifact": "true", **overrides}
    handler(event, CONTEXT)
    return receiver.answers[-1]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> FakeAws:
    aws = FakeAws()
    publish_complete(aws.s3)
    aws.s3.put("compiled/other/manifest.json", b"{}")
    monkeypatch.setattr(handler_module, "Clients", lambda: aws)
    return aws


URI = f"s3://{BUCKET}/{artifact_prefix(FACTS)}"


def test_an_artifact_that_nobody_serves_is_deleted_on_request(aws: FakeAws, receiver: Receiver) -> None:
    key = artifact_key(FACTS)
    others = {
        "/modelzone/dev/deployments/llama": json.dumps({"artifact": f"s3://{BUCKET}/compiled/llama/"}),
        "/modelzone/dev/deployments/old": json.dumps({"endpoint_name": "x"}),
        "/modelzone/dev/artifacts/" + "0" * 20: json.dumps({"artifact": "s3://x/"}),
        "/modelzone/other/artifacts/" + key: json.dumps({"artifact": "s3://another-store/"}),
    }
    entries = {f"/modelzone/{name}/artifacts/{key}": json.dumps({"artifact": URI}) for name in ("dev", "prod")}
    aws.ssm.parameters = {**others, **entries}

    answer = deletion(receiver)

    assert (answer["Status"], answer["PhysicalResourceId"]) == ("SUCCESS", f"{URI}@ml.inf2.24xlarge")
    assert list(aws.s3.objects) == ["compiled/other/manifest.json"]
    assert aws.s3.calls[0] == ("delete_object", {"Bucket": BUCKET, "Key": f"{artifact_prefix(FACTS)}manifest.json"})
    assert aws.ssm.parameters == others
    assert deletion(receiver)["Status"] == "SUCCESS", "twice is no error"


@pytest.mark.parametrize(
    "entry",
    [json.dumps({"artifact": URI}), json.dumps({"artifact": URI.rstrip("/")}), "{", "[]"],
)
def test_an_artifact_that_any_environment_serves_stays(aws: FakeAws, receiver: Receiver, entry: str) -> None:
    aws.ssm.parameters = {"/modelzone/prod/deployments/mixtral": entry}

    assert deletion(receiver)["Status"] == "SUCCESS"
    assert len(aws.s3.objects) == len(OBJECTS) + 2


MACHINE_ARN = {"StateMachineArn": MACHINE}


@pytest.mark.parametrize(
    "status", ["ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS"]
)
def test_a_rollback_deletes_nothing(
    aws: FakeAws, receiver: Receiver, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.cloudformation.status = status

    assert deletion(receiver)["Status"] == "SUCCESS"

    assert not aws.s3.calls
    assert aws.cloudformation.calls == [("describe_stacks", {"StackName": receiver.answers[0]["StackId"]})]
    assert f"its stack is rolled back ({status})" in capsys.readouterr().out


def test_a_stack_whose_state_is_not_known_keeps_its_artifact(aws: FakeAws, receiver: Receiver) -> None:
    aws.cloudformation.planted["describe_stacks"] = [client_error("AccessDenied")]

    assert deletion(receiver)["Status"] == "SUCCESS", "a rollback must not fail for this"
    assert not aws.s3.calls


@pytest.mark.parametrize(
    "description",
    [
        {"PrimaryContainer": {"ModelDataSource": {"S3DataSource": {"S3Uri": URI, "S3DataType": "S3Prefix"}}}},
        {"Containers": [{}, {"ModelDataUrl": f"{URI}model.tar.gz"}]},
        {"PrimaryContainer": {"AdditionalModelDataSources": [{"S3DataSource": {"S3Uri": URI.rstrip("/")}}]}},
        {"PrimaryContainer": {"ModelDataUrl": f"s3://{BUCKET}/compiled/"}},
    ],
)
def test_an_artifact_that_a_model_loads_stays(
    aws: FakeAws, receiver: Receiver, description: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = {"PrimaryContainer": {"Image": "x", "ModelDataUrl": f"s3://{BUCKET}/compiled/other/"}}
    aws.sagemaker.models = {"other": elsewhere, "served": description}
    aws.sagemaker.vanished = {"gone"}

    assert deletion(receiver)["Status"] == "SUCCESS"

    assert not aws.s3.calls
    assert "in use by SageMaker model served" in capsys.readouterr().out
    del aws.sagemaker.models["served"]
    deletion(receiver)
    assert list(aws.s3.objects) == ["compiled/other/manifest.json"]


def test_an_artifact_that_is_being_compiled_stays(
    aws: FakeAws, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"mixtral-{artifact_key(FACTS)}-20261121100000"
    arn = aws.stepfunctions.add(name)

    deletion(receiver, **MACHINE_ARN)

    assert not aws.s3.calls
    assert f"in use by execution {name}" in capsys.readouterr().out
    aws.stepfunctions.executions[arn]["status"] = "SUCCEEDED"
    deletion(receiver, **MACHINE_ARN)
    assert list(aws.s3.objects) == ["compiled/other/manifest.json"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"DeleteArtifact": "false"},
        {"Bucket": "another"},
        {"physical_id": NO_ARTIFACT},
        {"physical_id": f"s3://{BUCKET}/@ml.inf2.24xlarge"},
        {"physical_id": f"s3://{BUCKET}/compiled/x/../../weights/@ml.inf2.24xlarge"},
        {"physical_id": f"s3://{BUCKET}/weights/model/main/@ml.inf2.24xlarge"},
    ],
)
def test_nothing_else_is_ever_deleted(aws: FakeAws, receiver: Receiver, overrides: dict[str, str]) -> None:
    assert deletion(receiver, **overrides)["Status"] == "SUCCESS"
    assert not aws.s3.calls


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("ssm", "get_parameters_by_path"),
        ("stepfunctions", "list_executions"),
        ("sagemaker", "list_models"),
        ("sagemaker", "describe_model"),
        ("s3", "delete_object"),
        ("s3", "list_objects_v2"),
        ("s3", "delete_objects"),
        ("ssm", "delete_parameter"),
    ],
)
def test_a_deletion_that_is_refused_says_what_to_do(
    aws: FakeAws, receiver: Receiver, service: str, operation: str
) -> None:
    aws.ssm.parameters = {f"/modelzone/dev/artifacts/{artifact_key(FACTS)}": json.dumps({"artifact": URI})}
    aws.sagemaker.models = {"other": {}}
    getattr(aws, service).planted[operation] = [client_error("AccessDenied", "not you")]

    answer = deletion(receiver, **MACHINE_ARN)

    assert answer["Status"] == "FAILED"
    assert f"{URI} could not be deleted: AccessDenied: not you. Delete the stack again; or set" in answer["Reason"]


def test_objects_that_s3_keeps_are_an_error(aws: FakeAws, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"Errors": [{"Key": "x", "Code": "InternalError", "Message": "again"}]}
    monkeypatch.setattr(aws.s3, "delete_objects", lambda **_: refused)

    assert "could not be deleted: InternalError: again" in deletion(receiver)["Reason"]


def test_a_store_that_is_gone_keeps_nothing(aws: FakeAws, receiver: Receiver) -> None:
    aws.s3.planted["delete_object"] = [client_error("NoSuchBucket")]

    assert deletion(receiver)["Status"] == "SUCCESS"


def test_delete_succeeds_and_deletes_nothing(s3: Any, receiver: Receiver) -> None:
    publish(s3)

    handler(receiver.event("Delete", PhysicalResourceId="s3://x/", ResourceProperties={}), CONTEXT)

    assert receiver.answers[0]["Status"] == "SUCCESS"
    assert receiver.answers[0]["PhysicalResourceId"] == "s3://x/"
    assert len(s3.list_objects_v2(Bucket=BUCKET)["Contents"]) == len(OBJECTS) + 1


def test_unexpected_failure_is_answered(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any, **__: Any) -> None:
        message = "boom"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(handler_module, "check_artifact", explode)

    handler(receiver.event("Create"), CONTEXT)

    (answer,) = receiver.answers
    assert answer["Status"] == "FAILED"
    assert "ZeroDivisionError: boom" in answer["Reason"]
    assert CONTEXT.log_stream_name in answer["Reason"]


def test_event_without_properties_is_answered(receiver: Receiver) -> None:
    event = receiver.event("Create")
    del event["ResourceProperties"]

    handler(event, CONTEXT)

    assert "Planned must be a map" in receiver.answers[0]["Reason"]


def test_nothing_of_the_signed_address_is_logged(s3: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    del s3
    handler(receiver.event("Create"), CONTEXT)

    assert "refused" in caplog.text
    assert "signature" not in caplog.text


def test_answer_is_repeated_until_it_arrives(receiver: Receiver) -> None:
    receiver.failures = 2
    waits: list[float] = []

    put_response(receiver.event("Create"), succeeded=True, physical_id="x", sleep=waits.append)

    assert len(receiver.answers) == 1
    assert waits == [1.0, 2.0]


def test_answer_that_never_arrives_is_an_error(receiver: Receiver) -> None:
    receiver.failures = 9

    with pytest.raises(OSError, match="503"):
        put_response(receiver.event("Create"), succeeded=True, physical_id="x", sleep=lambda _: None)


def test_address_must_be_of_http() -> None:
    with pytest.raises(ValueError, match="not an address of HTTP"):
        put_response({"ResponseURL": "file:///etc/passwd"}, succeeded=True, physical_id="x")


@pytest.mark.parametrize("letter", ["a", "ß", "🙂", '"'])
def test_long_reasons_fit(receiver: Receiver, letter: str) -> None:
    reason = "begin " + letter * 5000

    assert shorten(reason).startswith("begin")
    assert shorten(reason).endswith("…")
    assert MAX_REASON_BYTES - 20 <= len(json.dumps(shorten(reason))) <= MAX_REASON_BYTES
    put_response(receiver.event("Create"), succeeded=False, physical_id="x" * 500, reason=reason)
    assert receiver.sizes[0] < 4096


def test_short_reasons_stay() -> None:
    assert shorten("all is well") == "all is well"


def test_prompts_must_leave_room_for_an_answer() -> None:
    with pytest.raises(CheckError, match="no room for an answer"):
        order(MaxInputTokens="1024").check_numbers()


def test_what_the_operator_gives_replaces_what_was_planned(s3: Any) -> None:
    facts = {**FACTS, "batch_size": "4"}
    given = {**dict.fromkeys(properties()["Given"], ""), "BatchSize": "4", "HealthCheckTimeoutSeconds": "1200"}

    assert order(Given=given).facts == facts
    with pytest.raises(CheckError, match=artifact_key(facts)):
        check_artifact(order(Given=given), s3=s3)
    publish(s3)
    given["BatchSize"] = ""
    found = check_artifact(order(Given=given), s3=s3)
    assert found.attributes["HealthCheckTimeoutSeconds"] == "1200"
    assert found.attributes["MaxInstanceCount"] == "2"


def test_an_endpoint_keeps_its_instance_type() -> None:
    deployed = f"s3://{BUCKET}/{artifact_prefix(FACTS)}@ml.inf2.24xlarge"

    order().check_change(deployed)
    order().check_change(None)
    order().check_change("no-compiled-artifact")
    given = {**dict.fromkeys(properties()["Given"], ""), "InstanceType": "ml.inf2.48xlarge"}
    with pytest.raises(CheckError, match=r"cannot change from ml\.inf2\.24xlarge to ml\.inf2\.48xlarge"):
        order(Given=given).check_change(deployed)


def missing(aws: FakeAws, receiver: Receiver, outcome: str, **more: str) -> str:
    """The reason of a check whose artifact is not there after such a wait."""
    aws.s3.objects.clear()
    event = receiver.event("Create")
    event["ResourceProperties"] |= {"Outcome": outcome, "Environment": "dev", **more}
    handler(event, CONTEXT)
    (answer,) = receiver.answers
    assert answer["Status"] == "FAILED"
    assert len(json.dumps(answer["Reason"])) <= MAX_REASON_BYTES
    return str(answer["Reason"])


ARN = EXECUTION["id"]


@pytest.mark.parametrize("outcome", [f"failed {ARN}", f"running {ARN}"])
@pytest.mark.parametrize(
    ("status", "more", "words"),
    [
        (
            "FAILED",
            {"error": "CompileFailed", "cause": "step 'export' failed: why. Log: group stream"},
            "Compiling deployment 'mixtral' failed: step 'export' failed: why. Log: group stream. More: modelzone",
        ),
        ("FAILED", {"error": "States.Runtime"}, "failed without a message (States.Runtime)"),
        ("FAILED", {"cause": "ü" * 9000}, "üüü…"),
        ("ABORTED", {"cause": "enough"}, f"compilation {NAME} was cancelled: enough. More:"),
        ("TIMED_OUT", {}, f"compilation {NAME} took longer than it may; raise compile.max_hours"),
    ],
)
def test_after_a_failed_compilation_its_cause_is_the_reason(
    aws: FakeAws, receiver: Receiver, outcome: str, status: str, more: dict[str, Any], words: str
) -> None:
    aws.stepfunctions.add(NAME, status, **more)

    reason = missing(aws, receiver, outcome)

    assert words in reason
    assert reason.endswith("More: modelzone compile logs mixtral -e dev.")


def test_a_failed_compilation_that_cannot_be_described_is_named(aws: FakeAws, receiver: Receiver) -> None:
    aws.stepfunctions.planted["describe_execution"] = [client_error("AccessDenied")]

    reason = missing(aws, receiver, f"failed {ARN}", Environment="")

    assert reason == (
        f"Compiling deployment 'mixtral' failed: execution {NAME} failed. More: modelzone compile logs mixtral."
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_compilation_that_goes_on_can_be_followed(aws: FakeAws, receiver: Receiver, *, known: bool) -> None:
    if known:
        aws.stepfunctions.add(NAME, started=datetime.now(UTC) - timedelta(minutes=330))

    reason = missing(aws, receiver, f"running {ARN}")

    standing = f"execution {NAME}, 330 min so far" if known else f"execution {NAME}"
    assert f"'mixtral' is still being compiled ({standing})" in reason
    assert "the compilation goes on" in reason
    assert "modelzone compile mixtral -e dev --follow, and deploy again" in reason


def test_what_nobody_foresaw_is_passed_on(aws: FakeAws, receiver: Receiver) -> None:
    line = "StartExecution failed with AccessDenied: no"

    assert missing(aws, receiver, f"unknown {line}").endswith(f"could not be started or followed: {line}.")


@pytest.mark.parametrize("outcome", ["", "complete", "refused", "failed", "strange thing", f"succeeded {ARN}"])
def test_a_wait_that_says_nothing_leaves_the_check_its_own_words(
    aws: FakeAws, receiver: Receiver, outcome: str
) -> None:
    reason = missing(aws, receiver, outcome)

    assert reason.startswith("No compiled artifact for deployment 'mixtral'")
    assert HINT in reason


def test_a_compilation_that_succeeded_and_left_nothing_is_for_the_check(aws: FakeAws, receiver: Receiver) -> None:
    aws.stepfunctions.add(NAME, "SUCCEEDED")

    assert "No compiled artifact" in missing(aws, receiver, f"running {ARN}")


def test_an_outcome_that_cannot_be_explained_hides_nothing(
    aws: FakeAws, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler_module, "explain", None)

    assert "No compiled artifact" in missing(aws, receiver, f"failed {ARN}")


def test_a_complete_artifact_needs_no_outcome(aws: FakeAws, receiver: Receiver) -> None:
    event = receiver.event("Create")
    event["ResourceProperties"]["Outcome"] = f"failed {ARN}"

    handler(event, CONTEXT)

    assert receiver.answers[0]["Status"] == "SUCCESS"
    assert not aws.stepfunctions.calls


def test_impossible_numbers_are_said_whatever_the_wait_says(aws: FakeAws, receiver: Receiver) -> None:
    event = receiver.event("Create")
    event["ResourceProperties"]["Outcome"] = f"failed {ARN}"
    event["ResourceProperties"]["Given"]["TensorParallelDegree"] = "3"

    handler(event, CONTEXT)

    assert "TensorParallelDegree 3 is not possible" in receiver.answers[0]["Reason"]
    assert not aws.stepfunctions.calls


def shut_down(receiver: Receiver, aws: FakeAws, monkeypatch: pytest.MonkeyPatch, kind: str = "Delete") -> str:
    """Ask for it as CloudFormation does; time passes by itself. Returns the physical id."""
    seconds = [0.0]

    def sleep(given: float) -> None:
        seconds[0] += given

    monkeypatch.setattr(Clients, "quick", classmethod(lambda _: aws))
    end = partial(shutdown.end_all, sleep=sleep, clock=lambda: seconds[0])
    monkeypatch.setattr(shutdown, "end_all", end)
    event = receiver.event(kind, ResourceProperties={"Environment": "dev", "StateMachineArn": MACHINE})
    shutdown.handler(event)
    answer = receiver.answers[-1]
    assert answer["Status"] == "SUCCESS"
    assert seconds[0] <= 93
    return str(answer["PhysicalResourceId"])


def host_tags(role: str, environment: str = "dev") -> dict[str, str]:
    return {"modelzone:environment": environment, "modelzone:role": role}


def test_a_compile_stack_ends_with_its_executions_and_hosts(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = FakeAws()
    arns = [aws.stepfunctions.add(name) for name in ("one", "two")]
    ended = aws.stepfunctions.add("ended", "FAILED")
    aws.ec2.add("i-compile", tags=host_tags("compile-host"))
    aws.ec2.add("i-debug", tags=host_tags("debug-host"), state="stopped")
    aws.ec2.add("i-prod", tags=host_tags("compile-host", "prod"))
    aws.ec2.add("i-else", tags=host_tags("bastion"))

    assert shut_down(receiver, aws, monkeypatch) == "compile-shutdown-dev"

    assert [aws.stepfunctions.executions[arn]["status"] for arn in (*arns, ended)] == ["ABORTED", "ABORTED", "FAILED"]
    assert aws.ec2.instances["i-debug"]["State"]["Name"] == "terminated"
    assert sorted(aws.ec2.live) == ["i-else", "i-prod"]
    assert '"ended": "all"' in capsys.readouterr().out


def test_a_host_that_a_step_has_just_started_is_ended_too(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = FakeAws()
    terminate = aws.ec2.terminate_instances

    def late(**given: Any) -> None:
        terminate(**given)
        if given["InstanceIds"] == ["i-1"]:
            aws.ec2.add("i-2", tags=host_tags("compile-host"))

    aws.ec2.add("i-1", tags=host_tags("compile-host"))
    aws.ec2.terminate_instances = late  # type: ignore[method-assign]

    shut_down(receiver, aws, monkeypatch)

    assert not aws.ec2.live


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_nothing_is_ended_before_the_stack_is_deleted(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    aws = FakeAws()
    aws.ec2.add("i-compile", tags=host_tags("compile-host"))

    shut_down(receiver, aws, monkeypatch, kind)

    assert not aws.ec2.calls
    assert not aws.stepfunctions.calls


@pytest.mark.parametrize(
    ("service", "operation", "named"),
    [
        ("stepfunctions", "list_executions", MACHINE),
        ("stepfunctions", "stop_execution", ARN),
        ("ec2", "describe_instances", "dev"),
        ("ec2", "terminate_instances", "i-compile"),
    ],
)
@pytest.mark.parametrize(
    "error", [client_error("AccessDenied", "not you"), EndpointConnectionError(endpoint_url="https://aws.invalid")]
)
def test_what_cannot_be_ended_is_logged_and_fails_nothing(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: str,
    operation: str,
    named: str,
    error: Exception,
) -> None:
    aws = FakeAws()
    aws.stepfunctions.add(NAME)
    aws.ec2.add("i-compile", tags=host_tags("compile-host"))
    getattr(aws, service).always[operation] = error

    shut_down(receiver, aws, monkeypatch)

    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"event": "shutdown", "environment": "dev", "could_not_be_ended": [named]}


def test_a_machine_that_is_gone_has_no_executions(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = FakeAws()
    aws.stepfunctions.always["list_executions"] = client_error("StateMachineDoesNotExist")

    shut_down(receiver, aws, monkeypatch)

    assert len(aws.stepfunctions.calls) == 1


def test_a_fault_of_our_own_fails_no_deletion(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown.hosts, "find", None)

    shut_down(receiver, FakeAws(), monkeypatch)
