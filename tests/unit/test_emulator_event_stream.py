"""The framing of AWS's streaming answers, read back by botocore."""

from __future__ import annotations

import json

from botocore.eventstream import EventStreamBuffer

from modelzone.local.emulator.event_stream import event_message, exception_message


def read_back(data: bytes) -> list[tuple[dict[str, object], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, message.payload) for message in buffer]


def test_events_are_read_back_in_order_with_their_bytes() -> None:
    messages = read_back(event_message("PayloadPart", b"data:1\n\n") + event_message("PayloadPart", b""))
    assert [payload for _, payload in messages] == [b"data:1\n\n", b""]
    assert messages[0][0] == {
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }


def test_an_exception_names_its_type() -> None:
    ((headers, payload),) = read_back(exception_message("ModelStreamError", b'{"Message":"it broke"}'))
    assert (headers[":message-type"], headers[":exception-type"]) == ("exception", "ModelStreamError")
    assert json.loads(payload) == {"Message": "it broke"}
