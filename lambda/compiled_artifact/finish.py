"""The last steps: verify, register, tell."""

from __future__ import annotations

import json

from botocore.exceptions import ClientError

from .aws import code_of
from .context import Context, State, iso, moment
from .errors import CompileError
from .failures import message_of
from .log import emit
from .look import found_summary, read_result
from .manifest import MANIFEST_NAME, ManifestError, find_problems, in_words
from .objects import delete_keys, pages_of_keys
from .orders import CompileOrder
from .telemetry import Telemetry

__all__ = ["notify", "register", "verify"]

_AGAIN = "Start the compilation again: it repairs what is wrong and repeats nothing else"


def verify(context: Context, state: State) -> State:
    """Check the result from outside the host: manifest, sizes, checksums.

    Raises
    ------
    CompileError
        Something is not as the manifest says, or there is none.
    """
    order, job = CompileOrder.parse(state["order"]), state["job"]
    prefix = order.result_prefix(job)
    uri = f"s3://{job['bucket']}/{prefix}"
    try:
        manifest = read_result(context, order, job, prefix)
    except ManifestError as error:
        raise CompileError("verify", str(error), _AGAIN) from error
    if manifest is None:
        raise CompileError("verify", f"the job ended well, but {uri} has no manifest", _AGAIN)
    problems = find_problems(
        context.clients.s3, job["bucket"], prefix, manifest.objects, may_list=True, need_sha256=True
    )
    if problems:
        raise CompileError("verify", f"{uri} is not as its manifest says: {in_words(problems)}", _AGAIN)
    return {**state, "found": found_summary(manifest)}


def register(context: Context, state: State) -> State:
    """Write the artifact into the registry, and delete what lies beside it; an entry that says the same stays."""
    order, job = CompileOrder.parse(state["order"]), state["job"]
    if order.mirrors_only(weights_only=bool(job.get("weights_only"))):
        # Weights are no artifact; their manifest is all that anybody asks for.
        return state
    _sweep(context, order, state)
    found, name = state["found"], f"{context.settings.artifacts_path}/{state['key']}"
    entry = {
        "artifact": state["artifact"],
        "manifest_sha256": found["manifest_sha256"],
        "facts": state["job"]["facts"],
        "deployment": state["deployment"],
        "created": found["created"] or iso(context.now()),
        "bytes": found["bytes"],
        "seconds": _seconds(context),
        "execution": context.execution.name,
    }
    before = _registered(context, name)
    if before.get("artifact") != entry["artifact"] or before.get("manifest_sha256") != entry["manifest_sha256"]:
        context.clients.ssm.put_parameter(
            Name=name,
            Value=json.dumps(entry),
            Type="String",
            Overwrite=True,
            Description=f"Modelzone {context.settings.environment}: a compiled artifact",
        )
    return state


def _sweep(context: Context, order: CompileOrder, state: State) -> None:
    """Delete what an earlier export left below the prefix: SageMaker loads everything that lies there."""
    job, s3 = state["job"], context.clients.s3
    bucket, prefix = job["bucket"], order.result_prefix(job)
    try:
        manifest = read_result(context, order, job, prefix)
    except ManifestError as error:
        raise CompileError("register", str(error), _AGAIN) from error
    if manifest is None or manifest.sha256 != state["found"]["manifest_sha256"]:
        # Whatever is listed there now, it is not what was verified.
        why = f"s3://{bucket}/{prefix}{MANIFEST_NAME} was changed after it was verified"
        raise CompileError("register", why, _AGAIN)
    listed = {prefix + MANIFEST_NAME, *(prefix + item.path for item in manifest.objects)}
    deleted = 0
    for keys in pages_of_keys(s3, bucket, prefix):
        if extra := [key for key in keys if key not in listed]:
            delete_keys(s3, bucket, extra)
            deleted += len(extra)
    emit("register", unlisted=deleted, artifact=state["artifact"])


def notify(context: Context, state: State) -> State:
    """Tell how it ended, and leave the machine its output or its one message; what cannot be told is only logged."""
    telemetry = Telemetry(context, deployment=str(state.get("deployment", "")), key=str(state.get("key", "")))
    name, environment = state.get("deployment", "?"), context.settings.environment
    if state.get("failure"):
        step, message = message_of(context, state)
        telemetry.count("Failures")
        telemetry.step(step, "failed", message)
        telemetry.notice(
            f"Modelzone {environment}: compiling {name} failed in step {step}",
            f"{message}\n\nExecution: {context.execution.id}\nMore: modelzone compile logs {name} -e {environment}\n",
        )
        emit("failed", execution=context.execution.name, message=message)
        return {**state, "failure": {"step": step, "message": message}}
    host, seconds = state.get("host"), _seconds(context)
    output = {
        "deployment": state["deployment"],
        "key": state["key"],
        "artifact": state["artifact"],
        "already": bool(state.get("published")),
        "seconds": seconds,
        "host": {part: host[part] for part in ("instance_type", "purchase")} if host else None,
        "steps": state.get("steps", {}),
    }
    if not output["already"]:
        telemetry.count("Compilations")
        gib = state["found"]["bytes"] / 1024**3
        telemetry.notice(
            f"Modelzone {environment}: {name} is compiled",
            f"{state['artifact']} is complete: {state['found']['objects']} objects, {gib:.1f} GiB, after "
            f"{seconds / 60:.0f} minutes.\n\nExecution: {context.execution.id}\n",
        )
    return {**state, "output": output}


def _registered(context: Context, name: str) -> dict[str, object]:
    try:
        found = json.loads(context.clients.ssm.get_parameter(Name=name)["Parameter"].get("Value", ""))
    except ClientError as error:
        if code_of(error) != "ParameterNotFound":
            raise
        return {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(context: Context) -> float:
    start = moment(context.execution.start)
    return round((context.now() - start).total_seconds(), 1) if start else 0.0
