"""CLIP towers, traced with torch-neuronx, in Hugging Face's PyTorch container for Neuron."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.architectures import Clip
from modelzone.engines.base import Compiler, EngineVersion
from modelzone.engines.defaults import EngineDefaults
from modelzone.engines.environment import check_no_options, check_secrets
from modelzone.engines.shapes import BATCH_SIZE
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = ["ClipNeuronx"]

_AMI = "/aws/service/neuron/dlami/base/ubuntu-22.04/latest/image_id"

_VERSION = EngineVersion(
    version="2.8.0",
    model_types=frozenset({"clip", "eva02_clip"}),
    instance_families=frozenset({"inf2", "trn1"}),
    dialect="clip",
    compiler=Compiler(tool="torch-neuronx", artifact_layout="traced-modules"),
    components=MappingProxyType({"torch": "2.8.0", "transformers": "4.55.4", "neuron-sdk": "2.26.0"}),
    compile_ami_parameters=MappingProxyType({"inf2": _AMI, "trn1": _AMI}),
    limits=(
        "EVA-02 is not exportable by optimum-neuron: no command compiles it here, its towers are traced by hand.",
        "Image size, text length and batch are fixed by the trace.",
        "Towers are replicated over the NeuronCores, not sharded.",
        "The largest EVA towers (ViT-G) failed in the compiler (aws-neuron-sdk issue 1326).",
        "Which optimum-neuron the image has is NOT VERIFIED; the export's flags are the same from 0.3.0 to 0.4.5.",
        "Runs with Neuron drivers up to 2.28 only (inferred).",
    ),
    sources=(
        "aws/deep-learning-containers@e0ecede: docs/src/data/huggingface-pytorch-inference-neuronx",
        "sagemaker-core 2.27.0: image_uri_config/huggingface-neuronx.json",
        "optimum-neuron 0.4.5's wheel: optimum/exporters/neuron/model_configs.py (CLIPNeuronConfig)",
    ),
)


class ClipNeuronx(EngineDefaults):
    """PyTorch 2.8 with the Neuron SDK 2.26."""

    name = "clip-neuronx"
    title = "CLIP and EVA-02 CLIP traced for Inferentia2: embeddings of images and texts"
    versions: Mapping[str, EngineVersion] = MappingProxyType({_VERSION.version: _VERSION})

    def check(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """Secrets, and options, which nothing would read."""
        del model
        yield from check_no_options(serving, engine=f"{self.name} {version}")
        yield from check_secrets(serving)

    def export_command(self, version: str, model: Model, serving: Serving) -> tuple[str, ...] | None:
        """``optimum-cli`` for CLIP; None for EVA-02, which optimum-neuron does not know."""
        del version
        towers = model.architecture
        if not isinstance(towers, Clip) or towers.type != "clip":
            return None
        batch, size = BATCH_SIZE, str(towers.image_size)
        return (
            "optimum-cli", "export", "neuron",
            "--model", "{model}",
            "--task", "feature-extraction",
            "--text_batch_size", batch,
            "--image_batch_size", batch,
            "--sequence_length", str(towers.context_length),
            "--num_channels", str(towers.image_channels),
            "--width", size,
            "--height", size,
            "--auto_cast", "matmul",
            "--auto_cast_type", serving.dtype,
            "{output}",
        )  # fmt: skip
