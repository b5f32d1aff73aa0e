"""``modelzone keys``: a token on stdout alone and once, never in a list, a note or an error."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result
from unit.keys_table import TABLE, item, keys_table

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.keys import hash_token, key_id_of

ROOT = Path(__file__).resolve().parents[2]
TOKEN = re.compile(r"mz_[a-z2-7]{10}_[A-Za-z0-9_-]{43}")


class Stacks:
    """CloudFormation, as far as outputs are read."""

    def __init__(self, outputs: dict[str, str]) -> None:
        self._outputs = outputs

    def describe_stacks(self, **wanted: str) -> dict[str, Any]:
        assert wanted == {"StackName": "modelzone-dev-gateway"}
        return {"Stacks": [{"Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in self._outputs.items()]}]}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with keys_table() as client:
        services = {"cloudformation": Stacks({"KeysTableName": TABLE}), "dynamodb": client}
        monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", lambda *_, **__: services.__getitem__)
        yield client


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "cdk.json").write_text("{}")
    change(tmp_path, tenants={"default": {}, "search": {}}, key_cache_seconds=45)
    return tmp_path


def change(project: Path, **access: Any) -> None:
    file = project / "environments" / "dev.yaml"
    data = yaml.safe_load(file.read_text())
    data["access"] = {**data.get("access", {}), **access}
    file.write_text(yaml.safe_dump(data))


def run(project: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(project), "keys", *words])


def document(result: Result, code: int = ExitCode.DONE) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def made(project: Path, *words: str) -> tuple[str, str]:
    """Id and token of a new key."""
    token = run(project, "create", *words).stdout.strip()
    key_id = key_id_of(token)
    assert key_id is not None
    return key_id, token


@pytest.mark.usefixtures("table")
def test_create_prints_the_token_alone(project: Path, table: Any) -> None:
    shown = run(project, "create", "search", "--label", "nightly job", "--expires", "90d")
    assert shown.exit_code == ExitCode.DONE, shown.output
    token = shown.stdout.removesuffix("\n")
    assert TOKEN.fullmatch(token)
    key_id = key_id_of(token)
    assert f"key {key_id} of tenant search, which works until 20" in shown.stderr
    assert token not in shown.stderr
    stored = item(table, str(key_id))
    assert stored["token_sha256"]["S"] == hash_token(token)
    assert int(stored["expires"]["N"]) - int(stored["created"]["N"]) == 90 * 86_400


@pytest.mark.usefixtures("table")
def test_create_as_json(project: Path) -> None:
    found = document(run(project, "create", "default", "--json"))
    assert key_id_of(found["token"]) == found["key_id"]
    assert (found["environment"], found["tenant"], found["label"]) == ("dev", "default", "")
    assert (found["state"], found["expires"], found["revoked"]) == ("active", None, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["created"])


def test_the_list_has_neither_tokens_nor_hashes(project: Path, table: Any) -> None:
    first, token = made(project, "default", "--label", "laptop")
    second, _ = made(project, "search", "--expires", "1h")
    third, _ = made(project, "search")
    run(project, "revoke", third)
    rows = document(run(project, "list", "--json"))["keys"]
    assert [(row["key_id"], row["tenant"], row["state"]) for row in rows[:1]] == [(first, "default", "active")]
    assert {(row["key_id"], row["state"]) for row in rows[1:]} == {(second, "expiring"), (third, "revoked")}
    assert set(rows[0]) == {
        "key_id", "tenant", "label", "state", "created", "expires", "revoked", "replaced_by",
    }  # fmt: skip
    shown = run(project, "list")
    line = rf"^{first} +default +laptop +active +20\d\d-\d\d-\d\d \d\d:\d\d +never$"
    assert re.search(line, shown.stdout, re.MULTILINE)
    for text in (shown.output, json.dumps(rows)):
        assert token not in text
        assert token[-20:] not in text
        assert hash_token(token) not in text
    only = document(run(project, "list", "--tenant", "search", "--json"))["keys"]
    assert {row["tenant"] for row in only} == {"search"}


@pytest.mark.usefixtures("table")
def test_a_list_of_nothing(project: Path) -> None:
    assert run(project, "list").stdout == (
        "environment dev has no key; make one with: modelzone keys create default -e dev\n"
    )
    assert "make one with: modelzone keys create search" in run(project, "list", "--tenant", "search").stdout
    missing = run(project, "list", "--tenant", "serch")
    assert missing.exit_code == ExitCode.REFUSED
    assert "did you mean search?" in missing.stderr


def test_keys_of_a_tenant_that_is_gone(project: Path, table: Any) -> None:
    made(project, "search")
    change(project, tenants={"default": {}})
    shown = run(project, "list")
    assert " search " in shown.stdout
    assert "warning: the environment has no tenant search any more" in shown.stderr


@pytest.mark.usefixtures("table")
def test_what_somebody_wrote_into_the_table_does_not_move_the_terminal(project: Path, table: Any) -> None:
    attributes = {"key_id": "aaaaaaaaaa", "tenant": "default", "label": "a\x1b[31mb"}
    table.put_item(
        TableName=TABLE, Item={**{name: {"S": value} for name, value in attributes.items()}, "created": {"N": "1"}}
    )
    assert "\x1b" not in run(project, "list").stdout


@pytest.mark.usefixtures("table")
def test_rotate_prints_the_new_token_alone(project: Path) -> None:
    old, _ = made(project, "search", "--label", "job")
    shown = run(project, "rotate", old, "--grace", "1h")
    new = key_id_of(shown.stdout.strip())
    assert new not in {None, old}
    assert f"key {old} works until 20" in shown.stderr
    assert f"key {new} replaces it, without an end" in shown.stderr
    assert "may work" not in shown.stderr
    again = run(project, "rotate", old)
    assert (again.exit_code, again.stdout) == (ExitCode.REFUSED, "")
    assert f"key {old} was replaced by {new} already" in again.stderr
    found = document(run(project, "rotate", str(new), "--grace", "0h", "--json"))
    assert (found["tenant"], found["label"], found["state"]) == ("search", "job", "active")
    assert (found["replaces"]["key_id"], found["replaces"]["state"]) == (new, "expired")
    assert key_id_of(found["token"]) == found["key_id"] == found["replaces"]["replaced_by"]


@pytest.mark.usefixtures("table")
def test_a_grace_that_the_gateway_may_not_notice(project: Path) -> None:
    key_id, _ = made(project, "default")
    said = run(project, "rotate", key_id, "--grace", "0h").stderr
    assert said.startswith(
        f"key {key_id} has ended; it may work for 45 s more (access.key_cache_seconds), or 5 minutes while the gateway "
        "cannot read DynamoDB; key "
    )
    other, _ = made(project, "default")
    found = document(run(project, "rotate", other, "--grace", "0h", "--json"))
    assert found["replaces"]["works_seconds"] == 45
    assert "works_seconds" not in found


@pytest.mark.usefixtures("table")
def test_how_long_a_replaced_key_works(project: Path) -> None:
    def replaced(key_id: str, grace: str) -> int:
        return document(run(project, "rotate", key_id, "--grace", grace, "--json"))["replaces"]["works_seconds"]

    # Shorter than what the gateway keeps, and longer.
    assert replaced(made(project, "default")[0], "10s") == 45
    assert 3595 <= replaced(made(project, "default")[0], "1h") <= 3600
    # It would have ended by itself, and the gateway knows when.
    change(project, key_cache_seconds=300)
    assert 55 <= replaced(made(project, "default", "--expires", "1m")[0], "0h") <= 60
    change(project, key_cache_seconds=0)
    assert replaced(made(project, "default")[0], "0h") == 0


@pytest.mark.usefixtures("table")
def test_revoke_says_how_long_the_gateway_may_know_the_key(project: Path) -> None:
    key_id, _ = made(project, "default")
    shown = run(project, "revoke", key_id)
    assert re.fullmatch(
        rf"key {key_id} of tenant default is revoked; it may work for 4[45] s more \(access.key_cache_seconds\), "
        r"or 5 minutes while the gateway cannot read DynamoDB\n",
        shown.stdout,
    )
    again = document(run(project, "revoke", key_id, "--json"))
    assert (again["key_id"], again["state"], again["already"]) == (key_id, "revoked", True)
    assert 0 < again["works_seconds"] <= 45
    assert f"key {key_id} of tenant default was revoked at 20" in run(project, "revoke", key_id).stdout


@pytest.mark.usefixtures("table")
def test_a_key_that_the_gateway_does_not_keep_ends_at_once(project: Path) -> None:
    change(project, key_cache_seconds=0)
    key_id, _ = made(project, "default")
    assert run(project, "revoke", key_id).stdout == f"key {key_id} of tenant default is revoked\n"


def test_a_key_that_had_expired_works_no_more(project: Path, table: Any) -> None:
    key_id, _ = made(project, "default", "--expires", "1m")
    past = str(int(time.time()) - 5)
    table.update_item(
        TableName=TABLE,
        Key={"key_id": {"S": key_id}},
        UpdateExpression="SET expires = :e",
        ExpressionAttributeValues={":e": {"N": past}},
    )
    assert document(run(project, "revoke", key_id, "--json"))["works_seconds"] == 0


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["create", "serch"], "no tenant 'serch'; did you mean search?"),
        (["create", "default", "--expires", "soon"], "--expires 'soon' is no length of time"),
        (["create", "default", "--expires", "30s"], "--expires 30s: must be between 1m and 3650d"),
        (["create", "default", "--label", "l" * 101], "at most 100 printable characters"),
        (["rotate", "aaaaaaaaaa"], "there is no key aaaaaaaaaa"),
        (["rotate", "aaaaaaaaaa", "--grace", "8d"], "--grace 8d: must be between 0s and 7d"),
        (["revoke", "aaaaaaaaaa"], "there is no key aaaaaaaaaa"),
        (["revoke", "nonsense"], "a key's id has ten characters"),
        (["revoke", "mz_aaaaaaaaaa_" + "x" * 43], "this is a key's token"),
        (["list", "-e", "nowhere"], "no environment named 'nowhere'"),
    ],
)
def test_what_is_refused(project: Path, words: list[str], says: str) -> None:
    shown = run(project, *words)
    assert (shown.exit_code, shown.stdout) == (ExitCode.REFUSED, "")
    assert says in shown.stderr
    assert "x" * 43 not in shown.stderr
    assert says in document(run(project, *words, "--json"), ExitCode.REFUSED)["error"]["message"]


def test_a_stack_of_before(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {"cloudformation": Stacks({"ApiUrl": "https://x"})}
    monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", lambda *_, **__: services.__getitem__)
    shown = run(project, "list")
    assert shown.exit_code == ExitCode.REFUSED
    assert "stack modelzone-dev-gateway has no output KeysTableName" in shown.stderr
    assert "cdk deploy GatewayStack -c environment=dev" in shown.stderr


def test_an_environment_without_keys(project: Path) -> None:
    principals = {"default": {"principals": ["arn:aws:iam::111122223333:role/x"]}}
    change(project, method="iam", tenants=principals, key_cache_seconds=30)
    shown = run(project, "create", "default")
    assert (shown.exit_code, shown.stdout) == (ExitCode.REFUSED, "")
    assert "environment dev has access.method iam: its gateway takes no keys" in shown.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("modelzone keys create ", ["default", "search"]),
        ("modelzone keys create se", ["search"]),
        ("modelzone keys list --tenant d", ["default"]),
        ("modelzone keys list -e pr", ["prod"]),
    ],
)
def test_tenants_are_completed(project: Path, monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]) -> None:
    monkeypatch.chdir(project)
    words = {"_MODELZONE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert CliRunner().invoke(app, [], env=words).stdout.split() == offered
