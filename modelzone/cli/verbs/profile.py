"""``modelzone profile add``: a model profile from a ``config.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.candidates import Wishes, candidates
from modelzone.cli.model_source import NamedModel, unprofiled_model
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
from modelzone.cli.output import note, write_json
from modelzone.cli.profile_file import profile_name, profile_text, read_back, write_profile
from modelzone.cli.project import project_root
from modelzone.cli.regions import DEFAULT_REGION
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.architectures.snapshot import ModelFacts
    from modelzone.planning import Assessment
    from modelzone.settings.model_profile import ModelProfile

_EXAMPLES = examples(
    "modelzone profile add ~/.cache/huggingface/hub/models--org--name/snapshots/COMMIT --no-gated --dry-run",
    "modelzone profile add ./config.json --hub-id org/name --revision COMMIT --license apache-2.0 --gated",
    "modelzone profile add ./snapshot --engine lmi-vllm --sequence-length 8192 --no-gated",
)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Make model profiles.", epilog=_EXAMPLES, rich_markup_mode=None)
    group.callback()(_group)
    group.command("add", epilog=_EXAMPLES)(add)
    app.add_typer(group, name="profile")


def _group() -> None:
    """Make model profiles."""


def add(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A config.json, or a snapshot's folder that holds one.")],
    *,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Default: from the hub id.")] = None,
    hub_id: Annotated[
        str | None, typer.Option("--hub-id", metavar="ORG/NAME", help="Default: from the hub's cache folder.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="Default: from the hub's cache folder.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="Default: from the snapshot's README.md.")
    ] = None,
    gated: Annotated[
        bool | None, typer.Option("--gated/--no-gated", help="Whether the hub asks for consent before a download.")
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(
            "--chat-template",
            metavar="NAME",
            help="How the gateway writes chats for the model: mistral-instruct, chatml, zephyr, llama-2-chat or "
            "llama-3-instruct.",
        ),
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", metavar="TEXT", help="One line for people. Default: type and size.")
    ] = None,
    engine: EngineOption = None,
    engine_version: EngineVersionOption = None,
    instance: InstanceOption = None,
    tensor_parallel_degree: DegreeOption = None,
    batch_size: BatchSizeOption = None,
    sequence_length: SequenceLengthOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    region: RegionOption = DEFAULT_REGION,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile of this name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the profile, write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write models/NAME.yaml from a model's config.json, served by what fits and has the cheapest tokens.

    What cannot be read from files beside it (hub id, commit, licence, gate) has to be given: nothing is guessed.
    """
    root = project_root(context)
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
    from modelzone.architectures.snapshot import profile_model, read_model  # noqa: PLC0415

    facts = read_model(path)
    model = profile_model(facts, hub_id=hub_id, revision=revision, license=licence, gated=gated)
    model["chat_template"] = chat_template
    named = unprofiled_model(str(facts.source), facts)
    found = _best(named, wishes, region=region)
    profile = _profile(named, found, model, name=name or profile_name(model["hub_id"]), description=description)
    text = profile_text(
        profile, comment=f"Made by: modelzone profile add. Served by the cheapest that fits in {region}."
    )
    read_back(profile, text)
    target = root / "models" / f"{profile.name}.yaml"
    notes = [*found.notes, *_chat_notes(profile, facts)]
    if dry_run and target.exists() and not force:
        notes.append(f"{target} exists: without --dry-run this takes another --name, or --force to replace it")
    if not dry_run:
        write_profile(target, text, force=force)
    _report(profile, text, target, found, notes, written=not dry_run, as_json=as_json)


def _best(named: NamedModel, wishes: Wishes, *, region: str) -> Assessment:
    """The cheapest that fits, of what can be deployed if anything can."""
    found = candidates(named, wishes, region=region, by="tokens")
    if not found:
        kind = named.model.architecture.type
        raise ModelzoneError(
            f"nothing that this project knows serves this {kind} model so; "
            f"see why: modelzone plan {named.name} with the same options"
        )
    return next((each for each in found if each.version and each.version.deployable), found[0])


def _profile(
    named: NamedModel, found: Assessment, model: dict[str, Any], *, name: str, description: str | None
) -> ModelProfile:
    from msgspec import to_builtins  # noqa: PLC0415

    from modelzone.architectures import parameter_count  # noqa: PLC0415
    from modelzone.cli.formats import parameters  # noqa: PLC0415
    from modelzone.settings.checking import validate  # noqa: PLC0415
    from modelzone.settings.model_profile import ModelProfile  # noqa: PLC0415

    architecture = named.model.architecture
    size = parameters(parameter_count(architecture))
    data = {
        "name": name,
        "description": description or f"{model['hub_id']}, a {architecture.type} model of {size} parameters",
        "model": model,
        "serving": to_builtins(found.serving),
    }
    return validate(ModelProfile, data, source="profile add")


def _chat_notes(profile: ModelProfile, facts: ModelFacts) -> list[str]:
    if profile.model.chat_template is not None:
        return []
    unread = " (the model's own is not read: the gateway has templates of its own)" if facts.has_chat_template else ""
    return [f"no chat template is set{unread}: the gateway completes text only (--chat-template, model.chat_template)"]


def _report(
    profile: ModelProfile,
    text: str,
    target: Path,
    found: Assessment,
    notes: list[str],
    *,
    written: bool,
    as_json: bool,
) -> None:
    from modelzone.cli.output import write  # noqa: PLC0415

    if as_json:
        from msgspec import to_builtins  # noqa: PLC0415

        document = {
            "name": profile.name,
            "path": str(target),
            "written": written,
            "profile": to_builtins(profile),
            "notes": notes,
        }
        write_json(document)
        return
    if written:
        write(f"wrote {target}: {found.in_words()}")
    else:
        write(text.rstrip("\n"))
    for line in notes:
        note(f"note: {line}")
