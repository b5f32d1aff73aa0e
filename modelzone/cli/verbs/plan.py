"""``modelzone plan``: can this model run there, how, and what will it cost."""

from __future__ import annotations

from typing import Annotated

import typer

from modelzone.cli.candidates import Wishes, alternatives, choose
from modelzone.cli.completion import complete_model
from modelzone.cli.exits import ExitCode
from modelzone.cli.model_source import NamedModel, named_model
from modelzone.cli.options import (
    BatchSizeOption,
    DegreeOption,
    DtypeOption,
    EngineOption,
    EngineVersionOption,
    InstanceOption,
    JsonOption,
    QuantizationOption,
    RegionOption,
    SequenceLengthOption,
    examples,
)
from modelzone.cli.output import write_json
from modelzone.cli.plan_document import plan_document, search_document
from modelzone.cli.plan_text import show_plan, show_search
from modelzone.cli.regions import DEFAULT_REGION

_EXAMPLES = examples(
    "modelzone plan mixtral-8x7b-instruct",
    "modelzone plan mixtral-8x7b-instruct --tensor-parallel-degree 4",
    "modelzone plan mixtral-8x7b-instruct --search --by hour --limit 5",
    "modelzone plan ~/models/my-model/config.json --engine lmi-vllm --json",
)
_SHOWN = 10
_ALTERNATIVES = 5


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("plan", short_help="Say whether a model fits, how, and what it costs.", epilog=_EXAMPLES)(plan)


def plan(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A file of models/ without .yaml, a config.json, or a folder that holds one.",
            autocompletion=complete_model,
        ),
    ],
    *,
    engine: EngineOption = None,
    engine_version: EngineVersionOption = None,
    instance: InstanceOption = None,
    tensor_parallel_degree: DegreeOption = None,
    batch_size: BatchSizeOption = None,
    sequence_length: SequenceLengthOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    region: RegionOption = DEFAULT_REGION,
    search: Annotated[
        bool, typer.Option("--search", help="Rank every engine, instance type and degree that fits.")
    ] = False,
    by: Annotated[
        str, typer.Option("--by", metavar="tokens|hour", help="Rank by dollars per million output tokens or per hour.")
    ] = "tokens",
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Most candidates to print.")] = _SHOWN,
    as_json: JsonOption = False,
) -> None:
    """Say whether a model fits, what each device holds, how it is served, and what it costs.

    Options replace what the profile says. A refusal says why, with numbers, and what would fit, cheapest first.
    """
    if by not in {"tokens", "hour"}:
        raise typer.BadParameter(f"--by {by}: use tokens or hour")
    wishes = Wishes(
        engine=engine,
        engine_version=engine_version,
        instance_type=instance,
        tensor_parallel_degree=tensor_parallel_degree,
        batch_size=batch_size,
        sequence_length=sequence_length,
        dtype=dtype,
        quantization=quantization,
    )
    named = named_model(context, model)
    if search:
        _search(named, wishes, region=region, by_hour=by == "hour", limit=limit, as_json=as_json)
    else:
        _plan(named, wishes, region=region, limit=min(limit, _ALTERNATIVES), as_json=as_json)


def _plan(named: NamedModel, wishes: Wishes, *, region: str, limit: int, as_json: bool) -> None:
    found = choose(named, wishes, region=region)
    others = () if found.fits else alternatives(named, wishes, region=region, limit=limit)
    if as_json:
        write_json(plan_document(named.name, found, others))
    else:
        show_plan(named.name, found, others)
    if not found.fits:
        raise typer.Exit(ExitCode.REFUSED)


def _search(named: NamedModel, wishes: Wishes, *, region: str, by_hour: bool, limit: int, as_json: bool) -> None:
    from modelzone.cli.candidates import candidates  # noqa: PLC0415

    found = candidates(named, wishes, region=region, by="hour" if by_hour else "tokens")
    document = search_document(named.name, found, region=region, by="hour" if by_hour else "tokens", limit=limit)
    if as_json:
        write_json(document)
    else:
        show_search(document)
    if not found:
        raise typer.Exit(ExitCode.REFUSED)
