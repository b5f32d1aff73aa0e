"""CLIP, as transformers writes it, and EVA-02 CLIP, as open_clip writes it."""

from __future__ import annotations

from modelzone.architectures.clip import Clip, ClipTower
from modelzone.architectures.config_values import ConfigValues
from modelzone.errors import SettingsError
from modelzone.resources import read_data

__all__ = ["clip", "eva02_clip"]

_FACTOR = 4


def clip(config: ConfigValues) -> Clip:
    """OpenAI's CLIP and its retrained relatives. A part that is left out of a config is as in ViT-B/32."""
    text, vision = _part(config, "text_config"), _part(config, "vision_config")
    try:
        return Clip(
            type="clip",
            image=_tower(vision, width=768, heads=12),
            text=_tower(text, width=512, heads=8),
            image_size=vision.number("image_size", default=224),
            patch_size=vision.number("patch_size", default=32),
            image_channels=vision.number("num_channels", default=3),
            vocabulary_size=text.number("vocab_size", default=49408),
            context_length=text.number("max_position_embeddings", default=77),
            embedding_size=config.number("projection_dim", default=512),
        )
    except ValueError as error:
        raise _contradiction(config, error) from None


def _part(config: ConfigValues, key: str) -> ConfigValues:
    """Read a tower's config; older files repeat it under ``<key>_dict``, which then wins."""
    part, override = config.nested(key), config.nested(f"{key}_dict")
    return ConfigValues({**part.values, **override.values}, source=config.source, prefix=part.prefix)


def _tower(config: ConfigValues, *, width: int, heads: int) -> ClipTower:
    return ClipTower(
        layers=config.number("num_hidden_layers", default=12),
        width=config.number("hidden_size", default=width),
        heads=config.number("num_attention_heads", default=heads),
        intermediate_size=config.number("intermediate_size", default=_FACTOR * width),
    )


def eva02_clip(config: ConfigValues) -> Clip:
    """EVA-02 CLIP: its image tower is named after a model of timm, the text tower is CLIP's."""
    model = config.nested("model_cfg")
    vision, text = model.nested("vision_cfg"), model.nested("text_cfg")
    towers = read_data("modelzone.architectures", "eva02_towers.yaml")["towers"]
    name = vision.values.get("timm_model_name")
    if name not in towers:
        vision.refuse("timm_model_name", f"{name!r} is not known", fix=f"known: {', '.join(towers)}")
    facts = towers[name]
    width = text.number("width")
    try:
        return Clip(
            type="eva02_clip",
            image=ClipTower(**facts["tower"], key_bias=False),
            text=ClipTower(
                layers=text.number("layers"),
                width=width,
                heads=text.number("heads"),
                intermediate_size=_FACTOR * width,
            ),
            image_size=vision.number("image_size"),
            patch_size=facts["patch_size"],
            vocabulary_size=text.number("vocab_size"),
            context_length=text.number("context_length"),
            embedding_size=model.number("embed_dim"),
            image_pre_norm=False,
            image_biases=True,
        )
    except ValueError as error:
        raise _contradiction(config, error) from None


def _contradiction(config: ConfigValues, error: ValueError) -> SettingsError:
    return SettingsError(
        source=config.source,
        problem=f"its numbers contradict each other: {error}",
        fix="take the file from the model's own repository, unchanged",
    )
