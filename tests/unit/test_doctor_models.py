"""The hub's token, its licence gate and the artifacts."""

from __future__ import annotations

import urllib.request

import pytest
from unit.test_doctor_support import TOKEN, Account, error, hub, plan, run


@pytest.mark.parametrize(
    ("answer", "status", "detail"),
    [
        (200, "ok", "to this token"),
        (401, "fail", "HTTP 401"),
        (403, "fail", "HTTP 403"),
        (404, "fail", "no such model"),
        (302, "warn", "another name (HTTP 302)"),
        (307, "warn", "another name (HTTP 307)"),
        (503, "warn", "HTTP 503"),
        (TimeoutError("x"), "skipped", "cannot be reached from here (TimeoutError)"),
        (OSError("x"), "skipped", "cannot be reached"),
    ],
)
def test_the_licence_gate(answer: int | Exception, status: str, detail: str) -> None:
    seen: list[urllib.request.Request] = []
    check = run(opener=hub(answer, seen))["licence"]
    assert (check.status, detail in check.detail) == (status, True)
    (request,) = seen
    assert request.full_url == "https://huggingface.co/api/models/mistralai/Mixtral-8x7B-Instruct-v0.1/auth-check"
    assert request.get_header("Authorization") == f"Bearer {TOKEN}"
    assert TOKEN not in repr(check)


def test_the_token_goes_to_nobody_else_and_is_shown_nowhere() -> None:
    account = Account(secretsmanager__GetSecretValue=error("InternalServiceError", f"bad value {TOKEN}"))
    seen: list[urllib.request.Request] = []
    checks = run(account=account, opener=hub(200, seen))
    assert seen == []
    assert (checks["licence"].status, "bad value hf_***" in checks["licence"].detail) == ("warn", True)
    assert TOKEN not in repr(checks)


@pytest.mark.parametrize(
    "stored",
    [f"{TOKEN}\n{TOKEN}", f"{TOKEN} {TOKEN}", f'{{"token": "{TOKEN}"}}', "hf_", f"{TOKEN}é", f"Bearer {TOKEN}"],
)
def test_what_is_no_token_is_sent_nowhere(stored: str) -> None:
    seen: list[urllib.request.Request] = []
    checks = run(account=Account(secretsmanager__GetSecretValue={"SecretString": stored}), opener=hub(200, seen))
    assert (checks["hub-token"].status, checks["licence"].status) == ("fail", "skipped")
    assert seen == []
    assert TOKEN not in repr(checks)


def test_an_exception_that_repeats_the_token_does_not_show_it() -> None:
    checks = run(opener=hub(ValueError(f"Invalid header value b'Bearer {TOKEN}\\n{TOKEN}'")))
    assert (checks["licence"].status, "Invalid header value" in checks["licence"].detail) == ("warn", True)
    assert TOKEN not in repr(checks)


def test_a_renamed_model_is_named_as_such() -> None:
    assert run(opener=hub(307))["licence"].remedy == "correct model.hub_id"


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "CREATE_IN_PROGRESS"])
def test_a_model_store_that_was_never_finished_is_none(status: str) -> None:
    stack = {"Stacks": [{"StackName": "modelzone-dev-model-store", "StackStatus": status}]}
    checks = run(account=Account(cloudformation__DescribeStacks=stack))
    assert (checks["hub-token"].status, "before the first deploy" in checks["hub-token"].detail) == ("warn", True)
    assert (checks["artifact"].detail, checks["artifact"].remedy) == (
        "not compiled: there is no model store yet",
        "Compile it.",
    )


def test_commands_are_for_the_environment_the_region_and_the_profile() -> None:
    account = Account(secretsmanager__GetSecretValue={"SecretString": "placeholder"})
    remedy = run(account=account, profile="my team")["hub-token"].remedy
    assert remedy.count("aws --region us-east-1 --profile 'my team' ") == 2
    account = Account(cloudformation__DescribeStacks=error("ValidationError", "Stack with id x does not exist"))
    remedy = run(account=account, profile="mine")["hub-token"].remedy
    assert remedy.startswith("cdk deploy CompileStack -c environment=dev --profile mine, then: aws --region us-east-1 ")


def test_without_a_way_to_the_hub_nobody_asks_it() -> None:
    seen: list[urllib.request.Request] = []
    assert not {"licence", "hub-token"} & set(run(plan(egress=False), opener=hub(200, seen)))
    assert seen == []


def test_an_open_model_needs_no_token() -> None:
    seen: list[urllib.request.Request] = []
    account = Account(secretsmanager__GetSecretValue={"SecretString": "placeholder"})
    checks = run(plan(gated=False), account, hub(200, seen))
    assert "hub-token" not in checks
    assert checks["licence"].status == "ok"
    assert seen[0].get_header("Authorization") is None
