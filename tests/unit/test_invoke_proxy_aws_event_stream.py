"""The event-stream decoder beside botocore's, over generated messages in generated pieces."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer, ParserError
from unit.upstream_server import cut, event, framed, message

from invoke_proxy.aws.errors import BadAnswerError
from invoke_proxy.aws.event_stream import MAX_PAYLOAD_BYTES, EventDecoder

Found = list[tuple[dict[str, Any], bytes]]


def header(name: bytes, number: int, value: bytes) -> bytes:
    return bytes([len(name)]) + name + bytes([number]) + value


def random_header(rng: random.Random, name: bytes) -> bytes:
    number = rng.randrange(10)
    sizes = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
    if number in sizes:
        return header(name, number, rng.randbytes(sizes[number]))
    raw = "wörd€ "[: rng.randrange(7)].encode() if number == 7 else rng.randbytes(rng.randrange(20))
    return header(name, number, struct.pack(">H", len(raw)) + raw)


def random_message(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return event(rng.randbytes(rng.randrange(300)))
    names = rng.sample([b"a", b":event-type", "ü".encode(), b"x" * 255], k=rng.randrange(4))
    return framed(b"".join(random_header(rng, name) for name in names), rng.randbytes(rng.randrange(80)))


def decoded(*pieces: bytes) -> Found:
    decoder = EventDecoder()
    found = [(dict(headers), payload) for piece in pieces for headers, payload in decoder.feed(piece)]
    if decoder.failure is not None:
        raise decoder.failure
    return found


def decoded_by_botocore(*pieces: bytes) -> Found:
    buffer = EventStreamBuffer()
    found: Found = []
    for piece in pieces:
        buffer.add_data(piece)
        found += [(item.headers, item.payload) for item in buffer]
    return found


def test_any_messages_in_any_pieces_as_botocore_reads_them() -> None:
    rng = random.Random("events")  # noqa: S311 - the same each time
    for _ in range(600):
        data = b"".join(random_message(rng) for _ in range(rng.randrange(1, 6)))
        pieces = cut(data, *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6))))

        assert decoded(*pieces) == decoded_by_botocore(*pieces)


def test_byte_by_byte_and_every_cut() -> None:
    data = event(b"data:1\n\n") + event(b"") + message({":message-type": "event", "x": "ü"}, b"\0\xff")
    whole = decoded(data)

    assert [payload for _, payload in whole] == [b"data:1\n\n", b"", b"\0\xff"]
    assert decoded(*(data[at : at + 1] for at in range(len(data)))) == whole
    for place in range(len(data)):
        assert decoded(*cut(data, place)) == whole


def test_each_message_comes_with_its_last_byte() -> None:
    decoder = EventDecoder()
    first, second = event(b"one"), event(b"two")

    assert decoder.feed(first[:-1]) == []
    assert not decoder.at_boundary
    assert [item.payload for item in decoder.feed(first[-1:] + second[:5])] == [b"one"]
    assert [item.payload for item in decoder.feed(second[5:])] == [b"two"]
    assert decoder.at_boundary


def test_a_flipped_bit_never_passes() -> None:
    data = event(b"some payload")
    for place in range(len(data) * 8):
        broken = bytearray(data)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(BadAnswerError):
            decoded(bytes(broken))
        with pytest.raises(ParserError):
            decoded_by_botocore(bytes(broken))


def test_messages_before_a_failure_are_returned() -> None:
    decoder = EventDecoder()
    broken = event(b"two")[:-1] + b"?"

    assert [item.payload for item in decoder.feed(event(b"one") + broken)] == [b"one"]
    assert decoder.failure is not None
    with pytest.raises(BadAnswerError, match="checksum"):
        decoder.feed(b"")


@pytest.mark.parametrize(
    ("headers", "total"),
    [(0, 15), (10, 20), (128 * 1024 + 1, 200 * 1024), (0, MAX_PAYLOAD_BYTES + 17), (0xFFFFFFFF, 0xFFFFFFFF)],
)
def test_impossible_lengths_are_refused_before_their_bytes_come(headers: int, total: int) -> None:
    from binascii import crc32  # noqa: PLC0415

    prelude = struct.pack(">II", total, headers)
    with pytest.raises(BadAnswerError, match="length"):
        decoded(prelude + struct.pack(">I", crc32(prelude)))


@pytest.mark.parametrize(
    "headers",
    [
        header(b"a", 10, b""),
        header(b"a", 4, b"\0\0"),
        header(b"a", 7, b"\0\x05abc"),
        header(b"a", 7, b"\0\x01\xff"),
        header(b"a", 0, b"") * 2,
        b"\x05ab",
        b"\x01",
        header(b"\xff", 0, b""),
    ],
)
def test_headers_that_cannot_be_read(headers: bytes) -> None:
    with pytest.raises(BadAnswerError, match="headers"):
        decoded(framed(headers, b""))
