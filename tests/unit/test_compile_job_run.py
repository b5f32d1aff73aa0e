"""The whole program as it is started on a host, with a stub for docker and a local S3."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer
from unit.compile_job_host import (
    BUCKET,
    COMMIT,
    CREDENTIALS,
    DIGEST,
    FACTS,
    IMAGE,
    KEY,
    MIRROR,
    PARAMETER,
    PREFIX,
    ROOT,
    TOKEN,
    Host,
    keys,
    manifest_of,
    step_end,
)

from compile_job import pipeline
from compile_job.alone import LOCK, alone
from compile_job.errors import StepError
from compile_job.job import artifact_prefix
from compile_job.steps import export, publish
from compile_job.steps.cache import CompileCache
from compile_job.transfer import fetch_files, upload_files
from compiled_artifact.manifest import artifact_manifest, find_problems, read_raw, weights_manifest

HUB_FILES = {
    "config.json",
    "model-1.safetensors",
    "model-2.safetensors",
    "model-3.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
}
STEPS = ["look", "devices", "resources", "image", "weights", "export", "verify", "publish"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str) -> Iterator[Any]:
    client = boto3.client("s3", endpoint_url=endpoint, **CREDENTIALS)
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    yield client
    client.close()


@pytest.fixture
def secret_arn(tmp_path: Path, endpoint: str) -> str:
    secrets = boto3.client("secretsmanager", endpoint_url=endpoint, **CREDENTIALS)
    arn: str = secrets.create_secret(Name=f"hub-{tmp_path.name}", SecretString=TOKEN + "\n")["ARN"]
    secrets.close()
    return arn


@pytest.fixture
def host(tmp_path: Path, endpoint: str, s3: Any, secret_arn: str) -> Host:
    del s3
    return Host(tmp_path, endpoint, secret_arn)


def another_host(host: Host, endpoint: str) -> Host:
    """A fresh one: nothing on its disk."""
    folder = host.folder / "other"
    folder.mkdir()
    return Host(folder, endpoint, host.secret_arn)


def test_job_publishes_the_artifact_and_the_weights(host: Host, s3: Any) -> None:
    status, events, errors = host.run_process(host.job())

    assert (status, errors) == (0, "")
    assert [event["step"] for event in events if event["event"] == "end"] == STEPS
    assert all(event["seconds"] >= 0 for event in events if event["event"] == "end")
    manifest = manifest_of(s3)
    assert (manifest["format"], manifest["kind"], manifest["facts"]) == (1, "artifact", FACTS)
    assert manifest["producer"] == {
        "tool": "compile_job",
        "image": IMAGE,
        "image_digest": DIGEST,
        "weights_revision": COMMIT,
        "compiler": "neuronx-cc 2.15.128",
    }
    assert {item["path"] for item in manifest["objects"]} == keys(s3) - {"manifest.json"}
    assert all(set(item) == {"path", "size", "sha256", "s3_checksum"} for item in manifest["objects"])
    mirror = manifest_of(s3, MIRROR)
    assert (mirror["kind"], mirror["revision"], mirror["model_id"]) == ("weights", COMMIT, "acme/Tiny")
    assert {item["path"] for item in mirror["objects"]} == HUB_FILES
    assert keys(s3, f"cache/{KEY}/") == {"graph.neff"}
    assert not list((host.folder / "work").rglob(".cache"))


def test_manifests_are_what_the_state_machine_verifies(host: Host, s3: Any) -> None:
    host.run(host.job())

    artifact = artifact_manifest(read_raw(s3, BUCKET, PREFIX), at="x", facts=FACTS, wanted_by="a test")
    weights = weights_manifest(read_raw(s3, BUCKET, MIRROR), at="x")

    assert find_problems(s3, BUCKET, PREFIX, artifact.objects, may_list=True, need_sha256=True) == []
    assert find_problems(s3, BUCKET, MIRROR, weights.objects, may_list=True, need_sha256=True) == []


def test_progress_is_told_at_the_end(host: Host, endpoint: str) -> None:
    host.run(host.job())

    ssm = boto3.client("ssm", endpoint_url=endpoint, **CREDENTIALS)
    value = json.loads(ssm.get_parameter(Name=PARAMETER)["Parameter"]["Value"])
    ssm.close()
    assert (value["key"], value["state"], value["step"]) == (KEY, "done", "publish")
    assert list(value["steps"]) == STEPS
    assert value["percent"] == 100
    assert value["bytes"] == value["total_bytes"] > 0


def test_parameter_that_cannot_be_written_is_warned_about_only(host: Host) -> None:
    status, events, _ = host.run(host.job(progress_parameter="aws/not allowed"))

    assert status == 0
    assert [event["event"] for event in events].count("warning") == 1


def test_token_and_password_go_by_standard_input_only(host: Host) -> None:
    host.run(host.job())

    calls = host.docker_calls()
    seen = [call for call in calls if TOKEN in call["stdin"]]
    assert ["list" in call["arguments"] for call in seen] == [True, False]
    assert all("python3" in call["arguments"] for call in seen)
    login = next(call for call in calls if "login" in call["arguments"])
    password = login["stdin"]
    assert password
    for secret in (TOKEN, password):
        for call in calls:
            assert secret not in json.dumps(call["arguments"])
            assert secret not in json.dumps(call["environment"])
        assert secret not in host.output
    assert "got it with ***" in host.output
    for path in host.folder.rglob("*"):
        if path.is_file() and path != host.log:
            assert TOKEN.encode() not in path.read_bytes(), path


def test_token_is_in_no_object_parameter_or_process_listing(host: Host, s3: Any, endpoint: str) -> None:
    host.variables["HUB_PAUSES"] = "model-2.safetensors"
    child = host.start(host.job())
    host.wait_until_paused(child)
    listed = b""
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                listed += (process / name).read_bytes()
    assert b"hub_snapshot.py" in listed
    assert TOKEN.encode() not in listed
    child.send_signal(signal.SIGTERM)
    output, errors = child.communicate(timeout=30)
    assert TOKEN not in output + errors
    for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        assert TOKEN.encode() not in s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
    ssm = boto3.client("ssm", endpoint_url=endpoint, **CREDENTIALS)
    assert TOKEN not in ssm.get_parameter(Name=PARAMETER)["Parameter"]["Value"]
    ssm.close()


def test_login_does_not_stay_on_the_host(host: Host) -> None:
    host.run(host.job())

    login = next(call for call in host.docker_calls() if "login" in call["arguments"])
    assert login["arguments"][:1] == ["--config"]
    assert login["arguments"][-1] == "763104351884.dkr.ecr.us-east-1.amazonaws.com"
    assert not Path(login["arguments"][1]).exists()


def test_image_of_another_registry_needs_no_login(host: Host) -> None:
    image = "ghcr.io/huggingface/neuronx-tgi:0.0.25"
    host.variables["IMAGE_RUN"] = image
    status, _, _ = host.run(host.job(image=image, image_digest=""))

    assert status == 0
    assert not [call for call in host.docker_calls() if "login" in call["arguments"]]


def test_digest_decides_which_image_is_pulled_and_run(host: Host) -> None:
    host.run(host.job())

    reference = f"{IMAGE.rpartition(':')[0]}@{DIGEST}"
    pulls = [call["arguments"] for call in host.docker_calls() if "pull" in call["arguments"]]
    assert [arguments[-1] for arguments in pulls] == [reference]
    assert all(IMAGE not in call["arguments"] for call in host.docker_calls())


def test_tag_is_pulled_when_no_digest_is_known(host: Host, s3: Any) -> None:
    host.variables["IMAGE_RUN"] = IMAGE
    host.run(host.job(image_digest=""))

    assert manifest_of(s3)["producer"]["image_digest"] == "sha256:feed"


def test_export_runs_in_the_serving_image_on_the_snapshot(host: Host) -> None:
    command = ["optimum-cli", "--b", "{batch_size}", "--tp={tensor_parallel_degree}", "{model}", "{output}"]
    host.run(host.job(export_command=command, properties={"option.n": "{sequence_length}", "option.m": "{model}"}))

    runs = [call["arguments"] for call in host.docker_calls() if call["arguments"][0] == "run"]
    words = runs[-1]
    at = words.index(f"{IMAGE.rpartition(':')[0]}@{DIGEST}")
    assert words[at + 1 :] == ["--b", "1", "--tp=8", "/modelzone/weights", f"/modelzone/output/{KEY}"]
    assert words[words.index("--entrypoint") + 1] == "optimum-cli"
    assert {"--rm", "HF_HUB_OFFLINE=1", "NEURON_COMPILE_CACHE_URL=/modelzone/cache"} <= set(words)
    assert [word for word in words if word.startswith("--device")] == [f"--device=/dev/neuron{n}" for n in range(6)]
    properties = (host.folder / "work" / "properties" / KEY / "serving.properties").read_text(encoding="ascii")
    assert properties == "option.n=1024\noption.m=/modelzone/weights\n"
    assert host.docker_calls()[-1]["arguments"] == ["rm", "--force", "modelzone-export-" + KEY]


def test_published_artifact_is_done_at_once(host: Host, s3: Any) -> None:
    host.run(host.job())
    before = manifest_of(s3)
    host.log.unlink()

    status, events, _ = host.run(host.job())

    assert status == 0
    assert events[-1]["already"] is True
    assert not host.log.exists(), "docker was used although nothing was to be done"
    assert manifest_of(s3) == before


@pytest.mark.parametrize("change", ["delete", "truncate"])
def test_damaged_artifact_is_made_whole_again(host: Host, s3: Any, change: str) -> None:
    host.run(host.job())
    key = PREFIX + "compiled/graph.neff"
    if change == "delete":
        s3.delete_object(Bucket=BUCKET, Key=key)
    else:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")

    status, events, _ = host.run(host.job())

    assert status == 0
    assert step_end(events, "publish")["sent"] == 1, "objects that were whole were sent again"
    assert "compiled before" in host.output
    manifest_of(s3)


class Meddled:
    """Another job, which acts between this one's uploads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, before: Any = None, after: Any = None) -> None:
        self.uploads: list[list[str]] = []

        def upload(s3: Any, bucket: str, uploads: Any, **options: Any) -> Any:
            self.uploads.append([item.key.removeprefix(PREFIX) for item in uploads])
            if before is not None:
                before()
            done = upload_files(s3, bucket, uploads, **options)
            if after is not None:
                after()
            return done

        monkeypatch.setattr(publish, "upload_files", upload)


def test_manifest_is_taken_back_before_objects_change(host: Host, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.run(host.job())
    s3.put_object(Bucket=BUCKET, Key=PREFIX + "compiled/graph.neff", Body=b"x")
    seen: list[Any] = []
    Meddled(
        monkeypatch,
        before=lambda: seen.append(
            json.loads(s3.get_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")["Body"].read())
        ),
    )

    assert host.run(host.job())[0] == 0

    assert [(found["objects"], found["facts"], found["key"]) for found in seen] == [([], FACTS, KEY)]
    assert manifest_of(s3)["objects"]


def test_what_another_job_published_meanwhile_is_left_as_it_is(
    host: Host, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.run(host.job())
    raw = s3.get_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")["Body"].read()
    s3.delete_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")
    meddled = Meddled(monkeypatch)
    verify = pipeline.verify_artifact

    def published_now(*words: Any, **options: Any) -> Any:
        s3.put_object(Bucket=BUCKET, Key=PREFIX + "manifest.json", Body=raw)
        return verify(*words, **options)

    monkeypatch.setattr(pipeline, "verify_artifact", published_now)

    status, events, errors = host.run(host.job())

    assert (status, errors) == (0, "")
    assert meddled.uploads == []
    assert events[-1]["already"] is True
    assert step_end(events, "publish")["sent"] == 0
    assert s3.get_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")["Body"].read() == raw


def test_object_that_another_job_replaced_is_sent_once_more(
    host: Host, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = [b"other bytes"]

    def replace() -> None:
        if once:
            s3.put_object(Bucket=BUCKET, Key=PREFIX + "config.json", Body=once.pop(), Metadata={"sha256": "0" * 64})

    meddled = Meddled(monkeypatch, after=replace)

    status, events, _ = host.run(host.job())

    assert status == 0
    assert meddled.uploads[1:] == [["config.json"]]
    assert any("1 objects were replaced" in event.get("message", "") for event in events)
    manifest_of(s3)


def test_two_jobs_for_one_artifact_publish_nothing_wrong(host: Host, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace() -> None:
        s3.put_object(Bucket=BUCKET, Key=PREFIX + "config.json", Body=b"other", Metadata={"sha256": "0" * 64})

    Meddled(monkeypatch, after=replace)

    status, _, errors = host.run(host.job())

    assert status == 1
    assert "step 'publish' failed: " in errors
    assert "config.json was replaced twice while it was uploaded: two jobs make the same artifact" in errors
    assert "(doctor: artifact-two-jobs)" in errors
    assert "manifest.json" not in keys(s3)


def test_leftovers_below_the_prefix_are_told(host: Host, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=PREFIX + "compiled/old.neff", Body=b"old")

    status, events, _ = host.run(host.job())

    assert status == 0
    assert events[-1]["unlisted"] == ["compiled/old.neff"]
    (warning,) = (event for event in events if event["event"] == "warning")
    assert "holds compiled/old.neff, which the manifest does not list" in warning["message"]
    assert "compiled/old.neff" in keys(s3)
    assert "compiled/old.neff" not in {item["path"] for item in manifest_of(s3)["objects"]}


def test_weights_are_downloaded_once_on_a_host(host: Host, s3: Any) -> None:
    host.run(host.job())
    first = host.downloads()
    s3.delete_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")

    _, events, _ = host.run(host.job())

    assert sorted(first) == sorted(["list", *HUB_FILES])
    assert host.downloads() == first, "the hub was asked although everything is here"
    weights = step_end(events, "weights")
    assert (weights["kept"], weights["from_hub"], weights["from_mirror"], weights["sent"]) == (6, 0, 0, 0)


def test_another_host_takes_weights_and_graphs_from_s3(host: Host, s3: Any, endpoint: str) -> None:
    host.run(host.job())
    s3.delete_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")
    other = another_host(host, endpoint)

    status, events, _ = other.run(other.job(weights={**other.job()["weights"], "source": "s3"}))

    assert status == 0
    assert other.downloads() == []
    assert "compiled before" in other.output
    assert step_end(events, "weights")["from_mirror"] == 6
    manifest_of(s3)


def test_broken_mirror_is_mended_from_the_hub(host: Host, s3: Any, endpoint: str) -> None:
    host.run(host.job())
    s3.delete_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")
    s3.put_object(Bucket=BUCKET, Key=MIRROR + "model-2.safetensors", Body=b"x")
    other = another_host(host, endpoint)

    status, events, _ = other.run(other.job())

    assert status == 0
    assert other.downloads() == ["list", "model-2.safetensors"]
    assert step_end(events, "weights")["sent"] == 1
    manifest_of(s3, MIRROR)


def test_small_file_that_differs_in_the_mirror_comes_from_the_hub(host: Host, s3: Any, endpoint: str) -> None:
    """The hub tells no SHA-256 of it: its Git blob decides, when it is here."""
    host.run(host.job())
    s3.delete_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")
    s3.delete_object(Bucket=BUCKET, Key=MIRROR + "manifest.json")
    size = s3.head_object(Bucket=BUCKET, Key=MIRROR + "config.json")["ContentLength"]
    s3.put_object(Bucket=BUCKET, Key=MIRROR + "config.json", Body=b"x" * size, Metadata={"sha256": "0" * 64})
    s3.delete_object(Bucket=BUCKET, Key=MIRROR + "tokenizer.json")
    body = b'{"name": "tokenizer.jsoX"}'
    sha256 = hashlib.sha256(body).hexdigest()
    s3.put_object(Bucket=BUCKET, Key=MIRROR + "tokenizer.json", Body=body, Metadata={"sha256": sha256})
    s3.put_object(Bucket=BUCKET, Key=MIRROR + "config.json", Body=(host.hub / "config.json").read_bytes())
    other = another_host(host, endpoint)

    status, _, errors = other.run(other.job())

    assert (status, errors) == (0, "")
    assert sorted(other.downloads()) == ["config.json", "list", "tokenizer.json"]
    manifest_of(s3, MIRROR)


@pytest.mark.parametrize("overrides", [{"weights_only": True}, {"layout": "none", "export_command": []}])
def test_mirror_alone(host: Host, s3: Any, overrides: dict[str, Any]) -> None:
    job = host.job(min_memory_gib=10**6, **overrides)
    host.variables["DEVICES"] = "0"

    status, events, errors = host.run(job)

    assert (status, errors) == (0, "")
    assert [event["step"] for event in events if event["event"] == "end"] == ["look", "resources", "image", "weights"]
    assert {item["path"] for item in manifest_of(s3, MIRROR)["objects"]} == HUB_FILES
    assert keys(s3) == set()
    assert not list((host.folder / "work").rglob("*.safetensors")), "what is in the mirror needs no room here"
    asked = host.downloads()
    status, events, _ = host.run(job)
    assert (status, events[-1]["already"], host.downloads()) == (0, True, asked)


def test_mirror_that_s3_alone_has_not(host: Host) -> None:
    status, _, errors = host.run(host.job(weights={**host.job()["weights"], "source": "s3"}))

    assert status == 1
    assert "has no manifest.json, and weights.source 's3' never asks the hub" in errors
    assert "(doctor: weights-not-mirrored)" in errors
    assert host.downloads() == []


def test_branch_that_moves_takes_the_manifest_back_first(host: Host, s3: Any) -> None:
    facts = {**FACTS, "model_revision": "main"}
    weights = {"source": "hub", "model_id": "acme/Tiny", "revision": "main", "token_secret_arn": ""}
    job = host.job(facts=facts, weights=weights, weights_only=True)
    job["prefix"] = artifact_prefix(facts)
    mirror = "weights/acme--tiny/main/"
    assert host.run(job)[0] == 0
    (host.hub / "model-2.safetensors").unlink()
    (host.hub / "model.safetensors.index.json").unlink()
    (host.hub / "model-1.safetensors").write_bytes(b"n" * 20)
    host.variables["HUB_CORRUPTS"] = "model-1.safetensors"

    assert host.run(job)[0] == 1
    assert "manifest.json" not in keys(s3, mirror)
    host.variables.clear()
    assert host.run(job)[0] == 0
    assert {item["path"] for item in manifest_of(s3, mirror)["objects"]} == HUB_FILES - {
        "model-2.safetensors",
        "model.safetensors.index.json",
    }


OOM = "the host has too little memory: use a larger instance (doctor: neuron-compiler-killed)"
FAULTS: list[tuple[str, dict[str, str], dict[str, Any], tuple[str, ...]]] = [
    ("export", {"EXPORT_FAILS": "70|[F137] neuronx-cc was forcibly killed"}, {}, (OOM,)),
    (
        "export",
        {"EXPORT_FAILS": "137|bye"},
        {},
        ("the export ended with status 137: it was killed, as the kernel does", "(doctor: host-out-of-memory)"),
    ),
    ("export", {"EXPORT_FAILS": "1|OSError: [Errno 28] No space left on device"}, {}, ("(doctor: disk-full)",)),
    ("export", {"EXPORT_FAILS": "3|what nobody knows"}, {}, ("the export ended with status 3: what nobody knows",)),
    (
        "devices",
        {"DEVICES": "5"},
        {},
        ("5 Neuron devices on this host, expected 6: check that the instance", "(doctor: devices-not-as-planned)"),
    ),
    (
        "image",
        {"PULL_FAILS": "Error: pull access denied for tgi"},
        {},
        ("may not pull this image (doctor: image-pull-denied)",),
    ),
    (
        "weights",
        {"HUB_FAILS": "gated"},
        {},
        (f"listing of acme/Tiny at {COMMIT} failed: accept the model's licence", "(doctor: hub-gated)"),
    ),
    (
        "weights",
        {"HUB_FAILS": "bad-token"},
        {},
        ("the token in the secret is not valid: store a new one (doctor: hub-token)",),
    ),
    (
        "weights",
        {"HUB_CORRUPTS": "model-2.safetensors"},
        {},
        ("checksum mismatch: model-2.safetensors did not arrive as it is on the hub", "(doctor: checksum-mismatch)"),
    ),
    (
        "weights",
        {"HUB_CORRUPTS": "config.json"},
        {},
        ("checksum mismatch: config.json did not arrive as it is on the hub",),
    ),
    ("verify", {}, {"batch_size": 4}, ("config.json: neuron.batch_size is 4, the job orders batch_size 1",)),
    (
        "verify",
        {"EXPORT_TRUNCATES": "1"},
        {},
        ("model-2.safetensors has 5073 bytes and should have 5074 by its header",),
    ),
]


@pytest.mark.parametrize(("step", "variables", "neuron", "words"), FAULTS)
def test_fault_is_one_line_and_nothing_counts_as_published(
    host: Host,
    s3: Any,
    endpoint: str,
    step: str,
    variables: dict[str, str],
    neuron: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    host.variables.update(variables)
    host.neuron.update(neuron)

    status, events, errors = host.run(host.job())

    assert status == 1
    assert errors.count("\n") == 1
    assert errors.startswith(f"compile_job: step '{step}' failed: ")
    assert events[-1]["event"] == "failed"
    assert "manifest.json" not in keys(s3)
    assert TOKEN not in host.output
    assert "Traceback" not in host.output
    ssm = boto3.client("ssm", endpoint_url=endpoint, **CREDENTIALS)
    value = json.loads(ssm.get_parameter(Name=PARAMETER)["Parameter"]["Value"])
    ssm.close()
    assert (value["state"], value["step"]) == ("failed", step)
    for word in words:
        assert word in errors
        assert word in value["message"]


def test_finished_downloads_are_not_repeated_after_a_wrong_one(host: Host) -> None:
    host.variables["HUB_CORRUPTS"] = "model-2.safetensors"
    host.run(host.job())
    host.variables.clear()
    before = host.downloads()

    assert host.run(host.job())[0] == 0

    after = host.downloads()[len(before) :]
    assert "model-1.safetensors" not in after
    assert "model-2.safetensors" in after


KMS = (
    "User: arn:aws:sts::1:assumed-role/r/i is not authorized to perform: kms:GenerateDataKey on resource: "
    "arn:aws:kms:us-east-1:1:key/k because no identity-based policy allows it"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": KMS}}, "CreateMultipartUpload"),
            (
                "KMS key of bucket 'models-bucket'",
                "kms:GenerateDataKey and kms:Decrypt on arn:aws:kms:us-east-1:1:key/k",
            ),
        ),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": KMS}}, "PutObject"), ("(doctor: kms-denied)",)),
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "PutObject"),
            ("AWS refused PutObject (AccessDenied", "kms:GenerateDataKey on the bucket's KMS key"),
        ),
        (
            ClientError({"Error": {"Code": "BadDigest", "Message": "no"}}, "UploadPart"),
            ("checksum mismatch: S3 received other bytes", "(doctor: checksum-mismatch)"),
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/var/lib/x"),
            ("/var/lib/x: No space left on device: give the host a larger root volume", "(doctor: disk-full)"),
        ),
        (
            ClientError({"Error": {"Code": "SlowDown", "Message": "please"}}, "PutObject"),
            ("AWS refused PutObject (SlowDown: please), bucket 'models-bucket'",),
        ),
    ],
)
def test_refusals_of_aws_and_the_disk(
    host: Host, s3: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, words: tuple[str, ...]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(publish, "check_writable", refuse)

    status, _, errors = host.run(host.job())

    assert status == 1
    assert errors.startswith("compile_job: step 'look' failed: ")
    for word in words:
        assert word in errors
    assert keys(s3) == set()


def test_disk_that_fills_while_we_write(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export.properties, "render", full)

    errors = host.run(host.job())[2]

    assert "step 'export' failed: No space left on device: give the host" in errors
    assert "(doctor: disk-full)" in errors


def test_wrong_job_is_one_line(host: Host) -> None:
    status, _, errors = host.run_process(host.job(accelerator="tpu"))

    assert status == 2
    assert errors.startswith("compile_job: wrong job: ")
    assert "'tpu'" in errors
    assert errors.count("\n") == 1


def test_forbidden_bucket_ends_before_anything_is_done(host: Host) -> None:
    status, _, errors = host.run(host.job(bucket="another-bucket"))

    assert status == 1
    assert "step 'look' failed" in errors
    assert "another-bucket" in errors
    assert not host.log.exists()


def test_placeholder_in_the_secret_is_recognised(host: Host, endpoint: str) -> None:
    secrets = boto3.client("secretsmanager", endpoint_url=endpoint, **CREDENTIALS)
    secrets.put_secret_value(SecretId=host.secret_arn, SecretString="generated-password")
    secrets.close()

    status, _, errors = host.run(host.job())

    assert status == 1
    assert "holds no token of the hub" in errors
    assert "(doctor: hub-placeholder)" in errors
    assert "generated-password" not in host.output


def test_too_small_a_host_is_refused(host: Host) -> None:
    disk = host.run(host.job(min_free_gib=10**6))[2]
    memory = host.run(host.job(min_memory_gib=10**6))[2]

    assert "needed are 1000000 GiB: give the host a larger volume" in disk
    assert "needed are 1000000 GiB: use a larger instance" in memory


def test_no_docker(host: Host) -> None:
    host.variables["PATH"] = str(host.folder / "nothing")

    errors = host.run(host.job(devices=0))[2]

    assert "docker is not installed on this host" in errors
    assert "the SSM document that starts this job installs it" in errors
    assert "compile_ami_parameter" in errors
    assert "apt-get" not in errors, "hosts reach HTTPS only, and Ubuntu's packages come by HTTP"


def test_second_job_on_a_host_ends_at_once_and_leaves_the_first_alone(host: Host, s3: Any, endpoint: str) -> None:
    with alone(host.folder / "work"):
        status, events, errors = host.run_process(host.job())

        assert status == 1
        assert errors.startswith("compile_job: step 'look' failed: another compile_job runs on this host (process ")
        assert "(doctor: compile-host-busy)" in errors
        assert errors.count("\n") == 1
        assert events == []
        assert not host.log.exists()
        assert keys(s3) == set()
        ssm = boto3.client("ssm", endpoint_url=endpoint, **CREDENTIALS)
        with contextlib.suppress(ssm.exceptions.ParameterNotFound):
            value = json.loads(ssm.get_parameter(Name=PARAMETER)["Parameter"]["Value"])
            assert "another compile_job" not in value["message"], "it is the first job's parameter"
        ssm.close()
    assert host.run(host.job())[0] == 0, "the lock is free again although its file is there"
    assert (host.folder / "work" / LOCK).exists()


def test_work_folder_that_cannot_be_made(host: Host) -> None:
    (host.folder / "work").write_text("a file", encoding="utf-8")

    errors = host.run(host.job())[2]

    assert "step 'look' failed: work_dir" in errors
    assert "cannot be made" in errors


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


PAUSES = {
    "image": {"PULL_PAUSES": "1"},
    "weights": {"HUB_PAUSES": "model-2.safetensors"},
    "export": {"EXPORT_PAUSES": "1"},
}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see whether processes are gone")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("step", sorted(PAUSES))
def test_kill_at_a_step_and_run_again(host: Host, s3: Any, step: str, sign: signal.Signals) -> None:
    host.variables.update(PAUSES[step])
    child = host.start(host.job())
    host.wait_until_paused(child)

    child.send_signal(sign)
    started = time.monotonic()
    output, errors = child.communicate(timeout=30) if sign == signal.SIGTERM else ("", "")
    child.wait()
    if child.stdout and child.stderr:
        child.stdout.close()
        child.stderr.close()

    if sign == signal.SIGTERM:
        assert child.returncode == 143
        assert time.monotonic() - started < 5
        assert "stopped by a signal; nothing was published" in errors
        assert "Traceback" not in errors
        assert [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')][-1][
            "event"
        ] == "stopped"
        if step == "export":
            assert not is_running(int((host.folder / "pid").read_text(encoding="utf-8"))), "a compiler was left running"
    assert keys(s3) == set()
    assert s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    before = host.downloads()
    host.variables.clear()
    status, events, errors = host.run(host.job())
    assert (status, errors) == (0, "")
    manifest_of(s3)
    manifest_of(s3, MIRROR)
    repeated = set(before) & set(host.downloads()[len(before) :])
    assert repeated <= {"list"}, "a finished download was repeated"
    if step == "export":
        assert "compiled before" in host.output
        assert step_end(events, "weights")["sent"] == 0


@pytest.mark.parametrize("step", ["look", "verify", "publish"])
def test_kill_at_a_short_step_and_run_again(host: Host, s3: Any, step: str) -> None:
    child = host.start(host.job())
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith('{"time"') and json.loads(line).get("step") == step:
            child.kill()
            break
    child.communicate()

    status, events, _ = host.run(host.job())

    assert status == 0
    assert len(host.downloads()) == len(set(host.downloads()))
    manifest_of(s3)
    if step in {"verify", "publish"}:
        assert (step_end(events, "weights")["sent"], step_end(events, "weights")["from_hub"]) == (0, 0)


class Metadata:
    """An instance metadata service of version 2 that gives a Spot notice once it is told to."""

    def __init__(self) -> None:
        service = self
        self.notice = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.answer(200, "session")

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") != "session":
                    self.answer(401, "")
                elif service.notice.is_set() and self.path == "/latest/meta-data/spot/instance-action":
                    self.answer(200, '{"action": "terminate", "time": "2026-11-21T20:00:00Z"}')
                else:
                    self.answer(404, "")

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_spot_notice_stops_the_job_and_saves_what_was_compiled(host: Host, s3: Any, endpoint: str) -> None:
    metadata = Metadata()
    host.variables.update(PAUSES["export"], AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.url)
    child = host.start(host.job())
    host.wait_until_paused(child)

    metadata.notice.set()
    output, errors = child.communicate(timeout=30)
    metadata.server.shutdown()
    metadata.server.server_close()

    assert child.returncode == 75
    assert errors == "compile_job: stopped by a Spot interruption notice; run the same job on another host\n"
    assert '"event": "spot-notice", "action": "terminate"' in output
    assert keys(s3) == set()
    assert keys(s3, f"cache/{KEY}/") == {"graph.neff"}
    other = another_host(host, endpoint)
    status, _, _ = other.run(other.job())
    assert status == 0
    assert "compiled before" in other.output
    assert other.downloads() == []


COMPILER = "neuronxcc-2.15.128.0+56dc5a86"


def modules(folder: Path, *names: str) -> None:
    """Files of the compiler's cache, in libneuronxla's way."""
    for name in names:
        path = folder / COMPILER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")


def names_of(folder: Path) -> set[str]:
    return {path.relative_to(folder / COMPILER).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_failed_compilations_are_not_remembered(s3: Any, tmp_path: Path) -> None:
    """A rerun on a larger host has to compile them."""
    good = ("MODULE_1+a/model.neff", "MODULE_1+a/model.done", "0_REGISTRY/x.json")
    failed = ("MODULE_2+a/model.log", "MODULE_2+a/model.hlo_module.pb", "MODULE_3+a/model.hlo_module.pb")
    both = ("MODULE_4+a/model.neff", "MODULE_4+a/model.done", "MODULE_4+a/model.log")
    here, there = tmp_path / "here", tmp_path / "there"
    modules(here, *good, *failed, *both)
    cache = CompileCache(s3, BUCKET, KEY, here)

    cache.save(threading.Event())

    assert keys(s3, f"cache/{KEY}/{COMPILER}/") == set(good)
    for name in (*failed, *both):  # as versions that did not look left them
        s3.put_object(Bucket=BUCKET, Key=f"cache/{KEY}/{COMPILER}/{name}", Body=b"x")
    CompileCache(s3, BUCKET, KEY, there).restore(threading.Event())
    assert names_of(there) == set(good)
    cache.restore(threading.Event())
    assert names_of(here) == set(good), "what failed on this host was left for the next export"
    assert not list(here.rglob("MODULE_2*"))


def test_graph_that_is_half_moved_does_not_look_finished(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules(tmp_path, "MODULE_1+a/model.done", "MODULE_1+a/model.neff")
    cache = CompileCache(s3, BUCKET, KEY, tmp_path)

    def refuse(_s3: Any, _bucket: str, uploads: Any, **options: Any) -> Any:
        assert all(item.path.name != "model.done" for item in uploads), "it is sent when the rest is there"
        raise StepError("the network is gone")

    monkeypatch.setattr("compile_job.steps.cache.upload_files", refuse)
    cache.save(threading.Event())
    assert keys(s3, f"cache/{KEY}/") == set()
    monkeypatch.undo()
    cache.save(threading.Event())
    other = CompileCache(s3, BUCKET, KEY, tmp_path / "other")
    calls: list[list[str]] = []

    def fetch(client: Any, bucket: str, items: Any, **options: Any) -> Any:
        calls.append([item.path.name for item in items])
        if len(calls) == 2:
            raise StepError("the network is gone")
        return fetch_files(client, bucket, items, **options)

    monkeypatch.setattr("compile_job.steps.cache.fetch_files", fetch)
    other.restore(threading.Event())
    assert calls == [["model.neff"], ["model.done"]]
    assert not list(other.folder.rglob("MODULE_*")), "half of a graph was left"


def python_3_10() -> str | None:
    """An interpreter of that version: on the path, or installed by pyenv, whose shims hide it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = ["python3.10", *map(str, pyenv.glob("versions/3.10.*/bin/python3.10"))]
    for candidate in candidates:
        with contextlib.suppress(OSError):
            if not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode:
                return candidate
    return None


def test_code_runs_on_python_3_10() -> None:
    """The hosts run Ubuntu 22.04."""
    interpreter = python_3_10()
    if interpreter is None:
        pytest.skip("no Python 3.10 on this machine")
    modules = (
        "compile_job.job, compile_job.processes, compile_job.signatures, compile_job.progress, compile_job.layouts"
    )
    program = f"import {modules}, compile_job.container.hub_snapshot; from compile_job.events import emit; emit('x')"

    done = subprocess.run(
        [interpreter, "-B", "-c", f"{program}; import compile_job.__main__ as m; m.main(['--job', 'absent'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    syntax = subprocess.run(
        [interpreter, "-c", "import ast, sys; [ast.parse(open(name).read()) for name in sys.argv[1:]]"]
        + [str(path) for path in (ROOT / "compile_job").rglob("*.py")],
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"] == "x"
    assert "wrong job: absent: cannot be read" in done.stderr
    assert syntax.returncode == 0
