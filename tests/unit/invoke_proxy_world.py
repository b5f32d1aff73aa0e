"""The whole gateway in one process, with engines of every dialect behind it that answer from memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import httpx

from invoke_proxy.app import create_app
from invoke_proxy.aws.ssm import Parameter
from invoke_proxy.cache import CachedAnswer, ResponseCache
from invoke_proxy.endpoints.call import Call
from invoke_proxy.endpoints.runtime import EndpointRuntime
from invoke_proxy.endpoints.waiting import until_ready
from invoke_proxy.generation import Generation
from invoke_proxy.registry import Deployment, Registry
from invoke_proxy.service import Services
from invoke_proxy.tokens import TokenCounter
from modelzone.engines import ENGINES

Part = bytes | float | Exception

WORDS = (" one", " two", " three.")
DIALECT_ENGINES = {
    version.dialect: (engine.name, version.version)
    for engine in ENGINES.values()
    for version in engine.versions.values()
    if version.dialect != "clip"
}


def deployment_entry(name: str = "mixtral", *, dialect: str = "tgi-generate", **overrides: str) -> Parameter:
    engine, version = DIALECT_ENGINES.get(dialect, ("tgi-neuronx", "0.0.25"))
    features = ENGINES[engine].versions[version].features
    value = {
        "deployment": name,
        "model_id": "acme/model",
        "endpoint_name": f"endpoint-{name}",
        "engine": engine,
        "engine_version": version,
        "dialect": dialect,
        "chat_template": "mistral-instruct",
        "max_input_tokens": "1023",
        "max_total_tokens": "1024",
        "features": ",".join(sorted(features)),
        **overrides,
    }
    return Parameter(name=f"/d/{name}", value=json.dumps(value), written=1_700_000_000)


def settings_entry(**values: Any) -> Parameter:
    return Parameter(name="/g/settings", value=json.dumps(values), written=1)


def tenant_entry(name: str = "default", **values: Any) -> Parameter:
    return Parameter(name=f"/g/tenants/{name}", value=json.dumps({"tenant": name, **values}), written=1)


def identity_header(tenant: str | None = "default", **context: Any) -> dict[str, str]:
    """What the Lambda Web Adapter adds to a request that the authorizer has let through."""
    authorizer = {} if tenant is None else {"tenant": tenant, "key_id": "abcdefghij"}
    return {"x-amzn-request-context": json.dumps({"requestId": "request-1", "authorizer": authorizer, **context})}


class FakeStream:
    """An endpoint's stream: bytes, pauses in seconds, failures."""

    content_type = "text/event-stream"

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = deque(parts)
        self._ahead: deque[bytes] = deque()
        self.closed = False

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> bytes:
        if self._ahead:
            return self._ahead.popleft()
        while self._parts and not self.closed:
            part = self._parts.popleft()
            if isinstance(part, Exception):
                raise part
            if isinstance(part, bytes):
                return part
            await asyncio.sleep(part)
        raise StopAsyncIteration

    async def next_pieces(self) -> list[bytes]:
        async for part in self:
            return [part]
        return []

    async def read_ahead(self) -> None:
        with contextlib.suppress(StopAsyncIteration):
            self._ahead.append(await anext(self))

    def close(self) -> None:
        self.closed = True


class FakeRuntime:
    """The runtime's methods; `engine` makes the parts of each answer, from the request's body."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.calls: list[Call] = []
        self.endpoints: list[str] = []
        self.streams: list[FakeStream] = []
        self.raw: list[bytes] = []
        self.engine: Callable[[dict[str, Any]], Sequence[Part]] | None = None
        self.engines: dict[str, Callable[[dict[str, Any]], Sequence[Part]]] = {}
        self.errors: list[Exception] = []
        self.cancelled = 0
        self.kind = "application/json"

    def _parts(self, name: str, body: bytes, call: Call) -> Sequence[Part]:
        self.calls.append(call)
        self.endpoints.append(name)
        self.raw.append(body)
        if self.errors:
            raise self.errors.pop(0)
        try:
            document = json.loads(body)
        except ValueError:
            document = {}
        if not isinstance(document, dict):
            document = {}
        self.requests.append(document)
        engine = self.engine or self.engines.get(name)
        assert engine is not None
        return engine(document)

    async def invoke(self, endpoint_name: str, body: bytes, *, call: Call, **_: str) -> bytes:
        return (await self.invoke_raw(endpoint_name, body, call=call, content_type="", accept=""))[1]

    async def invoke_raw(
        self, endpoint_name: str, body: bytes, *, call: Call, content_type: str, accept: str
    ) -> tuple[str, bytes]:
        self.headers = {"content-type": content_type, "accept": accept}

        async def attempt() -> bytes:
            whole = b""
            try:
                async for part in FakeStream(self._parts(endpoint_name, body, call)):
                    whole += part
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return whole

        return self.kind, await until_ready(attempt, bound=call.wait_seconds, pause=0.01)

    async def stream(self, endpoint_name: str, body: bytes, *, call: Call, **headers: str) -> FakeStream:
        self.headers = headers
        stream = FakeStream(self._parts(endpoint_name, body, call))
        self.streams.append(stream)
        return stream

    async def aclose(self) -> None:
        pass


class FakeTokens:
    """Counts words; `None` without a tokenizer."""

    def __init__(self) -> None:
        self.counted: list[str] = []
        self.delay = 0.0

    async def count(self, deployment: Deployment, text: str) -> int | None:
        self.counted.append(text)
        await asyncio.sleep(self.delay)
        return len(text.split()) if deployment.tokenizer else None

    async def tokenize(self, deployment: Deployment, text: str) -> list[dict[str, Any]] | None:
        if not deployment.tokenizer:
            return None
        return [{"id": 1, "text": text, "start": 0, "stop": len(text.encode())}]

    async def id_of(self, deployment: Deployment, _text: str) -> int | None:
        return 1 if deployment.tokenizer else None


class FakeCache:
    """The cache with its real keys, in memory."""

    def __init__(self) -> None:
        self._keys = ResponseCache(cast("Any", None), "table")
        self.kept: dict[str, CachedAnswer] = {}
        self.ttls: list[float] = []

    def key(self, tenant: str, deployment: Deployment, route: str, body: Mapping[str, Any] | Generation) -> str | None:
        return self._keys.key(tenant, deployment, route, body)

    async def get(self, key: str) -> CachedAnswer | None:
        return self.kept.get(key)

    async def put(self, key: str, answer: CachedAnswer, ttl: float) -> None:
        self.kept[key] = CachedAnswer.from_bytes(answer.to_bytes())
        self.ttls.append(ttl)


class Gateway:
    """The app with everything around it."""

    def __init__(self) -> None:
        self.deployments = [deployment_entry()]
        self.gateway = [settings_entry(), tenant_entry()]
        self.runtime = FakeRuntime()
        self.runtime.engine = tgi()
        self.tokens = FakeTokens()
        self.cache = FakeCache()
        services = Services(
            registry=Registry(load_deployments=self._load, load_gateway=self._load_gateway, ttl=0),
            runtime=cast("EndpointRuntime", self.runtime),
            tokens=cast("TokenCounter", self.tokens),
            cache=cast("ResponseCache", self.cache),
            environment="test",
        )
        self.app = create_app(services=services)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://gateway", headers=identity_header()
        )

    async def _load(self) -> list[Parameter]:
        return self.deployments

    async def _load_gateway(self) -> list[Parameter]:
        return self.gateway

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.http.post(path, **({"json": body} if body is not None else {}), **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)


def events_of(content: bytes) -> list[Any]:
    """Return the data of server-sent events, parsed where it is JSON."""
    found: list[Any] = []
    for block in content.decode().replace("\r\n", "\n").split("\n\n"):
        lines = [line.removeprefix("data:").strip() for line in block.split("\n") if line.startswith("data:")]
        if lines:
            text = "\n".join(lines)
            found.append(text if text == "[DONE]" else json.loads(text))
    return found


def _sse(document: Any) -> bytes:
    return b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"


def _line(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


def tgi(
    words: Sequence[str] = WORDS, *, reason: str = "eos_token", prompt_tokens: int | None = None
) -> Callable[[dict[str, Any]], list[Part]]:
    """TGI and LoRAX: the last token is the end of the sequence, unless the answer is cut."""
    ended = reason == "eos_token"
    tokens = [{"id": n, "text": word, "logprob": -0.5, "special": False} for n, word in enumerate(words, start=1)]
    if ended:
        tokens.append({"id": 2, "text": "</s>", "logprob": -0.1, "special": True})
    details = {"finish_reason": reason, "generated_tokens": len(tokens), "seed": None}
    if prompt_tokens is not None:
        details["input_length"] = prompt_tokens
    text = "".join(words)

    def answer(body: dict[str, Any]) -> list[Part]:
        if not body.get("stream"):
            full = {**details, "prefill": [{"id": 1, "text": "x", "logprob": None}] * (prompt_tokens or 0)}
            return [json.dumps([{"generated_text": text, "details": {**full, "tokens": tokens}}]).encode()]
        last = len(tokens) - 1
        return [
            _sse(
                {
                    "index": index + 1,
                    "token": token,
                    "generated_text": text if index == last else None,
                    "details": details if index == last else None,
                }
            )
            for index, token in enumerate(tokens)
        ]

    return answer


def _lmi_tokens(words: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": n, "text": word, "log_prob": -0.5} for n, word in enumerate(words, start=1)]


def lmi_jsonlines(body: dict[str, Any]) -> list[Part]:
    del body
    tokens = _lmi_tokens(WORDS)
    ended = {"details": {"finish_reason": "eos_token"}, "generated_text": "".join(WORDS)}
    return [_line({"token": token, **(ended if token is tokens[-1] else {})}) for token in tokens]


def lmi_json(body: dict[str, Any]) -> list[Part]:
    del body
    texts: list[Part] = [json.dumps(word)[1:-1].encode() for word in WORDS]
    return [b'{"generated_text": "', *texts, b'", "details": {"finish_reason": "eos_token", "generated_tokens": 3}}']


def lmi_rolling_batch(body: dict[str, Any]) -> list[Part]:
    tokens = _lmi_tokens(WORDS)
    details = {"finish_reason": "eos_token", "generated_tokens": len(tokens), "inputs": "x"}
    if not body.get("stream"):
        whole = {"generated_text": "".join(WORDS), "details": {**details, "tokens": tokens}}
        return [json.dumps(whole).encode()]
    ended = {"details": details, "generated_text": "".join(WORDS)}
    return [_line({"token": token, **(ended if token is tokens[-1] else {})}) for token in tokens]


def openai(*, lines: bool) -> Callable[[dict[str, Any]], list[Part]]:
    """vLLM and LMI's asynchronous handlers."""
    write = _line if lines else _sse

    def answer(body: dict[str, Any]) -> list[Part]:
        texts = body.get("input") or body.get("inputs")
        if isinstance(texts, list):
            vectors = [[0.25, -0.5]] * len(texts)
            data = [{"object": "embedding", "index": n, "embedding": item} for n, item in enumerate(vectors)]
            return [json.dumps(vectors if lines else {"data": data, "usage": {"prompt_tokens": 3}}).encode()]
        chat = "messages" in body
        usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
        logprobs = None
        if body.get("logprobs") is not None and body.get("logprobs") is not False:
            logprobs = _chat_logprobs if chat else _completion_logprobs
        head = {"id": "x", "created": 1, "model": "m"}
        if not body.get("stream"):
            words = list(WORDS)
            content: dict[str, Any] = (
                {"message": {"role": "assistant", "content": "".join(words)}} if chat else {"text": "".join(words)}
            )
            choice = {"index": 0, **content, "finish_reason": "stop", "logprobs": logprobs and logprobs(words)}
            return [json.dumps({**head, "choices": [choice], "usage": usage}).encode()]
        parts: list[Part] = []
        for word in WORDS:
            content = {"delta": {"content": word}} if chat else {"text": word}
            choice = {"index": 0, **content, "finish_reason": None, "logprobs": logprobs and logprobs([word])}
            parts.append(write({**head, "choices": [choice]}))
        content = {"delta": {}} if chat else {"text": ""}
        parts.append(write({**head, "choices": [{"index": 0, **content, "finish_reason": "stop", "logprobs": None}]}))
        parts.append(write({**head, "choices": [], "usage": usage}))
        return parts if lines else [*parts, _sse(b"[DONE]")]

    return answer


def _chat_logprobs(words: Sequence[str]) -> dict[str, Any]:
    return {"content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in words]}


def _completion_logprobs(words: Sequence[str]) -> dict[str, Any]:
    return {"tokens": list(words), "token_logprobs": [-0.5] * len(words), "top_logprobs": [{}] * len(words)}


FAKE_ENGINES: dict[str, Callable[[dict[str, Any]], Sequence[Part]]] = {
    "tgi-generate": tgi(),
    "lorax": tgi(),
    "lmi-jsonlines": lmi_jsonlines,
    "lmi-json": lmi_json,
    "lmi-rolling-batch": lmi_rolling_batch,
    "lmi-async-vllm": openai(lines=True),
    "lmi-async-trtllm": openai(lines=True),
    "vllm-openai": openai(lines=False),
}
