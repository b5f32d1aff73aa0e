"""DeepSpeed inference in AWS's LMI container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import EngineVersion
from modelzone.engines.lmi import AMPERE, JSONLINES_0_26, LMI_0_26, LmiEngine
from modelzone.engines.serving_properties import ServingProperties
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = ["LmiDeepSpeed"]

_QUANTIZE = {"int8": "dynamic_int8", "smoothquant": "smoothquant"}
_SMOOTHQUANT_TYPES = frozenset({"bloom", "gpt2", "gpt_neox", "gptj", "llama"})

_VERSION = EngineVersion(
    version="0.26.0",
    # The rolling batch works with kernel injection only, and that with these types.
    model_types=_SMOOTHQUANT_TYPES | {"opt"},
    instance_families=AMPERE,
    dialect="lmi-jsonlines",
    # deepspeed_rolling_batch.py reads these; presence and frequency penalties it does not.
    features=frozenset({"logprobs", "repetition_penalty", "seed", "stop", "top_k"}),
    quantizations=frozenset({"int8", "smoothquant"}),
    device_memory_fraction=0.9,
    components=MappingProxyType({"djl-serving": "0.26.0", "deepspeed": "0.12.6", "cuda": "12.1"}),
    limits=(
        JSONLINES_0_26,
        "DeepSpeed exists up to LMI 0.27.0; later containers have none.",
        (
            "AWS's tests of its rolling batch cover GPT-NeoX, Llama and GPT-2 only; grouped-query attention "
            "(Llama 2 70B, Llama 3) is NOT VERIFIED."
        ),
        "Its share of the GPU's memory is NOT VERIFIED (0.9 assumed).",
        "Starts one copy of the model for every tensor_parallel_degree GPUs, each with its own batch.",
    ),
    sources=(
        f"{LMI_0_26}: ds_properties.py, deepspeed.py, deepspeed_rolling_batch.py",
        "deepjavalibrary/djl-serving@7805e15 (0.28.0-dlc): serving/docs/lmi/announcements/deepspeed-deprecation.md",
        "sagemaker-core 2.27.0: image_uri_config/djl-deepspeed.json",
    ),
)


class LmiDeepSpeed(LmiEngine):
    """DeepSpeed 0.12.6."""

    name = "lmi-deepspeed"
    title = "LMI with DeepSpeed: older decoders on GPUs (discontinued)"
    versions: Mapping[str, EngineVersion] = MappingProxyType({_VERSION.version: _VERSION})

    def properties(self, version: str, model: Model, serving: Serving) -> ServingProperties:
        """``max_tokens`` holds prompt and answer; its default would be 1024, and the batch's 4."""
        del version, model
        return ServingProperties(
            engine="DeepSpeed",
            rolling_batch="deepspeed",
            tensor_parallel_degree=serving.tensor_parallel_degree,
            max_rolling_batch_size=serving.batch_size,
            model_loading_timeout=serving.health_check_timeout_seconds,
            dtype=serving.dtype,
            quantize=_QUANTIZE.get(serving.quantization or ""),
            output_formatter="jsonlines",
            backend={"max_tokens": serving.sequence_length},
            options=serving.options,
        )

    def check_backend(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """SmoothQuant's dtype, types and strength."""
        kind = model.architecture.type
        smooth = serving.quantization == "smoothquant"
        if smooth and serving.dtype == "bf16":
            yield Refusal(
                key="dtype",
                value=serving.dtype,
                problem=f"cannot be combined with quantization smoothquant: {self.name} {version} refuses to start",
                fix="use fp16",
            )
        if smooth and kind not in _SMOOTHQUANT_TYPES:
            yield Refusal(
                key="quantization",
                value=serving.quantization,
                problem=f"is not possible for {kind} models",
                fix=f"leave it out, or use int8; SmoothQuant serves: {', '.join(sorted(_SMOOTHQUANT_TYPES))}",
            )
        alpha = serving.options.get("smoothquant_alpha")
        if alpha is None:
            return
        in_range = isinstance(alpha, int | float) and not isinstance(alpha, bool) and 0 <= alpha <= 1
        if not smooth or not in_range:
            yield Refusal(
                key="options.smoothquant_alpha",
                value=alpha,
                problem=f"is a number from 0 to 1 for quantization smoothquant; quantization is {serving.quantization}",
                fix="leave it out" if not smooth else "use a number from 0 to 1",
            )
