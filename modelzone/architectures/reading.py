"""From a ``config.json`` to an architecture. A model type more is one reader and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from modelzone.architectures.clip import Clip
from modelzone.architectures.config_values import ConfigValues
from modelzone.architectures.decoder import Decoder
from modelzone.architectures.readers import dense, earlier, experts, image_text
from modelzone.errors import SettingsError

__all__ = ["MODEL_TYPES", "Architecture", "read_config"]

Architecture = Decoder | Clip

_READERS: Mapping[str, Callable[[ConfigValues], Architecture]] = MappingProxyType(
    {
        "bloom": earlier.bloom,
        "clip": image_text.clip,
        "codegen": earlier.gptj,
        "cohere": dense.cohere,
        "cohere2": dense.cohere2,
        "deepseek_v2": experts.deepseek_v2,
        "deepseek_v3": experts.deepseek_v3,
        "eva02_clip": image_text.eva02_clip,
        "falcon": earlier.falcon,
        "gemma": dense.gemma,
        "gemma2": dense.gemma2,
        "gemma3_text": dense.gemma3_text,
        "glm": dense.glm,
        "glm4": dense.glm4,
        "gpt2": earlier.gpt2,
        "gpt_bigcode": earlier.gpt_bigcode,
        "gpt_neox": earlier.gpt_neox,
        "gpt_oss": experts.gpt_oss,
        "gptj": earlier.gptj,
        "granite": dense.llama,
        "granitemoe": experts.granitemoe,
        "llama": dense.llama,
        "llama4_text": experts.llama4_text,
        "mistral": dense.mistral,
        "mixtral": experts.mixtral,
        "mpt": earlier.mpt,
        "olmo": dense.olmo,
        "olmo2": dense.olmo2,
        "olmoe": experts.olmoe,
        "opt": earlier.opt,
        "phi": earlier.phi,
        "phi3": dense.phi3,
        "phimoe": experts.phimoe,
        "qwen2": dense.qwen2,
        "qwen2_moe": experts.qwen2_moe,
        "qwen3": dense.qwen3,
        "qwen3_moe": experts.qwen3_moe,
        "smollm3": dense.smollm3,
        "stablelm": earlier.stablelm,
        "starcoder2": dense.starcoder2,
    }
)
MODEL_TYPES = frozenset(_READERS)


def read_config(config: Mapping[str, Any], *, source: str) -> Architecture:
    """Read the numbers of a model.

    Parameters
    ----------
    config
        A ``config.json`` of transformers, or an ``open_clip_config.json``.
    source
        The file, for messages.

    Raises
    ------
    SettingsError
        The type of the model is not known, or a value is missing or has the wrong form; names file and key.
    """
    # open_clip names no type; all of its configs have this key, and the reader refuses towers that it does not know.
    model_type = "eva02_clip" if "model_cfg" in config else config.get("model_type")
    values = ConfigValues(config, source=source)
    if not isinstance(model_type, str):
        problem = "is required and missing" if model_type is None else f"is {model_type!r}"
        values.refuse("model_type", problem, fix="give the config.json of a transformers model")
    reader = _READERS.get(model_type)
    if reader is None:
        raise _unknown(model_type, config, source=source)
    return reader(values)


def _unknown(model_type: str, config: Mapping[str, Any], *, source: str) -> SettingsError:
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        text_type = inner.get("model_type")
        return SettingsError(
            source=source,
            key="model_type",
            problem=f"{model_type!r} is a model of several parts (its text part: {text_type!r}); their sizes together "
            "are not known",
            fix="take a text-only release of the model" + (f" ({text_type})" if text_type in MODEL_TYPES else ""),
        )
    near = difflib.get_close_matches(model_type, MODEL_TYPES, n=1)
    return SettingsError(
        source=source,
        key="model_type",
        problem=f"{model_type!r} is not a model type whose size is known",
        fix=(f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(sorted(MODEL_TYPES))}",
    )
