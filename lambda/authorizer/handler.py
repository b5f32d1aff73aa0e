"""Entry point: lets a request through as one of a tenant, or refuses it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

from .meters import meter_key
from .records import KeyRecord, KeyTable, MalformedRecordError, Records, TableUnavailableError
from .tokens import find_token

__all__ = ["Authorizer", "UnauthorizedError", "dynamodb_table", "handler"]

# Of one attempt; a request waits for all of this at worst, API Gateway for 30 seconds.
_TIMEOUT_SECONDS = 1
_ATTEMPTS = 2


class UnauthorizedError(Exception):
    """API Gateway answers 401 when an authorizer fails with this very text, and 500 with any other."""

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class Authorizer:
    """Decides about requests.

    Parameters
    ----------
    environment
        Name of the environment, for the API keys that requests are counted by.
    clock
        Seconds since 1970.
    """

    def __init__(self, *, records: Records, environment: str, clock: Callable[[], float] = time.time) -> None:
        self._records, self._environment, self._clock = records, environment, clock

    def decide(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the policy for a request.

        Raises
        ------
        UnauthorizedError
            It has no token, or one that is unknown, expired or revoked.
        TableUnavailableError
            That cannot be told now.
        """
        token = find_token(event)
        if token is None:
            _log("no token", key_id=None)
            raise UnauthorizedError
        try:
            record = self._records.find(token.key_id)
        except TableUnavailableError as error:
            _log("table unavailable", key_id=token.key_id, reason=str(error))
            raise
        except MalformedRecordError as error:
            _log("malformed record", key_id=token.key_id, reason=str(error))
            raise UnauthorizedError from None
        # The token first: who does not have it learns nothing about the key, not even from the log's outcome.
        if record is None or not token.matches(record.token_sha256):
            outcome = "unknown" if record is None else "wrong token"
        elif record.revoked:
            outcome = "revoked"
        elif record.expires is not None and record.expires <= self._clock():
            outcome = "expired"
        else:
            _log("allowed", key_id=token.key_id, tenant=record.tenant)
            return self._allow(record, str(event["methodArn"]))
        _log(outcome, key_id=token.key_id)
        raise UnauthorizedError

    def _allow(self, record: KeyRecord, method_arn: str) -> dict[str, Any]:
        # arn:aws:execute-api:<region>:<account>:<api>/<stage>/<verb>/<path>
        api, stage, *_ = method_arn.split("/")
        return {
            "principalId": record.key_id,
            "policyDocument": {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": f"{api}/{stage}/*"}],
            },
            "context": {"tenant": record.tenant, "key_id": record.key_id},
            "usageIdentifierKey": meter_key(self._environment, record.tenant),
        }


def _log(outcome: str, **details: str | None) -> None:
    """Say what was decided about which key. Never the token."""
    sys.stdout.write(json.dumps({"event": "authorize", "outcome": outcome, **details}) + "\n")
    sys.stdout.flush()


def dynamodb_table(name: str) -> KeyTable:
    """Read from DynamoDB, at most a little behind what was written last."""
    client = boto3.client(
        "dynamodb",
        config=Config(
            connect_timeout=_TIMEOUT_SECONDS,
            read_timeout=_TIMEOUT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            tcp_keepalive=True,
        ),
    )

    def read(key_id: str, /) -> Mapping[str, Any] | None:
        answer = client.get_item(TableName=name, Key={"key_id": {"S": key_id}}, ConsistentRead=False)
        return answer.get("Item")

    return read


@cache
def _authorizer() -> Authorizer:
    records = Records(
        dynamodb_table(os.environ["KEYS_TABLE_NAME"]), keep_seconds=float(os.environ["KEY_CACHE_SECONDS"])
    )
    return Authorizer(records=records, environment=os.environ["MODELZONE_ENVIRONMENT"])


def handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """What Lambda calls."""
    del context
    return _authorizer().decide(event)


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    # While the function starts it has more processor than later.
    _authorizer()
