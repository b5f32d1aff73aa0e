"""Engines: container families that serve models."""

from modelzone.engines.base import Compiler, Engine, EngineVersion
from modelzone.engines.images import image_account, image_regions, image_uri, known_image
from modelzone.engines.registry import ENGINES, versions_serving
from modelzone.engines.serving_properties import render_properties
from modelzone.engines.table import engines_table

__all__ = [
    "ENGINES",
    "Compiler",
    "Engine",
    "EngineVersion",
    "engines_table",
    "image_account",
    "image_regions",
    "image_uri",
    "known_image",
    "render_properties",
    "versions_serving",
]
