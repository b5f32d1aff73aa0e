"""How far the job on the host is, as it says in its parameter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from .aws import code_of
from .errors import one_line
from .log import emit

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

__all__ = ["in_words", "read_progress"]


def read_progress(ssm: SSMClient, path: str, key: str) -> dict[str, Any] | None:
    """Return what the job for an artifact wrote last; None where there is nothing to read. It never fails."""
    name = f"{path}/{key}"
    try:
        found = json.loads(ssm.get_parameter(Name=name)["Parameter"].get("Value", ""))
    except ClientError as error:
        if code_of(error) != "ParameterNotFound":
            emit("warning", what="progress", why=one_line(error))
        return None
    except (BotoCoreError, ValueError) as error:
        emit("warning", what="progress", why=one_line(error))
        return None
    return found if isinstance(found, dict) else None


def in_words(progress: dict[str, Any] | None) -> str:
    """Return the step and how much of it is done."""
    if not progress or not isinstance(progress.get("step"), str) or not progress["step"]:
        return "starting a host"
    percent = progress.get("percent")
    return f"{progress['step']} {percent:.0f} %" if isinstance(percent, int | float) else progress["step"]
