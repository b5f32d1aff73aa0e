"""Entry point of the check: whatever happens, CloudFormation gets an answer that can be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from .aws import Clients
from .check import CheckError, Order, check_artifact
from .deletion import delete_artifact
from .errors import MissingArtifactError
from .outcomes import explain
from .response import put_response

__all__ = ["handler"]

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

NO_ARTIFACT = "no-compiled-artifact"


class _Context(Protocol):
    log_stream_name: str


def handler(event: dict[str, Any], context: _Context) -> None:
    """Check the artifact on create and update; on delete keep it, unless the environment says otherwise."""
    previous = event.get("PhysicalResourceId") or NO_ARTIFACT
    physical_id, attributes = previous, None
    try:
        properties = event.get("ResourceProperties", {})
        if event.get("RequestType") == "Delete":
            _delete(previous, event)
        else:
            order = Order.from_properties(properties)
            order.check_change(event.get("PhysicalResourceId"))
            artifact = check_artifact(order, s3=Clients().s3)
            logger.info("artifact %s is complete", artifact.s3_uri)
            physical_id, attributes = artifact.physical_id, artifact.attributes
    except CheckError as error:
        logger.warning("refused: %s", error)
        reason = _reason(error, event)
        put_response(event, succeeded=False, physical_id=previous, reason=reason)
    except Exception as error:
        logger.exception("unexpected failure")
        reason = (
            f"The check of the compiled artifact failed unexpectedly ({type(error).__name__}: {error}). "
            f"See the function's log stream {context.log_stream_name}."
        )
        put_response(event, succeeded=False, physical_id=previous, reason=reason)
    else:
        put_response(event, succeeded=True, physical_id=physical_id, attributes=attributes)


def _reason(error: CheckError, event: Mapping[str, Any]) -> str:
    """Say why a compilation made no artifact; what else is wrong says the check itself."""
    properties = event.get("ResourceProperties", {})
    if not isinstance(error, MissingArtifactError) or not properties.get("Outcome"):
        return str(error)
    try:
        return explain(properties, error, Clients().stepfunctions)
    except Exception:
        # The check's own words are true in any case.
        logger.exception("the outcome of the wait could not be explained")
        return str(error)


def _delete(physical_id: str, event: Mapping[str, Any]) -> None:
    """Artifacts are shared and outlive deployments: only on request is one deleted, and never one that is used."""
    properties = event.get("ResourceProperties", {})
    if properties.get("DeleteArtifact") == "true":
        delete_artifact(
            physical_id,
            bucket=str(properties.get("Bucket", "")),
            clients=Clients(),
            stack_id=str(event.get("StackId", "")),
            machine_arn=str(properties.get("StateMachineArn") or ""),
        )
