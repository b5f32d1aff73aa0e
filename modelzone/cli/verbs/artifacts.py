"""``modelzone artifacts``: what the model store holds, whether it is whole, and what can go."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.account import Account, EndpointOption, EnvironmentOption, LocalOption, ProfileOption, open_account
from modelzone.cli.completion import complete_environment
from modelzone.cli.exits import ExitCode
from modelzone.cli.formats import usd, whole
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write, write_facts, write_heading, write_json, write_table
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.artifacts.copy import Original
    from modelzone.artifacts.gc import Decision, Removed
    from modelzone.artifacts.registry import Parameters
    from modelzone.artifacts.store import ArtifactPlace
    from modelzone.artifacts.uses import Use

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="An artifact's key, the beginning of it, or its s3:// URI.")
]
_VERSIONS = 2


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        no_args_is_help=True,
        help="List, check, copy and clean up compiled artifacts.",
        epilog=examples("modelzone artifacts list", "modelzone artifacts verify 5c0f --deep", "modelzone artifacts gc"),
        rich_markup_mode=None,
    )
    for name, action, short, lines in (
        ("list", list_artifacts, "List artifacts and who uses them.", ("list", "list -e prod --json")),
        ("show", show, "Show one artifact and its objects.", ("show 5c0f",)),
        ("verify", verify, "Compare an artifact with its manifest.", ("verify 5c0f", "verify 5c0f --deep")),
        (
            "copy",
            copy,
            "Copy an artifact or weights to another store.",
            ("copy 5c0f --to prod", "copy 5c0f -e prod --to dev", "copy --weights mixtral --to prod"),
        ),
        ("gc", gc, "Delete what nothing uses; dry run first.", ("gc", "gc --min-age-days 30 --delete")),
    ):
        epilog = examples(*(f"modelzone artifacts {line}" for line in lines))
        group.command(name, epilog=epilog, short_help=short)(action)
    app.add_typer(group, name="artifacts")


def list_artifacts(
    context: typer.Context,
    *,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts of an environment's model store and who uses them, incomplete ones as well.

    Only sizes are compared with the manifests; artifacts verify compares checksums, too.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    facts = _collect(account, versions=_VERSIONS)
    rows = [_row(place, facts) for place in facts.places]
    if as_json:
        write_json({"environment": environment, "bucket": facts.bucket, "artifacts": rows})
        return
    if not rows:
        write(f"s3://{facts.bucket}/compiled/ holds no artifact")
        return
    lines = [
        [row["key"], row["model"], _shape(row), _state(row), _gib(row["bytes"]), row["changed"][:10], _users(row)]
        for row in rows
    ]
    write_table(["KEY", "MODEL", "COMPILED FOR", "STATE", "GIB>", "WRITTEN", "USED BY"], lines)


def show(
    context: typer.Context,
    key: KeyArgument,
    *,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what an artifact was made from and by, its objects and its users."""
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    from modelzone.artifacts.store import find_one  # noqa: PLC0415

    place = find_one(account.client("s3"), _bucket(account), key)
    from modelzone.artifacts.verify import verify as check  # noqa: PLC0415

    facts = _collect(account, versions=_VERSIONS, only=place)
    row = _row(place, facts)
    if place.manifest:
        problems = [
            f"{item.path} {item.problem}" for item in check(account.client("s3"), place, deep=False) if item.problem
        ]
        row |= {"state": "incomplete" if problems else "complete", "problems": problems}
    listed = {item.path: item for item in place.manifest.objects} if place.manifest else {}
    objects = [
        {"path": path, "bytes": size, "sha256": listed[path].sha256 if path in listed else None}
        for path, size in sorted(place.sizes.items())
    ]
    producer = dict(place.manifest.producer) if place.manifest else {}
    if as_json:
        write_json({**row, "producer": producer, "objects": objects})
        return
    write_facts(
        [
            ("artifact", place.uri),
            ("state", row["state"]),
            *((name, str(value)) for name, value in (row["facts"] or {}).items()),
            *((f"by {name}", str(value)) for name, value in producer.items()),
            ("written", row["changed"]),
            ("size", f"{_gib(place.bytes)} GiB in {len(objects)} objects"),
            ("used by", _users(row) or "nothing"),
        ]
    )
    for problem in [*row["problems"], *_unlisted(row["unlisted"])]:
        write(f"problem: {problem}")
    write_heading("Objects")
    write_table(
        ["PATH", "BYTES>", "SHA256"],
        [
            [path, whole(size), listed[path].sha256 if path in listed else "not in the manifest"]
            for path, size in sorted(place.sizes.items())
        ],
    )


def verify(
    context: typer.Context,
    key: KeyArgument,
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Download every object and hash it.")] = False,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare an artifact's objects with its manifest: sizes, checksums that S3 keeps, with --deep their content.

    The exit status is 1 when one differs, and when something lies there that the manifest does not list.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    from modelzone.artifacts.store import find_one  # noqa: PLC0415
    from modelzone.artifacts.verify import verify as check  # noqa: PLC0415

    s3 = account.client("s3")
    place = find_one(s3, _bucket(account), key)
    with _counted(place.bytes, quiet=not deep) as count:
        checked = check(s3, place, deep=deep, on_bytes=count)
    problems = [f"{item.path} {item.problem}" for item in checked if item.problem]
    # An artifact without a manifest has nothing to compare, and is none.
    problems += [problem for problem in place.problems if place.manifest is None]
    problems += _unlisted(place.unlisted)
    by = sorted({what for item in checked for what in item.by})
    if as_json:
        rows = [{"path": item.path, "compared": list(item.by), "problem": item.problem or None} for item in checked]
        write_json({"artifact": place.uri, "complete": not problems, "problems": problems, "objects": rows})
    else:
        for problem in problems:
            write(f"problem: {problem}")
        if not problems:
            write(f"{place.uri}: {len(checked)} objects, {_gib(place.bytes)} GiB, agree by {', '.join(by)}")
    if problems:
        raise typer.Exit(ExitCode.REFUSED)


def copy(
    context: typer.Context,
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="An artifact's key, the beginning of it, or its s3:// URI.")
    ] = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="ENV", help="Environment that gets the copy.", autocompletion=complete_environment
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="DEPLOYMENT", help="Copy the weights that a deployment of --to needs."),
    ] = None,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy an artifact, or mirrored weights, to another environment's model store.

    S3 copies by itself, nothing passes through this machine. What is there already is left, so a copy that was stopped
    goes on; the manifest is written last. Both stores are of one account and region.
    """
    if (key is None) == (weights is None):
        raise typer.BadParameter("name either an artifact's KEY or --weights DEPLOYMENT")
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    other = open_account(context, to, profile=profile, endpoint_url=endpoint_url, local=local)
    if account.region != other.region:
        raise ModelzoneError(
            f"{environment} is in {account.region} and {to} in {other.region}: S3 copies within one region here\n"
            f"  fix: compile it in {to}"
        )
    source, target = _bucket(account), _bucket(other)
    if source == target:
        raise ModelzoneError(f"{environment} and {to} use the same store, s3://{source}: there is nothing to copy")
    from modelzone.artifacts.copy import copy as copy_objects  # noqa: PLC0415

    s3 = account.transfers()
    original = _weights(account, other, s3, source, weights) if weights else _artifact(other, s3, source, str(key))
    with _counted(original.bytes, quiet=False, verb="copied") as count:
        done = copy_objects(s3, original, target, on_bytes=count)
    unlisted = _left_over(s3, target, original.prefix) if not weights else ()
    for problem in _unlisted(unlisted):
        note(f"warning: {done.uri}: {problem}")
    if as_json:
        write_json(
            {
                "source": original.uri,
                "target": done.uri,
                "objects": done.objects,
                "copied": done.copied,
                "bytes": done.bytes,
                "unlisted": list(unlisted),
            }
        )
    else:
        left = done.objects - done.copied
        there = f", {left} were there" if left else ""
        write(f"{done.uri}: {done.copied} of {done.objects} objects copied, {_gib(done.bytes)} GiB{there}; complete")


def gc(
    context: typer.Context,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it only say what would go.")] = False,
    keep_versions: Annotated[
        int,
        typer.Option(
            "--keep-versions", metavar="N", min=1, max=100, help="Versions of each deployment that keep their artifact."
        ),
    ] = _VERSIONS,
    min_age_days: Annotated[
        int, typer.Option("--min-age-days", metavar="N", min=0, max=36500, help="Younger artifacts stay.")
    ] = 7,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete artifacts that nothing uses. Without --delete it only says what would go, and why the others stay.

    What a deployment of any environment serves or served, a SageMaker model, a compilation that runs or a plan needs
    stays, and so does what is young. Mirrored weights are never touched.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    from modelzone.artifacts.gc import decide, storage_price  # noqa: PLC0415

    facts = _collect(account, versions=keep_versions)
    decisions = decide(facts.places, facts.uses, now=datetime.now(UTC), min_age=timedelta(days=min_age_days))
    going = [decision for decision in decisions if decision.delete]
    size = sum(decision.place.bytes for decision in going)
    price, assumed = storage_price(size)
    if not as_json:
        _show_decisions(decisions)
        write(f"\n{len(going)} of {len(decisions)} go: {_gib(size)} GiB, about {usd(price)} USD a month")
        write(f"  {assumed}")
    removed = _remove(account, facts, going, keep_versions) if delete else []
    if as_json:
        write_json(
            {
                "environment": environment,
                "bucket": facts.bucket,
                "deleted": delete,
                "bytes": size,
                "usd_per_month": round(price, 4),
                "artifacts": [
                    {
                        "key": decision.place.key,
                        "artifact": decision.place.uri,
                        "bytes": decision.place.bytes,
                        "delete": decision.delete,
                        "reasons": list(decision.reasons),
                    }
                    for decision in decisions
                ],
                "removed": [_removed(result) for result in removed],
            }
        )
        return
    for result in removed:
        write(_removed_text(result))
    if going and not delete:
        again = account.words("artifacts gc") + _options(keep_versions, min_age_days)
        write(f"nothing was deleted; delete them with: {again} --delete")
    elif removed:
        write("the bucket keeps deleted objects as old versions until its lifecycle ends them")


@dataclass(frozen=True, kw_only=True)
class _Facts:
    bucket: str
    places: list[ArtifactPlace]
    parameters: Parameters
    uses: list[Use]


def _bucket(account: Account) -> str:
    """The bucket that the environment uses: its own, or another environment's."""
    from modelzone.compiling.aws import stack_outputs  # noqa: PLC0415

    outputs = stack_outputs(
        account.client("cloudformation"),
        environment=account.environment,
        suffix="model-store",
        needed=("ModelBucketName",),
    )
    return outputs["ModelBucketName"]


def _artifact(other: Account, s3: Any, bucket: str, key: str) -> Original:
    """What is to be copied, when nobody makes the same where it goes."""
    from modelzone.artifacts.copy import of_artifact  # noqa: PLC0415
    from modelzone.artifacts.store import find_one  # noqa: PLC0415
    from modelzone.compiling.aws import stack_outputs_or_none  # noqa: PLC0415
    from modelzone.compiling.executions import Machine  # noqa: PLC0415

    original = of_artifact(place := find_one(s3, bucket, key))
    name = f"modelzone-{other.environment}-compile"
    arn = (stack_outputs_or_none(other.client("cloudformation"), name) or {}).get("StateMachineArn")
    running = Machine(other.client("stepfunctions"), arn).running() if arn else []
    if found := next((execution for execution in running if execution.key == place.key), None):
        raise ModelzoneError(
            f"{found.name} makes the same artifact in {other.environment} now\n"
            f"  fix: wait until it has ended, or cancel it: "
            f"{other.words(f'compile cancel {found.deployment}')} --execution {found.name}"
        )
    return original


def _weights(account: Account, other: Account, s3: Any, bucket: str, deployment: str) -> Original:
    from modelzone.artifacts.copy import of_weights  # noqa: PLC0415
    from modelzone.artifacts.key import weights_prefix  # noqa: PLC0415
    from modelzone.cli.verbs.compile import planned_deployment  # noqa: PLC0415

    facts = planned_deployment(other, deployment)[1].facts
    prefix = weights_prefix(facts.model_id, facts.model_revision)
    if (original := of_weights(s3, bucket, prefix)) is None:
        raise ModelzoneError(
            f"s3://{bucket}/{prefix} is not there or not complete\n"
            f"  fix: {account.words(f'compile {deployment} --weights-only')}"
        )
    return original


def _left_over(s3: Any, bucket: str, prefix: str) -> tuple[str, ...]:
    from modelzone.artifacts.store import read_place  # noqa: PLC0415

    place = read_place(s3, bucket, prefix)
    return place.unlisted if place else ()


def _unlisted(paths: Iterable[str]) -> list[str]:
    return [f"{path} is not in the manifest: SageMaker would load it with the rest; delete it" for path in paths]


def _state(row: dict[str, Any]) -> str:
    return str(row["state"]) + (f", {len(row['unlisted'])} unlisted" if row["unlisted"] else "")


def _collect(account: Account, *, versions: int, only: ArtifactPlace | None = None) -> _Facts:
    """Everything that decides on artifacts; whatever cannot be read ends the command."""
    from modelzone.artifacts.registry import read_parameters  # noqa: PLC0415
    from modelzone.artifacts.store import scan  # noqa: PLC0415
    from modelzone.artifacts.uses import of_models  # noqa: PLC0415

    bucket = only.bucket if only else _bucket(account)
    # The bucket first: what is published while the others are read is not in the list.
    places = [only] if only else scan(account.client("s3"), bucket)
    parameters = read_parameters(account.client("ssm"), versions=versions)
    uses = [*_quick_uses(account, parameters), *of_models(account.client("sagemaker"))]
    return _Facts(bucket=bucket, places=places, parameters=parameters, uses=uses)


def _quick_uses(account: Account, parameters: Parameters) -> Iterator[Use]:
    from modelzone.artifacts.uses import of_executions, of_orders, of_registry  # noqa: PLC0415
    from modelzone.compiling.executions import Machine  # noqa: PLC0415

    yield from of_registry(parameters)
    yield from of_orders(parameters)
    yield from of_executions(
        parameters,
        cloudformation=account.client("cloudformation"),
        machines=lambda arn: Machine(account.client("stepfunctions"), arn),
        also=(account.environment,),
    )


def _remove(account: Account, facts: _Facts, going: list[Decision], versions: int) -> list[Removed]:
    from modelzone.artifacts.gc import remove  # noqa: PLC0415
    from modelzone.artifacts.registry import read_parameters  # noqa: PLC0415

    def uses() -> list[Use]:
        return list(_quick_uses(account, read_parameters(account.client("ssm"), versions=versions)))

    results = []
    for decision in going:
        results.append(
            remove(
                decision.place,
                facts.parameters,
                s3=account.client("s3"),
                ssm=account.client("ssm"),
                environment=account.environment,
                uses=uses,
            )
        )
        note(f"{decision.place.key}: {'left' if results[-1].stopped else 'deleted'}")
    return results


def _row(place: ArtifactPlace, facts: _Facts) -> dict[str, Any]:
    from modelzone.artifacts.uses import used_by  # noqa: PLC0415

    entries = [entry for entry in facts.parameters.artifacts if entry.artifact == place.uri]
    manifest = place.manifest
    return {
        "key": place.key,
        "artifact": place.uri,
        "model": manifest.facts["model_id"] if manifest else place.slug,
        "state": "sizes agree" if place.complete else "incomplete",
        "problems": list(place.problems),
        "unlisted": list(place.unlisted),
        "facts": dict(manifest.facts) if manifest else None,
        "created": manifest.created if manifest else None,
        "changed": place.changed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "bytes": place.bytes,
        "objects_number": len(place.sizes),
        "registered": [
            {"environment": entry.environment, "deployment": entry.deployment, "seconds": entry.seconds}
            for entry in entries
        ],
        "used_by": [{"kind": use.kind, "who": use.who} for use in used_by(place, facts.uses)],
    }


def _users(row: dict[str, Any]) -> str:
    return "; ".join(f"{use['kind']} {use['who']}" for use in row["used_by"])


def _shape(row: dict[str, Any]) -> str:
    facts = row["facts"]
    if facts is None:
        return ""
    return (
        f"{facts.get('engine')} {facts.get('engine_version')} {facts.get('instance_family')}, degree "
        f"{facts.get('tensor_parallel_degree')}, batch {facts.get('batch_size')}, sequence "
        f"{facts.get('sequence_length')}, {facts.get('dtype')}"
    )


def _gib(size: int) -> str:
    return f"{size / 1024**3:,.2f}"


def _show_decisions(decisions: list[Decision]) -> None:
    rows = [
        [
            "goes" if decision.delete else "stays",
            decision.place.key,
            decision.place.slug,
            _gib(decision.place.bytes),
            f"{decision.place.changed.astimezone(UTC):%Y-%m-%d}",
            "; ".join(decision.reasons),
        ]
        for decision in decisions
    ]
    if rows:
        write_table(["", "KEY", "MODEL", "GIB>", "WRITTEN", "WHY"], rows)


def _options(keep_versions: int, min_age_days: int) -> str:
    text = f" --keep-versions {keep_versions}" if keep_versions != _VERSIONS else ""
    return text + (f" --min-age-days {min_age_days}" if min_age_days != 7 else "")  # noqa: PLR2004 - the default


def _removed(result: Removed) -> dict[str, Any]:
    return {
        "key": result.place.key,
        "objects": result.objects,
        "cached_objects": result.cached,
        "parameters": list(result.parameters),
        "stopped": result.stopped or None,
    }


def _removed_text(result: Removed) -> str:
    if result.stopped:
        return f"{result.place.key}: left, {result.stopped}"
    cached = f", {result.cached} of the compiler's cache" if result.cached else ""
    return f"{result.place.key}: {result.objects} objects{cached} and {len(result.parameters)} parameters deleted"


@contextmanager
def _counted(total: int, *, quiet: bool, verb: str = "read") -> Iterator[Callable[[int], None]]:
    """Counts bytes from several threads, and says on a terminal every hundredth of them."""
    lock, state = threading.Lock(), {"bytes": 0, "percent": -1}
    shown = not quiet and sys.stderr.isatty()

    def count(size: int) -> None:
        with lock:
            state["bytes"] += size
            percent = state["bytes"] * 100 // max(total, 1)
            if shown and percent != state["percent"]:
                state["percent"] = percent
                sys.stderr.write(f"\r{percent:3d}% of {_gib(total)} GiB {verb}")
                sys.stderr.flush()

    yield count
    if shown:
        sys.stderr.write("\n")
