"""The first step of the compile machine: the order, the job, and what is there already."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from unit.compiled_artifact_aws import (
    BUCKET,
    DIGEST,
    FACTS,
    IMAGE,
    KEY,
    PREFIX,
    SETTINGS,
    Machine,
    client_error,
    manifest,
    order,
    publish,
    publish_weights,
)

from compiled_artifact.errors import CompileError, TransientError
from compiled_artifact.facts import artifact_key, artifact_prefix
from compiled_artifact.orders import CompileOrder, OrderError


def refusal(machine: Machine, step: str = "look", **state: Any) -> str:
    with pytest.raises(CompileError) as caught:
        machine.step(step, **state)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("step '")
    return text


def test_an_order_becomes_a_job() -> None:
    machine = Machine()

    state = machine.step("look")

    assert (state["key"], state["artifact"]) == (KEY, f"s3://{BUCKET}/{PREFIX}")
    assert state["published"] is False
    assert state["job"] == {
        **order()["job"],
        "facts": FACTS,
        "prefix": PREFIX,
        "image_digest": DIGEST,
        "devices": 0,
        "weights": {"source": "hub", "token_secret_arn": "", "model_id": FACTS["model_id"], "revision": "main"},
        "weights_only": False,
        "progress_parameter": f"/modelzone/dev/compile/progress/{KEY}",
    }


def test_the_tag_is_looked_up_in_the_image_s_own_registry() -> None:
    machine = Machine(job={"image": IMAGE.replace("us-east-1", "eu-central-1")})

    machine.step("look")

    (asked,) = machine.aws.registry.called("batch_get_image")
    assert machine.aws.regions == ["eu-central-1"]
    assert (asked["registryId"], asked["repositoryName"]) == ("763104351884", "huggingface-pytorch-tgi-inference")
    assert asked["imageIds"] == [{"imageTag": "2.1.2-neuronx"}]


def test_an_image_by_digest_is_kept() -> None:
    digest = "sha256:" + "0" * 64
    machine = Machine(job={"image": f"{IMAGE.rpartition(':')[0]}@{digest}"})

    assert machine.step("look")["job"]["image_digest"] == digest
    assert not machine.aws.registry.calls


def test_an_image_of_another_registry_is_pulled_by_its_tag() -> None:
    machine = Machine(job={"image": "docker.io/library/python:3.12"})

    assert machine.step("look")["job"]["image_digest"] == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("AccessDeniedException", "Allow the role of the compile steps ecr:BatchGetImage on repository huggingface"),
        ("RepositoryNotFoundException", "has no repository huggingface-pytorch-tgi-inference"),
        ("InvalidParameterException", "BatchGetImage failed (InvalidParameterException: no)"),
    ],
)
def test_a_registry_that_refuses(error: str, words: str) -> None:
    machine = Machine()
    machine.aws.registry.planted["batch_get_image"] = [client_error(error)]

    assert words in refusal(machine)


def test_a_missing_tag() -> None:
    machine = Machine()
    machine.aws.registry.answer = {
        "images": [],
        "failures": [{"failureCode": "ImageNotFound", "failureReason": "Requested image not found"}],
    }

    reason = refusal(machine)

    assert f"image {IMAGE} does not exist in registry 763104351884 in us-east-1 (ImageNotFound Requested" in reason


def test_a_throttled_registry_is_asked_again_by_the_machine() -> None:
    machine = Machine()
    machine.aws.registry.planted["batch_get_image"] = [client_error("ThrottlingException")]

    with pytest.raises(TransientError):
        machine.step("look")


def test_facts_of_the_execution_replace_those_of_the_order() -> None:
    machine = Machine()
    facts = {**FACTS, "batch_size": "4", "model_id": "Other/Model", "model_revision": "a" * 40}
    machine.execution["name"] = "by-hand"

    state = machine.step("look", facts={"batch_size": 4, "model_id": "Other/Model", "model_revision": "a" * 40})

    assert state["key"] == artifact_key(facts)
    assert state["job"]["prefix"] == artifact_prefix(facts)
    assert state["job"]["weights"]["model_id"] == "Other/Model"
    assert state["job"]["weights"]["revision"] == "a" * 40
    assert state["job"]["progress_parameter"].endswith(artifact_key(facts))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"dtype": "bf16"}, "facts dtype cannot be replaced; only model_id, model_revision"),
        ({"batch_size": "0"}, "fact batch_size is '0', expected a positive whole number"),
        (
            {"batch_size": "x"},
            "Give another one: --set batch_size=<value> of modelzone compile, or parameter BatchSize",
        ),
        ({"sequence_length": "1e3"}, "fact sequence_length is '1e3'"),
        ({"model_id": "x; rm -rf /"}, "expected an id of the hub"),
        ({"model_revision": "v1"}, "expected 40 hexadecimal digits, or main"),
        (["batch_size"], "expected an object"),
    ],
)
def test_facts_that_may_not_be_replaced_so(facts: Any, words: str) -> None:
    assert words in refusal(Machine(), facts=facts)


def test_an_execution_that_was_named_for_another_artifact_is_refused() -> None:
    reason = refusal(Machine(), facts={"batch_size": "2"})

    assert f"is for artifact {KEY}, the order of deployment 'mixtral' gives" in reason
    assert "planned differently" in reason


@pytest.mark.parametrize("deployment", ["", "../x", "a" * 65])
def test_an_execution_must_name_a_deployment(deployment: str) -> None:
    assert "names no deployment" in refusal(Machine(), deployment=deployment)


def test_a_deployment_without_an_order() -> None:
    reason = refusal(Machine(), deployment="llama")

    assert "no order for deployment 'llama' (parameter /modelzone/dev/compile/orders/llama)" in reason
    assert "deploy the compile stack of 'dev'" in reason


def test_an_order_that_is_not_json() -> None:
    machine = Machine()
    machine.aws.ssm.parameters["/modelzone/dev/compile/orders/mixtral"] = "{"

    assert "is not JSON" in refusal(machine)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"environment": "prod"}, "is for 'mixtral' in 'prod'"),
        ({"deployment": "llama"}, "is for 'llama' in 'dev'"),
        ({"job": {"bucket": "other"}}, "names bucket 'other', this machine works for 'models-bucket'"),
        ({"hosts": []}, "no host of the order can compile with tensor_parallel_degree 8 (hosts: none)"),
        (
            {"hosts": [{"instance_type": "inf2.xlarge", "devices": 1, "tensor_parallel_degrees": [1, 2]}]},
            "tensor_parallel_degree 8 (hosts: inf2.xlarge with 1 or 2). Give one of 1, 2 (--set tensor_parallel_degree",
        ),
        (
            {"hosts": [{"instance_type": "inf2.xlarge", "devices": 1, "tensor_parallel_degrees": [1, 2]}]},
            "parameter TensorParallelDegree of the deployment's stack), or add a type of host that can do it to",
        ),
        ({"job": {"export_command": ["x" * 7000]}}, "the host's document takes 6144"),
    ],
)
def test_an_order_that_does_not_fit(overrides: dict[str, Any], words: str) -> None:
    assert words in refusal(Machine(**overrides))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2, this version reads format 1"),
        ({"facts": {}}, "its facts must be engine"),
        ({"facts": {**FACTS, "batch_size": 1}}, "a value that is no text"),
        ({"job": None}, "its job is None"),
        ({"hosts": "inf2"}, "its hosts are 'inf2'"),
        ({"hosts": ["inf2"]}, "it has a host 'inf2'"),
        ({"hosts": [{"instance_type": "inf2.xlarge", "devices": "1"}]}, "its devices is '1'"),
        ({"purchase": "reserved"}, "expected one of on-demand, spot"),
        ({"max_hours": 0}, "its max_hours is 0"),
        ({"launch_template": {"id": "", "version": "1"}}, "its id is ''"),
    ],
)
def test_a_broken_order(change: dict[str, Any], words: str) -> None:
    data = {**order(), **change}

    with pytest.raises(OrderError) as caught:
        CompileOrder.parse(data)

    assert words in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "x"])
def test_no_order_at_all(data: Any) -> None:
    with pytest.raises(OrderError, match="format None"):
        CompileOrder.parse(data)


def test_a_complete_artifact_is_found_and_no_image_is_asked_for() -> None:
    machine = Machine()
    sha256 = publish(machine.aws.s3)

    state = machine.step("look")

    assert state["published"] is True
    assert state["found"] == {
        "manifest_sha256": sha256,
        "created": "2026-11-21T10:40:00Z",
        "bytes": 13,
        "objects": 3,
    }
    assert not machine.aws.registry.calls


@pytest.mark.parametrize("damage", ["missing", "size", "sha256", "no metadata", "checksum", "manifest"])
def test_half_an_artifact_is_compiled_again(damage: str) -> None:
    machine = Machine()
    publish(machine.aws.s3)
    stored = machine.aws.s3.objects[PREFIX + "config.json"]
    match damage:
        case "missing":
            del machine.aws.s3.objects[PREFIX + "config.json"]
        case "size":
            stored["Body"] = b"{"
        case "sha256":
            stored["Metadata"] = {"sha256": "0" * 64}
        case "no metadata":
            stored["Metadata"] = {}
        case "checksum":
            stored["ChecksumSHA256"] = "another"
        case _:
            machine.aws.s3.put(PREFIX + "manifest.json", json.dumps(manifest(format=7)).encode())

    assert machine.step("look")["published"] is False


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_a_store_that_may_not_be_read_is_no_missing_artifact(operation: str) -> None:
    machine = Machine()
    publish(machine.aws.s3)
    machine.aws.s3.always[operation] = client_error("AccessDenied", "not authorized to perform: kms:Decrypt")

    reason = refusal(machine)

    assert "may not be read (AccessDenied: not authorized to perform: kms:Decrypt)" in reason
    assert "s3:GetObject and s3:ListBucket, and kms:Decrypt" in reason


def test_weights_only() -> None:
    machine = Machine()

    state = machine.step("look", weights_only=True)

    assert state["artifact"] == f"s3://{BUCKET}/weights/mistralai--mixtral-8x7b-instruct-v0.1/main/"
    assert state["job"]["weights_only"] is True
    assert (state["job"]["accelerator"], state["job"]["min_memory_gib"]) == ("none", 0)
    assert machine.step("start-host")["host"]["instance_type"] == "inf2.xlarge"
    assert machine.state["job"]["devices"] == 0


def test_weights_that_are_mirrored_already() -> None:
    machine = Machine()
    publish_weights(machine.aws.s3)

    assert machine.step("look", weights_only=True)["published"] is True
    # Nothing of the artifact is said by that.
    assert Machine().step("look")["published"] is False


def test_an_engine_that_compiles_nothing_needs_the_weights_alone() -> None:
    machine = Machine(job={"layout": "none", "export_command": []}, hosts=[])
    publish_weights(machine.aws.s3)

    state = machine.steps("look", "register", "notify")

    assert state["output"]["artifact"].startswith(f"s3://{BUCKET}/weights/")
    assert f"/modelzone/dev/artifacts/{KEY}" not in machine.aws.ssm.parameters, "weights are no artifact"
    assert not machine.aws.s3.called("delete_objects")


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_manifest_that_lists_nothing_counts_as_none(*, weights_only: bool) -> None:
    machine = Machine()
    publish(machine.aws.s3, objects=[])
    publish_weights(machine.aws.s3)
    empty = json.dumps({"format": 1, "kind": "weights", "objects": []}).encode()
    machine.aws.s3.put("weights/mistralai--mixtral-8x7b-instruct-v0.1/main/manifest.json", empty)

    assert machine.step("look", weights_only=weights_only)["published"] is False
    assert "the job ended well, but" in (reason := refusal(machine, "verify"))
    assert "has no manifest" in reason


def test_a_manifest_of_another_kind_is_no_mirror() -> None:
    machine = Machine()
    publish_weights(machine.aws.s3)
    key = "weights/mistralai--mixtral-8x7b-instruct-v0.1/main/manifest.json"
    machine.aws.s3.put(key, b'{"kind": "other", "objects": []}')

    assert machine.step("look", weights_only=True)["published"] is False


def test_the_bucket_of_the_settings_is_the_only_one() -> None:
    assert "works for 'another'" in refusal(Machine(replace(SETTINGS, bucket="another")))
