"""The step that starts a host: each type in each zone, until one is given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from . import executions, hosts
from .aws import code_of, failure_of, words_of
from .context import MAX_ATTEMPTS, Context, State, iso, moment
from .errors import BusyError, CompileError
from .log import emit
from .look import found_summary, published_result
from .orders import CompileOrder
from .refusals import NEXT, QUOTA, Candidate, Tried, no_host, refusal_of

__all__ = ["start_host"]

_STEP = "start-host"
# Waiting for capacity takes from the time before the tag's end, which must stay the same in every try: EC2 refuses the
# same token with other tags.
_CAPACITY_WAIT = timedelta(hours=1)
_TERMINATED = ("shutting-down", "terminated")
_OF_ONE_HOST = {"command_id", "sent", "known", "metered", "lost_polls", "heard", "heard_at"}
_AGAIN = "Start the compilation again: it goes on from what is complete"
# What one more try and its answer may take.
_SPARE_SECONDS = 60


def start_host(context: Context, state: State) -> State:
    """Start a host for the job, or take over the one that an interrupted try of this step has started.

    No host is needed where the artifact has become complete meanwhile: `published` says so.

    Raises
    ------
    BusyError
        An older execution makes the same artifact.
    CapacityError
        No zone has one at the moment: worth another try later.
    CompileError
        EC2 refused for another reason, or the execution was ended meanwhile.
    """
    order = CompileOrder.parse(state["order"])
    manifest = published_result(context, order, state["job"], step=_STEP)
    if manifest is not None:
        emit(_STEP, complete=state["artifact"])
        # An interruption is over with that, too.
        return {**state, "published": True, "found": found_summary(manifest), "run": "pending"}
    attempt = int((state.get("host") or {}).get("attempt", 0)) + 1
    if attempt > MAX_ATTEMPTS:
        raise CompileError(_STEP, f"{MAX_ATTEMPTS} hosts were tried", "Start the compilation again")
    tags = {hosts.EXECUTION_TAG: context.execution.name, hosts.ATTEMPT_TAG: str(attempt)}
    running = hosts.find(context, tags, states=hosts.LIVE)
    if running:
        instance = running[0]
        emit(_STEP, taken_over=instance["InstanceId"])
        _check_execution(context, *running)
        hosts.keep(context, instance["InstanceId"], running)
        spot = instance.get("InstanceLifecycle") == "spot"
    else:
        base = _base(context, state)
        ended = len(hosts.find(context, tags, states=_TERMINATED))
        # The last host must stay, whatever it costs.
        spot = order.purchase == "spot" and attempt < MAX_ATTEMPTS
        instance, spot = _launch(context, state, order, attempt=attempt, spot=spot, salt=str(ended), base=base)
    instance_type = instance["InstanceType"]
    devices = next((one.devices for one in order.choices(state["job"]) if one.instance_type == instance_type), 0)
    started = hosts.launched(instance) or context.now()
    host = {
        "instance_id": instance["InstanceId"],
        "instance_type": instance_type,
        "subnet_id": instance.get("SubnetId", ""),
        "purchase": "spot" if spot else "on-demand",
        "attempt": attempt,
        "launched": iso(started),
    }
    # What was known of another host does not hold for this one.
    return {
        **{name: value for name, value in state.items() if name not in _OF_ONE_HOST},
        "job": {**state["job"], "devices": devices},
        "host": host,
        "published": False,
        "agent": "pending",
        "run": "pending",
        "polls": 0,
    }


def _base(context: Context, state: State) -> datetime:
    """Return the moment from which the host's lifetime counts, the same in every try of this step.

    Raises
    ------
    BusyError
        An older execution makes the same artifact.
    """
    started = moment(context.execution.start) or context.now()
    older = executions.older(context.clients.stepfunctions, context.execution.id, state["key"], started=started)
    if older.running:
        why = f"execution {older.running} makes the same artifact ({state['key']}): its end is waited for"
        raise BusyError(_STEP, why, "Start the compilation again when that one has ended")
    return max(filter(None, (started, moment(state.get("stopped_at")), older.ended)))


def _check_execution(context: Context, *started: Mapping[str, Any]) -> None:
    """Start nothing for an execution that was cancelled meanwhile, and leave nothing: its clean-up may be over.

    Raises
    ------
    CompileError
        It was.
    """
    goes_on, status = executions.is_running(context.clients.stepfunctions, context.execution.id)
    if goes_on:
        return
    hosts.terminate(context, started)
    raise CompileError(_STEP, f"execution {context.execution.name} is {status}: no host is started for it", _AGAIN)


def _launch(
    context: Context,
    state: State,
    order: CompileOrder,
    *,
    attempt: int,
    spot: bool,
    salt: str,
    base: datetime,
) -> tuple[dict[str, Any], bool]:
    """Return the first host that is given, and whether it is a Spot host: where there is none of these, any other."""
    tried: list[Tried] = []
    subnets = context.settings.subnets
    candidates = [Candidate(choice, subnet) for choice in order.choices(state["job"]) for subnet in subnets]
    for as_spot, candidate in [(kind, one) for kind in ((True, False) if spot else (False,)) for one in candidates]:
        if tried and context.seconds_left() < _SPARE_SECONDS:
            raise no_host(context, tried, late=True)
        _check_execution(context)
        request = _request(context, order, candidate, attempt=attempt, spot=as_spot, salt=salt, base=base)
        try:
            (instance,) = context.clients.ec2_once.run_instances(**request)["Instances"]
        except ClientError as error:
            code = code_of(error)
            # Where Spot is what was wanted, a small quota of the other kind decides nothing.
            if code not in NEXT or (code == QUOTA and not (spot and not as_spot)):
                raise refusal_of(error, candidate, spot=as_spot) from error
            tried.append(Tried(candidate, code, as_spot))
            emit(_STEP, refused=candidate.choice.instance_type, subnet=candidate.subnet, why=words_of(error))
            continue
        except BotoCoreError as error:
            raise failure_of(_STEP, error) from error
        if not hosts.is_live(instance):
            # The same token brings back the host of an earlier try, even one that has ended.
            tried.append(Tried(candidate, "InsufficientInstanceCapacity", as_spot))
            continue
        _check_execution(context, instance)
        return dict(instance), as_spot
    raise no_host(context, tried)


def _request(
    context: Context,
    order: CompileOrder,
    candidate: Candidate,
    *,
    attempt: int,
    spot: bool,
    salt: str,
    base: datetime,
) -> dict[str, Any]:
    instance_type = candidate.choice.instance_type
    identity = (context.execution.name, str(attempt), salt, instance_type, candidate.subnet, str(spot))
    tags = {
        hosts.ENVIRONMENT_TAG: context.settings.environment,
        hosts.ROLE_TAG: hosts.COMPILE_HOST,
        hosts.EXECUTION_TAG: context.execution.name,
        hosts.ATTEMPT_TAG: str(attempt),
        hosts.DEPLOYMENT_TAG: order.deployment,
        hosts.UNTIL_TAG: iso(base + timedelta(hours=order.max_hours) + _CAPACITY_WAIT),
        "Name": f"modelzone-{context.settings.environment}-compile-{order.deployment}",
    }
    listed = [{"Key": name, "Value": value} for name, value in tags.items()]
    request: dict[str, Any] = {
        "LaunchTemplate": {"LaunchTemplateId": order.launch_template, "Version": order.launch_template_version},
        "InstanceType": instance_type,
        "SubnetId": candidate.subnet,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": hashlib.sha256("\0".join(identity).encode()).hexdigest(),
        "TagSpecifications": [{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")],
    }
    if spot:
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return request
