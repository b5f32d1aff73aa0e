"""transformers-neuronx in AWS's LMI container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import EngineVersion
from modelzone.engines.lmi import LMI_0_26, LmiEngine
from modelzone.engines.serving_properties import ServingProperties
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = ["LmiNeuronx"]

_FIRST = "0.26.0"
_CONTINUOUS = frozenset({"llama", "mistral"})
_ALL = frozenset({"bloom", "gpt2", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "opt"})
_AMI = "/aws/service/neuron/dlami/base/ubuntu-22.04/latest/image_id"
_COMPILES = (
    "Compiles while it starts, within the health check timeout and the endpoint's own host memory; this project "
    "compiles nothing for it ahead of time."
)
_DRIVER = "Runs with Neuron drivers up to 2.28 only (inferred: 2.29 needs runtime 2.33)."


def _later(
    version: str, *, sdk: str, transformers_neuronx: str, neuronx_cc: str, commit: str, limit: str
) -> EngineVersion:
    return EngineVersion(
        version=version,
        model_types=_ALL,
        static_batch_types=_ALL - _CONTINUOUS,
        instance_families=frozenset({"inf2", "trn1"}),
        dialect="lmi-rolling-batch",
        # slot.py reads these. Its chat route is left out: it fills in a presence penalty of 0 and turns that into a
        # repetition penalty of 2.
        features=frozenset({"logprobs", "repetition_penalty", "seed", "top_k"}),
        quantizations=frozenset({"int8"}),
        components=MappingProxyType(
            {
                "djl-serving": version,
                "neuron-sdk": sdk,
                "transformers-neuronx": transformers_neuronx,
                "neuronx-cc": neuronx_cc,
            }
        ),
        compile_ami_parameters=MappingProxyType({"inf2": _AMI, "trn1": _AMI}),
        limits=(
            limit,
            _COMPILES,
            "Ignores stop sequences: the gateway cannot end a generation with one.",
            "Batches of other types than Llama and Mistral start again with every new prompt (naive_rolling_batch).",
            _DRIVER,
        ),
        sources=(
            (
                f"deepjavalibrary/djl-serving@{commit} ({version}-dlc): transformers_neuronx.py, tnx_properties.py, "
                "neuron_utils/model_loader.py, serving/docker/pytorch-inf2.Dockerfile"
            ),
        ),
    )


_VERSIONS = {
    _FIRST: EngineVersion(
        version=_FIRST,
        model_types=_CONTINUOUS,
        instance_families=frozenset({"inf2", "trn1"}),
        dialect="lmi-json",
        # optimum_neuron_scheduler.py reads these; seeds and stop sequences are marked as to be done there.
        features=frozenset({"repetition_penalty", "top_k"}),
        quantizations=frozenset({"int8"}),
        components=MappingProxyType(
            {
                "djl-serving": "0.26.0",
                "neuron-sdk": "2.16.0",
                "transformers-neuronx": "0.9.474",
                "neuronx-cc": "2.12.54.0",
            }
        ),
        compile_ami_parameters=MappingProxyType({"inf2": _AMI, "trn1": _AMI}),
        limits=(
            "Ignores output_formatter: a stream is one JSON document in pieces.",
            "Ignores seeds and stop sequences, and reports no log probabilities.",
            "Rolling batch for Llama and Mistral only; AWS's guide stops at batch size 4.",
            _COMPILES,
            _DRIVER,
        ),
        sources=(
            f"{LMI_0_26}: tnx_properties.py, transformers_neuronx.py, neuron_rolling_batch.py, tnx_tuning_guide.md",
            f"{LMI_0_26}: serving/docker/pytorch-inf2.Dockerfile",
        ),
    ),
    "0.29.0": _later(
        "0.29.0", sdk="2.19.1", transformers_neuronx="0.11.351", neuronx_cc="2.14.227.0", commit="58eb48b",
        limit="The last Neuron container that the SageMaker SDK knows.",
    ),
    "0.30.0": _later(
        "0.30.0", sdk="2.20.1", transformers_neuronx="0.12.313", neuronx_cc="2.15.141.0", commit="fefd40e",
        limit="The last LMI container with Neuron. The SageMaker SDK does not know it; its tag is in LMI's own "
        "documentation, its regions are NOT VERIFIED.",
    ),
}  # fmt: skip


class LmiNeuronx(LmiEngine):
    """transformers-neuronx on Inferentia2 and Trainium."""

    name = "lmi-neuronx"
    title = "LMI with transformers-neuronx: older decoders on Inferentia2, compiled when it starts"
    versions: Mapping[str, EngineVersion] = MappingProxyType(_VERSIONS)

    def properties(self, version: str, model: Model, serving: Serving) -> ServingProperties:
        """``n_positions`` holds prompt and answer; its default would be 128."""
        del model
        first = version == _FIRST
        return ServingProperties(
            engine="Python",
            entry_point="djl_python.transformers_neuronx",
            # Later versions take "auto" for vLLM from a batch of 12.
            rolling_batch="auto" if first else "tnx",
            tensor_parallel_degree=serving.tensor_parallel_degree,
            max_rolling_batch_size=serving.batch_size,
            model_loading_timeout=serving.health_check_timeout_seconds,
            dtype=serving.dtype,
            quantize="static_int8" if serving.quantization == "int8" else None,
            backend={"n_positions": serving.sequence_length},
            options=serving.options,
        )

    def check_backend(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """Continuous batching takes one bucket, as long as the whole sequence."""
        estimate = serving.options.get("context_length_estimate")
        wanted = str(serving.sequence_length)
        if version == _FIRST and estimate is not None and str(estimate) != wanted:
            yield Refusal(
                key="options.context_length_estimate",
                value=estimate,
                problem=f"has to be sequence_length {wanted} with a rolling batch: {self.name} {version} refuses to "
                f"start a {model.architecture.type} model",
                fix="leave it out",
            )
