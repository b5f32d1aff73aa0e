"""SageMaker's runtime API for an event loop: InvokeEndpoint, whole and as a stream."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import quote

from invoke_proxy.aws import AwsClient, AwsError
from invoke_proxy.aws.client import json_error
from invoke_proxy.aws.errors import BadAnswerError, ConnectionBrokenError
from invoke_proxy.aws.event_stream import EventDecoder, HeaderValue, Message
from invoke_proxy.aws.http_connection import HttpAnswer
from invoke_proxy.errors import ApiError, bad_request

from .call import Call
from .failures import map_error, stream_failure
from .hedging import first_of_two
from .waiting import ATTEMPT_SECONDS, PAUSE_SECONDS, until_ready

__all__ = ["MAX_BODY_BYTES", "EndpointRuntime", "EndpointStream"]

# The older documented payload limit of InvokeEndpoint and botocore's model; newer documents say 25 MB.
MAX_BODY_BYTES = 6 * 1024 * 1024

# SageMaker ends a stream after 8 minutes; the client waits a little longer.
STREAM_SECONDS = 490.0
# Above the larger of the documented limits, which is on the answer too.
MAX_ANSWER_BYTES = 32 * 1024 * 1024

_EVENT_STREAM = "application/vnd.amazon.eventstream"
_FIRST_ERROR = 300
# Of botocore's model: InferenceId, CustomAttributesHeader.
_MAX_INFERENCE_ID, _MAX_CUSTOM_ATTRIBUTES = 64, 1024


class EndpointRuntime:
    """Calls endpoints. One for a process: it keeps connections through its client.

    Parameters
    ----------
    pause
        Seconds between two attempts while a call waits for capacity.
    """

    def __init__(self, *, client: AwsClient, pause: float = PAUSE_SECONDS) -> None:
        self._client = client
        self._pause = pause

    async def invoke(
        self,
        endpoint_name: str,
        body: bytes,
        *,
        call: Call,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        """Return the whole answer of an endpoint.

        It waits for an endpoint without capacity, and sends a late request twice, as the call says. Cancelling drops
        the connection.

        Raises
        ------
        ApiError
            With the status that the client shall see.
        """
        _, content = await self.invoke_raw(endpoint_name, body, call=call, content_type=content_type, accept=accept)
        return content

    async def invoke_raw(
        self, endpoint_name: str, body: bytes, *, call: Call, content_type: str, accept: str
    ) -> tuple[str, bytes]:
        """Return the content type and the bytes of an endpoint's answer; otherwise as `invoke`.

        Raises
        ------
        ApiError
            With the status that the client shall see.
        """
        path = f"/endpoints/{quote(endpoint_name, safe='-._~')}/invocations"
        headers = _headers(call, content_type) | {"accept": _header_value("accept", accept)}

        async def sent() -> HttpAnswer:
            return await self._send(path, headers, body, seconds=ATTEMPT_SECONDS)

        async def attempt() -> tuple[str, bytes]:
            try:
                answer = (
                    await sent()
                    if call.hedge_after_seconds is None
                    else await first_of_two(sent, after=call.hedge_after_seconds, discard=HttpAnswer.close)
                )
                content = await answer.read(limit=MAX_ANSWER_BYTES)
            except Exception as error:
                raise map_error(error, endpoint_name=endpoint_name) from error
            return answer.headers.get("content-type", "application/octet-stream"), content

        if call.wait_seconds <= 0:
            return await attempt()
        return await until_ready(attempt, bound=call.wait_seconds, pause=self._pause)

    async def stream(
        self,
        endpoint_name: str,
        body: bytes,
        *,
        call: Call,
        content_type: str = "application/json",
        accept: str = "text/event-stream",
    ) -> EndpointStream:
        """Return the answer of an endpoint as a stream, when its head is there.

        It does not wait for capacity: who streams keeps a client's connection open meanwhile (`until_ready`). With
        hedging it returns when the first bytes of the answer are there, since engines send their head long before.

        Raises
        ------
        ApiError
            With the status that the client shall see.
        """
        path = f"/endpoints/{quote(endpoint_name, safe='-._~')}/invocations-response-stream"
        headers = _headers(call, content_type) | {"x-amzn-sagemaker-accept": _header_value("accept", accept)}

        async def opened() -> EndpointStream:
            answer = await self._send(path, headers, body, seconds=STREAM_SECONDS)
            if not answer.headers.get("content-type", "").startswith(_EVENT_STREAM):
                answer.close()
                raise BadAnswerError("the endpoint's answer is not an event stream")
            return EndpointStream(answer=answer)

        async def begun() -> EndpointStream:
            stream = await opened()
            try:
                await stream.read_ahead()
            except BaseException:
                stream.close()
                raise
            return stream

        start: Coroutine[Any, Any, EndpointStream] = (
            opened()
            if call.hedge_after_seconds is None
            else first_of_two(begun, after=call.hedge_after_seconds, discard=EndpointStream.close)
        )
        try:
            return await start
        except Exception as error:
            raise map_error(error, endpoint_name=endpoint_name) from error

    async def aclose(self) -> None:
        """Drop all connections."""
        await self._client.aclose()

    async def _send(self, path: str, headers: dict[str, str], body: bytes, *, seconds: float) -> HttpAnswer:
        answer = await self._client.request("sagemaker-runtime", path=path, headers=headers, body=body, seconds=seconds)
        if answer.status >= _FIRST_ERROR:
            raise await json_error(answer)
        return answer


class EndpointStream:
    """The bytes of a streamed answer, in the pieces in which they arrive.

    Iterate to the end, or close. Cancelling a task that waits for the next piece closes the stream. One task at a
    time may read.
    """

    def __init__(self, *, answer: HttpAnswer) -> None:
        self._answer = answer
        self._decoder = EventDecoder()
        self._parts: deque[bytes] = deque()
        self._part_headers: Mapping[str, HeaderValue] | None = None
        self._failure: ApiError | None = None
        self._ended = False

    @property
    def content_type(self) -> str:
        """The content type of the container's answer."""
        return self._answer.headers.get("x-amzn-sagemaker-content-type", "application/octet-stream")

    def __aiter__(self) -> EndpointStream:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece.

        Raises
        ------
        ApiError
            When the stream fails; the pieces before the failure have been returned.
        """
        while not self._parts:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            await self._read()
        return self._parts.popleft()

    async def next_pieces(self) -> list[bytes]:
        """Return all pieces that are there, waiting for one; none at the end.

        Raises
        ------
        ApiError
            As iterating does.
        """
        await self.read_ahead()
        pieces = list(self._parts)
        self._parts.clear()
        return pieces

    async def read_ahead(self) -> None:
        """Return when the first piece is there, or the stream has ended without one; the piece stays to be read.

        Raises
        ------
        ApiError
            When the stream has failed before.
        """
        while not self._parts and not self._ended:
            if self._failure is not None:
                raise self._failure
            await self._read()

    def close(self) -> None:
        """Stop reading and drop the connection at once. Safe twice."""
        self._parts.clear()
        self._ended = True
        self._answer.close()

    async def _read(self) -> None:
        """Read what is there, or wait for more; failures are kept until the pieces before them have been read."""
        decoder = self._decoder
        try:
            data = await self._answer.next_piece()
            if data:
                for message in decoder.feed(data):
                    self._take(message)
            elif decoder.at_boundary:
                self._ended = True
            else:
                raise ConnectionBrokenError("the stream ended in the middle of an event")  # noqa: TRY301
            if decoder.failure is not None:
                raise decoder.failure  # noqa: TRY301
        except Exception as error:
            self._failure = stream_failure(error)
            self._failure.__cause__ = error
            self._answer.close()

    def _take(self, message: Message) -> None:
        headers, payload = message
        # The decoder gives the same mapping for the same bytes, as nearly all headers of a stream are.
        if headers is self._part_headers or (
            headers.get(":event-type") == "PayloadPart" and headers.get(":message-type") == "event"
        ):
            self._part_headers = headers
            if payload:
                self._parts.append(payload)
        elif headers.get(":message-type") != "event":
            raise _stream_error(message)
        # Other events are of a later version of the API: whoever does not know them leaves them out.


def _stream_error(message: Message) -> AwsError:
    """Return the error that a message of the stream holds: a modelled exception or an unmodelled error."""
    headers, payload = message
    code = headers.get(":exception-type") or headers.get(":error-code") or "UnknownError"
    try:
        document = json.loads(payload)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    words = document.get("Message") or document.get("message") or headers.get(":error-message") or ""
    return AwsError(str(code), str(words), 200, document=document)


def _headers(call: Call, content_type: str) -> dict[str, str]:
    headers = {"content-type": _header_value("content-type", content_type)}
    inference_id = _printable(call.request_id)[:_MAX_INFERENCE_ID]
    if inference_id:
        headers["x-amzn-sagemaker-inference-id"] = inference_id
    if call.trace_id:
        headers["x-amzn-sagemaker-custom-attributes"] = f"trace_id={_printable(call.trace_id)}"[:_MAX_CUSTOM_ATTRIBUTES]
    return headers


def _printable(text: str) -> str:
    """Return the visible ASCII characters of an id, which may be the client's own word."""
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    return "".join(character for character in text if "!" <= character <= "~")


def _header_value(name: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise bad_request(f"The header {name} may hold printable ASCII characters only.", param=name)
    return value
