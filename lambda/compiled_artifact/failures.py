"""One failed compilation, one message: the step, why, what to do, and where the log is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .context import Context, State
from .errors import one_line, sentence

__all__ = ["LONGEST_MESSAGE", "message_of"]

# Step Functions takes 32,768 characters for a cause; people read fewer.
LONGEST_MESSAGE = 3000

_FAILED = re.compile(r"step '(?P<step>[\w-]+)' failed: .+")
_AFTER = {
    "": "look",
    "look": "start-host",
    "start-host": "wait-for-agent",
    "wait-for-agent": "wait-for-agent",
    "run": "follow",
    "follow": "follow",
    "verify": "register",
    "register": "stop-host",
    "stop-host": "notify",
}
_GENERIC = {
    "States.Timeout": "it took longer than the state machine allows",
    "Sandbox.Timedout": "its function took longer than it may",
    "Runtime.OutOfMemory": "its function ran out of memory",
}
_UNKNOWN_REMEDY = "Start the compilation again; if that does not help, the function's log says more"


def message_of(context: Context, state: State) -> tuple[str, str]:
    """Return the step that failed and the message.

    Parameters
    ----------
    state
        With `failure` as Step Functions' Catch leaves it: ``Error`` and ``Cause``, or already with a ``message``.
    """
    failure = state.get("failure")
    failure = failure if isinstance(failure, dict) else {"Error": "", "Cause": str(failure)}
    if failure.get("message"):
        return str(failure.get("step", "")), one_line(failure["message"])
    error, text = str(failure.get("Error", "")), _text(failure)
    match = _FAILED.search(text)
    if match:
        step, message = match["step"], sentence(match[0])
    else:
        step = _step_after(state)
        why = _GENERIC.get(error) or (": ".join(filter(None, (error, text))) or "nothing is known of the cause")
        message = f"step '{step}' failed: {sentence(why)} {_UNKNOWN_REMEDY}."
    stop = _text(state["stop_failure"]) if isinstance(state.get("stop_failure"), dict) else ""
    if stop:
        message += f" The host could not be terminated, either: {sentence(_shortened(stop, 500))}"
    log = _log(context, state)
    return step, f"{_shortened(message, LONGEST_MESSAGE - len(log) - 1)} {log}"


def _text(failure: Mapping[str, Any]) -> str:
    """Return the words of an error: the function's own message, without its type and stack."""
    cause = failure.get("Cause", "")
    try:
        data = json.loads(cause)
    except (ValueError, TypeError):
        data = None
    if isinstance(data, dict):
        cause = data.get("errorMessage") or data.get("message") or failure.get("Error", "")
    return one_line(cause)


def _step_after(state: State) -> str:
    """The step that was at work, by the one that was last heard of."""
    last = str(state.get("step", ""))
    if last in {"look", "start-host"} and state.get("published"):
        return "register"
    if last == "wait-for-agent" and state.get("agent") == "online":
        return "run"
    if last == "follow" and state.get("run") != "running":
        return "verify"
    if last == "stop-host" and state.get("run") == "interrupted":
        return "start-host"
    return _AFTER.get(last, last)


def _log(context: Context, state: State) -> str:
    host = state.get("host") or {}
    if state.get("command_id") and state.get("run") == "running":
        return f"Log: {context.settings.log_group} {state['command_id']}/{host.get('instance_id', '')}"
    # Streams of functions have no telling names: their lines are found by the execution's.
    return f"Log: {context.settings.own_log_group or 'the function of the compile steps'} {context.execution.name}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
