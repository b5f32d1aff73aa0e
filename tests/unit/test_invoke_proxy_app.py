"""The routes, with a stand-in for SageMaker behind them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, EventStreamError, ReadTimeoutError
from starlette.types import Message

from invoke_proxy import logs
from invoke_proxy.app import create_app
from invoke_proxy.errors import ApiError
from invoke_proxy.registry import Entry, Registry
from invoke_proxy.sagemaker import MAX_BODY_BYTES, EndpointRuntime, engine_failure, map_client_error, map_error

PROMPT = "a very private prompt"
ANSWER = "a very private answer"


def entry(name: str = "mixtral", **overrides: str) -> Entry:
    value = {
        "deployment": name,
        "model_id": "acme/model",
        "endpoint_name": f"endpoint-{name}",
        "engine": "tgi-neuronx",
        "engine_version": "0.0.25",
        "dialect": "tgi-generate",
        "chat_template": "mistral-instruct",
        "max_input_tokens": "1023",
        "max_total_tokens": "1024",
        **overrides,
    }
    return Entry(name=f"/x/{name}", value=json.dumps(value), written=1)


class FakeClient:
    """The two calls of boto3's client, answered from memory."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Any = b""
        self.parts: list[Any] = []
        self.error: Exception | None = None
        self.closed = False

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self._note(request)
        return {"Body": FakeBody(self.answer)}

    def invoke_endpoint_with_response_stream(self, **request: Any) -> dict[str, Any]:
        self._note(request)
        return {"Body": self}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield {"PayloadPart": {"Bytes": part}}

    def close(self) -> None:
        self.closed = True

    def _note(self, request: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.requests.append({**request, "Body": json.loads(request["Body"])})


class FakeBody:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __enter__(self) -> FakeBody:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> bytes:
        return self._content


class Proxy:
    def __init__(self) -> None:
        self.aws = FakeClient()
        self.entries = [entry()]
        self.runtime = EndpointRuntime(client=lambda: self.aws)  # type: ignore[arg-type,return-value]
        self.app = create_app(registry=Registry(load=self._load, ttl=0), runtime=self.runtime)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://proxy")

    async def _load(self) -> list[Entry]:
        return self.entries

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.http.post(path, **({"json": body} if body is not None else {}), **options)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    yield proxy
    await proxy.http.aclose()
    proxy.runtime.shutdown()


def generated(text: str = ANSWER, **details: Any) -> bytes:
    tokens = [{"id": 1, "text": text, "logprob": 0, "special": False}]
    full = {"finish_reason": "length", "generated_tokens": 1, "seed": None, "prefill": [], "tokens": tokens, **details}
    return json.dumps([{"generated_text": text, "details": full}]).encode()


def event(text: str, *, last: bool = False) -> bytes:
    details = {"finish_reason": "length", "generated_tokens": 2, "seed": None} if last else None
    token = {"id": 1, "text": text, "logprob": 0, "special": False}
    data = {"index": 1, "token": token, "generated_text": text if last else None, "details": details}
    return b"data:" + json.dumps(data).encode() + b"\n\n"


CHAT = {"model": "mixtral", "messages": [{"role": "user", "content": PROMPT}]}


async def test_health_needs_nothing(proxy: Proxy) -> None:
    proxy.entries = []
    answer = await proxy.http.get("/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_generate_is_tgi_s(proxy: Proxy) -> None:
    proxy.aws.answer = generated()

    answer = await proxy.post("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 3}})

    assert answer.status_code == 200
    assert answer.json() == json.loads(generated())[0]
    assert proxy.aws.requests[0]["EndpointName"] == "endpoint-mixtral"
    assert proxy.aws.requests[0]["Body"] == {
        "inputs": PROMPT,
        "parameters": {"max_new_tokens": 3, "return_full_text": False},
        "stream": False,
    }


async def test_generate_stream_passes_bytes_through(proxy: Proxy) -> None:
    proxy.aws.parts = [b": \n\n", event("a")[:9], event("a")[9:], event("b", last=True)]

    answer = await proxy.post("/generate_stream", {"inputs": PROMPT})

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == b"".join(proxy.aws.parts)
    assert proxy.aws.requests[0]["Body"]["stream"] is True


async def test_generate_stream_that_breaks_off_says_so(proxy: Proxy) -> None:
    broken = EventStreamError({"Error": {"Code": "ModelStreamError", "Message": "x"}}, "Invoke")  # type: ignore[arg-type]
    proxy.aws.parts = [event("a"), b'data:{"half', broken]

    answer = await proxy.post("/generate_stream", {"inputs": PROMPT})

    *_, last = answer.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data:"))["error_type"] == "stream_failed"


async def test_generate_needs_a_model_only_among_several(proxy: Proxy) -> None:
    proxy.aws.answer = generated()
    proxy.entries = [entry("a"), entry("b")]

    unnamed = await proxy.post("/generate", {"inputs": "x"})
    named = await proxy.post("/generate", {"inputs": "x", "model": "b"})
    unknown = await proxy.post("/generate", {"inputs": "x", "model": "c"})

    assert (unnamed.status_code, named.status_code, unknown.status_code) == (400, 200, 404)
    assert set(unnamed.json()) == {"error", "error_type"}
    assert "a, b" in unnamed.json()["error"]
    assert proxy.aws.requests[0]["EndpointName"] == "endpoint-b"
    assert "model" not in proxy.aws.requests[0]["Body"]


async def test_refusal_of_the_engine_keeps_status_and_words(proxy: Proxy) -> None:
    words = json.dumps({"error": "Input validation error: too long", "error_type": "validation"})
    proxy.aws.error = client_error("ModelError", OriginalStatusCode=422, OriginalMessage=words)

    answer = await proxy.post("/generate", {"inputs": "x"})

    assert answer.status_code == 422
    assert answer.json() == {"error": "Input validation error: too long", "error_type": "validation"}


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/v1/chat/completions", {"error"}), ("/generate", {"error", "error_type"})],
)
async def test_bodies_that_are_no_requests(proxy: Proxy, path: str, shape: set[str]) -> None:
    for content in (b"", b"{", b"\xff", b"[]", b'"x"', b'{"a": NaN}', b"[" * 100_000):
        answer = await proxy.post(path, content=content)
        assert answer.status_code == 400, content[:10]
        assert set(answer.json()) == shape
    assert proxy.aws.requests == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_a_body(proxy: Proxy, path: str, *, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield b" " * (MAX_BODY_BYTES // 6)

    answer = await proxy.post(path, content=pieces() if chunked else b" " * (MAX_BODY_BYTES + 1))

    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in answer.text


async def test_body_that_grows_beyond_the_limit(proxy: Proxy) -> None:
    text = '"' * (MAX_BODY_BYTES // 2 + 1000)
    content = b'{"inputs": ' + json.dumps(text).encode() + b"}"
    assert len(content) > MAX_BODY_BYTES

    answer = await proxy.post("/generate", {"inputs": "x", "parameters": {"stop": ["\\" * (MAX_BODY_BYTES // 2)]}})

    assert answer.status_code == 413


async def test_half_a_surrogate_pair_in_parameters(proxy: Proxy) -> None:
    answer = await proxy.post("/generate", content=rb'{"inputs": "x", "parameters": {"stop": ["\ud800"]}}')

    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/generate", 405),
        ("POST", "/generate/", 404),
    ],
)
async def test_unknown_routes(proxy: Proxy, method: str, path: str, status: int) -> None:
    answer = await proxy.http.request(method, path)

    assert answer.status_code == status
    body = answer.json()
    assert isinstance(body["error"], dict) == path.startswith("/v1/")
    assert answer.headers["x-request-id"]


async def test_deployment_without_chat(proxy: Proxy) -> None:
    proxy.entries = [entry(chat_template="")]

    answer = await proxy.post("/v1/chat/completions", CHAT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "chat_not_supported")


async def test_unknown_dialect(proxy: Proxy) -> None:
    proxy.entries = [entry(dialect="new")]

    chat = await proxy.post("/v1/chat/completions", CHAT)
    generate = await proxy.post("/generate", {"inputs": "x"})

    assert (chat.status_code, generate.status_code) == (400, 400)
    assert "'new'" in chat.json()["error"]["message"]
    assert "'new'" in generate.json()["error"]


async def test_wrong_conversation_is_refused_before_the_endpoint(proxy: Proxy) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]

    answer = await proxy.post("/v1/chat/completions", {**CHAT, "messages": messages})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[1].role"
    assert proxy.aws.requests == []


async def test_keep_alive_is_passed_on(proxy: Proxy) -> None:
    proxy.aws.parts = [b": \n\n", event("a"), b": \n\n", event("b", last=True)]

    answer = await proxy.post("/v1/chat/completions", {**CHAT, "stream": True})

    assert answer.text.count(": keep-alive\n\n") == 2
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_stream_is_closed_at_its_end(proxy: Proxy) -> None:
    proxy.aws.parts = [event("a", last=True), event("never read")]

    answer = await proxy.post("/v1/chat/completions", {**CHAT, "stream": True})

    assert "never read" not in answer.text
    await asyncio.sleep(0.05)
    assert proxy.aws.closed


async def test_stream_that_is_refused_is_closed(proxy: Proxy) -> None:
    proxy.aws.parts = [b'data:{"error":"too long","error_type":"validation"}\n\n']

    answer = await proxy.post("/v1/chat/completions", {**CHAT, "stream": True})

    assert answer.status_code == 422
    await asyncio.sleep(0.05)
    assert proxy.aws.closed


async def test_our_own_failure_is_a_readable_500(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.runtime.invoke = None  # type: ignore[method-assign,assignment]

    answer = await proxy.post("/v1/chat/completions", CHAT)

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert PROMPT not in caplog.text
    assert answer.headers["x-request-id"] in str([record.__dict__ for record in caplog.records])


async def test_client_that_leaves_during_upload_is_no_failure(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/generate",
        "raw_path": b"/generate",
        "query_string": b"",
        "headers": [],
    }

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        pass

    await proxy.app(scope, receive, send)

    (record,) = caplog.records
    assert record.__dict__["fields"]["status"] == 499


# ---- logs -----------------------------------------------------------------------------------------------------------


def client_error(code: str, **more: Any) -> Exception:
    return ClientError({"Error": {"Code": code, "Message": f"{PROMPT} in account 123456789012"}, **more}, "Invoke")  # type: ignore[arg-type]


class Output:
    """Everything that reaches standard output and error at the most talkative level."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        # Here and not in a fixture: pytest gives each phase of a test its own standard output.
        logs.configure()

    def read(self) -> tuple[list[dict[str, Any]], str]:
        """The lines of standard output as JSON, and all text."""
        captured = self._capsys.readouterr()
        return [json.loads(line) for line in captured.out.splitlines()], captured.out + captured.err


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Output]]:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    yield lambda: Output(capsys)
    root.handlers[:], root.level = before
    logging.getLogger("invoke_proxy").setLevel(logging.NOTSET)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_line_per_request_without_prompt_or_answer(
    proxy: Proxy, output: Callable[[], Output], *, stream: bool
) -> None:
    printed = output()
    proxy.aws.answer = generated()
    proxy.aws.parts = [event(ANSWER), event(ANSWER, last=True)]
    context = {"requestId": "request-7", "identity": {"apiKeyId": "key-id-7", "apiKey": "SECRET-KEY"}}

    answer = await proxy.post(
        "/v1/chat/completions",
        {**CHAT, "stream": stream},
        headers={"x-api-key": "SECRET-KEY", "x-amzn-request-context": json.dumps(context)},
    )

    lines, text = printed.read()
    (line,) = lines
    assert ANSWER in answer.text
    assert answer.headers["x-request-id"] == "request-7"
    assert (line["request_id"], line["key_id"]) == ("request-7", "key-id-7")
    assert (line["route"], line["deployment"], line["model_id"]) == ("/v1/chat/completions", "mixtral", "acme/model")
    assert (line["status"], line["stream"], line["error"]) == (200, stream, None)
    assert line["completion_tokens"] == (2 if stream else 1)
    assert line["duration_ms"] >= (line["time_to_first_token_ms"] or 0) >= 0
    assert (line["time_to_first_token_ms"] is not None) == stream
    for secret in (PROMPT, ANSWER, "SECRET-KEY"):
        assert secret not in text


async def test_failures_are_logged_by_code_not_by_text(proxy: Proxy, output: Callable[[], Output]) -> None:
    printed = output()
    proxy.aws.error = client_error("ModelError", OriginalStatusCode=422, OriginalMessage=json.dumps({"error": PROMPT}))
    await proxy.post("/v1/chat/completions", CHAT)
    proxy.aws.error = client_error("ValidationError")
    await proxy.post("/v1/chat/completions", CHAT)
    proxy.aws.error = RuntimeError(PROMPT)
    await proxy.post("/v1/chat/completions", CHAT)
    await proxy.post("/v1/chat/completions", {**CHAT, PROMPT: 1})
    await proxy.http.get(f"/{PROMPT}?key={PROMPT}")

    lines, text = printed.read()
    requests = [line for line in lines if line["message"] == "request"]
    assert [line["error"] for line in requests] == [
        "model_refused",
        "endpoint_validation_failed",
        "endpoint_failed",
        "unknown_parameter",
        "unknown_url",
    ]
    assert PROMPT not in text
    assert PROMPT.replace(" ", "%20") not in text


async def test_exceptions_are_logged_with_their_place_only(proxy: Proxy, output: Callable[[], Output]) -> None:
    printed = output()

    async def explode(*_: Any) -> bytes:
        raise ValueError(PROMPT)

    proxy.runtime.invoke = explode  # type: ignore[method-assign,assignment]

    await proxy.post("/v1/chat/completions", CHAT)

    lines, text = printed.read()
    failure = next(line for line in lines if line["message"] == "request failed")
    assert failure["exception"] == "ValueError"
    assert any("explode" in place for place in failure["where"])
    assert PROMPT not in text


async def test_failure_in_a_stream_is_logged(proxy: Proxy, output: Callable[[], Output]) -> None:
    printed = output()
    proxy.aws.parts = [event("a"), b'data:{"error":"x","error_type":"generation"}\n\n']

    await proxy.post("/v1/chat/completions", {**CHAT, "stream": True})
    await proxy.post("/generate_stream", {"inputs": PROMPT})

    lines, _ = printed.read()
    assert [(line["status"], line["error"]) for line in lines] == [(200, "model_refused"), (200, "model_error_event")]


async def test_libraries_that_would_print_bodies_stay_quiet(output: Callable[[], Output]) -> None:
    output()

    assert logging.getLogger("invoke_proxy.app").isEnabledFor(logging.DEBUG)
    for name in ("botocore.endpoint", "boto3.resources", "urllib3.connectionpool", "asyncio", "uvicorn.error", "x"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO), name


async def test_garbage_in_the_contexts_is_harmless(proxy: Proxy, output: Callable[[], Output]) -> None:
    printed = output()
    headers = {"x-amzn-request-context": "[", "x-amzn-lambda-context": '{"request_id": "from-lambda"}'}

    answer = await proxy.http.get("/v1/models", headers=headers)

    assert answer.headers["x-request-id"] == "from-lambda"
    assert printed.read()[0][0]["key_id"] is None


# ---- errors of SageMaker (the whole table is in the contract test of the OpenAI client) -----------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ReadTimeoutError(endpoint_url="http://x"), 504),
        (EndpointConnectionError(endpoint_url="http://x"), 502),
        (RuntimeError("x"), 502),
        (ApiError(status=418, message="x", code="x"), 418),
    ],
)
def test_failures_of_the_connection(error: Exception, status: int) -> None:
    assert map_error(error).status == status


def test_unknown_codes_are_a_bad_gateway() -> None:
    assert map_client_error({"Error": {"Code": "Newly", "Message": "x"}}).status == 502
    assert map_client_error({}).status == 502


@pytest.mark.parametrize(
    ("status", "text", "expected", "words"),
    [
        (400, '{"error": {"message": "nested"}}', 400, "nested"),
        (400, '{"message": "flat"}', 400, "flat"),
        (400, "plain text", 400, "plain text"),
        (404, "", 404, "HTTP 404"),
        (500, "a stack trace", 502, "The model server failed"),
        (0, "", 502, "The model server failed"),
        (400, "[1]", 400, "[1]"),
    ],
)
def test_words_of_the_engine(status: int, text: str, expected: int, words: str) -> None:
    found = engine_failure(status, text)

    assert found.status == expected
    assert words in found.message
    assert "stack trace" not in found.message
