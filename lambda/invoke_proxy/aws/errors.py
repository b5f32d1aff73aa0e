"""What goes wrong between the gateway and AWS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "AnswerTimeoutError",
    "AwsError",
    "BadAnswerError",
    "ConfigurationError",
    "ConnectError",
    "ConnectionBrokenError",
    "TransportError",
]


class TransportError(Exception):
    """No answer, or not a whole one. The text names no content."""


class ConnectError(TransportError):
    """The connection could not be opened: nothing was sent."""


class ConnectionBrokenError(TransportError):
    """The other side closed the connection before the end of its answer.

    Parameters
    ----------
    stale
        Whether it closed a kept connection as soon as this request came, before any byte of an answer: then another
        connection may be tried.
    """

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class AnswerTimeoutError(TransportError):
    """The answer was not complete in time."""


class BadAnswerError(TransportError):
    """What came is not HTTP/1.1, or not what the service promises, or larger than allowed."""


class ConfigurationError(TransportError):
    """The environment does not say as whom or where AWS is to be called; the text names the variable."""


class AwsError(Exception):
    """AWS answered with an error.

    Parameters
    ----------
    code
        AWS's name for it, as in ``ThrottlingException``.
    message
        AWS's words. They may quote the request or name the account, so `str` leaves them out.
    status
        HTTP status.
    document
        The whole JSON answer, where there is one.
    """

    def __init__(self, code: str, message: str, status: int, *, document: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, status)
        self.code = code
        self.message = message
        self.status = status
        self.document: Mapping[str, Any] = document or {}

    def __str__(self) -> str:
        return f"{self.code} (HTTP {self.status})"
