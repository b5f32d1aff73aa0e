"""What the container reads from its environment, and what it refuses to start with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzone.errors import ModelzoneError

__all__ = ["CHECKPOINT", "COMPILED", "ServerSettings", "read_settings"]

CHECKPOINT = "checkpoint"
COMPILED = "compiled"

# Variables that must hold the values that the model was compiled with (`env_config_peering` of tgi_env.py 0.0.25).
_COMPILED_IN = {
    "MAX_BATCH_SIZE": "batch_size",
    "MAX_TOTAL_TOKENS": "sequence_length",
    "HF_AUTO_CAST_TYPE": "auto_cast_type",
    "HF_NUM_CORES": "num_cores",
}
_FALSE = {"", "0", "n", "no", "f", "false", "off"}


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of a running server; the defaults are those of TGI 2.1.1.

    `token_delay` (seconds) slows decoding down to make streaming visible.
    """

    model_id: str
    max_batch_size: int
    max_input_tokens: int
    max_total_tokens: int
    max_batch_prefill_tokens: int
    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    messages_api_enabled: bool = False
    disable_grammar_support: bool = False
    token_delay: float = 0.0


def read_settings(environment: Mapping[str, str], folder: Path) -> ServerSettings:
    """Check the environment and the model's folder as the container does when it starts.

    The folder stands in for `/opt/ml/model`, where SageMaker puts the artifact.

    Raises
    ------
    ModelzoneError
        With the container's own message.
    """
    if not environment.get("HF_MODEL_ID"):
        raise ModelzoneError("HF_MODEL_ID must be set")
    if not environment.get("MAX_BATCH_SIZE"):
        raise ModelzoneError("MAX_BATCH_SIZE must be set to the model static batch size")
    if not environment["HF_MODEL_ID"].startswith("/"):
        raise ModelzoneError(
            f"HF_MODEL_ID is {environment['HF_MODEL_ID']!r}: the container would download it from the hub. "
            "Set it to the folder of the artifact, /opt/ml/model."
        )
    numbers = {
        name: _number(environment, name)
        for name in (
            "MAX_BATCH_SIZE",
            "MAX_TOTAL_TOKENS",
            "MAX_INPUT_TOKENS",
            "MAX_INPUT_LENGTH",
            "MAX_BATCH_PREFILL_TOKENS",
            "MAX_CONCURRENT_REQUESTS",
            "MAX_BEST_OF",
            "MAX_STOP_SEQUENCES",
            "MAX_TOP_N_TOKENS",
        )
    }
    if numbers["MAX_INPUT_TOKENS"] is not None and numbers["MAX_INPUT_LENGTH"] is not None:
        raise _argument_error(
            f"Both `max_input_tokens` ({numbers['MAX_INPUT_TOKENS']}) and `max_input_length` "
            f"({numbers['MAX_INPUT_LENGTH']}) are set. Please define only `max_input_tokens` as "
            "`max_input_length is deprecated for naming consistency."
        )
    neuron = _neuron_config(folder)
    _check_compiled_values(environment, neuron)
    if not (folder / CHECKPOINT).is_dir():
        raise ModelzoneError("Unable to fetch the neuron model weights files.")
    if not (folder / COMPILED).is_dir():
        raise ModelzoneError(f"{COMPILED}/ is missing from the model's folder: export the model again.")

    total = int(neuron["sequence_length"])
    given_input = [numbers[name] for name in ("MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH")]
    max_input = next((value for value in given_input if value is not None), total // 2)
    if max_input >= total:
        raise _argument_error("`max_input_tokens must be < `max_total_tokens`")
    batch_size = int(neuron["batch_size"])
    prefill = numbers["MAX_BATCH_PREFILL_TOKENS"]
    prefill = batch_size * max_input if prefill is None else prefill
    if max_input > prefill:
        raise _argument_error(
            f"`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: {prefill} and {max_input}"
        )
    given = {
        "max_concurrent_requests": numbers["MAX_CONCURRENT_REQUESTS"],
        "max_best_of": numbers["MAX_BEST_OF"],
        "max_stop_sequences": numbers["MAX_STOP_SEQUENCES"],
        "max_top_n_tokens": numbers["MAX_TOP_N_TOKENS"],
    }
    return ServerSettings(
        model_id=environment["HF_MODEL_ID"],
        max_batch_size=batch_size,
        max_input_tokens=max_input,
        max_total_tokens=total,
        max_batch_prefill_tokens=prefill,
        messages_api_enabled=_flag(environment, "MESSAGES_API_ENABLED"),
        disable_grammar_support=_flag(environment, "DISABLE_GRAMMAR_SUPPORT"),
        token_delay=(_number(environment, "MODELZONE_LOCAL_TOKEN_DELAY_MS") or 0) / 1000,
        **{name: value for name, value in given.items() if value is not None},
    )


def _neuron_config(folder: Path) -> dict[str, Any]:
    """Return the `neuron` key of the model's `config.json`."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelzoneError(f"{path} cannot be read: {error}") from error
    neuron = config.get("neuron") if isinstance(config, dict) else None
    wanted = {"batch_size", "sequence_length", "auto_cast_type", "num_cores", "compiler_version"}
    if not isinstance(neuron, dict) or not wanted <= neuron.keys():
        raise ModelzoneError(
            f"{path} has no complete `neuron` key: the model is not exported for Neuron. "
            "Export it with optimum-cli export neuron."
        )
    return neuron


def _check_compiled_values(environment: Mapping[str, str], neuron: Mapping[str, Any]) -> None:
    problems = [
        f"{variable} is {environment[variable]} but the model was compiled with {key} {neuron[key]}"
        for variable, key in _COMPILED_IN.items()
        if variable in environment and environment[variable] != str(neuron[key])
    ]
    if not problems:
        return
    names = ("HF_NUM_CORES", "HF_AUTO_CAST_TYPE", "MAX_BATCH_SIZE", "MAX_TOTAL_TOKENS", "MAX_INPUT_TOKENS")
    values = {name: environment.get(name) for name in names}
    raise ModelzoneError(
        f"Invalid neuron config and env. Config {dict(neuron)}, env {values}, available cores {neuron['num_cores']}, "
        f"neuronxcc version {neuron['compiler_version']}\n" + "\n".join(problems)
    )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """Return a variable's whole number of zero or more."""
    text = environment.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        flag = name.lower().replace("_", "-")
        raise ModelzoneError(
            f"error: invalid value '{text}' for '--{flag} <{name}>': invalid digit found in string\n"
            f"Set {name} to a whole number."
        )
    return int(text)


def _flag(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() not in _FALSE


def _argument_error(message: str) -> ModelzoneError:
    return ModelzoneError(f'Error: ArgumentValidation("{message}")')
