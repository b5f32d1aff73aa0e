"""A server in the place of a gateway: answers what a test tells it to, over real HTTP with kept connections."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "mz_abcdefghij_" + "s" * 43
DONE = b"data: [DONE]\n\n"


@dataclass(kw_only=True)
class Reply:
    """One answer. With `parts` it is a chunked stream; `cut` leaves out its end.

    `hang_up` closes the connection in the place of an answer, after `delay` seconds and the bytes in `began`.
    """

    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[bytes | Callable[[], bytes], ...] | None = None
    cut: bool = False
    hang_up: bool = False
    delay: float = 0.0
    began: bytes = b""


@dataclass
class Seen:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    connection: int


@dataclass
class Gateway:
    """What is answered next, and what was asked. Without a reply in the queue `default` answers."""

    base_url: str = ""
    replies: list[Reply] = field(default_factory=list)
    default: Callable[[Seen], Reply] = lambda _: Reply()
    seen: list[Seen] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def bodies(self) -> list[Any]:
        return [request.body for request in self.seen]


def document(data: object, **fields: Any) -> Reply:
    return Reply(body=json.dumps(data).encode(), **fields)


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def chunk(text: str | None = None, *, reason: str | None = None, logprobs: Any = None, **choice: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    first = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **choice}
    return event({"id": "x", "object": "chat.completion.chunk", "model": "mixtral", "choices": [first], "usage": None})


def stream(*parts: bytes | Callable[[], bytes], cut: bool = False, **headers: str) -> Reply:
    return Reply(parts=parts, cut=cut, headers={"content-type": "text/event-stream; charset=utf-8", **headers})


def refusal(status: int, code: str, *, param: str | None = None, message: str = "no", **headers: str) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return document({"error": error}, status=status, headers={name.replace("_", "-"): v for name, v in headers.items()})


def hello(*, confidence: float | None = None) -> Reply:
    """A streamed "Hello there." of three tokens."""
    extra: dict[str, Any] = {}
    if confidence is not None:
        sentences = [{"text": "Hello there.", "score": confidence, "tokens": 3}]
        extra["confidence"] = {"score": confidence, "tokens": 3, "sentences": sentences}
    usage = {
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        "model": "mixtral",
    }
    return stream(
        chunk("Hello"), chunk(" there"), chunk("."), chunk(reason="stop", **extra), event(usage), DONE,
        **{"x-request-id": "r-1", "x-modelzone-deployment": "mixtral"},
    )  # fmt: skip


@contextmanager
def gateway() -> Iterator[Gateway]:
    """Yield a server that listens."""
    state = Gateway()
    connections = iter(range(10**6))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.number = next(connections)

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _answer(self, body: Any) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Seen(self.command, self.path, headers, body, self.number)
            state.seen.append(request)
            reply = state.replies.pop(0) if state.replies else state.default(request)
            if reply.hang_up:
                time.sleep(reply.delay)
                self.wfile.write(reply.began)
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.parts is None:
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
                return
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                for part in reply.parts:
                    data = part() if callable(part) else part
                    self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                    self.wfile.flush()
            except OSError:
                state.gone.set()
                self.close_connection = True
                return
            if reply.cut:
                self.close_connection = True
            else:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that go away are part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.base_url = f"http://127.0.0.1:{server.server_port}/api"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
