"""TensorRT-LLM in AWS's LMI container: 0.26.0 (rolling batch under MPI) and 0.33.0, its last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import Compiler, EngineVersion
from modelzone.engines.lmi import AMPERE, JSONLINES_0_26, LMI_0_26, LmiEngine
from modelzone.engines.serving_properties import ServingProperties
from modelzone.engines.shapes import TENSOR_PARALLEL_DEGREE
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Option, Serving

__all__ = ["LmiTrtLlm"]

_FIRST = "0.26.0"
_COMPILER = Compiler(tool="tensorrt-llm", artifact_layout="tensorrt-llm-repo", required=False)
_SCRIPT = "/opt/djl/partition/trt_llm_partition.py"
# Share of the memory that is free after loading; the key changed its name.
_MEMORY_KEY = {_FIRST: "kv_cache_free_gpu_mem_fraction", "0.33.0": "free_gpu_memory_fraction"}
# 0.26.0 quantises these types while it compiles.
_QUANTIZED_TYPES = frozenset({"llama", "mistral"})
_ALGORITHMS = {"awq": "W4A16_AWQ", "fp8": "FP8"}
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16"}
_SAME_GPU = "Engines run on the GPU architecture that they were compiled on only."

_VERSIONS = {
    _FIRST: EngineVersion(
        version=_FIRST,
        model_types=frozenset({"falcon", "gpt2", "gpt_bigcode", "gptj", "llama", "mistral", "mixtral"}),
        instance_families=AMPERE,
        dialect="lmi-jsonlines",
        # trtllm_rolling_batch.py translates these; what else tensorrt_llm_toolkit takes is not public.
        features=frozenset({"seed", "top_k"}),
        quantizations=frozenset({"awq", "smoothquant"}),
        device_memory_fraction=0.95,
        compiler=_COMPILER,
        components=MappingProxyType({"djl-serving": "0.26.0", "tensorrt-llm": "0.7.1", "cuda": "12.2"}),
        limits=(
            JSONLINES_0_26,
            _SAME_GPU,
            "Never reports stop_sequence as the reason for an end.",
            (
                "That it takes stop sequences and penalties, and that its log probabilities are more than 0, is NOT "
                "VERIFIED: the gateway offers none of them."
            ),
            "AWQ and SmoothQuant for Llama and Mistral only, done while compiling.",
            "StarCoder and SantaCoder need the option gpt_model_version.",
            "Starts one copy of the model for every tensor_parallel_degree GPUs, each with its own batch.",
        ),
        sources=(
            f"{LMI_0_26}: trt_properties.py, trtllm_rolling_batch.py, trtllm_aot_tutorial.md",
            f"{LMI_0_26}: configurations_large_model_inference_containers.md",
        ),
    ),
    "0.33.0": EngineVersion(
        version="0.33.0",
        model_types=frozenset(
            {"falcon", "gemma", "gpt2", "gpt_bigcode", "gptj", "llama", "mistral", "mixtral", "opt", "phi"}
        ),
        instance_families=AMPERE,
        dialect="lmi-async-trtllm",
        # What TensorRT-LLM's requests have and need no option for; JSON needs guided_decoding_backend.
        features=frozenset({"chat", "penalties", "repetition_penalty", "seed", "stop", "top_k", "usage"}),
        quantizations=frozenset({"awq", "fp8"}),
        device_memory_fraction=0.9,
        compiler=_COMPILER,
        components=MappingProxyType({"djl-serving": "0.33.0", "tensorrt-llm": "0.21.0rc1", "cuda": "12.8"}),
        limits=(
            "The last LMI container with TensorRT-LLM.",
            _SAME_GPU,
            (
                "Its guide still speaks of option.quantize; the compile script reads quant_algo, which the plan "
                "writes. SmoothQuant is left out: NOT VERIFIED."
            ),
            "Qwen is left out: which of its model types the guide means is NOT VERIFIED.",
            "Tokens of a stream carry no log probabilities.",
        ),
        sources=(
            (
                "deepjavalibrary/djl-serving@8b3b685 (0.33.0-dlc): trt_llm_partition.py, trt_properties.py, "
                "trtllm_async_service.py, trt_llm_user_guide.md, tests/integration/llm/prepare.py"
            ),
            "aws/deep-learning-containers@e0ecede: docs/src/data/djl-inference/0.33-tensorrtllm0.21.0-gpu.yml",
        ),
    ),
}


class LmiTrtLlm(LmiEngine):
    """TensorRT-LLM 0.7.1 and 0.21."""

    name = "lmi-trtllm"
    title = "LMI with TensorRT-LLM: decoders compiled for one GPU architecture"
    versions: Mapping[str, EngineVersion] = MappingProxyType(_VERSIONS)

    def properties(self, version: str, model: Model, serving: Serving) -> ServingProperties:
        """0.26.0 asserts MPI and a rolling batch; 0.33.0 compiles for ``max_seq_len`` and serves asynchronously."""
        del model
        first = version == _FIRST
        backend: dict[str, Option] = {
            "max_input_len": serving.max_input_tokens,
            _MEMORY_KEY[version]: self.versions[version].device_memory_fraction,
        }
        if first:
            backend["max_output_len"] = serving.sequence_length - serving.max_input_tokens
        else:
            backend |= {"max_seq_len": serving.sequence_length, "async_mode": True}
            if serving.quantization in _ALGORITHMS:
                backend["quant_algo"] = _ALGORITHMS[serving.quantization]
        return ServingProperties(
            engine="MPI" if first else "Python",
            entry_point=None if first else "djl_python.lmi_trtllm.trtllm_async_service",
            rolling_batch="trtllm" if first else "disable",
            tensor_parallel_degree=serving.tensor_parallel_degree,
            max_rolling_batch_size=serving.batch_size,
            model_loading_timeout=serving.health_check_timeout_seconds,
            # 0.33.0 hands the name to TensorRT-LLM as it is.
            dtype=serving.dtype if first else _TORCH_NAMES[serving.dtype],
            quantize=serving.quantization if first else None,
            output_formatter="jsonlines" if first else None,
            backend=backend,
            options=serving.options,
        )

    def check_backend(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """Quantisation while compiling is for some types only."""
        kind = model.architecture.type
        if version == _FIRST and serving.quantization and kind not in _QUANTIZED_TYPES:
            yield Refusal(
                key="quantization",
                value=serving.quantization,
                problem=f"of {kind} models is more than {self.name} {version} can do while it compiles",
                fix=f"leave it out; it quantises: {', '.join(sorted(_QUANTIZED_TYPES))}",
            )
        options = serving.options
        if ("rotary_scaling_type" in options) != ("rotary_scaling_factor" in options):
            (key,) = {"rotary_scaling_type", "rotary_scaling_factor"} & set(options)
            yield Refusal(
                key=f"options.{key}",
                value=options[key],
                problem="stands alone: rotary_scaling_type and rotary_scaling_factor work together only",
                fix="set both or none",
            )

    def export_command(self, version: str, model: Model, serving: Serving) -> tuple[str, ...]:
        """The container's own script; what it compiles for stands in ``serving.properties``."""
        del model, serving
        pipeline = () if version == _FIRST else ("--pipeline_parallel_degree", "1")
        return (
            "python", _SCRIPT,
            "--properties_dir", "{properties}",
            "--trt_llm_model_repo", "{output}",
            "--tensor_parallel_degree", TENSOR_PARALLEL_DEGREE,
            *pipeline,
            "--model_path", "{model}",
        )  # fmt: skip
