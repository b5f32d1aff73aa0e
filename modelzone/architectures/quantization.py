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
# The planner sizes these for 4 bits in groups of 128; -1 is one group for each row, which takes less.
_GROUPED = frozenset({"awq", "gptq"})
_GROUPED_BITS = 4
_GROUP_SIZES = (128, -1)


def quantization_of(config: Mapping[str, Any], *, source: str = "config.json") -> str | None:
    """Name the method of a config's ``quantization_config``; None when the weights are not quantised.

    Raises
    ------
    SettingsError
        The method, its width or its groups have no name in profiles; names the key and its value.
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
    if name in _GROUPED:
        _check_groups(values, name)
    return name


def _check_groups(values: ConfigValues, name: str) -> None:
    """Absent keys are as good as the defaults, which are 4 bits and groups of 128."""
    for key, wanted in (("bits", (_GROUPED_BITS,)), ("group_size", _GROUP_SIZES)):
        value = values.values.get(key)
        if value is not None and value not in wanted:
            values.refuse(
                key,
                f"is {value!r}: profiles know {name} with {_GROUPED_BITS} bits in groups of 128 only, and other "
                "weights take another size",
                fix=f"take a checkpoint in {_GROUPED_BITS} bits with groups of 128",
            )


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
