"""What is logged of a request, and what is not."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.datastructures import Headers

from invoke_proxy import logs
from invoke_proxy.errors import ApiError
from invoke_proxy.logs import Identity, RequestLog

PROMPT = "a very private prompt of mail@example.org"
ANSWER = "a very private answer"


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Log as the function does and give the lines written since the last call."""
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.delenv("MODELZONE_ENVIRONMENT", raising=False)
    root, package = logging.getLogger(), logging.getLogger("invoke_proxy")
    before = root.handlers[:], root.level, package.level
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    logs.configure()

    def lines() -> list[dict[str, Any]]:
        text = output.getvalue()
        output.seek(0)
        output.truncate()
        return read(text)

    yield lines
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    package.setLevel(before[2])


def headers(context: object = None, **more: str) -> Headers:
    """Headers as Starlette reads those of the adapter, which writes JSON in UTF-8."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    if context is not None:
        raw.append((b"x-amzn-request-context", json.dumps(context, ensure_ascii=False).encode()))
    return Headers(raw=raw)


def begin(context: object = None, **more: str) -> RequestLog:
    return RequestLog.begin(headers(context, **more), route="/x")


def test_a_key_s_tenant_is_what_the_authorizer_says() -> None:
    identity = {"apiKey": "modelzone.dev.meter.blue", "apiKeyId": "abc", "userArn": None}
    authorizer = {"tenant": "blue", "key_id": "abcdefghij", "principalId": "abcdefghij", "integrationLatency": 3}
    log = begin({"requestId": "r1", "identity": identity, "authorizer": authorizer})

    assert log.identity == Identity(tenant="blue", key_id="abcdefghij")
    assert (log.request_id, log.tenant, log.key_id) == ("r1", "blue", "abcdefghij")


def test_a_signed_request_has_a_principal_and_no_tenant() -> None:
    arn = "arn:aws:sts::000000000000:assumed-role/caller/session"
    log = begin({"identity": {"userArn": arn, "apiKeyId": None}})

    assert log.identity == Identity(user_arn=arn)
    assert log.tenant is None


def test_a_user_s_claims_may_be_in_any_script() -> None:
    claims = {"sub": "1", "custom:tenant": "blau", "name": "Jörg 李", "odd": 3}
    log = begin({"authorizer": {"claims": claims}})

    assert log.identity == Identity(claims={"sub": "1", "custom:tenant": "blau", "name": "Jörg 李"})


@pytest.mark.parametrize(
    "context",
    [
        None,
        [],
        "text",
        {"identity": None, "authorizer": None},
        {"identity": [], "authorizer": "blue"},
        {"authorizer": {"tenant": 3, "key_id": {}, "claims": ["tenant"]}, "identity": {"userArn": 1}},
        {"authorizer": {"tenant": "", "key_id": ""}},
    ],
)
def test_a_context_that_says_nothing_is_nobody(context: object) -> None:
    log = begin(context)

    assert log.identity == Identity()
    assert len(log.request_id) == 36


def test_a_context_that_is_no_json_is_nobody() -> None:
    log = begin(x_amzn_request_context="{", x_amzn_lambda_context='{"request_id": "f1"}')

    assert (log.identity, log.request_id) == (Identity(), "f1")


@pytest.mark.parametrize(
    ("sent", "trace"),
    [
        ({"traceparent": f"00-{'a1' * 16}-{'b2' * 8}-01"}, "a1" * 16),
        ({"traceparent": f"cc-{'a1' * 16}-{'b2' * 8}-01-more"}, "a1" * 16),
        ({"traceparent": f"00-{'00' * 16}-{'b2' * 8}-01"}, None),
        ({"traceparent": f"ff-{'a1' * 16}-{'b2' * 8}-01"}, None),
        ({"traceparent": f"00-{'A1' * 16}-{'b2' * 8}-01"}, None),
        ({"traceparent": f"00-{'a1' * 16}-{'b2' * 8}-01\nx: y"}, None),
        ({"x_amzn_trace_id": f"Self=1-2-3;Root=1-67891233-{'ab' * 12};Sampled=1"}, f"1-67891233-{'ab' * 12}"),
        ({"x_amzn_trace_id": f"Root=1-67891233-{'ab' * 13}"}, None),
        ({"x_amzn_trace_id": "Root=1-6789,trace_id=2"}, None),
        (
            {"traceparent": f"00-{'a1' * 16}-{'b2' * 8}-00", "x_amzn_trace_id": f"Root=1-67891233-{'ab' * 12}"},
            "a1" * 16,
        ),
        ({}, None),
    ],
)
def test_only_well_formed_trace_ids_are_taken(sent: dict[str, str], trace: str | None) -> None:
    assert begin(**sent).trace_id == trace


def test_the_line_has_every_field(written: Any) -> None:
    log = begin({"requestId": "r1", "authorizer": {"tenant": "blue", "key_id": "k"}})
    log.deployment, log.model_id, log.alias = "mixtral", "acme/model", "gpt"
    log.prompt_tokens, log.cache, log.continuations, log.input_bytes = 7, "miss", 1, 20
    log.token()
    log.token(2)
    log.write(status=200)
    log.write(status=500)

    (line,) = written()
    assert line.pop("duration_ms") >= line.pop("time_to_first_token_ms") >= 0
    line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "invoke_proxy.logs",
        "message": "request",
        "request_id": "r1",
        "trace_id": None,
        "tenant": "blue",
        "key_id": "k",
        "route": "/x",
        "deployment": "mixtral",
        "alias": "gpt",
        "model_id": "acme/model",
        "stream": False,
        "status": 200,
        "error": None,
        "input_bytes": 20,
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "continuations": 1,
        "cache": "miss",
    }


def test_text_without_tokens_has_a_first_token_s_time() -> None:
    log = begin()
    assert log.time_to_first_token_ms is None
    log.token(0)
    assert log.time_to_first_token_ms is not None
    assert log.completion_tokens == 0


def test_content_is_logged_for_a_tenant_that_wants_it_and_redacted(written: Any) -> None:
    log = begin()
    log.log_content = True
    log.keep_prompt(PROMPT)
    for part in (ANSWER, " of mail@exa", "mple.org"):
        log.keep_answer(part)
    log.write(status=200)

    request, content = written()
    assert (request["message"], content["message"]) == ("request", "content")
    assert content["request_id"] == log.request_id
    assert content["prompt"] == "a very private prompt of [email]"
    assert content["answer"] == "a very private answer of [email]"
    assert "private" not in json.dumps(request)


def test_content_is_logged_for_nobody_else(written: Any) -> None:
    log = begin()
    log.keep_prompt(PROMPT)
    log.keep_answer(ANSWER)
    log.write(status=200)

    (line,) = written()
    assert "private" not in json.dumps(line)


def test_a_tenant_s_content_that_never_came_is_no_line(written: Any) -> None:
    log = begin()
    log.log_content = True
    log.write(status=400)

    assert [line["message"] for line in written()] == ["request"]


def test_long_content_is_cut_and_says_how_long_it_was(written: Any) -> None:
    log = begin()
    log.log_content = True
    log.keep_prompt("ü" * 1_000_000)
    for _ in range(1000):
        log.keep_answer("\x00" * 1000)
    log.write(status=200)

    lines = written()
    content = lines[1]
    assert (content["prompt_characters"], content["answer_characters"]) == (1_000_000, 1_000_000)
    assert content["prompt"] == "ü" * (16 * 1024) + "…"
    assert len(json.dumps(content, ensure_ascii=False).encode()) < 256 * 1024, "an event of CloudWatch"


def test_metrics_are_written_with_the_log_in_an_environment(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELZONE_ENVIRONMENT", "dev")
    flushes = 0

    def flushed() -> None:
        nonlocal flushes
        flushes += 1

    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    monkeypatch.setattr(handler.stream, "flush", flushed)
    begin({"requestId": "r1"}).write(status=200)

    line, metrics = written()
    assert line["message"] == "request"
    assert (metrics["Environment"], metrics["request_id"]) == ("dev", "r1")
    assert flushes == 1, "each is a system call"


def test_metrics_are_written_whatever_the_level_is(
    written: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELZONE_ENVIRONMENT", "dev")
    logging.getLogger("invoke_proxy").setLevel("WARNING")
    begin({"requestId": "r1"}).write(status=200)

    (metrics,) = read(capsys.readouterr().out)
    assert metrics["request_id"] == "r1"
    assert written() == []


def test_an_exception_is_logged_by_kind_and_place_only(written: Any) -> None:
    try:
        base64.b64decode(PROMPT, validate=True)
    except ValueError:
        logging.getLogger("invoke_proxy").exception("request failed")

    (line,) = written()
    assert line["exception"] == "Error"
    assert any("test_invoke_proxy_logs" in place for place in line["where"])
    assert PROMPT not in json.dumps(line)


@pytest.mark.parametrize(
    ("message", "args", "shown"),
    [
        # As asyncio writes them: what follows shows the future, and so the exception.
        (
            "Task exception was never retrieved\nfuture: <Task finished exception=ValueError('a secret')>",
            (),
            "Task exception was never retrieved",
        ),
        ("Executing %s took %.3f seconds", ("<Task exception=ValueError('a secret')>", 0.2), "Executing"),
        ("Exception in callback send(b'a secret')\nhandle: <Handle>", (), "Exception in callback send"),
        ("socket.send() raised exception.", (), "socket.send() raised exception."),
    ],
)
def test_asyncio_s_records_show_no_objects(written: Any, message: str, args: tuple[object, ...], shown: str) -> None:
    logging.getLogger("asyncio").error(message, *args)
    (line,) = written()
    assert line["message"] == shown


async def test_a_task_s_failure_that_nobody_awaits_is_logged_without_its_text(written: Any) -> None:
    """The very path that asyncio takes."""

    async def fail() -> None:
        raise ApiError(status=400, message=f"refused: {PROMPT}", code="invalid_value")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect()
    (line,) = written()
    assert (line["logger"], line["message"]) == ("asyncio", "Task exception was never retrieved")
    assert line["exception"] == "ApiError"
    assert PROMPT not in json.dumps(line)


def test_an_exception_among_what_is_logged_is_named_only(written: Any) -> None:
    error = ValueError(PROMPT)
    logging.getLogger("invoke_proxy").warning("failed: %s", error, extra={"fields": {"error": error}})
    (line,) = written()
    assert (line["message"], line["error"]) == ("failed: ValueError", "ValueError")


@pytest.mark.usefixtures("written")  # undoes what configure does
def test_half_a_surrogate_pair_does_not_lose_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's JSON may hold one, and no stream in UTF-8 takes it."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8", write_through=True))
    logs.configure()
    log = begin()
    log.log_content = True
    log.keep_prompt("half \ud83d of ö")
    log.write(status=200)
    _, content = (json.loads(line) for line in raw.getvalue().decode().splitlines())
    assert content["prompt"] == "half ? of ö"


@pytest.mark.usefixtures("written")  # undoes what configure does
def test_the_level_is_the_package_s_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    logs.configure()
    logging.getLogger("invoke_proxy.x").debug("seen")
    logging.getLogger("botocore").debug("not seen")
    logging.getLogger("starlette").info("not seen")
    monkeypatch.setenv("LOG_LEVEL", "nonsense")
    logs.configure()
    logging.getLogger("invoke_proxy.x").debug("not seen")

    assert [line["message"] for line in read(output.getvalue())] == ["seen"]
