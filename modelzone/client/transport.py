"""HTTP to the gateway: kept connections, timeouts, and the retries that are safe.

`http.client` does all that is needed here: a package such as httpx would cost every start of the command line that
chats a tenth of a second more.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from modelzone.client.errors import ApiError, refusal
from modelzone.errors import ModelzoneError

__all__ = ["Response", "Transport", "is_loopback"]

# After these the request was not worked on, so it may be sent again.
_AGAIN = {429, 503}
_FIRST_ERROR = 400
_REDIRECT = 300
_MOST_ERROR_BYTES = 64 * 1024
_MOST_LINE_BYTES = 16 * 1024 * 1024
# API Gateway drops idle connections; one that is about to go is not worth the trouble.
_IDLE_SECONDS = 60.0
_BACKOFF_SECONDS = (0.5, 8.0)
# A kept connection that the gateway had closed breaks as soon as it is written to. What breaks later was worked on.
_AT_ONCE_SECONDS = 1.0
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")


class Response:
    """An answer whose status is good and whose body is still to be read."""

    def __init__(self, answer: http.client.HTTPResponse, release: Callable[[bool], None]) -> None:
        self._answer, self._release, self._open = answer, release, True

    @property
    def facts(self) -> dict[str, Any]:
        """What the headers tell, by the names of `Answer`'s fields."""
        headers = self._answer.headers
        return {
            "request_id": _request_id(headers),
            "deployment": headers.get("x-modelzone-deployment"),
            "cached": headers.get("x-modelzone-cache") == "hit",
        }

    @property
    def content_type(self) -> str:
        """The media type alone."""
        return self._answer.headers.get_content_type()

    def document(self) -> Any:
        """Read all of it as JSON and give the connection back.

        Raises
        ------
        ApiError
            It breaks off or is no JSON.
        """
        try:
            with _network("the answer"):
                body = self._answer.read()
        except ApiError:
            self.close()
            raise
        self._give_back()
        try:
            return json.loads(body)
        except ValueError:
            raise ApiError(
                "the answer is no JSON; is the base URL that of a Modelzone gateway?",
                code="invalid_answer",
                request_id=self.facts["request_id"],
            ) from None

    def lines(self) -> Iterator[bytes]:
        """Lines as they come, without their ends, until the answer's end."""
        while True:
            with _network("the stream"):
                line = self._answer.readline(_MOST_LINE_BYTES)
            if not line:
                return
            if len(line) >= _MOST_LINE_BYTES:
                raise ApiError("a line of the stream has no end", code="invalid_answer")
            yield line.rstrip(b"\r\n")

    def close(self) -> None:
        """Drop the connection, so that the gateway notices and the model stops; safe twice."""
        if self._open:
            self._open = False
            self._release(False)  # noqa: FBT003 - not to be used again
            self._answer.close()

    def _give_back(self) -> None:
        if self._open:
            self._open = False
            self._release(not self._answer.will_close)


@dataclass(frozen=True, kw_only=True)
class _Idle:
    connection: http.client.HTTPConnection
    since: float


class Transport:
    """Requests to one host; may be used by several threads."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        timeout: float,
        connect_timeout: float,
        max_retries: int,
        max_retry_wait: float,
        allow_http: bool,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._url = _checked(base_url)
        self._headers = dict(headers)
        if "authorization" in self._headers and not allow_http:
            _check_secret(self._url)
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._max_retries, self._max_retry_wait, self._sleep = max_retries, max_retry_wait, sleep
        self._idle: list[_Idle] = []
        self._lock = threading.Lock()
        self._tls: Any = None

    def send(self, method: str, path: str, document: object = None, *, accept: str = "application/json") -> Response:
        """Send a request, again where the API says so, and return when the head of the answer is there.

        Raises
        ------
        ApiError
            The API refuses, or cannot be reached.
        """
        body = None if document is None else _json(document)
        headers = {**self._headers, "accept": accept}
        if body is not None:
            headers["content-type"] = "application/json"
        attempt = 0
        while True:
            try:
                return self._once(method, self._url.path + path, body, headers)
            except _RetryableError as again:
                wait = _wait(again.error, attempt)
                if attempt >= self._max_retries or wait > self._max_retry_wait:
                    raise again.error from None
            attempt += 1
            self._sleep(wait)

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for entry in idle:
            entry.connection.close()

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        connection, reused = self._connection()
        try:
            try:
                answer = self._exchange(connection, method, path, body, headers)
            except _UnusedError:
                connection.close()
                if not reused:
                    raise
                # It was closed while it lay idle: nobody works on the request.
                connection = self._connect()
                answer = self._exchange(connection, method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _failure(f"the request to {self._url.scheme}://{self._url.netloc}", error) from None
        except BaseException:
            connection.close()
            raise
        if answer.status >= _REDIRECT:
            self._refuse(connection, answer)

        def release(good: bool) -> None:  # noqa: FBT001 - Response calls it
            if good:
                with self._lock:
                    self._idle.append(_Idle(connection=connection, since=time.monotonic()))
            else:
                _cut(connection)

        return Response(answer, release)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        if connection.sock is None:
            connection.connect()
            made: Any = connection.sock
            made.settimeout(self._timeout)
        try:
            connection.request(method, path, body, dict(headers))
        except ConnectionError as error:
            raise _UnusedError(*error.args) from error
        sent = time.monotonic()
        try:
            return connection.getresponse()
        except _UnansweredError as error:
            if time.monotonic() - sent < _AT_ONCE_SECONDS:
                raise _UnusedError(*error.args) from error
            raise

    def _refuse(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> NoReturn:
        request_id = _request_id(answer.headers)
        try:
            with _network("the answer"):
                body = answer.read(_MOST_ERROR_BYTES)
        finally:
            connection.close()
        if answer.status < _FIRST_ERROR:
            raise ApiError(
                f"it redirects to another address; is the base URL {self._url.geturl()} right?",
                status=answer.status,
                code="redirect",
                request_id=request_id,
            )
        error = refusal(answer.status, body, request_id=request_id, retry_after=_retry_after(answer.headers))
        # The gateway says so of a quota that is used up: no wait brings it back.
        if answer.status in _AGAIN and answer.headers.get("x-should-retry") != "false":
            raise _RetryableError(error)
        raise error

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        while True:
            with self._lock:
                entry = self._idle.pop() if self._idle else None
            if entry is None:
                return self._connect(), False
            if time.monotonic() - entry.since < _IDLE_SECONDS and not _readable(entry.connection.sock):
                return entry.connection, True
            entry.connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        """A connection that is made at its first use, through the proxy that the environment names."""
        host, port, timeout = self._url.hostname or "", self._url.port, self._connect_timeout
        proxy = _proxy(self._url)
        via = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
        if self._url.scheme == "http":
            # Only loopback and private networks are asked in the clear, and those without a proxy.
            plain = http.client.HTTPConnection(host, port, timeout=timeout)
            plain.response_class = _Answer
            return plain
        connection = http.client.HTTPSConnection(*via, timeout=timeout, context=self._context())
        connection.response_class = _Answer
        if proxy:
            connection.set_tunnel(host, port or 443, headers=_proxy_headers(proxy))
        return connection

    def _context(self) -> Any:
        if self._tls is None:
            import ssl  # noqa: PLC0415 - reads the system's certificates, which plain HTTP does not need

            self._tls = ssl.create_default_context()
        return self._tls


class _UnansweredError(ConnectionError):
    """The gateway closed the connection before the first byte of its answer."""


class _UnusedError(ConnectionError):
    """The connection was closed before the gateway can have begun to work on the request."""


class _Answer(http.client.HTTPResponse):
    """An answer that tells whether it ends before its first byte, or after."""

    def begin(self) -> None:
        """Read the head."""
        if self.headers is None:
            try:
                begun = self.fp.peek(1)
            except ConnectionError as error:
                raise _UnansweredError(*error.args) from error
            if not begun:
                raise _UnansweredError("the connection was closed without an answer")
        super().begin()


class _RetryableError(Exception):
    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _network(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failure(what, error) from None


def _failure(what: str, error: Exception) -> ApiError:
    if isinstance(error, TimeoutError):
        return ApiError(f"{what} timed out", code="timeout")
    said = str(error) or type(error).__name__
    if isinstance(error, http.client.IncompleteRead):
        return ApiError(f"{what} broke off", code="incomplete_answer")
    return ApiError(f"{what} failed: {said}", code="connection_failed")


def _checked(base_url: str) -> SplitResult:
    """The root of the gateway: OpenAI's routes are below ``/v1``, which may be given or not."""
    parts, good = SplitResult("", "", "", "", ""), False
    with contextlib.suppress(ValueError):
        parts = urlsplit(base_url.strip())
        # A port is read when it is asked for, and may be none.
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    # A user may come with a password: then the address is not repeated.
    if not good or "@" in base_url or "?" in base_url or "#" in base_url:
        shown = "the base URL" if "@" in base_url else f"the base URL {base_url!r}"
        raise ModelzoneError(
            f"{shown} is not the address of a gateway\n"
            "  fix: give it as in https://ID.execute-api.REGION.amazonaws.com/api, without a user or a query"
        )
    return parts._replace(path=parts.path.rstrip("/").removesuffix("/v1").rstrip("/"))


def is_loopback(base_url: str) -> bool:
    """Whether an address is on this machine."""
    return _LOOPBACK.fullmatch(urlsplit(base_url).hostname or "") is not None


def _check_secret(url: SplitResult) -> None:
    """A key that goes over a network in the clear is anybody's."""
    if url.scheme == "http" and not is_loopback(url.geturl()):
        raise ModelzoneError(
            f"the key, and all that is said, would go to {url.geturl()} in the clear\n"
            "  fix: use the https:// address; in a network that you trust: Client(…, allow_http=True), or the option "
            "--allow-http"
        )


def _proxy(url: SplitResult) -> SplitResult | None:
    if url.scheme != "https" or is_loopback(url.geturl()):
        return None
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - as much again as all the rest

    found = getproxies().get("https")
    if not found or proxy_bypass(url.netloc):
        return None
    return urlsplit(found if "//" in found else f"//{found}")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _request_id(headers: Any) -> str | None:
    found: str | None = headers.get("x-request-id") or headers.get("x-amzn-requestid")
    return found


def _retry_after(headers: Any) -> float | None:
    """Seconds; the form with a date is not used by this gateway."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _json(document: object) -> bytes:
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ModelzoneError(f"a parameter of the request cannot be sent: {error}") from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a character, which a command line may hold: JSON has an escape for it.
        return json.dumps(document).encode()


def _wait(error: ApiError, attempt: int) -> float:
    """What the API asks for; without that, longer each time, and not all clients at once."""
    if error.retry_after is not None:
        return error.retry_after
    least, most = _BACKOFF_SECONDS
    longer: float = min(most, least * 2**attempt)
    return longer * random.uniform(0.75, 1.25)  # noqa: S311 - no secret


def _readable(sock: socket.socket | None) -> bool:
    """Whether an idle connection has something to say, which can only be that it is closed."""
    if sock is None:
        return True
    try:
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


def _cut(connection: http.client.HTTPConnection) -> None:
    """Close at once, though somebody may still read from it."""
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
