"""SageMaker's endpoint operations: moto keeps the records, hosting runs what they describe."""

from __future__ import annotations

import json
from typing import Any

from ministack.core.responses import get_account_id, get_region
from moto.core.utils import utcnow
from moto.sagemaker.models import sagemaker_backends

from modelzone.local.emulator.bridge import HandlerResponse
from modelzone.local.emulator.model_data import S3ModelData
from modelzone.local.emulator.sagemaker_hosting import (
    EndpointKey,
    EndpointPlan,
    EndpointStatus,
    HostedEndpoint,
    ModelHosting,
    VariantPlan,
)

__all__ = ["SageMakerControl"]

Backend = Any
"""Moto's records of one account and region; its annotations are narrower than what it stores."""

_DEFAULT_STARTUP_TIMEOUT_S = 600.0


class _Refused(Exception):  # noqa: N818 - becomes SageMaker's ValidationException
    pass


class SageMakerControl:
    """Answers the operations on endpoints in moto's place; an override for :func:`moto_services.moto_handler`."""

    def __init__(self, *, hosting: ModelHosting) -> None:
        self._hosting = hosting
        self._operations = {
            "CreateModel": self._create_model,
            "CreateEndpoint": self._create,
            "UpdateEndpoint": self._update,
            "DeleteEndpoint": self._delete,
        }

    async def __call__(self, operation: str, body: bytes) -> HandlerResponse | None:
        """Answer an endpoint operation; ``None`` leaves any other to moto."""
        answer = self._operations.get(operation)
        if answer is None:
            return None
        try:
            return _json_response(200, answer(json.loads(body or b"{}")))
        except _Refused as refusal:
            return _json_response(400, {"__type": "ValidationException", "message": str(refusal)})

    @staticmethod
    def _create_model(request: dict[str, Any]) -> dict[str, Any]:
        # moto forgets EnableNetworkIsolation.
        backend, name = _backend(), request["ModelName"]
        if name in backend._models:  # noqa: SLF001 - moto has no accessor
            raise _Refused(f'Cannot create already existing model "{_arn("model", name)}".')
        model = backend.create_model(
            model_name=name,
            execution_role_arn=request.get("ExecutionRoleArn"),
            primary_container=request.get("PrimaryContainer") or {},
            vpc_config=request.get("VpcConfig"),
            containers=request.get("Containers"),
            tags=request.get("Tags"),
        )
        model.enable_network_isolation = bool(request.get("EnableNetworkIsolation", False))
        return {"ModelArn": model.arn}

    def _create(self, request: dict[str, Any]) -> dict[str, Any]:
        backend, key = _backend(), _key(request)
        if key.name in backend.endpoints:
            raise _Refused(f'Cannot create already existing endpoint "{backend.endpoints[key.name].arn}".')
        plan = _plan(backend, request["EndpointConfigName"])
        record = backend.create_endpoint(key.name, plan.config_name, request.get("Tags") or [])
        record.endpoint_status = EndpointStatus.CREATING.value
        self._hosting.create(key, plan, on_settled=lambda endpoint: _settle(backend, endpoint))
        return {"EndpointArn": record.arn}

    def _update(self, request: dict[str, Any]) -> dict[str, Any]:
        backend, key = _backend(), _key(request)
        record, endpoint = self._existing(backend, key)
        if endpoint.status in {EndpointStatus.CREATING, EndpointStatus.UPDATING}:
            raise _Refused(f'Cannot update in-progress endpoint "{record.arn}".')
        if endpoint.status is EndpointStatus.FAILED:
            raise _Refused(f'Cannot update endpoint "{record.arn}" because it is in the Failed state.')
        plan = _plan(backend, request["EndpointConfigName"])
        record.endpoint_status = EndpointStatus.UPDATING.value
        record.last_modified_time = utcnow()
        self._hosting.update(endpoint, plan, on_settled=lambda settled: _settle(backend, settled))
        return {"EndpointArn": record.arn}

    def _delete(self, request: dict[str, Any]) -> dict[str, Any]:
        backend, key = _backend(), _key(request)
        self._existing(backend, key)
        del backend.endpoints[key.name]
        self._hosting.delete(key)
        return {}

    def _existing(self, backend: Backend, key: EndpointKey) -> tuple[Any, HostedEndpoint]:
        record, endpoint = backend.endpoints.get(key.name), self._hosting.get(key)
        if record is None or endpoint is None:
            raise _Refused(f'Could not find endpoint "{_arn("endpoint", key.name)}".')
        return record, endpoint


def _backend() -> Backend:
    backend: Backend = sagemaker_backends[get_account_id()][get_region()]
    return backend


def _arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:{kind}/{name}"


def _key(request: dict[str, Any]) -> EndpointKey:
    return EndpointKey(account=get_account_id(), region=get_region(), name=request["EndpointName"])


def _plan(backend: Backend, config_name: str) -> EndpointPlan:
    """Resolve an endpoint configuration into what its variants run."""
    config = backend.endpoint_configs.get(config_name)
    if config is None:
        raise _Refused(f'Could not find endpoint configuration "{_arn("endpoint-config", config_name)}".')
    variants = []
    for variant in config.production_variants:
        model = backend._models.get(variant["ModelName"])  # noqa: SLF001 - moto has no accessor
        if model is None:
            raise _Refused(f'Could not find model "{_arn("model", variant["ModelName"])}".')
        container = model.primary_container or (model.containers or [{}])[0]
        timeout = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", _DEFAULT_STARTUP_TIMEOUT_S)
        variants.append(
            VariantPlan(
                name=variant["VariantName"],
                image=container.get("Image", ""),
                environment={name: str(value) for name, value in (container.get("Environment") or {}).items()},
                data=S3ModelData.of_container(container),
                startup_timeout_s=float(timeout),
                weight=float(variant.get("InitialVariantWeight", 1.0)),
            )
        )
    return EndpointPlan(config_name=config_name, variants=tuple(variants))


def _settle(backend: Backend, endpoint: HostedEndpoint) -> None:
    """Write the outcome of a create or update into moto's record."""
    record = backend.endpoints.get(endpoint.key.name)
    if record is None:
        return
    record.endpoint_status = endpoint.status.value
    record.failure_reason = endpoint.failure_reason
    record.last_modified_time = utcnow()
    config = backend.endpoint_configs.get(endpoint.config_name)
    if record.endpoint_config_name != endpoint.config_name and config is not None:
        record.endpoint_config_name = endpoint.config_name
        process = record._process_production_variants  # noqa: SLF001 - moto's own shape
        record.production_variants = process(config.production_variants)


def _json_response(status: int, document: dict[str, Any]) -> HandlerResponse:
    headers = {"Content-Type": "application/x-amz-json-1.1"}
    if "__type" in document:
        headers["x-amzn-ErrorType"] = document["__type"]
    return status, headers, json.dumps(document).encode()
