"""What a ``config.json`` says about quantised weights, by the names that profiles use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelzone.architectures.config_values import ConfigValues

__all__ = ["quantization_of"]

# Methods that have one name whatever their other settings are. fbgemm_fp8 is fp8 as servers see it.
_METHODS = {
    "awq": "awq",
    "gptq": "gptq",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "eetq": "eetq",
    "smoothquant": "smoothquant",
}
_NAMES = sorted({*_METHODS.values(), "bitsandbytes-4bit", "bitsandbytes-8bit", "hqq-4bit"})
_HQQ_BITS = 4
_FP8_BITS = 8


def quantization_of(config: Mapping[str, Any], *, source: str = "config.json") -> str | None:
    """Name the method of a config's ``quantization_config``; None when the weights are not quantised.

    Raises
    ------
    SettingsError
        The method or its width has no name in profiles; names it.
    """
    if config.get("quantization_config") is None:
        return None
    values = ConfigValues(config, source=source).nested("quantization_config")
    method = values.values.get("quant_method")
    name = _METHODS.get(method) if isinstance(method, str) else None
    if name is None:
        name = {"bitsandbytes": _bitsandbytes, "hqq": _hqq, "compressed-tensors": _compressed}.get(
            str(method), lambda _: None
        )(values)
    if name is None:
        values.refuse(
            "quant_method",
            f"{method!r}, as it is set up here, is not a quantisation that profiles know",
            fix=f"known: {', '.join(_NAMES)}",
        )
    return name


def _bitsandbytes(values: ConfigValues) -> str | None:
    if values.flag("load_in_8bit", default=False):
        return "bitsandbytes-8bit"
    return "bitsandbytes-4bit" if values.flag("load_in_4bit", default=False) else None


def _hqq(values: ConfigValues) -> str | None:
    weights = values.nested("quant_config").nested("weight_quant_params")
    return "hqq-4bit" if weights.values.get("nbits") == _HQQ_BITS else None


def _compressed(values: ConfigValues) -> str | None:
    """Name it fp8 when all groups of layers hold 8-bit floats; other formats have no name."""
    groups = values.nested("config_groups").values
    kinds = set()
    for group in groups:
        weights = values.nested("config_groups").nested(group).nested("weights").values
        kinds.add((weights.get("type"), weights.get("num_bits")))
    return "fp8" if kinds == {("float", _FP8_BITS)} else None
