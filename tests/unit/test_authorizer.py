"""The gateway's authorizer: tokens, records in memory, what API Gateway is told, and what is logged."""

from __future__ import annotations

import hashlib
import json
import secrets
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from authorizer import handler as entry
from authorizer.handler import Authorizer, UnauthorizedError, dynamodb_table
from authorizer.meters import meter_key
from authorizer.records import (
    RETRY_SECONDS,
    STALE_SECONDS,
    KeyRecord,
    MalformedRecordError,
    Records,
    TableUnavailableError,
)
from authorizer.tokens import find_token

ROOT = Path(__file__).resolve().parents[2]
KEY_ID = "abcdefgh27"
SECRET = "A-_" + "0" * 40
TOKEN = f"mz_{KEY_ID}_{SECRET}"
ARN = "arn:aws:execute-api:us-east-1:123456789012:api123/api/POST/v1/chat/completions"
BASE32 = string.ascii_lowercase + "234567"
BASE64URL = string.ascii_letters + string.digits + "-_"


def item(token: str = TOKEN, *, tenant: str = "search", **more: int) -> dict[str, dict[str, str]]:
    digest = hashlib.sha256(token.encode()).hexdigest()
    numbers = {name: {"N": str(value)} for name, value in more.items()}
    return {"key_id": {"S": KEY_ID}, "token_sha256": {"S": digest}, "tenant": {"S": tenant}, **numbers}


class Table:
    """A table that counts, and that can be out of order."""

    def __init__(self, items: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.items = {KEY_ID: item()} if items is None else dict(items)
        self.broken = False
        self.reads = 0

    def __call__(self, key_id: str, /) -> Mapping[str, Any] | None:
        self.reads += 1
        if self.broken:
            raise ConnectionError("out of order")
        return self.items.get(key_id)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def records(table: Table, clock: Clock) -> Records:
    return Records(table, keep_seconds=30, clock=clock)


@pytest.fixture
def authorizer(records: Records, clock: Clock) -> Authorizer:
    return Authorizer(records=records, environment="dev", clock=clock)


def event(headers: Mapping[str, str] | None) -> dict[str, Any]:
    return {"type": "REQUEST", "methodArn": ARN, "headers": headers}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN} "},
        {"AUTHORIZATION": f"BEARER {TOKEN}"},
        {"x-api-key": TOKEN},
        {"X-Api-Key": f" {TOKEN} "},
        # OpenAI's clients send what they were given as a key in any case.
        {"Authorization": "Bearer unused", "x-api-key": TOKEN},
        {"Authorization": "Basic dTpw", "x-api-key": TOKEN},
    ],
)
def test_a_token_comes_in_either_header(headers: dict[str, str]) -> None:
    found = find_token(event(headers))
    assert found is not None
    assert (found.key_id, found.text) == (KEY_ID, TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN} {TOKEN}"},
        {"Authorization": "Bearer"},
        {"x-api-key": f"Bearer {TOKEN}"},
        {"x-api-key": meter_key("dev", "search")},
        {"x-api-key": TOKEN.upper()},
        {"x-api-key": TOKEN.replace("7", "1")},
        {"x-api-key": f"{TOKEN}\n{TOKEN}"},
        {"x-other": TOKEN},
    ],
)
def test_what_is_no_token_is_none(headers: dict[str, str] | None) -> None:
    assert find_token(event(headers)) is None


@given(key_id=st.text(BASE32, min_size=10, max_size=10), secret=st.text(BASE64URL, min_size=43, max_size=43))
def test_every_token_of_the_form_is_found(key_id: str, secret: str) -> None:
    found = find_token(event({"authorization": f"Bearer mz_{key_id}_{secret}"}))
    assert found is not None
    assert found.key_id == key_id
    assert found.matches(hashlib.sha256(f"mz_{key_id}_{secret}".encode()).hexdigest())
    assert secret not in repr(found)


@given(st.text())
def test_no_header_breaks_it(value: str) -> None:
    find_token(event({"authorization": value, "x-api-key": value}))


def test_a_request_is_let_through_as_its_tenants(authorizer: Authorizer) -> None:
    answer = authorizer.decide(event({"authorization": f"Bearer {TOKEN}"}))
    assert answer["context"] == {"tenant": "search", "key_id": KEY_ID}
    assert answer["usageIdentifierKey"] == meter_key("dev", "search")
    (statement,) = answer["policyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Action": "execute-api:Invoke",
        "Resource": "arn:aws:execute-api:us-east-1:123456789012:api123/api/*",
    }
    # API Gateway takes texts, numbers and booleans only.
    assert all(isinstance(value, str) for value in answer["context"].values())


@pytest.mark.parametrize(
    ("stored", "outcome"),
    [
        ({}, "unknown"),
        ({KEY_ID: item("mz_" + KEY_ID + "_" + "B" * 43)}, "wrong token"),
        ({KEY_ID: item(revoked=1)}, "revoked"),
        ({KEY_ID: item(expires=1_800_000_000)}, "expired"),
        ({KEY_ID: {"token_sha256": {"S": "x"}}}, "malformed record"),
        ({KEY_ID: item() | {"expires": {"N": "soon"}}}, "malformed record"),
    ],
)
def test_others_are_refused_with_the_word_that_api_gateway_knows(
    stored: dict[str, Any], outcome: str, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    records = Records(Table(stored), keep_seconds=30, clock=clock)
    with pytest.raises(UnauthorizedError) as refused:
        Authorizer(records=records, environment="dev", clock=clock).decide(event({"x-api-key": TOKEN}))
    assert str(refused.value) == "Unauthorized"
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome


def test_a_key_works_until_it_expires(table: Table, authorizer: Authorizer, clock: Clock) -> None:
    table.items[KEY_ID] = item(expires=int(clock.now) + 10)
    request = event({"x-api-key": TOKEN})
    assert authorizer.decide(request)["context"]["tenant"] == "search"
    clock.now += 9.9
    authorizer.decide(request)
    clock.now += 0.1
    # Without asking the table again.
    with pytest.raises(UnauthorizedError):
        authorizer.decide(request)
    assert table.reads == 1


def test_the_log_says_which_key_and_never_the_token(
    authorizer: Authorizer, table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    authorizer.decide(event({"authorization": f"Bearer {TOKEN}"}))
    for headers in ({"x-api-key": f"mz_{KEY_ID}_{'C' * 43}"}, {"authorization": "Bearer sk-something-else"}):
        with pytest.raises(UnauthorizedError):
            authorizer.decide(event(headers))
    table.broken = True
    with pytest.raises(TableUnavailableError):
        authorizer.decide(event({"x-api-key": f"mz_{'z' * 10}_{'D' * 43}"}))
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [(line["outcome"], line["key_id"]) for line in lines] == [
        ("allowed", KEY_ID),
        ("wrong token", KEY_ID),
        ("no token", None),
        ("table unavailable", "z" * 10),
    ]
    for secret in (SECRET, "C" * 43, "D" * 43, "something-else"):
        assert secret not in output.out + output.err


def test_a_record_is_kept_for_a_while(records: Records, table: Table, clock: Clock) -> None:
    assert records.find(KEY_ID) == records.find(KEY_ID)
    clock.now += 29.9
    records.find(KEY_ID)
    assert table.reads == 1
    clock.now += 0.2
    records.find(KEY_ID)
    assert table.reads == 2


def test_a_revoked_key_stops_within_that_time(authorizer: Authorizer, table: Table, clock: Clock) -> None:
    request = event({"x-api-key": TOKEN})
    authorizer.decide(request)
    table.items[KEY_ID] = item(revoked=int(clock.now))
    clock.now += 30
    with pytest.raises(UnauthorizedError):
        authorizer.decide(request)


def test_a_deleted_key_stops_too(records: Records, table: Table, clock: Clock) -> None:
    assert records.find(KEY_ID) is not None
    table.items.clear()
    clock.now += 30
    assert records.find(KEY_ID) is None
    table.broken = True
    with pytest.raises(TableUnavailableError):
        records.find(KEY_ID)


def test_without_keeping_every_request_asks(table: Table, clock: Clock) -> None:
    records = Records(table, keep_seconds=0, clock=clock)
    for _ in range(3):
        records.find(KEY_ID)
    assert table.reads == 3


def test_an_unknown_key_is_asked_for_again_at_once(records: Records, table: Table) -> None:
    """Somebody may have made it just now."""
    stored = table.items.pop(KEY_ID)
    assert records.find(KEY_ID) is None
    table.items[KEY_ID] = stored
    assert records.find(KEY_ID) is not None


def test_a_known_key_works_on_while_the_table_is_out_of_order_up_to_a_bound(
    records: Records, table: Table, clock: Clock
) -> None:
    found = records.find(KEY_ID)
    table.broken = True
    clock.now += 60
    assert records.find(KEY_ID) == found
    clock.now += STALE_SECONDS - 60
    with pytest.raises(TableUnavailableError, match="ConnectionError"):
        records.find(KEY_ID)
    table.broken = False
    clock.now += RETRY_SECONDS
    assert records.find(KEY_ID) == found


def test_keys_that_are_not_kept_do_not_outlive_the_table(table: Table, clock: Clock) -> None:
    """Whoever says 0 wants no key to work that the table does not vouch for now."""
    records = Records(table, keep_seconds=0, clock=clock)
    records.find(KEY_ID)
    table.broken = True
    for _ in range(2):
        with pytest.raises(TableUnavailableError):
            records.find(KEY_ID)


def test_a_revoked_key_stops_within_the_bound_when_the_table_comes_and_goes(
    authorizer: Authorizer, table: Table, clock: Clock
) -> None:
    request = event({"x-api-key": TOKEN})
    authorizer.decide(request)
    table.items[KEY_ID] = item(revoked=int(clock.now))
    table.broken = True
    revoked = clock.now
    while clock.now - revoked < STALE_SECONDS:
        authorizer.decide(request)
        clock.now += 7
    with pytest.raises(TableUnavailableError):
        authorizer.decide(request)
    table.broken = False
    with pytest.raises(UnauthorizedError):
        authorizer.decide(request)


def test_what_is_told_to_operators_is_what_holds() -> None:
    from modelzone import keys  # noqa: PLC0415

    assert keys.STALE_SECONDS == STALE_SECONDS


def test_a_table_out_of_order_is_not_asked_for_every_request(records: Records, table: Table, clock: Clock) -> None:
    """Each attempt may take a second or two."""
    records.find(KEY_ID)
    table.broken = True
    clock.now += 60
    for _ in range(5):
        records.find(KEY_ID)
    assert table.reads == 2
    clock.now += RETRY_SECONDS
    records.find(KEY_ID)
    assert table.reads == 3


def test_an_unknown_key_fails_while_the_table_is_out_of_order(authorizer: Authorizer, table: Table) -> None:
    """API Gateway then answers 503, not 401: clients try again."""
    table.broken = True
    with pytest.raises(TableUnavailableError) as failed:
        authorizer.decide(event({"x-api-key": TOKEN}))
    assert str(failed.value) != "Unauthorized"


def test_a_clock_that_is_set_back_makes_records_old(records: Records, table: Table, clock: Clock) -> None:
    records.find(KEY_ID)
    clock.now -= 3600
    records.find(KEY_ID)
    assert table.reads == 2


def test_memory_is_bounded(table: Table, clock: Clock) -> None:
    records = Records(table, keep_seconds=300, clock=clock)
    ids = ["".join(secrets.choice(BASE32) for _ in range(10)) for _ in range(5000)]
    for key_id in ids:
        table.items[key_id] = item()
        records.find(key_id)
    before = table.reads
    records.find(ids[-1])
    assert table.reads == before
    records.find(ids[0])
    assert table.reads == before + 1


def test_an_item_is_read_as_dynamodb_writes_it() -> None:
    record = KeyRecord.from_item(KEY_ID, item(expires=5, revoked=4, created=1, purge=9))
    assert (record.tenant, record.expires, record.revoked) == ("search", 5, True)
    assert KeyRecord.from_item(KEY_ID, item()).expires is None
    for missing in ("token_sha256", "tenant"):
        with pytest.raises(MalformedRecordError, match=missing):
            KeyRecord.from_item(KEY_ID, {k: v for k, v in item().items() if k != missing})


def test_dynamodb_is_asked_for_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    made: dict[str, Any] = {}

    def make(service: str, **given_options: Any) -> Any:
        made.update(service=service, **given_options)
        return client

    monkeypatch.setattr(entry.boto3, "client", make)
    asked = {"TableName": "keys", "Key": {"key_id": {"S": KEY_ID}}, "ConsistentRead": False}
    with Stubber(client) as stub:
        stub.add_response("get_item", {"Item": item()}, asked)
        stub.add_response("get_item", {}, asked)
        stub.add_client_error("get_item", "ProvisionedThroughputExceededException")
        read = dynamodb_table("keys")
        assert read(KEY_ID) == item()
        assert read(KEY_ID) is None
        with pytest.raises(client.exceptions.ProvisionedThroughputExceededException):
            read(KEY_ID)
    assert made["service"] == "dynamodb"
    # Both attempts and their connections end well before the function's ten seconds.
    config = made["config"]
    assert (config.connect_timeout + config.read_timeout) * config.retries["total_max_attempts"] <= 5


def test_lambda_starts_it_with_nothing_but_its_own_boto3(tmp_path: Path) -> None:
    """As staged, in a process of its own: the client is made while the function starts."""
    from zone_constructs import lambda_package  # noqa: PLC0415

    program = (
        "import sys, authorizer.handler as h\n"
        "assert h._authorizer.cache_info().currsize == 1\n"
        "try:\n"
        "    h.handler({'headers': {}, 'methodArn': 'a/b/c'}, None)\n"
        "except h.UnauthorizedError as e:\n"
        "    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(lambda_package.stage("authorizer")),
            "AWS_LAMBDA_FUNCTION_NAME": "authorizer",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "KEYS_TABLE_NAME": "keys",
            "KEY_CACHE_SECONDS": "30",
            "MODELZONE_ENVIRONMENT": "dev",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Unauthorized"
