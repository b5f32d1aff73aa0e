"""Keys that a profile adds to ``serving.properties``: which the backend reads, and which contradict the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from modelzone.engines.environment import without_secrets
from modelzone.engines.serving_properties import SERVER_KEYS, ServingProperties, option_text
from modelzone.refusals import Refusal
from modelzone.resources import read_data
from modelzone.settings.model_profile import Serving

__all__ = ["KnownOptions", "check_lmi_environment", "check_options", "known_options"]

# Other spellings of keys that the plan writes.
_ALIASES = MappingProxyType(
    {
        "tensor_parallel_size": "tensor_parallel_degree",
        "max_num_seqs": "max_rolling_batch_size",
        "max_num_sequences": "max_rolling_batch_size",
        "max_batch_size": "max_rolling_batch_size",
        "quantization": "quantize",
        "s3url": "model_id",
        "entrypoint": "entryPoint",
    }
)
# The setting that each key follows.
_SETTINGS = MappingProxyType(
    {
        "tensor_parallel_degree": "tensor_parallel_degree",
        "max_rolling_batch_size": "batch_size",
        "dtype": "dtype",
        "quantize": "quantization",
        "quant_algo": "quantization",
        "load_in_8bit": "quantization",
        "load_in_4bit": "quantization",
        "n_positions": "sequence_length",
        "max_model_len": "sequence_length",
        "max_tokens": "sequence_length",
        "max_seq_len": "sequence_length",
        "max_input_len": "max_input_tokens",
        "max_output_len": "sequence_length and max_input_tokens",
        "model_loading_timeout": "health_check_timeout_seconds",
        "enable_lora": "adapters",
        "max_loras": "adapters",
        "max_lora_rank": "adapters",
        "max_cpu_loras": "adapters",
    }
)
# Settled by the engine even where it writes no line for them. The gateway depends on the shape of the answers.
_SETTLED = frozenset(
    {*_SETTINGS, "batch_size", "engine", "entryPoint", "model_id", "rolling_batch", "mpi_mode", "output_formatter"}
)
# Variables that DJL Serving turns into keys of the file, apart from OPTION_<KEY>; the file wins over them.
_VARIABLES = MappingProxyType(
    {
        "HF_MODEL_ID": "model_id",
        "TENSOR_PARALLEL_DEGREE": "tensor_parallel_degree",
        "MAX_BATCH_SIZE": "max_rolling_batch_size",
        "MODEL_LOADING_TIMEOUT": "model_loading_timeout",
    }
)


@dataclass(frozen=True, kw_only=True)
class KnownOptions:
    """Keys that one version of one backend reads.

    Attributes
    ----------
    passes_through
        Whether keys that are not listed reach the backend's own arguments.
    ignored
        Keys that users try and the version does not read, with the reason.
    """

    keys: frozenset[str]
    ignored: Mapping[str, str]
    passes_through: bool
    source: str


@cache
def known_options(engine: str, version: str) -> KnownOptions:
    """Read ``data/lmi_options.yaml``."""
    table: dict[str, Any] = read_data("modelzone.engines", "lmi_options.yaml")
    row = table["engines"][engine][version]
    return KnownOptions(
        keys=frozenset(row["keys"]) | frozenset(table["common"][row["common"]]) | SERVER_KEYS,
        ignored=MappingProxyType(row.get("ignored", {})),
        passes_through=row.get("passes_through", False),
        source=row["source"],
    )


def check_options(serving: Serving, properties: ServingProperties, *, version: str) -> Iterator[Refusal]:
    """Each key of ``serving.options`` is read by the version and does not contradict what the plan writes."""
    if not serving.options:
        return
    decided = properties.decided()
    known = known_options(serving.engine, version)
    for key, value in without_secrets(serving.options):
        found: tuple[str, str] | None
        if key.startswith("option."):
            found = f"would become option.{key}", f"write {key.removeprefix('option.')}: the prefix is added"
        else:
            found = _check_option(key, option_text(value), decided, known, f"{serving.engine} {version}")
        if found is not None:
            problem, fix = found
            yield Refusal(key=f"options.{key}", value=value, problem=problem, fix=fix)


def _check_option(
    key: str, text: str, decided: Mapping[str, str], known: KnownOptions, named: str
) -> tuple[str, str] | None:
    canonical = _ALIASES.get(key, key)
    setting = _SETTINGS.get(canonical)
    fix = f"leave it out and change {setting}" if setting else f"leave it out: {named} settles it"
    if canonical in decided:
        if key == canonical and text == decided[canonical]:
            return None
        return f"contradicts the plan, which writes {canonical}={decided[canonical]}", fix
    if key in known.ignored:
        return f"is ignored by {named}: {known.ignored[key]}", "leave it out"
    if canonical in _SETTLED:
        return "contradicts the plan, which settles it and writes no line for it", fix
    if not known.passes_through and key not in known.keys:
        return f"is not a key that {named} reads: it would be ignored without a word", _nearest(known)
    return None


def _nearest(known: KnownOptions) -> str:
    return f"leave it out; it reads: {', '.join(sorted(known.keys))}"


def check_lmi_environment(serving: Serving, properties: ServingProperties) -> Iterator[Refusal]:
    """Variables that would become lines of the file: the file wins, so they would be ignored."""
    decided = properties.decided()
    for name, value in without_secrets(serving.environment):
        option = name.startswith("OPTION_")
        key = name.removeprefix("OPTION_").lower() if option else _VARIABLES.get(name)
        if key is None:
            continue
        canonical = _ALIASES.get(key, key)
        if canonical in decided:
            problem = f"is overruled by serving.properties, where the plan writes {canonical}={decided[canonical]}"
            setting = _SETTINGS.get(canonical)
            fix = f"leave it out and change {setting}" if setting else "leave it out"
        else:
            problem = "is a line of serving.properties in another place, which the plan does not see"
            fix = f"use serving.options.{key}"
        yield Refusal(key=f"environment.{name}", value=value, problem=problem, fix=fix)
