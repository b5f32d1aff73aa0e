"""Keys: a token that says nothing about itself, and a table in which nothing is written over."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st
from unit.keys_table import TABLE, item, keys_table

from authorizer.records import Records
from authorizer.tokens import find_token
from modelzone.errors import ModelzoneError
from modelzone.keys import (
    GRACE_LIMIT,
    Key,
    Keys,
    Token,
    hash_token,
    is_key_id,
    key_id_of,
    new_token,
    parse_span,
    span_text,
)

DAY = 86_400
NOW = 1_800_000_000


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def client() -> Iterator[Any]:
    with keys_table() as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(client: Any, clock: Clock) -> Keys:
    return Keys(client, TABLE, tenants=("default", "search"), clock=clock)


def test_tokens_have_the_form_that_the_authorizer_knows() -> None:
    made = [new_token() for _ in range(200)]
    for token in made:
        assert re.fullmatch(r"mz_[a-z2-7]{10}_[A-Za-z0-9_-]{43}", token.text)
        assert key_id_of(token.text) == token.key_id
        assert is_key_id(token.key_id)
        seen = find_token({"headers": {"Authorization": f"Bearer {token.text}"}})
        assert seen is not None
        assert seen.key_id == token.key_id
        assert seen.matches(hash_token(token.text))
        assert token.text not in repr(token)
    assert len({token.key_id for token in made}) == len({token.text for token in made}) == 200


def test_the_hash_is_that_of_the_whole_token() -> None:
    assert hash_token("mz_a_b") == hashlib.sha256(b"mz_a_b").hexdigest()


@given(st.text(max_size=70))
def test_no_text_is_taken_for_a_token_by_accident(text: str) -> None:
    found = key_id_of(text)
    assert found is None or text.startswith(f"mz_{found}_")


@pytest.mark.parametrize(
    "text", ["", "mz_", "mz_abcdefghij_", "mz_abcdefghi1_" + "a" * 43, "\nmz_abcdefghij_" + "a" * 43]
)
def test_what_is_no_token(text: str) -> None:
    assert key_id_of(text) is None


def test_a_key_is_stored_without_its_token(keys: Keys, client: Any) -> None:
    key, token = keys.create("default", label="laptop", lifetime=90 * DAY)
    assert key == Key(
        key_id=token.key_id, tenant="default", label="laptop", created=NOW, expires=NOW + 90 * DAY, revoked=None
    )
    assert item(client, key.key_id) == {
        "key_id": {"S": key.key_id},
        "token_sha256": {"S": hash_token(token.text)},
        "tenant": {"S": "default"},
        "label": {"S": "laptop"},
        "created": {"N": str(NOW)},
        "expires": {"N": str(NOW + 90 * DAY)},
        "purge": {"N": str(NOW + 120 * DAY)},
    }
    assert token.text not in str(client.scan(TableName=TABLE))


def test_a_key_without_an_end_has_no_purge(keys: Keys, client: Any) -> None:
    key, _ = keys.create("default")
    assert {"expires", "purge", "revoked"} & set(item(client, key.key_id)) == set()


def test_no_key_is_written_over(keys: Keys, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, token = keys.create("default")
    second, _ = keys.create("default")
    monkeypatch.setattr("modelzone.keys.table.new_token", lambda: Token(key_id=first.key_id, text="mz_other"))
    with pytest.raises(ModelzoneError, match="storing a key"):
        keys.create("search")
    with pytest.raises(ModelzoneError, match="changed at the same time"):
        keys.rotate(second.key_id, grace=60)
    kept = item(client, first.key_id)
    assert (kept["tenant"]["S"], kept["token_sha256"]["S"]) == ("default", hash_token(token.text))
    assert keys.find(second.key_id) == second


@pytest.mark.parametrize(
    ("tenant", "label", "says"),
    [
        ("serch", "", "no tenant 'serch'; did you mean search\\? it has: default, search"),
        ("default", "x" * 101, "at most 100 printable"),
        ("default", "a\x1b[31mb", "printable"),
    ],
)
def test_what_is_refused_is_not_stored(keys: Keys, tenant: str, label: str, says: str) -> None:
    with pytest.raises(ModelzoneError, match=says):
        keys.create(tenant, label=label)
    assert keys.list() == []


def test_the_list_is_by_tenant_and_age(keys: Keys, clock: Clock) -> None:
    made = []
    for tenant in ("search", "default", "search"):
        made.append(keys.create(tenant)[0])
        clock.now += 1
    assert keys.list() == [made[1], made[0], made[2]]
    assert keys.list(tenant="search") == [made[0], made[2]]
    assert keys.list(tenant="nobody") == []


def test_the_list_has_every_page(client: Any, keys: Keys) -> None:
    made = {keys.create("default", label="x" * 100)[0].key_id for _ in range(12)}
    paginate = client.get_paginator("scan").paginate
    pages: list[Any] = []

    class Small:
        def paginate(self, **wanted: Any) -> Any:
            for page in paginate(**wanted, PaginationConfig={"PageSize": 5}):
                pages.append(page)
                yield page

    client.get_paginator = lambda _: Small()
    assert {key.key_id for key in keys.list()} == made
    assert len(pages) > 1
    assert "token_sha256" not in str(pages)


def test_states_of_a_life(keys: Keys, clock: Clock) -> None:
    key, _ = keys.create("default", lifetime=10 * DAY)
    moments = (NOW + seconds for seconds in (0, 3 * DAY - 1, 3 * DAY, 10 * DAY - 1, 10 * DAY))
    seen = [(key.state(moment), key.works(moment)) for moment in moments]
    assert seen == [("active", True), ("active", True), ("expiring", True), ("expiring", True), ("expired", False)]
    clock.now += 11 * DAY
    ended, _ = keys.revoke(key.key_id)
    assert ended.state(clock.now) == "revoked"


def test_check_knows_tokens_and_not_their_lookalikes(keys: Keys) -> None:
    key, token = keys.create("default")
    assert keys.check(token.text) == key
    wrong = token.text[:-1] + ("a" if token.text[-1] != "a" else "b")
    assert keys.check(wrong) is None
    assert keys.check(new_token().text) is None
    assert keys.check("nonsense") is None


def test_check_tells_a_revoked_key(keys: Keys) -> None:
    key, token = keys.create("default")
    keys.revoke(key.key_id)
    found = keys.check(token.text)
    assert found is not None
    assert not found.works(NOW)


def test_rotation_leaves_two_keys_for_the_grace(keys: Keys, client: Any, clock: Clock) -> None:
    old, old_token = keys.create("search", label="job", lifetime=90 * DAY)
    clock.now += 80 * DAY
    done = keys.rotate(old.key_id, grace=DAY)
    assert (done.new.tenant, done.new.label) == ("search", "job")
    # A life as long as the old one's, not what was left of that.
    assert done.new.expires == clock.now + 90 * DAY
    assert (done.old.expires, done.old.replaced_by) == (clock.now + DAY, done.new.key_id)
    assert keys.find(old.key_id) == done.old
    assert keys.find(done.new.key_id) == done.new
    assert int(item(client, old.key_id)["purge"]["N"]) == clock.now + 31 * DAY
    for token in (old_token, done.token):
        found = keys.check(token.text)
        assert found is not None
        assert found.works(clock.now + DAY - 1)
    assert done.old.state(clock.now) == "expiring"
    assert not done.old.works(clock.now + DAY)


def test_rotation_does_not_prolong_the_old_key(keys: Keys) -> None:
    old, _ = keys.create("default", lifetime=60)
    done = keys.rotate(old.key_id, grace=DAY)
    assert done.old.expires == old.expires


def test_rotation_without_grace_ends_the_old_key_at_once(keys: Keys) -> None:
    old, _ = keys.create("default")
    done = keys.rotate(old.key_id, grace=0)
    assert done.old.state(NOW) == "expired"
    assert done.new.expires is None


def test_what_cannot_be_rotated(keys: Keys, clock: Clock, client: Any) -> None:
    replaced, _ = keys.create("default")
    new = keys.rotate(replaced.key_id, grace=DAY).new
    with pytest.raises(ModelzoneError, match=f"was replaced by {new.key_id} already"):
        keys.rotate(replaced.key_id, grace=DAY)
    revoked, _ = keys.create("default")
    keys.revoke(revoked.key_id)
    with pytest.raises(ModelzoneError, match="is revoked, there is nothing to replace"):
        keys.rotate(revoked.key_id, grace=DAY)
    short, _ = keys.create("default", lifetime=60)
    clock.now += 60
    with pytest.raises(ModelzoneError, match="is expired"):
        keys.rotate(short.key_id, grace=DAY)
    with pytest.raises(ModelzoneError, match="there is no key aaaaaaaaaa"):
        keys.rotate("aaaaaaaaaa", grace=DAY)
    with pytest.raises(ModelzoneError, match="no tenant 'default'"):
        Keys(client, TABLE, tenants=("search",), clock=clock).rotate(new.key_id, grace=DAY)
    for grace in (-1, GRACE_LIMIT + 1):
        with pytest.raises(ModelzoneError, match="give 0 to 7d"):
            keys.rotate(new.key_id, grace=grace)
    assert len(keys.list()) == 4


def test_a_rotation_that_loses_a_race_changes_nothing(keys: Keys, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, _ = keys.create("default")
    write = client.transact_write_items

    def late(**wanted: Any) -> Any:
        monkeypatch.setattr(client, "transact_write_items", write)
        keys.revoke(old.key_id)
        return write(**wanted)

    monkeypatch.setattr(client, "transact_write_items", late)
    with pytest.raises(ModelzoneError, match="is revoked"):
        keys.rotate(old.key_id, grace=DAY)
    assert [key.key_id for key in keys.list()] == [old.key_id]


def test_a_revoked_key_stays_as_it_is(keys: Keys, clock: Clock, client: Any) -> None:
    key, _ = keys.create("default", lifetime=300 * DAY)
    ended, first = keys.revoke(key.key_id)
    assert (ended.revoked, first) == (NOW, True)
    assert int(item(client, key.key_id)["purge"]["N"]) == NOW + 30 * DAY
    clock.now += DAY
    again, first = keys.revoke(key.key_id)
    assert (again, first) == (ended, False)


def test_revoking_makes_no_record(keys: Keys) -> None:
    with pytest.raises(ModelzoneError, match="there is no key aaaaaaaaaa"):
        keys.revoke("aaaaaaaaaa")
    assert keys.list() == []


@pytest.mark.parametrize("action", ["find", "revoke", "rotate"])
def test_a_token_in_the_place_of_an_id_is_not_repeated(keys: Keys, action: str) -> None:
    _, token = keys.create("default")
    for given_text in (token.text, token.text[14:]):
        with pytest.raises(ModelzoneError) as caught:
            getattr(keys, action)(given_text, **({"grace": 0} if action == "rotate" else {}))
        assert token.text[20:] not in str(caught.value)
        assert "id" in str(caught.value)


def test_the_authorizer_reads_what_is_written(keys: Keys, client: Any) -> None:
    def read(key_id: str, /) -> Any:
        return client.get_item(TableName=TABLE, Key={"key_id": {"S": key_id}}).get("Item")

    key, token = keys.create("search", lifetime=60)
    record = Records(read, keep_seconds=0).find(key.key_id)
    assert record is not None
    assert (record.tenant, record.expires, record.revoked) == ("search", NOW + 60, False)
    assert record.token_sha256 == hash_token(token.text)
    keys.revoke(key.key_id)
    record = Records(read, keep_seconds=0).find(key.key_id)
    assert record is not None
    assert record.revoked


def test_a_record_that_somebody_wrote_by_hand(keys: Keys, client: Any) -> None:
    client.put_item(TableName=TABLE, Item={"key_id": {"S": "aaaaaaaaaa"}, "expires": {"N": "1.5"}})
    (key,) = keys.list()
    assert (key.tenant, key.expires, key.state(NOW)) == ("", 1, "expired")
    assert keys.check("mz_aaaaaaaaaa_" + "x" * 43) is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "Scan"),
            "listing keys: not allowed",
        ),
        (EndpointConnectionError(endpoint_url="http://x"), "listing keys: AWS does not answer"),
        (ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "Scan"), "listing keys: Scan: ResourceNotFound"),
    ],
)
def test_what_aws_refuses_is_said(keys: Keys, client: Any, error: Exception, says: str) -> None:
    def refuse(_: str) -> Any:
        raise error

    client.get_paginator = refuse
    with pytest.raises(ModelzoneError, match=says):
        keys.list()


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("30m", 1800), ("24h", DAY), ("90d", 90 * DAY), ("2W", 14 * DAY), (" 1h ", 3600)]
)
def test_spans(text: str, seconds: int) -> None:
    assert parse_span(text, name="--expires", least=1, most=100 * DAY) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5h", "1y", "0d", "101d", "9999999d", "\uff11d"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ModelzoneError, match="--expires"):
        parse_span(text, name="--expires", least=1, most=100 * DAY)


@given(st.integers(min_value=0, max_value=999_999))
def test_spans_are_written_as_they_are_read(seconds: int) -> None:
    assert parse_span(span_text(seconds), name="x", least=0, most=10**6) == seconds
