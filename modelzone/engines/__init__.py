"""Engines: container families that serve models."""

from modelzone.engines.base import Engine, EngineVersion
from modelzone.engines.images import image_account, image_uri, known_image
from modelzone.engines.registry import ENGINES

__all__ = ["ENGINES", "Engine", "EngineVersion", "image_account", "image_uri", "known_image"]
