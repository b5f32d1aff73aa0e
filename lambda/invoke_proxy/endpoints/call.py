"""What a call to an endpoint carries besides its body."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Call"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request of a client, as its endpoint is told of it.

    Parameters
    ----------
    request_id
        Goes to SageMaker as the inference id, at most 64 characters of it.
    trace_id
        Goes to the container in the custom attributes, as ``trace_id=…``.
    wait_seconds
        How long to repeat the call while the endpoint has no capacity or loads its model; 0: not at all.
    hedge_after_seconds
        Seconds without a first byte after which the same request is sent a second time; None: never.
    """

    request_id: str
    trace_id: str | None = None
    wait_seconds: float = 0
    hedge_after_seconds: float | None = None
