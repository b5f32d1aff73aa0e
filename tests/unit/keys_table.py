"""A table of keys as the gateway's stack makes it, in moto."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto import mock_aws

TABLE = "modelzone-dev-keys"


@contextmanager
def keys_table() -> Iterator[Any]:
    """Yield a DynamoDB client whose account has the table."""
    with mock_aws():
        create: Any = boto3.client
        client = create(
            "dynamodb", region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
        )
        client.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "key_id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "key_id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield client


def item(client: Any, key_id: str) -> dict[str, Any]:
    """A record as DynamoDB has it."""
    found: dict[str, Any] = client.get_item(TableName=TABLE, Key={"key_id": {"S": key_id}}, ConsistentRead=True)["Item"]
    return found
