"""The client against a server that answers well and badly, over real HTTP."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.gateway_stand_in import DONE, KEY, Gateway, Reply, chunk, document, event, gateway, hello, refusal, stream

from modelzone.client import (
    Alternative,
    Answer,
    ApiError,
    Client,
    Model,
    Piece,
    Sentence,
    TextToken,
    Token,
    ToolCall,
    Usage,
)
from modelzone.client.stream import event_data
from modelzone.errors import ModelzoneError

ROOT = Path(__file__).resolve().parents[2]
HEADERS = {"x-request-id": "r-7", "x-modelzone-deployment": "mixtral", "x-modelzone-cache": "hit"}
LOGPROBS = {
    "content": [
        {
            "token": "Hi",
            "logprob": -0.1,
            "bytes": [72, 105],
            "top_logprobs": [{"token": "Hi", "logprob": -0.1}, {"token": "Yo", "logprob": -2.5}],
        }
    ]
}
HI = Token(
    text="Hi", logprob=-0.1, alternatives=(Alternative(text="Hi", logprob=-0.1), Alternative(text="Yo", logprob=-2.5))
)
CONFIDENCE = {"score": 0.9, "tokens": 1, "sentences": [{"text": "Hi", "score": 0.9, "tokens": 1}]}


@pytest.fixture
def server() -> Iterator[Gateway]:
    with gateway() as found:
        yield found


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(server: Gateway, waits: list[float]) -> Iterator[Client]:
    with Client(server.base_url, KEY, sleep=waits.append, timeout=10) as found:
        yield found


def chat_document(**choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi"}
    return {
        "id": "c",
        "object": "chat.completion",
        "model": "mixtral",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }


def test_a_chat(server: Gateway, client: Client) -> None:
    server.replies = [document(chat_document(logprobs=LOGPROBS, confidence=CONFIDENCE), headers=HEADERS)]
    answer = client.chat(
        "Who?",
        model="mixtral",
        confidence=True,
        continue_until_stop=True,
        max_continuations=3,
        temperature=0,
        seed=None,
    )
    assert answer == Answer(
        text="Hi",
        finish_reason="stop",
        tokens=(HI,),
        confidence=0.9,
        sentences=(Sentence(text="Hi", score=0.9, tokens=1),),
        usage=Usage(prompt_tokens=3, completion_tokens=1),
        model="mixtral",
        deployment="mixtral",
        cached=True,
        request_id="r-7",
    )
    (request,) = server.seen
    assert (request.method, request.path) == ("POST", "/api/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.body == {
        "messages": [{"role": "user", "content": "Who?"}],
        "model": "mixtral",
        "continue_until_stop": True,
        "max_continuations": 3,
        "confidence": True,
        "temperature": 0,
    }


def test_a_sentence_may_have_no_score(server: Gateway, client: Client) -> None:
    confidence = {"score": None, "tokens": 0, "sentences": [{"text": "Hi", "score": None, "tokens": 0}]}
    server.replies = [document(chat_document(confidence=confidence))]
    answer = client.chat("Who?", confidence=True)
    assert (answer.confidence, answer.sentences) == (None, (Sentence(text="Hi", score=None, tokens=0),))


def test_what_is_not_wanted_is_not_sent(server: Gateway, client: Client) -> None:
    server.default = lambda _: document(chat_document())
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ü\ud800"}]
    client.chat(messages)
    assert server.seen[0].body == {"messages": messages}


def test_tool_calls(server: Gateway, client: Client) -> None:
    calls = [{"id": "t", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}]
    server.replies = [
        document(chat_document(message={"content": None, "tool_calls": calls}, finish_reason="tool_calls"))
    ]
    answer = client.chat("1+1?", tools=[{"type": "function", "function": {"name": "add"}}])
    assert answer.text == ""
    assert answer.tool_calls == (ToolCall(id="t", name="add", arguments='{"a":1}'),)


def test_a_completion(server: Gateway, client: Client) -> None:
    logprobs = {
        "tokens": ["Hi", "!"],
        "token_logprobs": [-0.1, None],
        "top_logprobs": [{"Hi": -0.1, "Yo": -2.5}, None],
        "text_offset": [0, 2],
    }
    choice = {"index": 0, "text": "Hi!", "logprobs": logprobs, "finish_reason": "length"}
    server.replies = [document({"object": "text_completion", "model": "mixtral", "choices": [choice]})]
    answer = client.complete("Say: ", logprobs=2)
    assert (answer.text, answer.finish_reason, answer.usage) == ("Hi!", "length", None)
    assert answer.tokens == (HI, Token(text="!"))
    assert answer.completion_tokens == 2
    assert (server.seen[0].path, server.seen[0].body) == ("/api/v1/completions", {"prompt": "Say: ", "logprobs": 2})


def test_generate_is_tgi(server: Gateway, client: Client) -> None:
    details = {
        "finish_reason": "eos_token",
        "generated_tokens": 2,
        "seed": 1,
        "prefill": [{"id": 1, "text": "x", "logprob": None}],
        "tokens": [
            {"id": 7, "text": "Hi", "logprob": -0.1, "special": False},
            {"id": 2, "text": "</s>", "logprob": -0.2, "special": True},
        ],
        "top_tokens": [[{"id": 7, "text": "Hi", "logprob": -0.1}, {"id": 8, "text": "Yo", "logprob": -2.5}], []],
        "confidence": CONFIDENCE,
    }
    server.replies = [document({"generated_text": "Hi", "details": details}, headers=HEADERS)]
    answer = client.generate("x", model="mixtral", max_new_tokens=5, top_n_tokens=2, confidence=True)
    assert (answer.text, answer.finish_reason, answer.confidence) == ("Hi", "eos_token", 0.9)
    assert answer.usage == Usage(prompt_tokens=1, completion_tokens=2)
    assert [(token.id, token.special, len(token.alternatives)) for token in answer.tokens] == [
        (7, False, 2),
        (2, True, 0),
    ]
    assert server.seen[0].path == "/api/generate"
    assert server.seen[0].body == {
        "inputs": "x",
        "model": "mixtral",
        "parameters": {"details": True, "confidence": True, "max_new_tokens": 5, "top_n_tokens": 2},
    }


def test_embeddings_models_and_tokens(server: Gateway, client: Client) -> None:
    server.replies = [
        document({"data": [{"index": 1, "embedding": [0.5]}, {"index": 0, "embedding": [0.25, 1]}]}),
        document({"data": [{"id": "mixtral", "created": 5, "owned_by": "mz"}, {"id": "a"}]}),
        document([{"id": 1, "text": "Hi", "start": 0, "stop": 2}]),
    ]
    assert client.embeddings(["a", "b"], dimensions=2) == ((0.25, 1), (0.5,))
    assert client.models() == (
        Model(id="mixtral", owned_by="mz", created=5),
        Model(id="a"),
    )
    assert client.tokenize("Hi", model="mixtral") == (TextToken(id=1, text="Hi", start=0, stop=2),)
    assert [(request.method, request.path) for request in server.seen] == [
        ("POST", "/api/v1/embeddings"),
        ("GET", "/api/v1/models"),
        ("POST", "/api/tokenize"),
    ]
    assert server.seen[0].body == {"input": ["a", "b"], "dimensions": 2}
    assert server.seen[2].body == {"inputs": "Hi", "model": "mixtral"}


def test_the_clients_own_model_is_sent(server: Gateway) -> None:
    server.default = lambda _: document(chat_document())
    with Client(server.base_url, KEY, model="mixtral") as client:
        client.chat("a")
        client.chat("a", model="other")
    assert [body["model"] for body in server.bodies()] == ["mixtral", "other"]


def test_pieces_come_as_they_are_made(server: Gateway, client: Client) -> None:
    go = threading.Event()

    def late() -> bytes:
        # The first piece must be here before the second is made.
        assert go.wait(10)
        return chunk(" there", logprobs=LOGPROBS)

    usage = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    server.replies = [
        stream(
            b": waiting\n\n", chunk("He"), late, chunk(reason="length", confidence=CONFIDENCE), usage, DONE,
            **{"x-request-id": "r-9"},
        )
    ]  # fmt: skip
    with client.stream("Who?", confidence=True, logprobs=True) as pieces:
        assert next(iter(pieces)) == Piece(text="He")
        assert pieces.answer.text == "He"
        assert pieces.answer.finish_reason is None
        go.set()
        assert list(pieces) == [Piece(text=" there", tokens=(HI,))]
    assert pieces.answer == Answer(
        text="He there",
        finish_reason="length",
        tokens=(HI,),
        confidence=0.9,
        sentences=(Sentence(text="Hi", score=0.9, tokens=1),),
        usage=Usage(prompt_tokens=3, completion_tokens=2),
        model="mixtral",
        request_id="r-9",
    )
    body = server.seen[0].body
    assert (body["stream"], body["stream_options"], body["logprobs"]) == (True, {"include_usage": True}, True)
    assert server.seen[0].headers["accept"] == "text/event-stream"


def test_tool_calls_in_a_stream_are_put_together(server: Gateway, client: Client) -> None:
    def part(**call: Any) -> bytes:
        return event({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]})

    server.replies = [
        stream(
            part(index=1, id="b", function={"name": "two", "arguments": ""}),
            part(index=0, id="a", function={"name": "one", "arguments": '{"x"'}),
            part(index=0, function={"arguments": ":1}"}),
            chunk(reason="tool_calls"),
            DONE,
        )
    ]
    with client.stream("x") as pieces:
        assert all(piece == Piece(text="") for piece in pieces)
    assert pieces.answer.tool_calls == (
        ToolCall(id="a", name="one", arguments='{"x":1}'),
        ToolCall(id="b", name="two", arguments=""),
    )


def test_leaving_a_stream_stops_the_model(server: Gateway, client: Client) -> None:
    def endless() -> bytes:
        time.sleep(0.005)
        return chunk("x" * 20_000)

    server.replies = [stream(chunk("Hel"), *[endless] * 2000, cut=True)]
    with client.stream("x") as pieces:
        assert next(iter(pieces)).text == "Hel"
    assert server.gone.wait(10)
    pieces.close()
    assert pieces.answer.text == "Hel"


@pytest.mark.parametrize(
    ("reply", "code", "says"),
    [
        (stream(chunk("Hel"), event({"error": {"message": "gone", "code": "engine_error"}})), "engine_error", "gone"),
        (stream(chunk("Hel"), event({"error": "gone", "error_type": "generation"})), "generation", "gone"),
        (stream(chunk("Hel")), "incomplete_answer", "ended before"),
        (stream(chunk("Hel"), cut=True), "incomplete_answer", "ended before"),
        # All of the answer is there, it seems; but nobody knows what the rest of the event would have said.
        (stream(chunk("Hel"), chunk(reason="stop")[:-1]), "incomplete_answer", "inside an event"),
        (stream(chunk("Hel"), chunk(reason="stop"), b'data: {"choi'), "incomplete_answer", "inside an event"),
        (stream(chunk("Hel"), chunk(reason="stop"), b"dat", cut=True), "incomplete_answer", "inside an event"),
        (stream(chunk("Hel"), DONE), "incomplete_answer", "ended before"),
        (stream(b"data: {\n\n"), "invalid_answer", "no JSON object"),
        (stream(b"data: []\n\n"), "invalid_answer", "no JSON object"),
    ],
)
def test_a_stream_that_breaks_off(server: Gateway, client: Client, reply: Reply, code: str, says: str) -> None:
    reply.headers = {**reply.headers, "x-request-id": "r-3"}
    server.replies = [reply]
    with client.stream("x") as pieces, pytest.raises(ApiError, match=says) as caught:
        list(pieces)
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (None, code, "r-3")
    # Half an answer is never asked for again.
    assert len(server.seen) == 1


def test_a_whole_answer_to_a_stream_is_refused(server: Gateway, client: Client) -> None:
    server.replies = [document(chat_document(), headers={"content-type": "application/json"})]
    with pytest.raises(ApiError, match="a stream was asked for"):
        client.stream("x")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            refusal(400, "unsupported_parameter", param="top_k", message="Not top_k.", x_request_id="r-1"),
            (400, "unsupported_parameter", "top_k", "Not top_k.", "r-1"),
        ),
        (
            document({"error": "Input is too long", "error_type": "validation"}, status=422),
            (422, "validation", None, "Input is too long", None),
        ),
        (
            document({"message": "Forbidden"}, status=403, headers={"x-amzn-requestid": "a-1"}),
            (403, "http_403", None, "Forbidden", "a-1"),
        ),
        (Reply(status=502, body=b"<html>Bad"), (502, "http_502", None, "<html>Bad", None)),
        (Reply(status=500, body=b"\xff\xfe[1]"), (500, "http_500", None, "\ufffd\ufffd[1]", None)),
        (Reply(status=500, body=b""), (500, "http_500", None, "no explanation", None)),
        (
            document({"error": {"message": None, "type": "server_error"}}, status=500),
            (500, "server_error", None, "no explanation", None),
        ),
    ],
)  # fmt: skip
def test_errors_have_the_words_of_the_api(
    server: Gateway, client: Client, reply: Reply, expected: tuple[Any, ...]
) -> None:
    server.replies = [reply]
    with pytest.raises(ApiError) as caught:
        client.chat("x")
    error = caught.value
    assert (error.status, error.code, error.param, error.message, error.request_id) == expected
    assert str(expected[0]) in str(error)
    assert isinstance(error, ModelzoneError)
    assert len(server.seen) == 1


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"choices": []}', b'{"choices": [1]}', b"<html>", b"\xff"])
def test_an_answer_of_something_else(server: Gateway, client: Client, body: bytes) -> None:
    server.default = lambda _: Reply(body=body)
    for call in (client.chat, client.complete, client.generate, client.embeddings):
        with pytest.raises(ApiError) as caught:
            call("x")
        assert caught.value.code == "invalid_answer"


def test_wrong_types_inside_an_answer(server: Gateway, client: Client) -> None:
    server.replies = [document(chat_document(logprobs={"content": [{"logprob": 1}]})), document([{"id": 1}])]
    with pytest.raises(ApiError, match="KeyError: 'token'"):
        client.chat("x")
    with pytest.raises(ApiError, match="KeyError"):
        client.tokenize("x")


@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_it_is_told(server: Gateway, client: Client, waits: list[float], status: int) -> None:
    server.replies = [refusal(status, "busy", retry_after="7"), refusal(status, "busy", retry_after="0.5"), hello()]
    with client.stream("x") as pieces:
        assert "".join(piece.text for piece in pieces) == "Hello there."
    assert waits == [7.0, 0.5]


def test_without_a_time_it_waits_longer_each_time(server: Gateway, waits: list[float]) -> None:
    server.default = lambda _: refusal(503, "busy")
    with Client(server.base_url, KEY, sleep=waits.append, max_retries=6) as client, pytest.raises(ApiError) as caught:
        client.chat("x")
    assert caught.value.status == 503
    assert len(server.seen) == 7
    for wait, middle in zip(waits, (0.5, 1, 2, 4, 8, 8), strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle


@pytest.mark.parametrize(
    "reply",
    [
        refusal(429, "insufficient_quota", x_should_retry="false"),
        refusal(503, "no_capacity", retry_after="120"),
        refusal(500, "internal_error", retry_after="1"),
        refusal(408, "timeout"),
    ],
)
def test_what_no_wait_mends_is_not_sent_again(
    server: Gateway, client: Client, waits: list[float], reply: Reply
) -> None:
    server.replies = [reply]
    with pytest.raises(ApiError):
        client.chat("x")
    assert (len(server.seen), waits) == (1, [])


@pytest.mark.parametrize("value", ["soon", "-1", "inf", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_time_that_is_none(server: Gateway, client: Client, waits: list[float], value: str) -> None:
    server.replies = [refusal(503, "busy", retry_after=value), document(chat_document())]
    assert client.chat("x").text == "Hi"
    assert 0 < waits[0] < 1


def test_connections_are_kept(server: Gateway, client: Client) -> None:
    server.default = lambda _: document(chat_document())
    for _ in range(5):
        client.chat("x")
    assert {request.connection for request in server.seen} == {0}
    client.close()
    client.chat("x")
    assert server.seen[-1].connection == 1


def test_a_kept_connection_that_was_closed_is_replaced(server: Gateway, client: Client) -> None:
    server.replies = [document(chat_document()), Reply(hang_up=True), document(chat_document())]
    client.chat("x")
    # The server takes the request and hangs up, as when its idle time ends at that moment.
    assert client.chat("y").text == "Hi"
    assert [request.connection for request in server.seen] == [0, 0, 1]


@pytest.mark.parametrize("began", [b"", b"HTTP/1.1 2"])
def test_a_request_that_was_worked_on_is_not_sent_again(
    server: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch, began: bytes
) -> None:
    """The gateway took it, was busy with it for a while or began to answer, and then broke down."""
    monkeypatch.setattr("modelzone.client.transport._AT_ONCE_SECONDS", 10.0 if began else 0.05)
    hang_up = Reply(hang_up=True, began=began, delay=0.0 if began else 0.2)
    server.replies = [document(chat_document()), hang_up, document(chat_document())]
    client.chat("x")
    with pytest.raises(ApiError, match="failed") as caught:
        client.chat("y")
    assert (caught.value.status, caught.value.code) == (None, "connection_failed")
    assert len(server.seen) == 2


def test_a_connection_that_breaks_while_a_request_is_written_is_replaced(server: Gateway) -> None:
    answered: list[int] = []
    body = json.dumps(chat_document()).encode()

    def serve(listening: socket.socket) -> None:
        # One answer, then a close with most of the next request unread: the writing fails.
        for number in (1, 2):
            connection, _ = listening.accept()
            with connection:
                end = b""
                while not end.endswith(b'"}]}'):
                    end = (end + connection.recv(65536))[-8:]
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                answered.append(number)
                if number == 1:
                    connection.recv(65536)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}", KEY, timeout=10) as client:
            assert client.chat("x").text == "Hi"
            assert client.chat("y" * 20_000_000).text == "Hi"
        thread.join()
    assert answered == [1, 2]


def test_a_fresh_connection_that_is_closed_is_an_error(server: Gateway, client: Client) -> None:
    server.default = lambda _: Reply(hang_up=True)
    with pytest.raises(ApiError, match="failed") as caught:
        client.chat("x")
    assert (caught.value.status, caught.value.code) == (None, "connection_failed")
    assert len(server.seen) == 1


def test_a_connection_whose_end_is_known_is_not_used(server: Gateway, client: Client) -> None:
    server.default = lambda _: document(chat_document(), headers={"connection": "close"})
    client.chat("x")
    client.chat("x")
    assert [request.connection for request in server.seen] == [0, 1]


def test_threads_share_a_client(server: Gateway, client: Client) -> None:
    server.default = lambda request: document(
        chat_document(message={"content": request.body["messages"][0]["content"]})
    )
    wrong: list[str] = []

    def ask(number: int) -> None:
        wrong.extend(text for i in range(20) if client.chat(text := f"{number}-{i}").text != text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, len(server.seen)) == ([], 120)


def test_silence_ends_in_a_timeout(server: Gateway) -> None:
    stop = threading.Event()

    def silent() -> bytes:
        stop.wait(10)
        return DONE

    server.replies = [stream(chunk("Hel"), silent)]
    with Client(server.base_url, KEY, timeout=0.2) as client, client.stream("x") as pieces:
        with pytest.raises(ApiError, match="timed out") as caught:
            list(pieces)
        assert caught.value.code == "timeout"
    stop.set()


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ApiError, match=f"the request to http://127.0.0.1:{port} failed") as caught:
        Client(f"http://127.0.0.1:{port}", KEY).chat("x")
    assert caught.value.code == "connection_failed"


def test_a_redirect_is_not_followed(server: Gateway, client: Client) -> None:
    server.replies = [Reply(status=301, headers={"location": "http://elsewhere"})]
    with pytest.raises(ApiError, match="redirects"):
        client.chat("x")


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_base_url_may_have_v1(server: Gateway, suffix: str) -> None:
    server.default = lambda _: document(chat_document())
    with Client(server.base_url + suffix, KEY) as client:
        client.chat("x")
    assert server.seen[0].path == "/api/v1/chat/completions"


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost", "ftp://x", "http://", "http://x:port", "http://x:99999", "http://u:pw@x", "http://x?a=1",
        "http://[", "http://x#f",
    ],
)  # fmt: skip
def test_what_is_no_base_url(url: str) -> None:
    with pytest.raises(ModelzoneError, match="base URL") as caught:
        Client(url, KEY)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://gateway.example/api", "HTTP://10.0.0.7", "http://127.evil.example", "http://[::2]"]
)
def test_a_key_does_not_go_over_a_network_in_the_clear(url: str) -> None:
    with pytest.raises(ModelzoneError, match="in the clear") as caught:
        Client(url, KEY)
    assert KEY not in str(caught.value)
    Client(url, KEY, allow_http=True).close()
    Client(url, None).close()


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://127.0.0.1", "http://127.8.0.1:7", "http://[::1]:1", "https://x"]
)
def test_a_key_goes_to_this_machine_and_over_tls(url: str) -> None:
    Client(url, KEY).close()


@pytest.mark.parametrize("key", ["", "a b", "a\r\nx: y", "ü", "a\x00"])
def test_a_key_that_would_break_the_header_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ModelzoneError, match="the key is empty or has characters") as caught:
        Client("http://x", key)
    assert not key or key not in str(caught.value)


def test_no_key_sends_none(server: Gateway) -> None:
    server.default = lambda _: document({"data": []})
    with Client(server.base_url, None) as client:
        assert client.models() == ()
    assert "authorization" not in server.seen[0].headers


def test_a_number_that_json_has_not(client: Client) -> None:
    with pytest.raises(ModelzoneError, match="cannot be sent"):
        client.chat("x", temperature=math.nan)


def test_the_key_is_in_no_error(server: Gateway, client: Client) -> None:
    server.default = lambda _: refusal(401, "invalid_api_key")
    with pytest.raises(ApiError) as caught:
        client.chat("x")
    assert KEY not in repr(caught.value) + str(caught.value)


def test_https_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:s%40@127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                lines.extend(connection.recv(4096).split(b"\r\n"))
                connection.sendall(b"HTTP/1.1 403 no\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ApiError, match="403"):
            Client("https://gateway.example/api", KEY).chat("x")
        thread.join()
    assert lines[0].startswith(b"CONNECT gateway.example:443 ")
    assert b"Proxy-Authorization: Basic bWU6c0A=" in lines
    assert KEY.encode() not in b"".join(lines)


DATA = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=5)


@settings(max_examples=100)
@given(DATA, st.sampled_from([b"\n", b"\r\n"]))
def test_events_are_read_as_they_were_written(texts: list[str], end: bytes) -> None:
    raw = b"".join(b": ping" + end + end + b"data: " + text.encode() + end + end for text in texts)
    assert list(event_data(line.rstrip(b"\r\n") for line in raw.split(b"\n")[:-1])) == texts


def test_events_of_several_lines() -> None:
    lines = [b"event: x", b"data:a", b"data: b", b"", b"", b"id: 3", b"data: c"]
    events = event_data(lines)
    assert next(events) == "a\nb"
    with pytest.raises(ApiError, match="inside an event"):
        next(events)


@pytest.mark.parametrize("line", [b"data: c", b"id: 3", b"da"])
def test_lines_that_end_inside_an_event(line: bytes) -> None:
    with pytest.raises(ApiError, match="inside an event"):
        list(event_data([b"data: a", b"", line]))


def test_a_comment_needs_no_end() -> None:
    assert list(event_data([b"data: a", b"", b": wait"])) == ["a"]


KEYS = [
    "choices", "message", "delta", "logprobs", "content", "usage", "confidence", "sentences", "tool_calls", "data",
    "token", "tokens", "generated_text", "details", "error", "text", "embedding",
]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner), max_leaves=12
)
# What gets past the first looks.
CHOICES = st.builds(
    lambda choice, more: {**more, "choices": [choice]}, JSON, st.dictionaries(st.sampled_from(KEYS), JSON)
)


class Canned:
    """A response that holds what it is given."""

    content_type = "text/event-stream"

    def __init__(self, data: Any) -> None:
        self._data = data
        self.facts = {"request_id": None, "deployment": None, "cached": False}

    def document(self) -> Any:
        return self._data

    def lines(self) -> Iterator[bytes]:
        return iter([b"data: " + json.dumps(self._data).encode(), b"", b"data: [DONE]", b""])

    def close(self) -> None:
        """Nothing is open."""


@settings(max_examples=200, deadline=None)
@given(JSON | CHOICES)
def test_any_json_is_an_answer_or_an_error(data: Any) -> None:
    client = Client("https://x", KEY)
    client._transport.send = lambda *_, **__: Canned(data)  # type: ignore[assignment, return-value]
    for call in (client.chat, client.complete, client.generate, client.embeddings, client.tokenize):
        with contextlib.suppress(ApiError):
            assert call("x") is not None
    with contextlib.suppress(ApiError):
        assert isinstance(client.models(), tuple)
    stream = client.stream("x")
    with contextlib.suppress(ApiError):
        assert all(isinstance(piece, Piece) for piece in stream)
    assert isinstance(stream.answer.text, str)


def test_it_needs_no_packages() -> None:
    script = "import sys, modelzone.client; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert found & {"httpx", "boto3", "botocore", "typer", "rich", "msgspec", "yaml", "asyncio"} == set()
    assert "modelzone" in found
