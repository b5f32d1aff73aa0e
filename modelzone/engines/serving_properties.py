"""``serving.properties``, the file that configures DJL Serving and the backend inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from modelzone.engines.defaults import MODEL_FOLDER
from modelzone.settings.model_profile import Option

__all__ = ["SERVER_KEYS", "ServingProperties", "option_text", "render_properties"]

# Keys of the model server itself; all others go to the backend as option.<key>.
SERVER_KEYS = frozenset({"job_queue_size"})
_FIRST_READABLE, _LAST_READABLE = 0x20, 0x7E
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}


@dataclass(frozen=True, kw_only=True)
class ServingProperties:
    """What every backend is told, and what only some are.

    Attributes
    ----------
    engine
        DJL's engine: ``Python`` starts one process for each worker, ``MPI`` and ``DeepSpeed`` one for each GPU.
    dtype
        None where the backend refuses it beside `quantize`.
    model_loading_timeout
        Seconds; equal to SageMaker's health check timeout, so that neither waits for what the other has given up.
    output_formatter
        None where the backend chooses by the request's ``stream``, or reads no such key.
    backend
        Keys of one backend: its limits and its share of the memory.
    options
        Keys from the settings.
    """

    engine: str
    rolling_batch: str
    tensor_parallel_degree: int
    max_rolling_batch_size: int
    model_loading_timeout: int
    dtype: str | None = None
    quantize: str | None = None
    entry_point: str | None = None
    output_formatter: str | None = None
    backend: Mapping[str, Option] = field(default_factory=lambda: MappingProxyType({}))
    options: Mapping[str, Option] = field(default_factory=lambda: MappingProxyType({}))

    def decided(self) -> dict[str, str]:
        """What the plan decides, by key without ``option.``."""
        values: dict[str, Option | None] = {
            "engine": self.engine,
            "entryPoint": self.entry_point,
            "model_id": MODEL_FOLDER,
            "rolling_batch": self.rolling_batch,
            "tensor_parallel_degree": self.tensor_parallel_degree,
            "max_rolling_batch_size": self.max_rolling_batch_size,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "output_formatter": self.output_formatter,
            "model_loading_timeout": self.model_loading_timeout,
            **self.backend,
        }
        return {key: option_text(value) for key, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, str]:
        """All lines by their full key."""
        added = {key: option_text(value) for key, value in self.options.items()}
        return {
            key if key == "engine" or key in SERVER_KEYS else f"option.{key}": value
            for key, value in {**added, **self.decided()}.items()
        }


def option_text(value: Option) -> str:
    """A value as DJL Serving reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def render_properties(properties: Mapping[str, str]) -> str:
    """The file's text in Java's format, in the order given.

    Escapes only what must be: the partition scripts read the file with a reader of their own that knows no escapes.
    """
    return "".join(f"{_escape_key(key)}={_escape_value(value)}\n" for key, value in properties.items())


def _escape_key(key: str) -> str:
    escaped = "".join(f"\\{character}" if character in " :=" else _escape(character) for character in key)
    return f"\\{escaped}" if escaped.startswith(("#", "!")) else escaped


def _escape_value(value: str) -> str:
    escaped = "".join(map(_escape, value))
    # Java drops blanks before the value.
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if _FIRST_READABLE <= ord(character) <= _LAST_READABLE:
        return character
    # UTF-16 code units: what Java's reader understands.
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
