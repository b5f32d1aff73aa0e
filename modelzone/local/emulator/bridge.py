"""boto3 clients that call MiniStack's service handlers inside this process.

Code that runs on the event loop cannot send HTTP to itself, so requests are taken from botocore just before they
would be sent and handed to the service's handler, which runs to completion on a thread and a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import io
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.model import OperationModel
from ministack import app
from ministack.core.responses import get_account_id, get_region

from modelzone.local.emulator import seams
from modelzone.local.emulator.sdk import make_client

__all__ = ["Handler", "HandlerResponse", "client", "conform", "run_to_completion"]

HandlerResponse = tuple[int, dict[str, str], bytes]
Handler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Coroutine[Any, Any, Any]]

_NOWHERE = "http://127.0.0.1:1"
_Result = TypeVar("_Result")


def run_to_completion(work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run a coroutine from synchronous code, also on the event loop's own thread, in the caller's context."""
    outcome: list[_Result] = []
    failure: list[BaseException] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.append(context.run(lambda: asyncio.run(work())))
        except BaseException as error:  # raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="bridge", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
    "boolean": lambda value: str(value).lower() == "true",
    "string": lambda value: json.dumps(value) if isinstance(value, dict | list | bool) else str(value),
}


def conform(value: Any, shape: Any) -> Any:
    """Bring a CloudFormation property to the type the API declares (``shape`` is botocore's).

    Templates carry numbers and booleans as strings, property names may differ from the API's in case, and properties
    the API does not know are CloudFormation's own.
    """
    match shape.type_name, value:
        case "structure", dict():
            members = {name.lower(): (name, member) for name, member in shape.members.items()}
            known = {key: members[key.lower()] for key in value if key.lower() in members and value[key] is not None}
            return {name: conform(value[key], member) for key, (name, member) in known.items()}
        case "list", list():
            return [conform(item, shape.member) for item in value]
        case "map", dict():
            return {key: conform(item, shape.value) for key, item in value.items()}
        case kind, _ if kind in _SCALARS:
            return _SCALARS[kind](value)
    return value


class _Body(io.BytesIO):
    """What botocore expects of a response's raw body."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def _handler_of(service: str, signing_name: str) -> Handler:
    handlers: dict[str, Handler] = seams.attribute(app, "SERVICE_HANDLERS")
    if service in handlers:
        return handlers[service]
    return handlers[app.SERVICE_NAME_ALIASES.get(signing_name, signing_name)]


def client(service: str) -> Any:
    """A boto3 client of the current request's account and region, answered in this process."""
    return _client(service, get_account_id(), get_region())


@functools.cache
def _client(service: str, account: str, region: str) -> Any:
    made = make_client(service, endpoint_url=_NOWHERE, account=account, region=region)
    handler = _handler_of(service, made.meta.service_model.signing_name)

    def conform_parameters(params: dict[str, Any], model: OperationModel, **_: Any) -> dict[str, Any]:
        return conform(params, model.input_shape) if model.input_shape else params

    def answer(request: Any, **_: Any) -> AWSResponse:
        address = urlsplit(request.url)
        body: Any = request.body or b""
        body = body.read() if hasattr(body, "read") else body
        body = body.encode() if isinstance(body, str) else body
        headers = {k.lower(): v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}
        query = parse_qs(address.query, keep_blank_values=True)
        status, answered, content = run_to_completion(
            lambda: handler(request.method, unquote(address.path) or "/", headers, body, query)
        )
        content = content.encode() if isinstance(content, str) else content or b""
        return AWSResponse(request.url, status, _plain(answered), _Body(content))

    made.meta.events.register("provide-client-params.*.*", conform_parameters)
    made.meta.events.register("before-send.*.*", answer)
    return made


def _plain(headers: Mapping[str, Any]) -> HTTPHeaders:
    return HTTPHeaders.from_dict({name: str(value) for name, value in headers.items()})
