"""Services that MiniStack lacks, answered by moto: SageMaker, Application Auto Scaling and SSM documents."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import botocore.session
from ministack import app
from ministack.core import router
from ministack.core.responses import get_account_id
from moto.moto_server.werkzeug_app import create_backend_app
from moto.sagemaker import models as sagemaker_models
from werkzeug.test import Client

from modelzone.local.emulator import seams
from modelzone.local.emulator.bridge import Handler, HandlerResponse
from modelzone.local.emulator.run_command import OPERATIONS, RunCommand

__all__ = ["Override", "install", "moto_handler", "operation_of"]

Override = Callable[[str, bytes], Awaitable[HandlerResponse | None]]
"""Answers an operation (name, body) in moto's place, or returns ``None`` to leave it to moto."""

_MAKE_BACKEND: Any = create_backend_app
_LONGEST_STANDARD = 4096
_TOO_LONG = json.dumps(
    {
        "__type": "ValidationException",
        "message": "Standard tier parameters support a maximum parameter value of 4096 characters. To create a larger "
        "parameter value, upgrade the parameter to use the advanced-parameter tier.",
    }
).encode()
_OF_CONNECTION = frozenset({"content-length", "transfer-encoding", "date", "server"})


class _Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    query: dict[str, list[str]]


def operation_of(headers: Mapping[str, str]) -> str:
    """The operation's name of a request in one of AWS's JSON protocols."""
    return headers.get("x-amz-target", "").rpartition(".")[2]


def moto_handler(service: str, *, override: Override | None = None) -> Handler:
    """A MiniStack service handler with moto behind it."""
    lock = threading.Lock()
    backend: list[Client] = []

    def call(account: str, request: _Request) -> HandlerResponse:
        # One at a time: moto's models are not made for threads.
        with lock:
            if not backend:
                backend.append(Client(_MAKE_BACKEND(service)))
            kept = {name: value for name, value in request.headers.items() if name.lower() not in _OF_CONNECTION}
            kept["x-moto-account-id"] = account
            answer = backend[0].open(
                request.path, method=request.method, headers=kept, data=request.body, query_string=request.query
            )
            answered = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_CONNECTION}
            return answer.status_code, answered, answer.get_data()

    async def handle(
        method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> HandlerResponse:
        if override is not None:
            answered = await override(operation_of(headers), body)
            if answered is not None:
                return answered
        request = _Request(method, path, headers, body, query)
        return await asyncio.to_thread(call, get_account_id(), request)

    return handle


def _too_long(parameter: Mapping[str, Any]) -> bool:
    """Whether a value is more than its tier holds, which MiniStack does not look at."""
    return len(str(parameter.get("Value", ""))) > _LONGEST_STANDARD and parameter.get("Tier") in {None, "Standard"}


def _accept_every_instance_type() -> None:
    """Moto's list of instance types is older than inf2; SageMaker itself refuses a wrong one."""

    def accept(_self: Any, _instance_type: str) -> None:
        return None

    seams.replace(sagemaker_models.FakeEndpointConfig, "validate_instance_type", accept)


def _route_by_target() -> None:
    """Let MiniStack's router find these services at once.

    For a service it does not know, it would load every model of botocore on the event loop, for seconds, only to learn
    whether AWS has such a service; the list of names tells as much.
    """
    patterns = seams.attribute(router, "SERVICE_PATTERNS")
    patterns["sagemaker"] = {"target_prefixes": ["SageMaker."], "host_patterns": [r"sagemaker\."]}
    patterns["application-autoscaling"] = {
        "target_prefixes": ["AnyScaleFrontendService."],
        "host_patterns": [r"application-autoscaling\."],
    }
    names = functools.cache(lambda: frozenset(botocore.session.get_session().get_available_services()))

    def is_aws_service_name(scope_name: str) -> bool:
        return scope_name in names()

    seams.replace(router, "_is_aws_service_name", is_aws_service_name)


def install(*, sagemaker: Override, run_command: RunCommand) -> None:
    """Put the handlers into MiniStack's table.

    ``sagemaker`` answers the life cycle of endpoints, ``run_command`` what runs on hosts.
    """
    _accept_every_instance_type()
    _route_by_target()
    handlers: dict[str, Handler] = seams.attribute(app, "SERVICE_HANDLERS")
    handlers["sagemaker"] = moto_handler("sagemaker", override=sagemaker)
    handlers["application-autoscaling"] = moto_handler("application-autoscaling")
    parameters, documents = handlers["ssm"], moto_handler("ssm")

    async def ssm(
        method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> HandlerResponse:
        operation = operation_of(headers)
        if operation in OPERATIONS:
            return await run_command(operation, body)
        if operation == "PutParameter" and _too_long(json.loads(body)):
            return 400, {"Content-Type": "application/x-amz-json-1.1"}, _TOO_LONG
        chosen = documents if "Document" in operation else parameters
        answer: HandlerResponse = await chosen(method, path, headers, body, query)
        return answer

    handlers["ssm"] = ssm
