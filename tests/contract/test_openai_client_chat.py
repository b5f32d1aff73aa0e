"""The official OpenAI client against the invoke proxy, over real HTTP on both sides.

The proxy runs under uvicorn; behind it a local server speaks the wire protocol of SSM and of SageMaker's runtime,
event stream included, so boto3 parses real bytes.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import httpx
import openai
import pytest
import uvicorn

from invoke_proxy.app import create_app
from invoke_proxy.aws_clients import AwsClients
from invoke_proxy.registry import Entry, Registry, read_entries
from invoke_proxy.sagemaker import EndpointRuntime

REGISTRY_PATH = "/modelzone/test/deployments"
MODEL_ID = "mistralai/Mixtral-8x7B-Instruct-v0.1"


def entry(name: str, **overrides: str) -> dict[str, str]:
    return {
        "deployment": name,
        "model_id": MODEL_ID,
        "endpoint_name": f"endpoint-{name}",
        "engine": "tgi-neuronx",
        "engine_version": "0.0.25",
        "dialect": "tgi-generate",
        "chat_template": "mistral-instruct",
        "max_input_tokens": "1023",
        "max_total_tokens": "1024",
        **overrides,
    }


def event_message(payload: bytes, *, kind: str = "event", name: str = "PayloadPart") -> bytes:
    """One message of application/vnd.amazon.eventstream, as SageMaker sends them."""
    type_header = ":event-type" if kind == "event" else ":exception-type"
    content = "application/octet-stream" if kind == "event" else "application/json"
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for key, value in ((":message-type", kind), (type_header, name), (":content-type", content))
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", binascii.crc32(message))


def sse(data: dict[str, Any]) -> bytes:
    return b"data:" + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def token(text: str, *, special: bool = False, logprob: float = -0.5) -> dict[str, Any]:
    return {"id": 7, "text": text, "logprob": logprob, "special": special}


def tgi_stream(texts: list[str], *, reason: str = "length") -> list[bytes]:
    """The events of TGI 2.1.1 for an answer of these tokens; no [DONE]."""
    events = []
    for index, text in enumerate(texts, start=1):
        last = index == len(texts)
        details = {"finish_reason": reason, "generated_tokens": len(texts), "seed": 1}
        events.append(
            sse(
                {
                    "index": index,
                    "token": token(text, special=text == "</s>"),
                    "generated_text": "".join(texts) if last else None,
                    "details": details if last else None,
                }
            )
        )
    return events


def tgi_answer(texts: list[str], *, reason: str = "length", prefill: int = 0) -> bytes:
    answer = {
        "generated_text": "".join(texts),
        "details": {
            "finish_reason": reason,
            "generated_tokens": len(texts),
            "seed": 1,
            "prefill": [{"id": 1, "text": "x", "logprob": None}] * prefill,
            "tokens": [token(text, special=text == "</s>") for text in texts],
        },
    }
    return json.dumps([answer]).encode()


@dataclass
class FakeAws:
    """What the server answers next, and what it was asked."""

    entries: list[dict[str, str]] = field(default_factory=lambda: [entry("mixtral")])
    answer: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    errors: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    cut: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    sent_parts: int = 0
    broken: threading.Event = field(default_factory=threading.Event)


def make_handler(state: FakeAws) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("x-amz-target") == "AmazonSSM.GetParametersByPath":
                parameters = [
                    {
                        "Name": f"{REGISTRY_PATH}/{item['deployment']}",
                        "Value": json.dumps(item),
                        "LastModifiedDate": 1.7e9,
                    }
                    for item in state.entries
                ]
                assert json.loads(body)["Path"] == REGISTRY_PATH
                self._reply(200, {"content-type": "application/x-amz-json-1.1"}, {"Parameters": parameters})
                return
            state.requests.append({"path": unquote(self.path), "body": json.loads(body)})
            if state.errors:
                status, code, detail = state.errors.pop(0)
                self._reply(status, {"content-type": "application/json", "x-amzn-errortype": code}, detail)
            elif self.path.endswith("/invocations-response-stream"):
                self._stream()
            else:
                self._reply(200, {"content-type": "application/json"}, json.loads(state.answer))

        def _reply(self, status: int, headers: dict[str, str], body: object) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/vnd.amazon.eventstream")
            self.send_header("x-amzn-sagemaker-content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                for part in state.parts:
                    raw = part if part.startswith(b"\0") else event_message(part)
                    self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
                    self.wfile.flush()
                    state.sent_parts += 1
                    time.sleep(state.pause)
                if state.cut:
                    self.close_connection = True
                    return
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                state.broken.set()
                self.close_connection = True

    return Handler


@contextlib.contextmanager
def served_app(app: Any) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none", loop="asyncio")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the proxy did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The proxy drops connections on purpose; that is no news."""


@dataclass(frozen=True)
class Served:
    aws: FakeAws
    url: str


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    state = FakeAws()
    server = QuietServer(("127.0.0.1", 0), make_handler(state))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_REGION", "us-east-1")
        clients = AwsClients()

        async def load() -> list[Entry]:
            return await asyncio.to_thread(lambda: read_entries(clients.ssm(), REGISTRY_PATH))

        runtime = EndpointRuntime(client=clients.sagemaker_runtime)
        with served_app(create_app(registry=Registry(load=load, ttl=0), runtime=runtime)) as url:
            yield Served(aws=state, url=url)
        runtime.shutdown()
    server.shutdown()
    thread.join(timeout=5)
    server.server_close()


@pytest.fixture
def aws(served: Served) -> FakeAws:
    """The fake AWS, as new: each test says what it answers."""
    vars(served.aws).update(vars(FakeAws()))
    return served.aws


@pytest.fixture
def base_url(served: Served) -> str:
    return served.url


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="key", max_retries=0) as client:
        yield client


HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def test_models_are_listed_and_found_by_name_and_model_id(aws: FakeAws, client: openai.OpenAI) -> None:
    aws.entries = [entry("mixtral"), entry("other", model_id="acme/other")]

    assert [model.id for model in client.models.list()] == ["mixtral", "other"]
    assert client.models.retrieve("mixtral").created == 1_700_000_000
    assert client.models.retrieve(MODEL_ID).id == MODEL_ID
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("missing")
    assert caught.value.code == "model_not_found"


def test_whole_answer_has_no_usage_when_the_engine_counts_no_prompt_tokens(aws: FakeAws, client: openai.OpenAI) -> None:
    aws.answer = tgi_answer(["Good", " day", "</s>"], reason="eos_token")

    answer = client.chat.completions.create(model="mixtral", messages=HELLO, temperature=0, max_tokens=5)

    assert answer.choices[0].message.content == "Good day"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "mixtral"
    assert answer.usage is None
    assert answer._request_id
    sent = aws.requests[0]
    assert sent["path"] == "/endpoints/endpoint-mixtral/invocations"
    assert sent["body"] == {
        "inputs": "[INST] Hello [/INST]",
        "parameters": {"details": True, "return_full_text": False, "max_new_tokens": 5, "do_sample": False},
        "stream": False,
    }


def test_whole_answer_has_usage_when_the_engine_counts(aws: FakeAws, client: openai.OpenAI) -> None:
    aws.entries = [entry("gpu", engine="tgi")]
    aws.answer = tgi_answer(["Good", " day"], prefill=6)

    usage = client.chat.completions.create(model="gpu", messages=HELLO).usage

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 2, 8)
    assert aws.requests[0]["body"]["parameters"]["decoder_input_details"] is True


def test_stream_arrives_token_by_token_and_ends(aws: FakeAws, client: openai.OpenAI) -> None:
    aws.parts = tgi_stream(["Grüß", " dich", " 🙂"], reason="length")
    aws.pause = 0.2

    chunks = []
    sent = []
    with client.chat.completions.create(
        model=MODEL_ID, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            chunks.append(chunk)
            sent.append(aws.sent_parts)

    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Grüß", " dich", " 🙂", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.usage is None for chunk in chunks)
    assert sent[1] == 1, "the first token was held back until more had come"
    assert aws.requests[0]["path"] == "/endpoints/endpoint-mixtral/invocations-response-stream"


def test_stream_survives_events_split_anywhere(aws: FakeAws, client: openai.OpenAI) -> None:
    whole = b"".join(tgi_stream(["Grüß", " dich", "</s>"], reason="eos_token"))
    aws.parts = [whole[index : index + 3] for index in range(0, len(whole), 3)]

    stream = client.chat.completions.create(model="mixtral", messages=HELLO, stream=True)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Grüß dich"


def test_stream_ends_with_done_on_the_wire(aws: FakeAws, base_url: str) -> None:
    aws.parts = tgi_stream(["Hi"])

    body = {"model": "mixtral", "messages": HELLO, "stream": True}
    answer = httpx.post(f"{base_url}/v1/chat/completions", json=body)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


def test_stop_sequence_is_cut_off_across_tokens(aws: FakeAws, client: openai.OpenAI) -> None:
    aws.parts = tgi_stream(["one", " EN", "D", "!"], reason="length")
    chunks = list(client.chat.completions.create(model="mixtral", messages=HELLO, stream=True, stop=["END!"]))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one "
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_log_probabilities_in_openai_shape(aws: FakeAws, client: openai.OpenAI) -> None:
    aws.entries = [entry("gpu", engine="tgi")]
    aws.parts = tgi_stream(["a", "b", "</s>"], reason="eos_token")
    chunks = list(client.chat.completions.create(model="gpu", messages=HELLO, stream=True, logprobs=True))

    found = [item for chunk in chunks if chunk.choices[0].logprobs for item in chunk.choices[0].logprobs.content or []]
    assert [(item.token, item.logprob, item.bytes) for item in found] == [("a", -0.5, [97]), ("b", -0.5, [98])]


@pytest.mark.parametrize("stream", [False, True])
def test_refusal_of_the_engine_is_an_http_error(aws: FakeAws, client: openai.OpenAI, *, stream: bool) -> None:
    words = "Input validation error: `inputs` must have less than 1023 tokens. Given: 2000"
    refusal = {"error": words, "error_type": "validation"}
    if stream:
        aws.parts = [sse(refusal)]
    else:
        aws.errors = [(424, "ModelError", {"OriginalStatusCode": 422, "OriginalMessage": json.dumps(refusal)})]

    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model="mixtral", messages=HELLO, stream=stream)

    assert words in caught.value.message


def test_failure_in_the_middle_of_a_stream_raises_in_the_client(aws: FakeAws, client: openai.OpenAI) -> None:
    aws.parts = [*tgi_stream(["a", "b"])[:1], sse({"error": "Request failed", "error_type": "generation"})]

    got: list[str | None] = []

    def read() -> None:
        for chunk in client.chat.completions.create(model="mixtral", messages=HELLO, stream=True):
            got.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before the failure counts

    with pytest.raises(openai.APIError, match="Request failed"):
        read()

    assert got == ["", "a"]


@pytest.mark.parametrize("code", ["ModelStreamError", "InternalStreamFailure"])
def test_exception_event_of_sagemaker_raises_in_the_client(aws: FakeAws, client: openai.OpenAI, code: str) -> None:
    detail = json.dumps({"Message": "secret account 123456789012"}).encode()
    aws.parts = [*tgi_stream(["a", "b"])[:1], event_message(detail, kind="exception", name=code)]

    with pytest.raises(openai.APIError, match="broke off") as caught:
        list(client.chat.completions.create(model="mixtral", messages=HELLO, stream=True))

    assert "123456789012" not in str(caught.value)


@pytest.mark.parametrize("cut", [False, True])
def test_truncated_stream_is_an_error_not_an_end(aws: FakeAws, client: openai.OpenAI, *, cut: bool) -> None:
    aws.parts = tgi_stream(["a", "b"])[:1]
    aws.cut = cut

    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="mixtral", messages=HELLO, stream=True))


def test_client_that_leaves_ends_the_reading(aws: FakeAws, base_url: str) -> None:
    aws.parts = tgi_stream(["x"] * 400)
    aws.pause = 0.02

    body = {"model": "mixtral", "messages": HELLO, "stream": True}
    with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body) as answer:
        next(answer.iter_raw())

    assert aws.broken.wait(timeout=5), "the proxy went on reading the endpoint's stream"
    assert aws.sent_parts < 300


@pytest.mark.parametrize(
    ("status", "code", "detail", "expected", "retry_after"),
    [
        (400, "ThrottlingException", {"message": "Rate exceeded"}, openai.RateLimitError, "1"),
        (429, "ModelNotReadyException", {"Message": "loading"}, openai.InternalServerError, "10"),
        (400, "ValidationError", {"message": "Component x has no capacity"}, openai.InternalServerError, "30"),
        (
            400,
            "ValidationError",
            {"message": "Endpoint x of account 123456789012 not found."},
            openai.NotFoundError,
            None,
        ),
        (400, "ValidationError", {"message": "bad"}, openai.BadRequestError, None),
        (503, "ServiceUnavailable", {"Message": "busy"}, openai.InternalServerError, None),
        (500, "InternalFailure", {"Message": "oh"}, openai.InternalServerError, None),
        (530, "InternalDependencyException", {"Message": "oh"}, openai.InternalServerError, None),
        (424, "ModelError", {"OriginalStatusCode": 500, "OriginalMessage": "<html>"}, openai.InternalServerError, None),
        (424, "ModelError", {"OriginalStatusCode": 429, "OriginalMessage": "{}"}, openai.RateLimitError, "1"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_sagemaker(
    aws: FakeAws,
    client: openai.OpenAI,
    status: int,
    code: str,
    detail: dict[str, Any],
    expected: type[openai.APIStatusError],
    retry_after: str | None,
    stream: bool,
) -> None:
    aws.errors = [(status, code, detail)]

    with pytest.raises(expected) as caught:
        client.chat.completions.create(model="mixtral", messages=HELLO, stream=stream)

    assert caught.value.response.headers.get("retry-after") == retry_after
    assert "123456789012" not in caught.value.message
    assert set(caught.value.body or ()) == {"message", "type", "param", "code"}


def test_client_retries_a_throttled_request(aws: FakeAws, base_url: str) -> None:
    aws.errors = [(400, "ThrottlingException", {"message": "Rate exceeded"})]
    aws.answer = tgi_answer(["ok"])

    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="key", max_retries=1) as client:
        started = time.monotonic()
        answer = client.chat.completions.create(model="mixtral", messages=HELLO)

    assert answer.choices[0].message.content == "ok"
    assert time.monotonic() - started >= 0.9, "Retry-After was not honoured"
    assert len(aws.requests) == 2, "the proxy itself must not repeat a paid generation"


def test_unsupported_parameter_is_refused_by_name(aws: FakeAws, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="mixtral",
            messages=HELLO,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )

    assert caught.value.param == "tools"
    assert caught.value.type == "invalid_request_error"
    assert aws.requests == []


def test_hugging_face_client_chats_and_generates(aws: FakeAws, base_url: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    aws.answer = tgi_answer(["Good", " day"])
    aws.parts = tgi_stream(["a", "b"])

    with hub.InferenceClient(base_url=f"{base_url}/v1", api_key="key") as client:
        chat = client.chat_completion(HELLO, model="mixtral")
    with hub.InferenceClient(f"{base_url}/generate") as client:
        whole = client.text_generation("Hi", max_new_tokens=2, details=True)
    with hub.InferenceClient(f"{base_url}/generate_stream") as client:
        stream = list(client.text_generation("Hi", stream=True, details=True))

    assert chat.choices[0].message.content == "Good day"
    assert (whole.generated_text, whole.details.generated_tokens) == ("Good day", 2)
    assert [item.token.text for item in stream] == ["a", "b"]
    assert stream[-1].generated_text == "ab"


def test_new_deployment_is_served_without_restart(aws: FakeAws, client: openai.OpenAI) -> None:
    assert client.models.retrieve("mixtral").id == "mixtral"
    aws.entries = [entry("mixtral"), entry("newcomer")]

    assert client.models.retrieve("newcomer").root == MODEL_ID  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError, match="mixtral, newcomer"):
        client.models.retrieve(MODEL_ID)
