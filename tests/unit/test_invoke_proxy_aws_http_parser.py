"""Answers of HTTP/1.1: each shape, cut at each place."""

from __future__ import annotations

import random
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.upstream_server import answer, chunk, chunked, cut

from invoke_proxy.aws.errors import BadAnswerError
from invoke_proxy.aws.http_parser import MAX_HEAD_BYTES, AnswerParser

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n"
SHAPES = {
    "length": (answer(b"hello, world"), b"hello, world", True),
    "empty": (answer(b""), b"", True),
    "chunked": (CHUNKED_HEAD + chunked([b"hello", b", ", b"world"]), b"hello, world", True),
    "chunked, nothing": (CHUNKED_HEAD + b"0\r\n\r\n", b"", True),
    "extensions": (CHUNKED_HEAD + b'00C ;a="b"\r\nhello, world\r\n0;x\r\n\r\n', b"hello, world", True),
    "trailers": (CHUNKED_HEAD + b"5\r\nhello\r\n0\r\nx-checksum: 1\r\ny: 2\r\n\r\n", b"hello", True),
    "many chunks": (CHUNKED_HEAD + chunked(bytes([65 + n % 26]) * (n + 1) for n in range(30)), None, True),
    "same chunks": (CHUNKED_HEAD + chunked([b"hello"] * 20), b"hello" * 20, True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", b"", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", b"x", True),
    "continue first": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"x"), b"x", True),
    "hints first": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + answer(b"x"), b"x", True),
    "close": (answer(b"hello", headers={"Connection": "close"}), b"hello", False),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "old, kept": (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok", b"ok", True),
    "both framings": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"ok"]),
        b"ok",
        False,
    ),
    "error": (answer(b"{}", status=424, headers={"x-amzn-ErrorType": "ModelError"}), b"{}", True),
}


def parse(*pieces: bytes) -> tuple[AnswerParser, bytes]:
    parser = AnswerParser()
    return parser, b"".join(part for piece in pieces for part in parser.feed(piece))


def seen(parser: AnswerParser, body: bytes) -> dict[str, Any]:
    assert parser.head is not None
    return {"head": parser.head, "body": body, "ended": parser.ended, "kept": parser.keep_alive}


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_in_any_pieces(name: str) -> None:
    data, body, kept = SHAPES[name]
    whole = seen(*parse(data))

    assert whole["ended"]
    assert body is None or whole["body"] == body
    assert whole["kept"] is kept
    assert seen(*parse(*(data[at : at + 1] for at in range(len(data))))) == whole
    for place in range(len(data) + 1):
        assert seen(*parse(*cut(data, place))) == whole, place


@given(data=st.data())
def test_generated_chunks_in_generated_pieces(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
    raw = CHUNKED_HEAD + chunked(pieces)
    places = data.draw(st.lists(st.integers(0, len(raw)), max_size=8))

    parser, body = parse(*cut(raw, *places))

    assert parser.ended
    assert body == b"".join(pieces)


def test_nothing_is_held_back() -> None:
    parser, body = parse(CHUNKED_HEAD, b"a\r\nhel", b"lo")

    assert (body, parser.ended) == (b"hello", False)


def test_a_body_until_the_end_of_input() -> None:
    parser, body = parse(UNTIL_CLOSE, b"he", b"llo")

    assert (body, parser.ended, parser.keep_alive) == (b"hello", False, False)
    assert parser.end_of_input()


@pytest.mark.parametrize(
    "data", [b"", b"HTT", answer(b"hello")[:-1], CHUNKED_HEAD, CHUNKED_HEAD + chunked([b"x"])[:-2]]
)
def test_input_that_ends_too_soon(data: bytes) -> None:
    parser, _ = parse(data)

    assert not parser.end_of_input()
    assert parser.started == bool(data)


def test_repeated_headers_are_joined() -> None:
    parser, _ = parse(b"HTTP/1.1 200 OK\r\nVary: a\r\nVARY:\tb \r\nX: \xe4\r\nContent-Length: 0\r\n\r\n")

    assert parser.head is not None
    assert parser.head.headers == {"vary": "a, b", "x": "ä", "content-length": "0"}


@pytest.mark.parametrize("after", [b"x", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("together", [False, True])
def test_more_than_was_promised(after: bytes, *, together: bool) -> None:
    data = answer(b"hello")
    parser, body = parse(data + after) if together else parse(data, after)

    assert (body, parser.ended, parser.keep_alive) == (b"hello", True, False)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nspace : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED_HEAD + b"-1\r\n",
        CHUNKED_HEAD + b"0x5\r\n",
        CHUNKED_HEAD + b" 5\r\n",
        CHUNKED_HEAD + b"\r\n",
        CHUNKED_HEAD + b"5 5\r\n",
        CHUNKED_HEAD + b"1_0\r\n",
        CHUNKED_HEAD + b"f" * 16 + b"\r\n",
        CHUNKED_HEAD + b"5" * 5000,
        CHUNKED_HEAD + b"5\r\nhello!\r\n",
        CHUNKED_HEAD + b"5\r\nhello\n0\r\n\r\n",
        CHUNKED_HEAD + b"0\r\n" + b"x: y\r\n" * 20_000,
    ],
)
def test_garbage(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        parse(data)
    with pytest.raises(BadAnswerError):
        parse(*(data[at : at + 1] for at in range(len(data))))


@pytest.mark.parametrize("size", [7, 4000])
def test_a_head_that_does_not_end(size: int) -> None:
    line = b"x" * (size - 4) + b": \r\n"
    lines = [line] * (MAX_HEAD_BYTES // size + 2)
    with pytest.raises(BadAnswerError, match="head"):
        parse(b"HTTP/1.1 200 OK\r\n", *lines)


def test_a_large_head_at_once() -> None:
    with pytest.raises(BadAnswerError, match="head"):
        parse(answer(b"", headers={"x": "y" * MAX_HEAD_BYTES}))


def test_informational_answers_without_end() -> None:
    with pytest.raises(BadAnswerError, match="informational"):
        parse(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000)


def test_a_pattern_of_bytes_reads_as_h11_reads_it() -> None:
    rng = random.Random("answers")  # noqa: S311 - the same each time
    for _ in range(400):
        status = rng.choice([200, 201, 404, 424, 500])
        pieces = [rng.randbytes(rng.randrange(1, 60)) for _ in range(rng.randrange(4))]
        headers = {f"X-{n}": "".join(rng.choices("abc ,;=", k=9)) for n in range(rng.randrange(4))}
        if rng.random() < 0.5:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            raw = f"HTTP/1.1 {status} Any\r\n{lines}transfer-encoding: chunked\r\n\r\n".encode() + chunked(pieces)
        else:
            raw = answer(b"".join(pieces), status=status, headers=headers)
        theirs = h11.Connection(our_role=h11.CLIENT)
        theirs.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
        theirs.send(h11.EndOfMessage())
        theirs.receive_data(raw)
        response = theirs.next_event()
        assert isinstance(response, h11.Response)
        body = b""
        while isinstance(found := theirs.next_event(), h11.Data):
            body += found.data
        assert isinstance(found, h11.EndOfMessage)

        parser, own = parse(*cut(raw, *(rng.randrange(len(raw)) for _ in range(5))))

        assert parser.ended
        assert parser.head is not None
        assert (parser.head.status, own) == (response.status_code, body)
        expected = {name.decode(): value.decode("latin-1") for name, value in response.headers}
        assert dict(parser.head.headers) == expected


def test_random_bytes_never_do_more_than_fail() -> None:
    rng = random.Random("noise")  # noqa: S311 - the same each time
    heads = [b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", CHUNKED_HEAD, CHUNKED_HEAD + chunk(b"x"), UNTIL_CLOSE]
    alphabet = b"\r\n:0aF; " * 20 + bytes(range(256))
    for _ in range(3000):
        data = rng.choice(heads) + bytes(rng.choices(alphabet, k=rng.randrange(80)))
        try:
            parser, body = parse(*cut(data, *(rng.randrange(len(data) + 1) for _ in range(4))))
        except BadAnswerError:
            continue
        assert len(body) <= len(data)
        parser.end_of_input()
