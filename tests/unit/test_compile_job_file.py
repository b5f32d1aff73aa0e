"""The job file: everything wrong in it is named with file, key and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compile_job import placeholders, properties
from compile_job.errors import JobError
from compile_job.job import LAYOUTS, Weights, artifact_key, artifact_prefix, read_job
from modelzone import artifacts
from modelzone.engines.registry import ENGINES
from modelzone.engines.serving_properties import render_properties

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
HUB = {
    "source": "hub",
    "model_id": FACTS["model_id"],
    "revision": "main",
    "token_secret_arn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:hub",
}


def job(**overrides: Any) -> dict[str, Any]:
    return {
        "facts": FACTS,
        "bucket": "models",
        "prefix": artifact_prefix(FACTS),
        "image": "registry/tgi:0.0.25",
        "accelerator": "neuron",
        "devices": 6,
        "layout": "neuron-config-key",
        "weights": HUB,
        "export_command": ["optimum-cli", "export", "neuron", "--model", "{model}", "{output}"],
        "work_dir": "/var/lib/modelzone/compile",
        "min_free_gib": 300,
        "region": "us-east-1",
        **overrides,
    }


def write(folder: Path, data: Any) -> Path:
    path = folder / "job.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_key_and_prefix_are_the_library_s() -> None:
    assert artifact_key(FACTS) == artifacts.artifact_key(FACTS)
    assert artifact_prefix(FACTS) == artifacts.artifact_prefix(FACTS)


def test_whole_job(tmp_path: Path) -> None:
    found = read_job(write(tmp_path, job()))

    assert found.facts == FACTS
    assert found.weights == Weights(
        source="hub", model_id=FACTS["model_id"], revision="main", token_secret_arn=HUB["token_secret_arn"]
    )
    assert found.key == artifact_key(FACTS)
    assert found.s3_uri == f"s3://models/{artifact_prefix(FACTS)}"
    assert (found.devices, found.min_free_gib, found.min_memory_gib) == (6, 300, 0)
    assert (found.image_digest, found.properties, found.weights_only, found.progress_parameter) == ("", {}, False, "")


@pytest.mark.parametrize("overrides", [{"weights_only": True}, {"layout": "none", "export_command": []}])
def test_job_that_ends_with_the_mirror(tmp_path: Path, overrides: dict[str, Any]) -> None:
    found = read_job(write(tmp_path, job(**overrides)))

    assert found.mirrors_only
    assert found.s3_uri == "s3://models/weights/mistralai--mixtral-8x7b-instruct-v0.1/main/"


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_layouts_of_the_engines_are_known(engine: str) -> None:
    layouts = {
        version.compiler.artifact_layout
        for version in ENGINES[engine].versions.values()
        if version.compiler is not None
    }

    assert layouts <= set(LAYOUTS)


def test_placeholders_are_filled_in() -> None:
    paths = {"model": "/m", "output": "/o"}
    words = ["{model}", "--out={output}", "--b={batch_size}x{sequence_length}", "{tensor_parallel_degree}", '{"a": 1}']

    filled = [placeholders.filled(word, paths=paths, facts=FACTS) for word in words]

    assert filled == ["/m", "--out={output}", "--b=1x1024", "8", '{"a": 1}']


@pytest.mark.parametrize(
    "values",
    [
        {"engine": "MPI", "option.model_id": "/opt/ml/model", "option.dtype": "fp16"},
        {"a b:c=d": " leading", "#key": "back\\slash\ttab\nline", "!x": "ümlaut €"},
    ],
)
def test_properties_are_written_as_the_endpoint_s_are(values: dict[str, str]) -> None:
    assert properties.render(values) == render_properties(values)


COMMAND = "export_command"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"bucket": ""}, "key 'bucket' has value '': expected a text that is not empty"),
        ({"bucket": None}, "key 'bucket' has value None"),
        ({"accelerator": "tpu"}, "key 'accelerator' has value 'tpu': expected one of neuron, nvidia, none"),
        ({"layout": "zip"}, "key 'layout' has value 'zip': expected one of neuron-config-key, neuron-config-file"),
        ({"image_digest": "sha256:1"}, "key 'image_digest' has value 'sha256:1': expected sha256: and 64"),
        ({"image_digest": None}, "key 'image_digest' has value None: expected a text, empty for the image as its tag"),
        ({"devices": "6"}, "key 'devices' has value '6': expected a whole number"),
        ({"devices": -1}, "key 'devices' has value -1"),
        ({"min_free_gib": True}, "key 'min_free_gib' has value True"),
        ({"min_memory_gib": 1.5}, "key 'min_memory_gib' has value 1.5"),
        ({"weights_only": "no"}, "key 'weights_only' has value 'no': expected true or false"),
        ({"properties": {"option.a": 1}}, "key 'properties.option.a' has value 1: expected a text"),
        ({"properties": []}, "key 'properties' has value []: expected an object"),
        ({"progress_parameter": 1}, "key 'progress_parameter' has value 1"),
        ({"work_dir": "relative"}, "key 'work_dir' has value 'relative': expected an absolute path"),
        ({"work_dir": "/a,b"}, "without commas"),
        ({COMMAND: []}, "key 'export_command' has value []: may be empty with the layout 'none' only"),
        ({"layout": "none"}, "with the layout 'none' nothing is exported: expected []"),
        ({COMMAND: "optimum-cli"}, "expected a list of texts"),
        ({COMMAND: ["x", "{output}"]}, "expected {model} once"),
        ({COMMAND: ["x", "{model}", "--to={output}"]}, "expected {output} once, as a word of its own"),
        ({COMMAND: ["{model}", "{output}", "--x={python}"]}, "has value '--x={python}': nothing stands for {python} h"),
        ({COMMAND: ["{model}", "{output}", "{cores}"]}, "nothing stands for {cores} here; known are {model}, {output}"),
        ({"prefix": "compiled/x/y/"}, "key 'prefix' has value 'compiled/x/y/': the facts give 'compiled/mistralai--"),
        ({"facts": "x"}, "key 'facts' has value 'x': expected an object"),
        ({"facts": {**FACTS, "flags": "x"}}, "key 'facts.flags' is unknown"),
        ({"facts": {"engine": "x"}}, "key 'facts.batch_size' is missing"),
        ({"facts": {**FACTS, "batch_size": 1}}, "key 'facts.batch_size' has value 1: expected a text"),
        ({"facts": {**FACTS, "batch_size": "one"}}, "key 'facts.batch_size' has value 'one': expected a positive"),
        ({"facts": {**FACTS, "model_revision": "v1"}}, "key 'facts.model_revision' has value 'v1': expected 40"),
        ({"facts": {**FACTS, "model_id": "../x"}}, "key 'facts.model_id'"),
        ({"weights": {}}, "key 'weights.source' has value None: expected one of hub, s3"),
        ({"weights": {**HUB, "source": "directory"}}, "key 'weights.source' has value 'directory'"),
        ({"weights": {**HUB, "path": "/x"}}, "key 'weights.path' is unknown"),
        ({"weights": {**HUB, "model_id": "a/b"}}, "key 'weights.model_id' has value 'a/b': the facts say"),
        ({"weights": {**HUB, "revision": "0" * 40}}, "key 'weights.revision' has value '0000"),
        ({"weights": {**HUB, "token_secret_arn": None}}, "key 'weights.token_secret_arn' has value None"),
        ({"runner": "docker"}, "key 'runner' is unknown"),
        ({"token": "hf_secret"}, "key 'token' is unknown"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, overrides: dict[str, Any], words: str) -> None:
    path = write(tmp_path, job(**overrides))

    with pytest.raises(JobError) as caught:
        read_job(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("key", sorted(job()))
def test_missing_keys_are_named(tmp_path: Path, key: str) -> None:
    data = job()
    del data[key]

    with pytest.raises(JobError, match=f"key '{key}' is missing"):
        read_job(write(tmp_path, data))


def test_file_that_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="not JSON"):
        read_job(write(tmp_path, "{"))
    with pytest.raises(JobError, match="expected an object"):
        read_job(write(tmp_path, "[]"))
    with pytest.raises(JobError, match="cannot be read: No such file"):
        read_job(tmp_path / "absent.json")
