"""Engines on optimum-neuron: variables, export commands, batches that cannot be refilled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from unit.engine_cases import clip, decoder, exported, serving

from modelzone.engines import ENGINES
from modelzone.engines.shapes import artifact_values
from modelzone.refusals import Refusal

TGI, VLLM, CLIP = ENGINES["tgi-neuronx"], ENGINES["vllm-neuronx"], ENGINES["clip-neuronx"]


def check(engine: str, version: str, kind: str = "llama", **changes: Any) -> list[Refusal]:
    return list(ENGINES[engine].check(version, decoder(kind), serving(engine, version, **changes)))


def words(command: tuple[str, ...] | None) -> Mapping[str, str]:
    assert command is not None
    return dict(zip(command[3:-1:2], command[4:-1:2], strict=True))


@pytest.mark.parametrize(
    ("version", "variable"), [("0.0.25", "HF_MODEL_ID"), ("0.0.28", "HF_MODEL_ID"), ("3.3.6", "MODEL_ID")]
)
def test_tgi_finds_the_model_by_the_variable_of_its_version(version: str, variable: str) -> None:
    given = serving("tgi-neuronx", version, environment={"LOG_LEVEL": "info"})
    found = TGI.container_environment(version, decoder(), given)
    assert found == {variable: "/opt/ml/model", "LOG_LEVEL": "info"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MAX_BATCH_SIZE", "8", "contradicts batch_size 4, which is compiled in: the container needs '4'"),
        ("MAX_TOTAL_TOKENS", "2048", "contradicts sequence_length 4096"),
        ("MAX_INPUT_TOKENS", "512", "contradicts max_input_tokens 3072"),
        ("MAX_BATCH_PREFILL_TOKENS", "99999", "the container needs '12288'"),
        ("HF_NUM_CORES", "24", "contradicts tensor_parallel_degree 8"),
        ("HF_AUTO_CAST_TYPE", "fp16", "contradicts dtype bf16"),
        ("HF_MODEL_ID", "mistralai/Mixtral-8x7B-v0.1", "/opt/ml/model"),
        ("MODEL_ID", "other/model", "/opt/ml/model"),
        ("MAX_INPUT_LENGTH", "3072", "refuses to start with both"),
        ("MAX_BATCH_TOTAL_TOKENS", "4095", "lower than MAX_BATCH_PREFILL_TOKENS 12288 and MAX_TOTAL_TOKENS 4096"),
        ("MAX_BATCH_TOTAL_TOKENS", "12287", "lower than MAX_BATCH_PREFILL_TOKENS 12288, which"),
        ("NEURON_RT_NUM_CORES", "2", "gives the server 2, fewer cores than tensor_parallel_degree 8"),
        ("NEURON_RT_NUM_CORES", "all", "cannot read it"),
        ("NEURON_RT_VISIBLE_CORES", "4-7", "gives the server 4, fewer cores than tensor_parallel_degree 8"),
        ("NEURON_RT_VISIBLE_CORES", "8", "gives the server 1, fewer cores"),
        ("NEURON_RT_VISIBLE_CORES", "0,1,2,3,4,5,6,7", "gives the server 1, fewer cores"),
        ("NEURON_RT_VISIBLE_CORES", "0-3,4-7", "cannot read it"),
        ("PORT", "80", "SageMaker, which asks port 8080"),
    ],
)
@pytest.mark.parametrize("version", ["0.0.25", "0.0.28", "3.3.6"])
def test_tgi_variables_that_contradict_the_plan(version: str, name: str, value: str, says: str) -> None:
    (refusal,) = check("tgi-neuronx", version, environment={name: value})
    assert (refusal.key, refusal.value) == (f"environment.{name}", value)
    assert says in refusal.problem


def test_tgi_variables_that_repeat_the_plan_are_fine() -> None:
    same = {"MAX_BATCH_SIZE": "4", "MAX_TOTAL_TOKENS": "4096", "MAX_INPUT_TOKENS": "3072", "HF_NUM_CORES": "8"}
    enough = {"NEURON_RT_NUM_CORES": "24", "NEURON_RT_VISIBLE_CORES": "0-7", "MAX_BATCH_TOTAL_TOKENS": "12288"}
    assert check("tgi-neuronx", "0.0.25", environment={**same, **enough}) == []


def test_a_total_of_tokens_below_the_sequence_length_only() -> None:
    given: dict[str, Any] = {"batch_size": 1, "environment": {"MAX_BATCH_TOTAL_TOKENS": "4000"}}
    (refusal,) = check("tgi-neuronx", "0.0.25", **given)
    assert (refusal.key, refusal.value) == ("environment.MAX_BATCH_TOTAL_TOKENS", "4000")
    assert "lower than MAX_TOTAL_TOKENS 4096, which" in refusal.problem
    assert refusal.fix.endswith("at least 4096")


def test_the_messages_api_would_turn_text_away_at_tgi_2_only() -> None:
    (refusal,) = check("tgi-neuronx", "0.0.25", environment={"MESSAGES_API_ENABLED": "true"})
    assert "chat bodies only" in refusal.problem
    assert check("tgi-neuronx", "3.3.6", environment={"MESSAGES_API_ENABLED": "true"}) == []


def test_options_belong_to_other_engines() -> None:
    for engine, version in (("tgi-neuronx", "0.0.25"), ("vllm-neuronx", "0.4.4")):
        (refusal,) = check(engine, version, options={"rolling_batch": "auto"})
        assert refusal.key == "options.rolling_batch"
        assert "configured by its environment" in refusal.problem


@pytest.mark.parametrize(
    ("engine", "version"), [("tgi-neuronx", "3.3.6"), ("vllm-neuronx", "0.4.4"), ("vllm-neuronx", "0.4.5")]
)
def test_mixtral_is_served_one_by_one_where_batches_are_refused(engine: str, version: str) -> None:
    (refusal,) = check(engine, version, "mixtral")
    assert (refusal.key, refusal.value) == ("batch_size", 4)
    assert refusal.problem == (
        f"cannot be served: {engine} {version} builds mixtral without continuous batching and then refuses a batch "
        "above 1"
    )
    assert check(engine, version, "mixtral", batch_size=1) == []
    assert check(engine, version, "llama") == []


@pytest.mark.parametrize("version", ["0.0.25", "0.0.28"])
def test_older_tgi_starts_mixtral_batches_again(version: str) -> None:
    assert check("tgi-neuronx", version, "mixtral") == []
    assert any("run all prompts of the batch again" in limit for limit in TGI.versions[version].limits)


@pytest.mark.parametrize(
    ("engine", "version", "kind", "static"),
    [
        ("tgi-neuronx", "0.0.25", "mixtral", True),
        ("tgi-neuronx", "0.0.25", "llama", False),
        ("tgi-neuronx", "0.0.25", "opt", True),
        ("vllm-neuronx", "0.4.4", "mixtral", True),
        ("vllm-neuronx", "0.4.4", "qwen3_moe", False),
        ("lmi-neuronx", "0.29.0", "mixtral", True),
        ("lmi-neuronx", "0.29.0", "mistral", False),
    ],
)
def test_types_whose_running_batch_is_not_refilled(engine: str, version: str, kind: str, *, static: bool) -> None:
    assert (kind in ENGINES[engine].versions[version].static_batch_types) is static


@pytest.mark.parametrize("engine", ["tgi-neuronx", "vllm-neuronx"])
def test_what_an_artifact_decides_is_what_the_variables_are_checked_against(engine: str) -> None:
    """One function says it for both: a variable that repeats it is taken, one that contradicts it is refused."""
    for version in ENGINES[engine].versions:
        given = serving(engine, version)
        decided = ENGINES[engine].artifact_environment(version, artifact_values(given))
        assert not list(check(engine, version, environment=decided))
        for name in decided:
            (refusal,) = check(engine, version, environment={name: "17"})
            assert refusal.key == f"environment.{name}"


def test_what_is_compiled_in_may_be_a_reference() -> None:
    """The stack gives CloudFormation references, which the artifact's manifest fills."""
    values = {name: f"${{{name}}}" for name in artifact_values(serving("tgi-neuronx", "0.0.25"))}
    assert TGI.artifact_environment("0.0.25", values)["MAX_BATCH_SIZE"] == "${batch_size}"


@pytest.mark.parametrize("version", ["0.0.25", "0.0.28", "3.3.6"])
def test_tgi_exports_with_the_flags_that_decoders_honour(version: str) -> None:
    assert exported("tgi-neuronx", version, decoder(), serving("tgi-neuronx", version)) == (
        "optimum-cli", "export", "neuron", "--model", "{model}", "--task", "text-generation", "--batch_size", "4",
        "--sequence_length", "4096", "--auto_cast_type", "bf16", "--num_cores", "8", "{output}",
    )  # fmt: skip


def test_vllm_exports_with_the_later_flags() -> None:
    given = serving("vllm-neuronx", "0.4.4", instance_type="ml.trn1.32xlarge", dtype="fp16")
    found = words(exported("vllm-neuronx", "0.4.4", decoder(), given))
    assert found["--torch_dtype"] == "float16"
    assert found["--tensor_parallel_size"] == "8"
    assert found["--instance_type"] == "trn1"
    assert not {"--auto_cast_type", "--num_cores"} & set(found)


def test_vllm_is_told_where_the_model_is_and_how_clients_call_it() -> None:
    found = VLLM.container_environment("0.4.4", decoder(), serving("vllm-neuronx", "0.4.4"))
    assert found == {"SM_ON_MODEL": "/opt/ml/model", "SM_ON_SERVED_MODEL_NAME": "some/model"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SM_ON_MODEL", "some/model", "/opt/ml/model"),
        ("SM_ON_BATCH_SIZE", "8", "contradicts batch_size 4"),
        ("SM_ON_MAX_NUM_SEQS", "8", "contradicts batch_size 4"),
        ("SM_ON_SEQUENCE_LENGTH", "1", "contradicts sequence_length 4096"),
        ("SM_ON_TENSOR_PARALLEL_SIZE", "2", "contradicts tensor_parallel_degree 8"),
        ("SM_ON_SERVED_MODEL_NAME", "mine", "contradicts the model's name"),
        ("SM_ON_ALLOW_NON_CACHED_MODEL", "", "compile on the endpoint"),
        ("MAX_BATCH_SIZE", "4", "would be ignored: this container reads SM_ON_BATCH_SIZE"),
        ("MODEL_ID", "x/y", "this container reads SM_ON_MODEL"),
    ],
)
def test_vllm_variables(name: str, value: str, says: str) -> None:
    (refusal,) = check("vllm-neuronx", "0.4.4", environment={name: value})
    assert refusal.key == f"environment.{name}"
    assert says in refusal.problem


def test_clip_is_exported_and_eva_is_not() -> None:
    given = serving("clip-neuronx", "2.8.0", batch_size=8)
    found = words(exported("clip-neuronx", "2.8.0", clip(), given))
    assert found["--task"] == "feature-extraction"
    assert (found["--text_batch_size"], found["--image_batch_size"], found["--sequence_length"]) == ("8", "8", "77")
    assert (found["--width"], found["--height"], found["--num_channels"]) == ("224", "224", "3")
    assert CLIP.export_command("2.8.0", clip("eva02_clip"), given) is None


def test_only_the_engine_with_a_stack_is_deployable() -> None:
    deployable = [
        (engine.name, version.version)
        for engine in ENGINES.values()
        for version in engine.versions.values()
        if version.deployable
    ]
    assert deployable == [("tgi-neuronx", "0.0.25")]
    # The name of the gateway's module.
    assert TGI.versions["0.0.25"].dialect == "tgi-generate"
