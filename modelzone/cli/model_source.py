"""What MODEL means on the command line: a profile's name, or where a ``config.json`` lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modelzone.cli.project import project_root

if TYPE_CHECKING:
    from modelzone.settings.model_profile import Model, Serving

__all__ = ["NamedModel", "named_model"]

_UNKNOWN_REVISION = "0" * 40
_DEFAULT_SEQUENCE_LENGTH = 4096
_SHORTEST_SEQUENCE = 64


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model to plan for.

    Attributes
    ----------
    name
        As people know it: the profile's name, or the path.
    serving
        Where planning starts.
    profiled
        Whether engine, instance type and degree in `serving` are somebody's choice.
    """

    name: str
    model: Model
    serving: Serving
    profiled: bool


def named_model(context: typer.Context, text: str) -> NamedModel:
    """Find a profile or read a ``config.json``.

    Raises
    ------
    SettingsError
        There is neither, or it cannot be read.
    """
    path = Path(text)
    if "/" not in text and not text.endswith(".json") and not path.is_file():
        from modelzone.settings.loading import load_profile  # noqa: PLC0415

        profile = load_profile(project_root(context), text)
        return NamedModel(name=text, model=profile.model, serving=profile.serving, profiled=True)
    model, formats = _unprofiled(path)
    return NamedModel(name=text, model=model, serving=_first_serving(model, formats), profiled=False)


def _unprofiled(path: Path) -> tuple[Model, dict[str, str | None]]:
    """Make a model of the files at `path`, and tell the formats that they name.

    What they do not say (the hub id outside of the hub's cache, licence, gate) is filled in for planning, which does
    not read it.
    """
    from modelzone.architectures.snapshot import read_model  # noqa: PLC0415
    from modelzone.settings.model_profile import Model  # noqa: PLC0415

    facts = read_model(path)
    model = Model(
        hub_id=facts.hub_id or f"local/{facts.source.parent.name}",
        revision=facts.revision or _UNKNOWN_REVISION,
        license=facts.license or "unknown",
        gated=bool(facts.gated),
        architecture=facts.architecture,
    )
    return model, {"dtype": "bf16" if facts.dtype == "bf16" else "fp16", "quantization": facts.quantization}


def _first_serving(model: Model, formats: dict[str, str | None]) -> Serving:
    """Shapes to plan with; engine, instance type and degree are left to the search."""
    from modelzone.architectures import Decoder  # noqa: PLC0415
    from modelzone.settings.checking import validate  # noqa: PLC0415
    from modelzone.settings.model_profile import Serving  # noqa: PLC0415

    length = max(min(model.architecture.context_length, _DEFAULT_SEQUENCE_LENGTH), _SHORTEST_SEQUENCE)
    # Half for the answer; towers answer with one vector.
    answer = length // 2 if isinstance(model.architecture, Decoder) else 1
    data = {
        "engine": "",
        "engine_version": "",
        "instance_type": "",
        "tensor_parallel_degree": 1,
        "batch_size": 1,
        "sequence_length": length,
        "max_input_tokens": length - answer,
        **formats,
        "health_check_timeout_seconds": 3600,
        "download_timeout_seconds": 3600,
    }
    return validate(Serving, data, source="modelzone's own defaults")
