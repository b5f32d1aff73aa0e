"""The facts that identify an artifact. The same rule stands in ``modelzone.artifacts`` and ``compile_job``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

__all__ = ["FACT_NAMES", "SHAPING", "artifact_key", "artifact_prefix", "describe", "weights_prefix"]

FACT_NAMES = (
    "engine",
    "engine_version",
    "model_id",
    "model_revision",
    "instance_family",
    "tensor_parallel_degree",
    "batch_size",
    "sequence_length",
    "dtype",
)
# Parameters of the stack that shape the artifact, and the fact that each of them is.
SHAPING = {
    "ModelId": "model_id",
    "ModelRevision": "model_revision",
    "TensorParallelDegree": "tensor_parallel_degree",
    "BatchSize": "batch_size",
    "SequenceLength": "sequence_length",
}

_KEY_DIGITS = 20


def artifact_key(facts: Mapping[str, str]) -> str:
    """Return the first 20 hexadecimal digits of the SHA-256 of the facts as canonical JSON."""
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def artifact_prefix(facts: Mapping[str, str]) -> str:
    """Return ``compiled/<model>/<key>/``, the place of the artifact in the bucket."""
    return f"compiled/{_slug(facts)}/{artifact_key(facts)}/"


def weights_prefix(facts: Mapping[str, str]) -> str:
    """Return ``weights/<model>/<revision>/``, the place of the model's mirrored weights in the bucket."""
    return f"weights/{_slug(facts)}/{facts['model_revision']}/"


def describe(facts: Mapping[str, str]) -> str:
    """Return the facts in words."""
    return ", ".join(f"{name} {facts[name]}" for name in FACT_NAMES)


def _slug(facts: Mapping[str, str]) -> str:
    return facts["model_id"].lower().replace("/", "--")
