"""LMI-Dist, AWS's own rolling batch of 0.26.0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import EngineVersion
from modelzone.engines.lmi import AMPERE, JSONLINES_0_26, LMI_0_26, LmiEngine
from modelzone.engines.serving_properties import ServingProperties
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Quantization, Serving

__all__ = ["LmiDist"]

_QUANTIZE: dict[Quantization | None, str] = {"awq": "awq", "gptq": "gptq", "bitsandbytes-8bit": "bitsandbytes8"}

_VERSION = EngineVersion(
    version="0.26.0",
    model_types=frozenset({"falcon", "gpt2", "gpt_bigcode", "gpt_neox", "llama", "mistral", "mixtral", "mpt"}),
    instance_families=AMPERE,
    dialect="lmi-jsonlines",
    # lmi_dist_rolling_batch.py reads these; presence and frequency penalties it does not.
    features=frozenset({"logprobs", "repetition_penalty", "seed", "stop", "top_k"}),
    quantizations=frozenset({"awq", "gptq", "bitsandbytes-8bit"}),
    device_memory_fraction=0.9,
    components=MappingProxyType({"djl-serving": "0.26.0", "lmi-dist": "8.0.0", "cuda": "12.1"}),
    limits=(
        JSONLINES_0_26,
        "LMI-Dist exists up to LMI 14 (0.32.0); 0.33.0 removed it and starts vLLM instead.",
        "Quantised models compute in fp16: LMI-Dist refuses dtype beside quantize.",
        "Has no key for the longest sequence: the server does not hold sequence_length, clients must.",
        "Its share of the GPU's memory is NOT VERIFIED (0.9 assumed): its wheel is not published.",
        "Starts one copy of the model for every tensor_parallel_degree GPUs, each with its own batch.",
    ),
    sources=(
        f"{LMI_0_26}: lmi_dist_rb_properties.py, lmi_dist_rolling_batch.py, huggingface.py",
        f"{LMI_0_26}: tests/integration/llm/prepare.py (models)",
        "deepjavalibrary/djl-serving@d21927c: serving/docs/lmi/announcements/breaking_changes.md",
    ),
)


class LmiDist(LmiEngine):
    """LMI-Dist 8.0.0."""

    name = "lmi-dist"
    title = "LMI with LMI-Dist: decoders on GPUs, for uneven traffic (superseded by vLLM)"
    versions: Mapping[str, EngineVersion] = MappingProxyType({_VERSION.version: _VERSION})

    def properties(self, version: str, model: Model, serving: Serving) -> ServingProperties:
        """MPI, which it asserts for more than one GPU and ``auto`` asks for everywhere."""
        del version, model
        return ServingProperties(
            engine="MPI",
            rolling_batch="lmi-dist",
            tensor_parallel_degree=serving.tensor_parallel_degree,
            max_rolling_batch_size=serving.batch_size,
            model_loading_timeout=serving.health_check_timeout_seconds,
            dtype=None if serving.quantization else serving.dtype,
            quantize=_QUANTIZE.get(serving.quantization),
            output_formatter="jsonlines",
            options=serving.options,
        )

    def check_backend(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """``quantize`` and ``dtype`` together are refused when the server starts."""
        del model
        if serving.quantization and serving.dtype != "fp16":
            yield Refusal(
                key="dtype",
                value=serving.dtype,
                problem=f"cannot be combined with quantization {serving.quantization}: {self.name} {version} takes no "
                "dtype for quantised models and computes in fp16",
                fix="use fp16",
            )
