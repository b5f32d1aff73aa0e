"""The LMI engines: what stands in serving.properties, and what a profile may not add."""

from __future__ import annotations

from typing import Any

import pytest
from unit.engine_cases import decoder, exported, serving

from modelzone.engines import ENGINES
from modelzone.engines.lmi_options import known_options
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Serving

GPU = {"instance_type": "ml.g6.12xlarge", "tensor_parallel_degree": 4, "dtype": "fp16"}
LMI = [(name, version) for name, engine in ENGINES.items() if name.startswith("lmi-") for version in engine.versions]


def given(engine: str, version: str, **changes: Any) -> Serving:
    neuron = {} if engine == "lmi-neuronx" else GPU
    return serving(engine, version, **{**neuron, **changes})


def properties(engine: str, version: str, kind: str = "llama", **changes: Any) -> dict[str, str]:
    found = ENGINES[engine].serving_properties(version, decoder(kind), given(engine, version, **changes))
    assert found is not None
    return found


def check(engine: str, version: str, kind: str = "llama", **changes: Any) -> list[Refusal]:
    return list(ENGINES[engine].check(version, decoder(kind), given(engine, version, **changes)))


def one(engine: str, version: str, kind: str = "llama", **changes: Any) -> Refusal:
    (refusal,) = check(engine, version, kind, **changes)
    return refusal


COMMON = {
    "option.model_id": "/opt/ml/model",
    "option.tensor_parallel_degree": "4",
    "option.max_rolling_batch_size": "4",
    "option.model_loading_timeout": "1800",
}


@pytest.mark.parametrize(
    ("engine", "version", "own"),
    [
        (
            "lmi-vllm",
            "0.26.0",
            {
                "engine": "Python",
                "option.rolling_batch": "vllm",
                "option.dtype": "fp16",
                "option.output_formatter": "jsonlines",
                "option.max_model_len": "4096",
            },
        ),
        (
            "lmi-vllm",
            "0.38.0",
            {
                "engine": "Python",
                "option.entryPoint": "djl_python.lmi_vllm.vllm_async_service",
                "option.rolling_batch": "disable",
                "option.async_mode": "true",
                "option.dtype": "fp16",
                "option.max_model_len": "4096",
                "option.gpu_memory_utilization": "0.9",
            },
        ),
        (
            "lmi-trtllm",
            "0.26.0",
            {
                "engine": "MPI",
                "option.rolling_batch": "trtllm",
                "option.dtype": "fp16",
                "option.output_formatter": "jsonlines",
                "option.max_input_len": "3072",
                "option.max_output_len": "1024",
                "option.kv_cache_free_gpu_mem_fraction": "0.95",
            },
        ),
        (
            "lmi-trtllm",
            "0.33.0",
            {
                "engine": "Python",
                "option.entryPoint": "djl_python.lmi_trtllm.trtllm_async_service",
                "option.rolling_batch": "disable",
                "option.async_mode": "true",
                "option.dtype": "float16",
                "option.max_input_len": "3072",
                "option.max_seq_len": "4096",
                "option.free_gpu_memory_fraction": "0.9",
            },
        ),
        (
            "lmi-dist",
            "0.26.0",
            {
                "engine": "MPI",
                "option.rolling_batch": "lmi-dist",
                "option.dtype": "fp16",
                "option.output_formatter": "jsonlines",
            },
        ),
        (
            "lmi-deepspeed",
            "0.26.0",
            {
                "engine": "DeepSpeed",
                "option.rolling_batch": "deepspeed",
                "option.dtype": "fp16",
                "option.output_formatter": "jsonlines",
                "option.max_tokens": "4096",
            },
        ),
        (
            "lmi-neuronx",
            "0.26.0",
            {
                "engine": "Python",
                "option.entryPoint": "djl_python.transformers_neuronx",
                "option.rolling_batch": "auto",
                "option.dtype": "bf16",
                "option.tensor_parallel_degree": "8",
                "option.n_positions": "4096",
            },
        ),
        (
            "lmi-neuronx",
            "0.30.0",
            {
                "engine": "Python",
                "option.entryPoint": "djl_python.transformers_neuronx",
                "option.rolling_batch": "tnx",
                "option.dtype": "bf16",
                "option.tensor_parallel_degree": "8",
                "option.n_positions": "4096",
            },
        ),
    ],
)
def test_lines_of_each_backend(engine: str, version: str, own: dict[str, str]) -> None:
    assert properties(engine, version) == {**COMMON, **own}


@pytest.mark.parametrize(
    ("engine", "version", "quantization", "lines"),
    [
        ("lmi-vllm", "0.26.0", "awq", {"option.quantize": "awq"}),
        ("lmi-vllm", "0.38.0", "fp8", {"option.quantize": "fp8"}),
        ("lmi-vllm", "0.38.0", "bitsandbytes-4bit", {"option.quantize": "bitsandbytes"}),
        ("lmi-trtllm", "0.26.0", "smoothquant", {"option.quantize": "smoothquant"}),
        ("lmi-trtllm", "0.33.0", "awq", {"option.quant_algo": "W4A16_AWQ"}),
        ("lmi-dist", "0.26.0", "bitsandbytes-8bit", {"option.quantize": "bitsandbytes8"}),
        ("lmi-deepspeed", "0.26.0", "int8", {"option.quantize": "dynamic_int8"}),
        ("lmi-neuronx", "0.29.0", "int8", {"option.quantize": "static_int8"}),
    ],
)
def test_quantisation_by_the_backend_s_own_name(
    engine: str, version: str, quantization: str, lines: dict[str, str]
) -> None:
    assert quantization in ENGINES[engine].versions[version].quantizations
    found = properties(engine, version, quantization=quantization)
    assert lines.items() <= found.items()
    # LMI-Dist refuses both together.
    assert ("option.dtype" in found) == (engine != "lmi-dist")


@pytest.mark.parametrize("quantization", ["awq", "gptq"])
def test_weights_that_are_quantised_already_speak_for_themselves(quantization: str) -> None:
    assert "option.quantize" not in properties("lmi-vllm", "0.38.0", quantization=quantization)


def test_adapters_of_vllm() -> None:
    found = properties("lmi-vllm", "0.38.0", adapters={"count": 5, "rank": 32})
    assert found["option.enable_lora"] == "true"
    assert (found["option.max_loras"], found["option.max_cpu_loras"], found["option.max_lora_rank"]) == ("5", "5", "32")
    refusal = one("lmi-vllm", "0.38.0", adapters={"count": 5, "rank": 24})
    assert (refusal.key, refusal.value) == ("adapters.rank", 24)
    assert "use one of: 1, 8, 16, 32" in refusal.fix


@pytest.mark.parametrize(
    ("engine", "changes", "kind", "key", "says"),
    [
        ("lmi-vllm", {"quantization": "awq", "dtype": "bf16"}, "llama", "dtype", "computes AWQ in fp16 only"),
        ("lmi-dist", {"quantization": "gptq", "dtype": "bf16"}, "llama", "dtype", "computes in fp16"),
        ("lmi-deepspeed", {"quantization": "smoothquant", "dtype": "bf16"}, "llama", "dtype", "refuses to start"),
        ("lmi-deepspeed", {"quantization": "smoothquant"}, "opt", "quantization", "not possible for opt models"),
        ("lmi-trtllm", {"quantization": "awq"}, "mixtral", "quantization", "of mixtral models"),
        ("lmi-deepspeed", {"options": {"smoothquant_alpha": 0.5}}, "llama", "options.smoothquant_alpha", "is None"),
        (
            "lmi-deepspeed",
            {"options": {"smoothquant_alpha": 2}, "quantization": "smoothquant"},
            "llama",
            "options.smoothquant_alpha",
            "from 0 to 1",
        ),
        (
            "lmi-vllm",
            {"options": {"max_rolling_batch_prefill_tokens": 1024}},
            "llama",
            "options.max_rolling_batch_prefill_tokens",
            "less than sequence_length 4096",
        ),
        (
            "lmi-neuronx",
            {"options": {"context_length_estimate": "256,512"}},
            "llama",
            "options.context_length_estimate",
            "has to be sequence_length 4096",
        ),
        (
            "lmi-trtllm",
            {"options": {"rotary_scaling_type": "linear"}},
            "llama",
            "options.rotary_scaling_type",
            "stands alone",
        ),
    ],
)
def test_combinations_that_0_26_asserts_against(
    engine: str, changes: dict[str, Any], kind: str, key: str, says: str
) -> None:
    refusal = one(engine, "0.26.0", kind, **changes)
    assert refusal.key == key
    assert says in refusal.problem


@pytest.mark.parametrize(("engine", "version"), LMI)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine", "DJL"),
        ("mpi_mode", True),
        ("rolling_batch", "scheduler"),
        ("tensor_parallel_degree", 2),
        ("tensor_parallel_size", 2),
        ("max_rolling_batch_size", 64),
        ("max_num_seqs", 64),
        ("model_id", "some/other"),
        ("model_loading_timeout", 7200),
        ("quantize", "awq"),
        ("quantization", "awq"),
        ("batch_size", 2),
        ("output_formatter", "sse"),
        ("max_rolling_batch", 64),
        ("option.load_format", "auto"),
    ],
)
def test_keys_that_the_plan_settles(engine: str, version: str, key: str, value: object) -> None:
    refusal = one(engine, version, options={key: value})
    assert (refusal.key, refusal.value) == (f"options.{key}", value)


@pytest.mark.parametrize(
    ("engine", "version", "key"),
    [
        ("lmi-neuronx", "0.26.0", "n_positions"),
        ("lmi-vllm", "0.38.0", "max_model_len"),
        ("lmi-deepspeed", "0.26.0", "max_tokens"),
        ("lmi-trtllm", "0.33.0", "max_seq_len"),
    ],
)
def test_a_contradiction_names_both_values_and_the_setting(engine: str, version: str, key: str) -> None:
    refusal = one(engine, version, options={key: 128})
    assert (refusal.value, refusal.problem) == (128, f"contradicts the plan, which writes {key}=4096")
    assert refusal.fix == "leave it out and change sequence_length"
    # Saying the same is no contradiction.
    assert check(engine, version, options={key: 4096}) == []


@pytest.mark.parametrize(
    ("engine", "key", "says"),
    [
        ("lmi-vllm", "enforce_eager", "first read by 0.27.0"),
        ("lmi-vllm", "enable_lora", "LoRA options exist from 0.27.0"),
        ("lmi-vllm", "swap_space", "ignored without a word"),
        ("lmi-trtllm", "load_format", "ignored without a word"),
        ("lmi-dist", "max_model_len", "LMI-Dist has none"),
        ("lmi-deepspeed", "n_positions", "settles it"),
        ("lmi-neuronx", "output_formatter", "gets no formatter"),
    ],
)
def test_keys_that_0_26_would_ignore(engine: str, key: str, says: str) -> None:
    assert says in one(engine, "0.26.0", options={key: True}).problem


@pytest.mark.parametrize(
    ("engine", "version", "key", "value"),
    [
        ("lmi-vllm", "0.26.0", "load_format", "safetensors"),
        ("lmi-vllm", "0.26.0", "max_rolling_batch_prefill_tokens", 8192),
        ("lmi-vllm", "0.38.0", "enforce_eager", True),
        ("lmi-vllm", "0.38.0", "enable_prefix_caching", False),
        ("lmi-trtllm", "0.26.0", "use_custom_all_reduce", False),
        ("lmi-neuronx", "0.26.0", "group_query_attention", "shard-over-heads"),
        ("lmi-neuronx", "0.30.0", "fuse_qkv", True),
        ("lmi-dist", "0.26.0", "job_queue_size", 100),
    ],
)
def test_keys_that_are_read(engine: str, version: str, key: str, value: Any) -> None:
    assert check(engine, version, options={key: value}) == []
    found = properties(engine, version, options={key: value})
    prefix = "" if key == "job_queue_size" else "option."
    assert found[prefix + key] == str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(("engine", "version"), LMI)
def test_variables_that_the_file_overrules(engine: str, version: str) -> None:
    for name in ("OPTION_TENSOR_PARALLEL_DEGREE", "TENSOR_PARALLEL_DEGREE", "HF_MODEL_ID", "OPTION_MODEL_ID"):
        refusal = one(engine, version, environment={name: "x"})
        assert refusal.key == f"environment.{name}"
        assert "is overruled by serving.properties" in refusal.problem
    refusal = one(engine, version, environment={"OPTION_TRUST_REMOTE_CODE": "true"})
    assert refusal.fix == "use serving.options.trust_remote_code"
    assert check(engine, version, environment={"SERVING_JOB_QUEUE_SIZE": "100", "NCCL_DEBUG": "INFO"}) == []


@pytest.mark.parametrize(("engine", "version"), LMI)
def test_known_options_are_sourced_and_leave_the_plan_s_own_alone(engine: str, version: str) -> None:
    known = known_options(engine, version)
    assert "@" in known.source
    assert not {key.removeprefix("option.") for key in properties(engine, version)} & known.keys
    assert not known.keys & set(known.ignored)


def test_loading_never_outlasts_the_health_check() -> None:
    for engine, version in LMI:
        found = properties(engine, version, health_check_timeout_seconds=2400)
        assert found["option.model_loading_timeout"] == "2400"


@pytest.mark.parametrize(("version", "pipeline"), [("0.26.0", ()), ("0.33.0", ("--pipeline_parallel_degree", "1"))])
def test_trtllm_compiles_with_the_container_s_script(version: str, pipeline: tuple[str, ...]) -> None:
    command = exported("lmi-trtllm", version, decoder(), given("lmi-trtllm", version))
    assert command == (
        "python", "/opt/djl/partition/trt_llm_partition.py", "--properties_dir", "{properties}",
        "--trt_llm_model_repo", "{output}", "--tensor_parallel_degree", "4", *pipeline, "--model_path", "{model}",
    )  # fmt: skip


def test_only_images_with_cuda_13_choose_their_inference_ami() -> None:
    chosen = {
        (name, version): set(ENGINES[name].versions[version].inference_ami_versions.values()) for name, version in LMI
    }
    assert {key for key, value in chosen.items() if value} == {("lmi-vllm", "0.38.0")}
    assert chosen["lmi-vllm", "0.38.0"] == {"al2-ami-sagemaker-inference-gpu-3-1"}
