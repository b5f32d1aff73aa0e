"""Entry point of the function: whatever happens, CloudFormation gets an answer that can be read."""

from __future__ import annotations

import logging
import os
from typing import Any, Protocol

import boto3
from botocore.config import Config

from .check import CheckError, Order, check_artifact
from .response import put_response

__all__ = ["handler"]

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

NO_ARTIFACT = "no-compiled-artifact"


class _Context(Protocol):
    log_stream_name: str


def handler(event: dict[str, Any], context: _Context) -> None:
    """Check the artifact on create and update; on delete do nothing: artifacts outlive deployments."""
    kind = event.get("RequestType")
    previous = event.get("PhysicalResourceId") or NO_ARTIFACT
    if kind == "Delete":
        put_response(event, succeeded=True, physical_id=previous)
        return
    try:
        order = Order.from_properties(event.get("ResourceProperties", {}))
        order.check_change(event.get("PhysicalResourceId"))
        config = Config(connect_timeout=5, read_timeout=20, max_pool_connections=16, retries={"mode": "standard"})
        session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
        artifact = check_artifact(order, s3=session.client("s3", config=config))
    except CheckError as error:
        logger.warning("refused: %s", error)
        put_response(event, succeeded=False, physical_id=previous, reason=str(error))
    except Exception as error:
        logger.exception("unexpected failure")
        reason = (
            f"The check of the compiled artifact failed unexpectedly ({type(error).__name__}: {error}). "
            f"See the function's log stream {context.log_stream_name}."
        )
        put_response(event, succeeded=False, physical_id=previous, reason=reason)
    else:
        logger.info("artifact %s is complete", artifact.s3_uri)
        put_response(event, succeeded=True, physical_id=artifact.physical_id, attributes=artifact.attributes)
