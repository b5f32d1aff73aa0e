"""From what was asked for on the command line to candidates that the planner has assessed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.cli.model_source import NamedModel
    from modelzone.planning import Assessment, SearchSpace
    from modelzone.settings.model_profile import Serving

__all__ = ["Wishes", "alternatives", "candidates", "choose"]

_SHAPES = ("batch_size", "sequence_length", "dtype", "quantization")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Options of the command line; None leaves it to the profile or to the planner."""

    engine: str | None = None
    engine_version: str | None = None
    instance_type: str | None = None
    tensor_parallel_degree: int | None = None
    batch_size: int | None = None
    sequence_length: int | None = None
    dtype: str | None = None
    quantization: str | None = None


def choose(named: NamedModel, wishes: Wishes, *, region: str) -> Assessment:
    """Assess what was asked for.

    What was not asked for and hangs on what was (the version of another engine, the degree on another instance type)
    is the planner's choice: the one with the cheapest tokens. Where nothing fits, a candidate that shows why.
    """
    from modelzone.planning import assess, search  # noqa: PLC0415

    serving = _shaped(named.serving, wishes)
    space = _space(named, wishes, serving)
    if space is not None:
        found = search(named.model, serving, region=region, space=space)
        if found:
            return found[0]
    concrete = _concrete(named, wishes, serving)
    if concrete is None:
        return _unserved(named, serving, region)
    return assess(named.model, concrete, region=region)


def candidates(
    named: NamedModel, wishes: Wishes, *, region: str, by: Literal["tokens", "hour"]
) -> tuple[Assessment, ...]:
    """Everything that fits what was asked for, cheapest first."""
    from modelzone.planning import SearchSpace, rank, search  # noqa: PLC0415

    _check_names(wishes)
    space = SearchSpace(
        engine=wishes.engine,
        engine_version=wishes.engine_version,
        instance_type=wishes.instance_type,
        tensor_parallel_degree=wishes.tensor_parallel_degree,
        batch_size=wishes.batch_size,
    )
    return rank(search(named.model, _shaped(named.serving, wishes), region=region, space=space), by=by)


def alternatives(named: NamedModel, wishes: Wishes, *, region: str, limit: int) -> tuple[Assessment, ...]:
    """What would fit in the place of what does not, cheapest first, the best of each instance type.

    The nearest that there is: on the wished instance type, else with the same engine, else with any; and only where
    that finds nothing with another batch size.
    """
    from modelzone.planning import SearchSpace, search  # noqa: PLC0415

    serving = _shaped(named.serving, wishes)
    engine = wishes.engine or (named.serving.engine if named.profiled else None)
    batch_size = serving.batch_size if named.profiled else wishes.batch_size
    for space in (
        SearchSpace(engine=engine, instance_type=wishes.instance_type, batch_size=batch_size),
        SearchSpace(engine=engine, batch_size=batch_size),
        SearchSpace(batch_size=batch_size),
        SearchSpace(),
    ):
        best: dict[str, Assessment] = {}
        for found in search(named.model, serving, region=region, space=space):
            best.setdefault(found.serving.instance_type, found)
        if best:
            return tuple(best.values())[:limit]
    return ()


def _shaped(serving: Serving, wishes: Wishes) -> Serving:
    """Settings with the wished shapes, each checked like a value in a file."""
    from msgspec import to_builtins  # noqa: PLC0415

    from modelzone.settings.checking import validate  # noqa: PLC0415
    from modelzone.settings.model_profile import Serving  # noqa: PLC0415

    data: dict[str, Any] = to_builtins(serving)
    for name in _SHAPES:
        value = getattr(wishes, name)
        if value is None:
            continue
        if name == "sequence_length" and isinstance(value, int) and data["max_input_tokens"] >= value:
            # Half of a shorter sequence, as for models without a profile.
            data["max_input_tokens"] = max(value // 2, 1)
        data[name] = value
        serving = validate(Serving, data, source=f"--{name.replace('_', '-')} {value}")
    if wishes.tensor_parallel_degree is not None:
        source = f"--tensor-parallel-degree {wishes.tensor_parallel_degree}"
        validate(Serving, {**data, "tensor_parallel_degree": wishes.tensor_parallel_degree}, source=source)
    return serving


def _space(named: NamedModel, wishes: Wishes, serving: Serving) -> SearchSpace | None:
    """What is left to the planner; None when nothing is."""
    from modelzone.planning import SearchSpace  # noqa: PLC0415

    placed = {name: getattr(wishes, name) for name in ("engine", "engine_version", "instance_type")}
    placed["tensor_parallel_degree"] = wishes.tensor_parallel_degree
    if not named.profiled:
        return SearchSpace(**placed, batch_size=wishes.batch_size)
    kept: tuple[str, ...]
    if wishes.engine not in {None, serving.engine}:
        kept = ()
    elif wishes.instance_type not in {None, serving.instance_type}:
        kept = ("engine", "engine_version")
    else:
        return None
    placed |= {name: getattr(serving, name) for name in kept if placed[name] is None}
    return SearchSpace(**placed, batch_size=serving.batch_size)


def _concrete(named: NamedModel, wishes: Wishes, serving: Serving) -> Serving | None:
    """Settings without gaps, for an assessment that says what is wrong; None when no engine serves the model."""
    from msgspec.structs import replace  # noqa: PLC0415

    from modelzone.engines import ENGINES, versions_serving  # noqa: PLC0415
    from modelzone.hardware import find_instance  # noqa: PLC0415
    from modelzone.planning.checks import instances_of  # noqa: PLC0415

    kind = named.model.architecture.type
    name = wishes.engine or serving.engine or next((engine for engine, _ in versions_serving(kind)), None)
    if name is None:
        return None
    engine = ENGINES.get(name)
    serves = [version for other, version in versions_serving(kind) if other == name]
    newest = (serves or list(engine.versions if engine else ()) or [""])[-1]
    same = name == serving.engine
    version = wishes.engine_version or (serving.engine_version if same else newest)
    instance_type = wishes.instance_type or serving.instance_type
    found = engine.versions.get(version) if engine else None
    if engine and found and not wishes.instance_type and not (same and serving.instance_type):
        # The largest one that the engine runs on: where even that does not do, nothing does.
        types = [i for name in instances_of(engine, found) if (i := find_instance(name))]
        largest = max(types, key=lambda i: i.devices * i.device_memory_bytes)
        instance_type = largest.ml_name if engine.hosting == "sagemaker" else largest.name
    instance = find_instance(instance_type)
    degree = wishes.tensor_parallel_degree or (
        serving.tensor_parallel_degree if named.profiled or instance is None else max(instance.tensor_parallel_degrees)
    )
    moved = not same or instance_type != serving.instance_type
    own: dict[str, Any] = (
        {"image_uri": None, "environment": {}, "options": {}, "volume_size_gib": None} if moved else {}
    )
    return replace(
        serving,
        engine=name,
        engine_version=version,
        instance_type=instance_type,
        tensor_parallel_degree=degree,
        **own,
    )


def _unserved(named: NamedModel, serving: Serving, region: str) -> Assessment:
    from modelzone.planning import Assessment  # noqa: PLC0415
    from modelzone.refusals import Refusal  # noqa: PLC0415

    refusal = Refusal(
        key="model_type",
        value=named.model.architecture.type,
        problem="is served by no engine of this project",
        fix="see what is: modelzone engines",
    )
    return Assessment(model=named.model, serving=serving, region=region, refusals=(refusal,))


def _check_names(wishes: Wishes) -> None:
    """A search for a name that does not exist finds nothing, which is not what has to be said.

    Raises
    ------
    ModelzoneError
        An engine, version or instance type does not exist.
    """
    from modelzone.engines import ENGINES  # noqa: PLC0415
    from modelzone.hardware import instance_types  # noqa: PLC0415

    engine = ENGINES.get(wishes.engine or "")
    versions = [v for e in ([engine] if engine else ENGINES.values()) for v in e.versions]
    types = [*instance_types(), *(f"ml.{name}" for name in instance_types())]
    for option, given, known in (
        ("--engine", wishes.engine, list(ENGINES)),
        ("--engine-version", wishes.engine_version, list(dict.fromkeys(versions))),
        ("--instance", wishes.instance_type, types),
    ):
        if given is not None and given not in known:
            near = difflib.get_close_matches(given, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ModelzoneError(f"{option} {given}: does not exist; {hint}")
