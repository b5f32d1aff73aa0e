"""What every question to AWS shares: errors that a person can read, outputs of stacks.

Imports the AWS SDK's exceptions, so verbs import it when they run and not before.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import (
    ConnectionError as BotocoreConnectionError,
)

from modelzone.errors import ModelzoneError

__all__ = [
    "UnreachableError",
    "aws_errors",
    "code_of",
    "environments_in",
    "stack_outputs",
    "stack_outputs_or_none",
    "stack_resources",
]

_SIGN_IN = "sign in (aws sso login), or name a profile with --profile; for the embedded AWS add --local"
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError, UnauthorizedSSOTokenError)
_EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
_DENIED = re.compile("accessdenied|unauthorizedoperation|^403$", re.IGNORECASE)


class UnreachableError(ModelzoneError):
    """AWS did not answer; the next attempt may reach it."""


def code_of(error: ClientError) -> str:
    """What AWS calls an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn what AWS or its SDK raises into one message that names what was being done.

    Raises
    ------
    UnreachableError
        Nothing answered.
    ModelzoneError
        It was refused, or something else went wrong.
    """
    try:
        yield
    except _NO_CREDENTIALS as error:
        raise ModelzoneError(f"{doing}: no credentials: {error}\n  fix: {_SIGN_IN}") from None
    except (BotocoreConnectionError, HTTPClientError) as error:
        raise UnreachableError(
            f"{doing}: AWS does not answer: {error}\n  fix: check the connection, the region and --endpoint-url"
        ) from None
    except BotoCoreError as error:
        raise ModelzoneError(f"{doing}: {error}") from None
    except ClientError as error:
        raise ModelzoneError(f"{doing}: {_said(error)}") from None


def _said(error: ClientError) -> str:
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
    if code in _EXPIRED:
        return f"the credentials are no longer valid ({code})\n  fix: {_SIGN_IN}"
    if _DENIED.search(code):
        return f"not allowed to call {error.operation_name}: {message or code}\n  fix: allow it, or use another profile"
    return f"{error.operation_name}: {code}: {message}".rstrip(": ")


def stack_outputs_or_none(cloudformation: Any, name: str) -> dict[str, str] | None:
    """Outputs of a stack; None where there is no such stack."""
    with aws_errors(f"reading stack {name}"):
        try:
            stack: Mapping[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        except ClientError as error:
            if code_of(error) == "ValidationError" and "does not exist" in str(error):
                return None
            raise
    return {row["OutputKey"]: row["OutputValue"] for row in stack.get("Outputs", ())}


def stack_resources(cloudformation: Any, name: str, *, kind: str) -> dict[str, str]:
    """Physical ids of a stack's resources of a kind, by their logical ids."""
    with aws_errors(f"reading the resources of stack {name}"):
        pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
        return {
            row["LogicalResourceId"]: row.get("PhysicalResourceId", "")
            for page in pages
            for row in page["StackResourceSummaries"]
            if row["ResourceType"] == kind
        }


def stack_outputs(cloudformation: Any, *, environment: str, suffix: str, needed: tuple[str, ...]) -> dict[str, str]:
    """Outputs of one of an environment's stacks.

    Raises
    ------
    ModelzoneError
        The stack is not there, or was deployed by an older version and lacks an output.
    """
    name = f"modelzone-{environment}-{suffix}"
    construct = "".join(part.capitalize() for part in suffix.split("-")) + "Stack"
    deploy = f"cdk deploy {construct} -c environment={environment}"
    outputs = stack_outputs_or_none(cloudformation, name)
    if outputs is None:
        raise ModelzoneError(f"stack {name} is not deployed in this account and region\n  fix: {deploy}")
    missing = [output for output in needed if output not in outputs]
    if missing:
        raise ModelzoneError(f"stack {name} has no output {', '.join(missing)}\n  fix: deploy it again: {deploy}")
    return outputs


def environments_in(names: Iterator[str] | list[str]) -> tuple[str, ...]:
    """Environments that parameters below ``/modelzone/`` belong to, by the parameters' names."""
    found = {parts[2] for name in names if len(parts := name.split("/")) > 3 and parts[1] == "modelzone"}  # noqa: PLR2004
    return tuple(sorted(found))
