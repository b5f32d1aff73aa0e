"""The parser must not care how the transport cuts the bytes."""

from __future__ import annotations

import pytest

from invoke_proxy.sse import MAX_EVENT_BYTES, Comment, Event, EventParser, event_bytes

STREAM = (
    ": keep-alive\n\n"
    'data:{"text":"Grüße"}\n\n'
    "event: token\nid: 7\ndata: second\r\n\r\n"
    "data: one\ndata: two\r\rdata: last\n\n"
    "retry: 5\n\n"
).encode()
EXPECTED = [Comment(), Event('{"text":"Grüße"}'), Event("second"), Event("one\ntwo"), Event("last")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_any_split_gives_the_same_events(size: int) -> None:
    parser = EventParser()

    found = [item for at in range(0, len(STREAM), size) for item in parser.feed(STREAM[at : at + size])]

    assert found == EXPECTED
    assert parser.at_boundary


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (b"data: a\n\ndata:b\n\n", [Event("a"), Event("b")]),
        (b"data: a\n\n\ndata: b\n\n", [Event("a"), Event("b")]),
        (b"\n\n", []),
        (b"data:\n\n", [Event("")]),
        (b"data\n\n", [Event("")]),
        (b": x\n\ndata: a\n\n", [Comment(), Event("a")]),
        (b"id: 1\n\ndata: a\ndata: b\n\n", [Event("a\nb")]),
        (b"database: x\n\ndata:  y\n\n", [Event(" y")]),
        (b"data: \xff\n\n", [Event("\ufffd")]),
    ],
)
def test_whole_events_are_read_as_single_bytes_are(chunk: bytes, expected: list[Event | Comment]) -> None:
    """The short way for whole events gives what the long way does."""
    slow = EventParser()

    assert list(EventParser().feed(chunk)) == expected
    assert [item for at in range(len(chunk)) for item in slow.feed(chunk[at : at + 1])] == expected


def test_every_cut_in_two_gives_the_same_events() -> None:
    for cut in range(len(STREAM) + 1):
        parser = EventParser()
        assert [*parser.feed(STREAM[:cut]), *parser.feed(b""), *parser.feed(STREAM[cut:])] == EXPECTED


def test_event_is_there_with_its_last_byte() -> None:
    parser = EventParser()

    assert list(parser.feed(b"data: x\n")) == []
    assert not parser.at_boundary
    assert list(parser.feed(b"\n")) == [Event("x")]
    assert parser.at_boundary


def test_lone_cr_ends_an_event_at_once() -> None:
    parser = EventParser()

    assert list(parser.feed(b"data: x\r\r")) == [Event("x")]
    assert list(parser.feed(b"\ndata: y\n\n")) == [Event("y")]


def test_only_one_leading_space_is_dropped() -> None:
    assert list(EventParser().feed(b"data:  x\n\n")) == [Event(" x")]


def test_endless_line_is_refused() -> None:
    parser = EventParser()

    with pytest.raises(ValueError, match=str(MAX_EVENT_BYTES)):
        list(parser.feed(b"data: " + b"x" * MAX_EVENT_BYTES))


def test_endless_event_is_refused() -> None:
    lines = (b"data: " + b"x" * 100_000 + b"\n") * 20

    with pytest.raises(ValueError, match=str(MAX_EVENT_BYTES)):
        list(EventParser().feed(lines))


def test_many_events_are_no_problem() -> None:
    parser = EventParser()

    assert sum(len(list(parser.feed(b"data: " + b"x" * 100_000 + b"\n\n"))) for _ in range(20)) == 20


def test_written_event_is_read_back() -> None:
    raw = event_bytes({"text": "Grüße\nund"})

    assert raw == 'data: {"text":"Grüße\\nund"}\n\n'.encode()
    assert event_bytes("[DONE]") == b"data: [DONE]\n\n"
