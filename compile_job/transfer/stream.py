"""The body of an answer, read straight from its socket into a buffer."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any

__all__ = ["filler"]


def filler(body: Any) -> Callable[[memoryview], int]:
    """Return what puts a body's next bytes into a buffer and tells how many; fewer than fit only where it ends.

    A TLS record has 16 KiB, and on the way through urllib3, http.client and two layers of buffers each costs more of
    Python than of TLS. So all but a body's first bytes, which came with the headers, and its very last one, with which
    they notice that the connection is free again, bypass them. A body that is no urllib3 answer of known length over
    a connection is read as it offers.
    """
    http = getattr(body, "_fp", None)
    connection = getattr(getattr(body, "connection", None), "sock", None)
    if not isinstance(http, HTTPResponse) or http.chunked or not http.length or connection is None:

        def read(view: memoryview) -> int:
            block = body.read(len(view))
            view[: len(block)] = block
            return len(block)

        return read

    ahead = -1

    def receive(view: memoryview) -> int:
        nonlocal ahead
        filled = 0
        if ahead < 0:
            ahead = min(len(http.fp.peek()), http.length or 0)
        if ahead:
            filled = http.readinto(view[:ahead])
            ahead -= filled
        left: int = http.length or 0
        end = min(len(view), filled + left - 1)
        begun = filled
        while filled < end and (count := connection.recv_into(view[filled:end])):
            filled += count
        http.length = left - (filled - begun)
        if http.length == 1 and filled < len(view):
            filled += http.readinto(view[filled : filled + 1])
        if http.isclosed() and not http.length:
            body.release_conn()
        return filled

    return receive
