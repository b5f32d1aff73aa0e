"""What ends with an environment's compile stack: its executions and its hosts, which no stack knows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from . import executions, hosts
from .aws import Clients, code_of
from .context import Context, Execution, Settings
from .errors import one_line
from .log import emit
from .response import put_response

__all__ = ["end_all", "handler"]

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 3.0
_ROLES = (hosts.COMPILE_HOST, hosts.DEBUG_HOST)


def handler(event: Mapping[str, Any], _context: object = None) -> None:
    """End everything on delete, do nothing on create and update; a stack's deletion never fails for this."""
    properties = event.get("ResourceProperties", {})
    environment = str(properties.get("Environment") or "")
    try:
        if event.get("RequestType") == "Delete" and environment:
            end_all(environment, str(properties.get("StateMachineArn") or ""), clients=Clients.quick())
    except Exception:
        logger.exception("unexpected failure")
    physical_id = str(event.get("PhysicalResourceId") or f"compile-shutdown-{environment}")
    put_response(event, succeeded=True, physical_id=physical_id)


def end_all(
    environment: str,
    machine_arn: str,
    *,
    clients: Clients,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Stop the machine's executions and terminate the environment's hosts.

    Returns
    -------
    list[str]
        What runs on after a minute and a half, executions by their ARNs and hosts by their ids; it is logged, too.
    """
    until = clock() + _PATIENCE_SECONDS
    context = Context(
        settings=_settings(environment), clients=clients, execution=Execution(id="", name="", start=""), sleep=sleep
    )
    while True:
        # Both again and again: a step that was at work may have started a host after the first look.
        remaining = _stop_executions(clients, machine_arn) + _terminate_hosts(context)
        if not remaining or clock() >= until:
            break
        sleep(_POLL_SECONDS)
    if remaining:
        emit("shutdown", environment=environment, could_not_be_ended=remaining)
    else:
        emit("shutdown", environment=environment, ended="all")
    return remaining


def _stop_executions(clients: Clients, machine_arn: str) -> list[str]:
    """Return what still runs."""
    if not machine_arn:
        return []
    try:
        arns = executions.running_of(clients.stepfunctions, machine_arn)
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and code_of(error) == "StateMachineDoesNotExist":
            return []
        return _unknown("executions", machine_arn, error)
    for arn in arns:
        try:
            clients.stepfunctions.stop_execution(executionArn=arn, cause="the compile stack is deleted")
        except (BotoCoreError, ClientError) as error:
            _unknown("stop", arn, error)
    return arns


def _terminate_hosts(context: Context) -> list[str]:
    """Return what still runs."""
    try:
        found = hosts.find(context, {hosts.ROLE_TAG: _ROLES})
    except (BotoCoreError, ClientError) as error:
        return _unknown("hosts", context.settings.environment, error)
    ids = [str(instance["InstanceId"]) for instance in found]
    for instance_id in ids:
        # One by one: a single id that EC2 does not like would keep all the others running.
        try:
            context.clients.ec2.terminate_instances(InstanceIds=[instance_id])
        except (BotoCoreError, ClientError) as error:
            _unknown("terminate", instance_id, error)
    return ids


def _unknown(what: str, name: str, error: Exception) -> list[str]:
    emit("warning", what=what, name=name, why=one_line(error))
    return [name]


def _settings(environment: str) -> Settings:
    """Of all settings, hosts are found by the environment alone."""
    return Settings(
        environment=environment,
        bucket="",
        orders_path="",
        artifacts_path="",
        progress_path="",
        document="",
        log_group="",
        subnets=(),
    )
