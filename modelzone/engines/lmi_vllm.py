"""vLLM in AWS's LMI container: the rolling batch of 0.26.0 and the asynchronous handler of today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import EngineVersion
from modelzone.engines.lmi import AMPERE, CUDA_13_AMI, JSONLINES_0_26, LMI_0_26, LmiEngine
from modelzone.engines.serving_properties import ServingProperties
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Option, Serving

__all__ = ["LmiVllm"]

_FIRST = "0.26.0"
# vLLM's own default at 0.2.7, where LMI does not pass another; written down since it can be.
_MEMORY_FRACTION = 0.9
# vLLM's LoRAConfig: the kernels are built for these ranks.
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Quantisation while loading; weights that are already quantised say so themselves, and naming it would cost speed.
_QUANTIZE = {"fp8": "fp8", "bitsandbytes-4bit": "bitsandbytes"}

_VERSIONS = {
    _FIRST: EngineVersion(
        version=_FIRST,
        model_types=frozenset(
            {"bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "mpt", "opt"}
        ),
        instance_families=AMPERE | {"g4dn"},
        dialect="lmi-jsonlines",
        # vLLM 0.2.7's SamplingParams; vllm_rolling_batch.py throws seeds away.
        features=frozenset({"logprobs", "min_p", "penalties", "repetition_penalty", "stop", "top_k"}),
        quantizations=frozenset({"awq"}),
        device_memory_fraction=_MEMORY_FRACTION,
        components=MappingProxyType({"djl-serving": "0.26.0", "vllm": "0.2.7", "cuda": "12.1"}),
        limits=(
            JSONLINES_0_26,
            "AWQ computes in fp16 only.",
            "Phi is left out: vLLM 0.2.7 reads the weights' layout from before transformers 4.37 only.",
            "Ignores enforce_eager (first read by 0.27.0) and gpu_memory_utilization: vLLM takes 0.9 of the memory.",
            "One worker: GPUs beyond tensor_parallel_degree stay idle.",
            (
                "Ignores seeds. A value that vLLM refuses drops the whole batch, other clients' answers included: the "
                "gateway checks all ranges. Tokens that are a part of a character have no log probability."
            ),
        ),
        sources=(
            f"{LMI_0_26}: properties_manager/vllm_rb_properties.py, rolling_batch/vllm_rolling_batch.py",
            "vllm 0.2.7's wheel: model_executor/models, sampling_params.py",
        ),
    ),
    "0.38.0": EngineVersion(
        version="0.38.0",
        model_types=frozenset(
            {"bloom", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3_text"}
            | {"glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "llama"}
            | {"llama4_text", "mistral", "mixtral", "mpt", "olmo", "olmo2", "olmoe", "opt", "phi", "phi3", "phimoe"}
            | {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"}
        ),
        instance_families=AMPERE,
        dialect="lmi-async-vllm",
        features=frozenset(
            {"adapters", "chat", "continue", "json", "logit_bias", "logprobs", "min_p", "penalties"}
            | {"repetition_penalty", "seed", "stop", "tools", "top_k", "top_logprobs", "usage"}
        ),
        quantizations=frozenset({"awq", "gptq", "fp8", "bitsandbytes-4bit"}),
        device_memory_fraction=_MEMORY_FRACTION,
        components=MappingProxyType({"lmi": "29.0.0", "cuda": "13.0"}),
        inference_ami_versions=CUDA_13_AMI,
        supports_adapters=True,
        limits=(
            (
                "Needs SageMaker's inference AMI gpu-3-1 or newer (CUDA 13); that it exists for every family here "
                "is NOT VERIFIED."
            ),
            (
                "Which vLLM is inside is NOT VERIFIED: LMI 28.0.0 has 0.26.0, whose model list is taken. GPTBigCode, "
                "OLMo, OLMo 2, SmolLM3 and StarCoder2 run through its transformers backend there."
            ),
            "g4dn is left out: NOT VERIFIED with CUDA 13.",
            (
                "Refuses tool_choice auto without the options enable_auto_tool_choice and tool_call_parser; required "
                "and named tools need none."
            ),
            (
                "Makes embeddings only with the option task=text-embedding, and then nothing else: not among its "
                "features."
            ),
            "AWQ and GPTQ need weights that are quantised already; FP8 and bitsandbytes quantise while loading.",
        ),
        sources=(
            "sagemaker-core 2.27.0: image_uri_config/djl-lmi.json",
            "deepjavalibrary/djl-serving@d21927c: vllm_rb_properties.py, LmiConfigRecommender.java, vllm_user_guide.md",
            "deepjavalibrary/djl-serving@d21927c: lmi_vllm/request_response_utils.py, vllm_async_service.py (requests)",
            "vllm 0.26.0's wheel: model_executor/models/registry.py, config/lora.py",
            "aws/deep-learning-containers@e0ecede: docs/src/data/djl-inference/0.36-lmi28.0.0-gpu.yml",
        ),
    ),
}


class LmiVllm(LmiEngine):
    """vLLM 0.2.7 (LMI 0.26.0) and today's."""

    name = "lmi-vllm"
    title = "LMI with vLLM: most decoders, on GPUs, paged KV cache"
    versions: Mapping[str, EngineVersion] = MappingProxyType(_VERSIONS)

    def properties(self, version: str, model: Model, serving: Serving) -> ServingProperties:
        """0.26.0 asserts ``engine=Python`` (its documentation says MPI)."""
        del model
        first = version == _FIRST
        backend: dict[str, Option] = {"max_model_len": serving.sequence_length}
        if not first:
            backend |= {"async_mode": True, "gpu_memory_utilization": _MEMORY_FRACTION}
        if serving.adapters is not None:
            count = serving.adapters.count
            backend |= {
                "enable_lora": True,
                "max_loras": count,
                "max_cpu_loras": count,
                "max_lora_rank": serving.adapters.rank,
            }
        return ServingProperties(
            engine="Python",
            entry_point=None if first else "djl_python.lmi_vllm.vllm_async_service",
            rolling_batch="vllm" if first else "disable",
            tensor_parallel_degree=serving.tensor_parallel_degree,
            max_rolling_batch_size=serving.batch_size,
            model_loading_timeout=serving.health_check_timeout_seconds,
            dtype=serving.dtype,
            quantize=serving.quantization if first else _QUANTIZE.get(serving.quantization or ""),
            output_formatter="jsonlines" if first else None,
            backend=backend,
            options=serving.options,
        )

    def check_backend(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """AWQ's dtype, the prefill budget, and LoRA ranks."""
        del model
        if version == _FIRST and serving.quantization == "awq" and serving.dtype != "fp16":
            yield Refusal(
                key="dtype",
                value=serving.dtype,
                problem="cannot be combined with quantization awq: vLLM 0.2.7 computes AWQ in fp16 only",
                fix="use fp16",
            )
        budget = serving.options.get("max_rolling_batch_prefill_tokens")
        if version == _FIRST and isinstance(budget, int) and budget < serving.sequence_length:
            yield Refusal(
                key="options.max_rolling_batch_prefill_tokens",
                value=budget,
                problem=f"is less than sequence_length {serving.sequence_length}: vLLM 0.2.7 refuses to start",
                fix=f"use at least {serving.sequence_length}, or leave it out",
            )
        if serving.adapters is not None and serving.adapters.rank not in _LORA_RANKS:
            yield Refusal(
                key="adapters.rank",
                value=serving.adapters.rank,
                problem="is not a rank that vLLM has kernels for",
                fix=f"use one of: {', '.join(map(str, _LORA_RANKS))}; the largest rank of your adapters or above",
            )
