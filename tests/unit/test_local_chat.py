"""The chat client of the main job against a server that answers well and badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modelzone.errors import ModelzoneError
from modelzone.local.chat import ChatResult, stream_chat


def chunk(content: str | None = None, reason: str | None = None) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": content}, "finish_reason": reason}]}) + "\n\n"


ANSWERS = {
    "good": (200, [chunk("Hel"), chunk("lo"), chunk(reason="stop"), "data: [DONE]\n\n"]),
    "refused": (403, ['{"error": {"message": "no key"}}']),
    "broken": (200, [chunk("Hel"), 'data: {"error": {"message": "gone"}}\n\n']),
    "short": (200, [chunk("Hel")]),
    "garbage": (200, ["data: {\n\n"]),
}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/chat/completions"
        assert self.headers["x-api-key"] == "key"
        assert body["messages"] == [{"role": "user", "content": "hi"}]
        status, parts = ANSWERS[body["model"]]
        self.send_response(status)
        self.end_headers()
        for part in parts:
            self.wfile.write(part.encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def ask(base_url: str, model: str, pieces: list[str] | None = None) -> ChatResult:
    take = (pieces if pieces is not None else []).append
    return stream_chat(base_url=base_url, api_key="key", model=model, prompt="hi", on_text=take)


def test_pieces_are_handed_over_as_they_come(base_url: str) -> None:
    pieces: list[str] = []
    result = ask(base_url, "good", pieces)
    assert pieces == ["Hel", "lo"]
    assert (result.text, result.pieces, result.finish_reason) == ("Hello", 2, "stop")
    assert 0 < result.first_s <= result.total_s


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("refused", "the API answered 403.*no key"),
        ("broken", "the stream broke off.*gone"),
        ("short", r"without \[DONE\]"),
        ("garbage", "failed"),
    ],
)
def test_what_goes_wrong_is_said(base_url: str, model: str, says: str) -> None:
    with pytest.raises(ModelzoneError, match=says):
        ask(base_url, model)


def test_nobody_listens() -> None:
    with pytest.raises(ModelzoneError, match=r"the request to http://127\.0\.0\.1:9/v1 failed"):
        ask("http://127.0.0.1:9/v1", "good")
