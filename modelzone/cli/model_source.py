"""What MODEL means on the command line: a profile's name, or where a ``config.json`` lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modelzone.cli.project import project_root
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.architectures.snapshot import ModelFacts
    from modelzone.settings.model_profile import Model, Serving

__all__ = ["NamedModel", "named_model", "unprofiled_model"]

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
    if "/" in text or text.endswith(".json") or path.is_file() or (path.is_dir() and not _is_profile(context, text)):
        from modelzone.architectures.snapshot import read_model  # noqa: PLC0415

        return unprofiled_model(text, read_model(path))
    from modelzone.settings.loading import load_profile  # noqa: PLC0415

    profile = load_profile(project_root(context), text)
    return NamedModel(name=text, model=profile.model, serving=profile.serving, profiled=True)


def _is_profile(context: typer.Context, name: str) -> bool:
    """Whether a folder's name is also a profile's, which then is meant: ``./name`` is the folder."""
    from modelzone.settings.loading import profile_names  # noqa: PLC0415

    try:
        return name in profile_names(project_root(context))
    except ModelzoneError:
        return False


def unprofiled_model(name: str, facts: ModelFacts) -> NamedModel:
    """Make a model of what its files say.

    What they do not say (the hub id outside of the hub's cache, licence, gate) is filled in for planning, which does
    not read it.
    """
    from modelzone.settings.model_profile import Model  # noqa: PLC0415

    model = Model(
        hub_id=facts.hub_id or f"local/{facts.source.parent.name}",
        revision=facts.revision or _UNKNOWN_REVISION,
        license=facts.license or "unknown",
        gated=bool(facts.gated),
        architecture=facts.architecture,
    )
    formats = {"dtype": "bf16" if facts.dtype == "bf16" else "fp16", "quantization": facts.quantization}
    return NamedModel(name=name, model=model, serving=_first_serving(model, formats), profiled=False)


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
