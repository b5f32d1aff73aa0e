"""Compiled artifacts: how they are identified and where they lie."""

from modelzone.artifacts.key import ArtifactFacts, artifact_key, artifact_prefix

__all__ = ["ArtifactFacts", "artifact_key", "artifact_prefix"]
