"""Compiled artifacts: how they are identified, where they lie, who uses them, and how unused ones go."""

from modelzone.artifacts.key import ArtifactFacts, artifact_key, artifact_prefix, weights_prefix

__all__ = ["ArtifactFacts", "artifact_key", "artifact_prefix", "weights_prefix"]
