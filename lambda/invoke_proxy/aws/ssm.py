"""Parameters of Systems Manager's Parameter Store."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from .client import AwsClient
from .errors import AwsError, BadAnswerError

__all__ = ["Parameter", "parameters_by_path"]

# GetParametersByPath allows few requests a second for the whole account, and many functions may start at once. It
# only reads, so it may be repeated.
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.1
_PASSING = frozenset({"InternalServerError", "ThrottlingException", "ServiceUnavailable"})
_SERVER_ERROR = 500
# The most that the service returns at once.
_PAGE = 10


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter; `written` is in seconds since 1970, 0 when the service does not say."""

    name: str
    value: str
    written: int


async def parameters_by_path(client: AwsClient, path: str, *, recursive: bool) -> list[Parameter]:
    """Return all parameters under a path, in the order in which the service lists them.

    Parameters
    ----------
    recursive
        Also those further down than directly under the path.

    Raises
    ------
    AwsError
        When the service refuses. Throttling and its own failures are tried four times.
    TransportError
        When there is no answer, or none that can be read.
    """
    found: list[Parameter] = []
    document: dict[str, Any] = {"Path": path, "Recursive": recursive, "MaxResults": _PAGE}
    seen: set[str] = set()
    while True:
        page = await _page(client, document)
        try:
            found += [
                Parameter(name=item["Name"], value=item["Value"], written=int(item.get("LastModifiedDate") or 0))
                for item in page.get("Parameters", [])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswerError("a parameter in the answer of SSM has no name or no value") from error
        token = page.get("NextToken")
        if not token:
            return found
        if token in seen:
            raise BadAnswerError("SSM repeats a page of parameters without end")
        seen.add(token)
        document["NextToken"] = token


async def _page(client: AwsClient, document: dict[str, Any]) -> dict[str, Any]:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await client.json("ssm", "AmazonSSM.GetParametersByPath", document)
        except AwsError as error:
            if attempt == ATTEMPTS or not (error.code in _PASSING or error.status >= _SERVER_ERROR):
                raise
        # Half to the whole of a pause that doubles: functions that started together do not ask together again.
        pause = FIRST_PAUSE_SECONDS * 2**attempt
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, keeps no secret
    raise AssertionError
