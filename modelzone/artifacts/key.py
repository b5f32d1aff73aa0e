"""The identity of a compiled artifact.

The same rule stands in ``lambda/compiled_artifact`` and ``compile_job``, which are shipped alone; a test holds the
three to one another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

__all__ = ["ArtifactFacts", "artifact_key", "artifact_prefix", "weights_prefix"]

_KEY_DIGITS = 20


@dataclass(frozen=True, kw_only=True)
class ArtifactFacts:
    """Everything that goes into compilation, as text: two artifacts with equal facts are interchangeable."""

    engine: str
    engine_version: str
    model_id: str
    model_revision: str
    instance_family: str
    tensor_parallel_degree: str
    batch_size: str
    sequence_length: str
    dtype: str

    def as_dict(self) -> dict[str, str]:
        """The facts as the manifest holds them."""
        return asdict(self)


def artifact_key(facts: Mapping[str, str]) -> str:
    """First 20 hexadecimal digits of the SHA-256 of the facts as canonical JSON."""
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def artifact_prefix(facts: Mapping[str, str]) -> str:
    """``compiled/<model>/<key>/``, the place of the artifact in the model bucket."""
    return f"compiled/{_slug(facts['model_id'])}/{artifact_key(facts)}/"


def weights_prefix(model_id: str, revision: str) -> str:
    """``weights/<model>/<revision>/``, the place of the mirrored weights in the model bucket."""
    return f"weights/{_slug(model_id)}/{revision}/"


def _slug(model_id: str) -> str:
    return model_id.lower().replace("/", "--")
