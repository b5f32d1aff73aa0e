"""Models and servings for the tests of the engines."""

from __future__ import annotations

from typing import Any

import msgspec

from modelzone.engines import ENGINES
from modelzone.engines.shapes import artifact_values, fill_shapes
from modelzone.settings.model_profile import Model, Serving

_SHAPES = {
    "layers": 32,
    "hidden_size": 4096,
    "attention_heads": 32,
    "key_value_heads": 8,
    "intermediate_size": 14336,
    "vocabulary_size": 32000,
    "context_length": 32768,
}
_TOWER = {"layers": 12, "width": 768, "heads": 12, "intermediate_size": 3072}


def decoder(kind: str = "llama") -> Model:
    return _model({"kind": "decoder", "type": kind, **_SHAPES})


def clip(kind: str = "clip") -> Model:
    towers = {"image": _TOWER, "text": _TOWER, "image_size": 224, "patch_size": 16, "embedding_size": 512}
    return _model({"kind": "clip", "type": kind, **towers, "vocabulary_size": 49408, "context_length": 77})


def _model(architecture: dict[str, Any]) -> Model:
    data = {"hub_id": "some/model", "revision": "0" * 40, "license": "apache-2.0", "gated": False}
    return msgspec.convert({**data, "architecture": architecture}, Model)


def serving(engine: str, version: str, **changes: Any) -> Serving:
    """A serving as a profile's file would have it."""
    data = {
        "engine": engine,
        "engine_version": version,
        "instance_type": "ml.inf2.24xlarge",
        "tensor_parallel_degree": 8,
        "batch_size": 4,
        "sequence_length": 4096,
        "max_input_tokens": 3072,
        "dtype": "bf16",
        "health_check_timeout_seconds": 1800,
        "download_timeout_seconds": 3600,
    }
    return msgspec.convert({**data, **changes}, Serving)


def exported(engine: str, version: str, model: Model, given: Serving) -> tuple[str, ...] | None:
    """The export command with the shapes filled in, as the compile job runs it."""
    command = ENGINES[engine].export_command(version, model, given)
    return None if command is None else fill_shapes(command, artifact_values(given))
