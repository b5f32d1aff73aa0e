"""How a wait for a compilation ended, as one window tells the next, and the last one the check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from . import executions
from .errors import CheckError, one_line, sentence
from .log import emit
from .response import MAX_REASON_BYTES, shorten

__all__ = ["COMPLETE", "REFUSED", "explain", "failed", "parse", "running", "unknown"]

COMPLETE, REFUSED = "complete", "refused"
_FAILED, _RUNNING, _UNKNOWN = "failed", "running", "unknown"
# An attribute of a resource; the whole answer to CloudFormation has at most 4096 bytes.
_LONGEST_LINE = 500


def running(arn: str) -> str:
    """The execution goes on."""
    return f"{_RUNNING} {arn}"


def failed(arn: str) -> str:
    """The execution ended otherwise than it should."""
    return f"{_FAILED} {arn}"


def unknown(why: object) -> str:
    """Something happened that nobody foresaw."""
    return f"{_UNKNOWN} {shorten(one_line(why), _LONGEST_LINE)}"


def parse(outcome: str) -> tuple[str, str]:
    """Return the word and what follows it."""
    word, _, rest = outcome.strip().partition(" ")
    return word, rest.strip()


def explain(properties: Mapping[str, Any], error: CheckError, stepfunctions: Any) -> str:
    """Return why there is no artifact, for who has waited for one; the check's own words where the wait says nothing.

    Parameters
    ----------
    properties
        Of the check's resource, with the `Outcome` of the last window.
    """
    word, rest = parse(str(properties.get("Outcome") or ""))
    deployment = str(properties.get("Deployment", ""))
    option = f" -e {properties['Environment']}" if properties.get("Environment") else ""
    if word == _UNKNOWN:
        begin = f"The compilation of deployment '{deployment}' could not be started or followed: "
        return begin + shorten(sentence(rest or "nothing is known of the cause"), MAX_REASON_BYTES - len(begin) - 2)
    if word not in {_FAILED, _RUNNING} or not rest:
        return str(error)
    found = _described(stepfunctions, rest)
    # The execution itself knows better than the window that looked at it last.
    if found is not None:
        if found.status == "SUCCEEDED":
            return str(error)
        word = _RUNNING if found.running else _FAILED
    name = rest.rpartition(":")[2]
    if word == _RUNNING:
        minutes = round((datetime.now(UTC) - found.started).total_seconds() / 60) if found else None
        standing = f"execution {name}" + (f", {max(0, minutes)} min so far" if minutes is not None else "")
        return shorten(
            f"Deployment '{deployment}' is still being compiled ({standing}). CloudFormation waits no longer, the "
            f"compilation goes on. Follow it with modelzone compile {deployment}{option} --follow, and deploy again "
            "when it is done: the artifact is found then."
        )
    cause = executions.cause_of(found) if found else f"execution {name} failed"
    begin = f"Compiling deployment '{deployment}' failed: "
    end = f" More: modelzone compile logs {deployment}{option}."
    # Of a long cause the beginning says most; how to see the rest is never cut off.
    return begin + shorten(sentence(cause), MAX_REASON_BYTES - len(json.dumps(begin + end))) + end


def _described(stepfunctions: Any, arn: str) -> executions.Described | None:
    try:
        return executions.describe(stepfunctions, arn)
    except (BotoCoreError, ClientError) as error:
        emit("warning", what="execution", why=one_line(error))
        return None
