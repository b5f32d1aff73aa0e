"""Entry point of the state machine's steps, of its clean-up and of the reaper."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from .agent import wait_for_agent
from .aws import Clients, failure_of
from .command import follow, run_command
from .context import Context, Execution, Settings, State
from .ending import clean_up, reap, stop_host
from .errors import CompileError
from .finish import notify, register, verify
from .launching import start_host
from .log import emit
from .look import look
from .telemetry import Telemetry

__all__ = ["handler", "perform"]

Step = Callable[[Context, State], State]
_STEPS: Mapping[str, Step] = {
    "look": look,
    "start-host": start_host,
    "wait-for-agent": wait_for_agent,
    "run": run_command,
    "follow": follow,
    "verify": verify,
    "register": register,
    "stop-host": stop_host,
    "notify": notify,
}


# Steps that are done in one go; the others count how long they were waited for.
_METERED = {"look", "start-host", "run", "verify", "register", "stop-host"}


def handler(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Do one step and return the new state.

    Parameters
    ----------
    event
        ``{"step", "execution": {"id", "name", "start"}, "state"}`` of the state machine; or an event "Step Functions
        Execution Status Change"; or ``{"step": "reap", "state_machine_arn"}``.

    Raises
    ------
    CompileError
        In one line what failed and what to do; its subclasses are worth another try.
    """
    clients = Clients.quick() if event.get("step") == "follow" else Clients.shared()
    times: dict[str, Any] = {}
    remaining: Callable[[], int] | None = getattr(context, "get_remaining_time_in_millis", None)
    if remaining is not None:
        times["seconds_left"] = lambda: remaining() / 1000
    return perform(event, settings=Settings.from_environment(os.environ), clients=clients, **times)


def perform(event: Mapping[str, Any], *, settings: Settings, clients: Clients, **times: Any) -> dict[str, Any]:
    """`handler` with its surroundings.

    Parameters
    ----------
    times
        ``now``, ``sleep`` and ``seconds_left`` of the `Context`.

    Raises
    ------
    CompileError
        See `handler`.
    """
    detail = event.get("detail")
    step = str(event.get("step") or ("cleanup" if isinstance(detail, dict) else ""))
    if step == "cleanup":
        given = detail if isinstance(detail, dict) else {}
        arn = str(given.get("executionArn", ""))
        execution = Execution(id=arn, name=str(given.get("name") or arn.rpartition(":")[2]), start="")
        context = Context(settings=settings, clients=clients, execution=execution, **times)
        return _guarded(step, context, lambda: clean_up(context, given))
    context = Context(
        settings=settings, clients=clients, execution=Execution.from_event(event.get("execution") or {}), **times
    )
    if step == "reap":
        machine = str(event.get("state_machine_arn") or settings.state_machine_arn)
        return _guarded(step, context, lambda: reap(context, machine))
    if step not in _STEPS:
        raise CompileError(step or "?", "there is no such step", "Deploy the compile stack again")
    return _machine_step(step, context, dict(event.get("state") or {}))


def _machine_step(step: str, context: Context, state: State) -> State:
    telemetry = Telemetry(context, deployment=str(state.get("deployment", "")), key=str(state.get("key", "")))
    # Steps that wait are entered many times.
    if not (step in {"wait-for-agent", "follow"} and state.get("polls")):
        telemetry.step(step, "started")
    started = time.monotonic()
    after = {**_guarded(step, context, lambda: _STEPS[step](context, state)), "step": step}
    if step in _METERED and not after.get("published"):
        telemetry.seconds("StepSeconds", time.monotonic() - started, step=step)
    if step == "follow" and after["run"] == "interrupted":
        telemetry.step(step, "failed", "interrupted; another host goes on")
    elif not _comes_back(step, after) and not (step == "notify" and after.get("failure")):
        telemetry.step(step, "succeeded")
    return after


def _comes_back(step: str, state: State) -> bool:
    return (step == "wait-for-agent" and state.get("agent") == "pending") or (
        step == "follow" and state.get("run") == "running"
    )


def _guarded(step: str, context: Context, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do something, log it with its duration, and turn whatever goes wrong into one readable line."""
    started = time.monotonic()
    failure: CompileError
    try:
        result = action()
    except CompileError as error:
        failure = error
    except (BotoCoreError, ClientError) as error:
        failure = failure_of(step, error)
    except Exception as error:
        # The machine shows nothing but this line.
        remedy = "This is a fault of the compile steps; start the compilation again, and report it with this line"
        failure = CompileError(step, f"{type(error).__name__}: {error}", remedy)
        failure.__cause__ = error
    else:
        _log(step, context, started, status="ok", **_facts(result))
        return result
    _log(step, context, started, status=type(failure).__name__, message=str(failure))
    raise failure


def _log(step: str, context: Context, started: float, **details: object) -> None:
    seconds = round(time.monotonic() - started, 2)
    emit("step", step=step, execution=context.execution.name, seconds=seconds, **details)


def _facts(result: Mapping[str, Any]) -> dict[str, object]:
    """What is worth a place in the log."""
    host = result.get("host") or {}
    known = {name: result.get(name) for name in ("key", "published", "agent", "run", "command_id", "terminated")}
    known |= {name: host.get(name) for name in ("instance_id", "instance_type", "attempt")}
    return {name: value for name, value in known.items() if value not in (None, "", [])}
