"""Hugging Face's Text Generation Inference for Neuron, in AWS's Deep Learning Container.

Sources: optimum-neuron's wheels (parser of ``optimum-cli export neuron``) and ``tgi_env.py``; see docs/inferentia.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modelzone.engines.base import EngineVersion
from modelzone.settings.model_profile import Serving

__all__ = ["TgiNeuronx"]

# Decoders that this project has numbers for; optimum-neuron's own list is longer.
_VERSIONS = {
    version: EngineVersion(
        version=version, model_types=frozenset({"llama", "mistral", "mixtral"}), dialect="tgi-generate"
    )
    for version in ("0.0.25",)
}
# SageMaker puts the objects of ModelDataSource here.
_MODEL_FOLDER = "/opt/ml/model"


class TgiNeuronx:
    """TGI 2.1.1 (container 0.0.25) on Inferentia2."""

    name = "tgi-neuronx"
    families = frozenset({"inf2"})
    versions: Mapping[str, EngineVersion] = MappingProxyType(_VERSIONS)

    def container_environment(self, serving: Serving) -> dict[str, str]:
        """Variables of the entrypoint.

        The batch size and the token limits are left to the artifact, which has them compiled in. ``MAX_INPUT_LENGTH``
        must not stand beside ``MAX_INPUT_TOKENS`` (the launcher refuses both), and with ``MESSAGES_API_ENABLED`` the
        ``/invocations`` route of TGI 2.1.1 would answer chat requests only, so the gateway renders the chat template.
        """
        del serving
        return {"HF_MODEL_ID": _MODEL_FOLDER}

    def export_command(self, serving: Serving) -> tuple[str, ...]:
        """``optimum-cli export neuron`` from a local snapshot: only then are the weights part of the artifact."""
        return (
            "optimum-cli", "export", "neuron",
            "--model", "{model}",
            "--task", "text-generation",
            "--batch_size", str(serving.batch_size),
            "--sequence_length", str(serving.sequence_length),
            "--auto_cast_type", serving.dtype,
            "--num_cores", str(serving.tensor_parallel_degree),
            "{output}",
        )  # fmt: skip
