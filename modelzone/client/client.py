"""The calls."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from modelzone.client import reading
from modelzone.client.answers import Answer, Model, TextToken
from modelzone.client.errors import ApiError
from modelzone.client.stream import AnswerStream
from modelzone.client.transport import Response, Transport
from modelzone.errors import ModelzoneError

__all__ = ["Client", "Messages"]

Messages = str | Sequence[Mapping[str, Any]]
"""A conversation as OpenAI's message objects, or one message of the user."""

T = TypeVar("T")

_TIMEOUT = 490.0
_CONNECT_TIMEOUT = 10.0
_EVENTS = "text/event-stream"
_KEY = re.compile(r"[\x21-\x7e]+")


class Client:
    """A gateway and a key for it. May be used by several threads; a context manager.

    Requests that the gateway turns away with 429 or 503 are sent again, as long as it asks for a bearable wait; nothing
    else is: a model that began to answer is not asked twice.

    Parameters
    ----------
    base_url
        The gateway's address with or without ``/v1``: output ``ApiUrl`` of the gateway's stack, or OPENAI_BASE_URL.
    api_key
        A key's token. None sends none.
    model
        The model of calls that name none; without it the gateway's own default.
    timeout
        The longest silence of the gateway in seconds, longer than any request may take by default.
    connect_timeout
        Seconds until a connection must stand.
    max_retries
        How often a request is sent again at most.
    max_retry_wait
        The longest wait in seconds that is waited for; a longer one is raised as the error that it came with.
    allow_http
        Send the key to an ``http://`` address of another machine too, where everybody on the way can read it.

    Raises
    ------
    ModelzoneError
        The address or the key has a form that none has, or the key would travel in the clear.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        model: str | None = None,
        timeout: float = _TIMEOUT,
        connect_timeout: float = _CONNECT_TIMEOUT,
        max_retries: int = 2,
        max_retry_wait: float = 60.0,
        allow_http: bool = False,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        headers = {"user-agent": "modelzone-client"}
        if api_key is not None:
            # Checked here because http.client puts a refused header into its error.
            if not _KEY.fullmatch(api_key):
                raise ModelzoneError("the key is empty or has characters that no key has\n  fix: give the key alone")
            headers["authorization"] = f"Bearer {api_key}"
        self.model = model
        self._transport = Transport(
            base_url,
            headers,
            timeout=timeout,
            connect_timeout=connect_timeout,
            max_retries=max_retries,
            max_retry_wait=max_retry_wait,
            allow_http=allow_http,
            sleep=sleep,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept for the next call."""
        self._transport.close()

    def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        continue_until_stop: bool = False,
        max_continuations: int | None = None,
        confidence: bool = False,
        **parameters: Any,
    ) -> Answer:
        """Have a conversation answered; returns when all of the answer is there.

        Parameters
        ----------
        continue_until_stop
            Go on while the answer ends only because it has reached a length.
        max_continuations
            Of how many requests such an answer is made at most.
        confidence
            Ask how sure the model is, of the whole and of each sentence.
        parameters
            OpenAI's: ``temperature``, ``max_tokens``, ``logprobs=True``, ``top_logprobs=3``, ``stop``, ``tools``, …
            Those that are None are left out.

        Raises
        ------
        ApiError
            The gateway refuses or fails.
        """
        body = _chat_body(
            messages,
            model=model or self.model,
            extensions=_extensions(
                continue_until_stop=continue_until_stop,
                max_continuations=max_continuations,
                confidence=confidence,
            ),
            parameters=parameters,
        )
        return self._ask("/v1/chat/completions", body, reading.chat_answer)

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        continue_until_stop: bool = False,
        max_continuations: int | None = None,
        confidence: bool = False,
        **parameters: Any,
    ) -> AnswerStream:
        """Have a conversation answered piece by piece; the parameters are those of `chat`.

        ``with client.stream("Who are you?") as stream: for piece in stream: …``, and then ``stream.answer``.

        Raises
        ------
        ApiError
            The gateway refuses; while the pieces are read also when it breaks off.
        """
        body = _chat_body(
            messages,
            model=model or self.model,
            extensions=_extensions(
                continue_until_stop=continue_until_stop,
                max_continuations=max_continuations,
                confidence=confidence,
            ),
            parameters={"stream_options": {"include_usage": True}, **parameters},
        )
        response = self._transport.send("POST", "/v1/chat/completions", {**body, "stream": True}, accept=_EVENTS)
        if response.content_type != _EVENTS:
            response.close()
            raise _foreign(f"a stream was asked for and {response.content_type} came", response)
        return AnswerStream(response)

    def complete(
        self,
        prompt: str,
        *,
        model: str | None = None,
        continue_until_stop: bool = False,
        max_continuations: int | None = None,
        confidence: bool = False,
        **parameters: Any,
    ) -> Answer:
        """Have a text gone on with: ``/v1/completions``. ``logprobs=3`` asks for tokens with three alternatives."""
        body = {
            "prompt": prompt,
            **_model(model or self.model),
            **_extensions(
                continue_until_stop=continue_until_stop,
                max_continuations=max_continuations,
                confidence=confidence,
            ),
            **_given(parameters),
        }
        return self._ask("/v1/completions", body, reading.completion_answer)

    def generate(
        self,
        inputs: str,
        *,
        model: str | None = None,
        continue_until_stop: bool = False,
        max_continuations: int | None = None,
        confidence: bool = False,
        **parameters: Any,
    ) -> Answer:
        """Have a text gone on with by Text Generation Inference's ``/generate``, with details.

        Parameters are TGI's: ``max_new_tokens``, ``top_n_tokens``, ``do_sample``, ``repetition_penalty``, …
        """
        body = {
            "inputs": inputs,
            **_model(model or self.model),
            "parameters": {
                "details": True,
                **_extensions(
                    continue_until_stop=continue_until_stop,
                    max_continuations=max_continuations,
                    confidence=confidence,
                ),
                **_given(parameters),
            },
        }
        return self._ask("/generate", body, reading.generate_answer)

    def embeddings(
        self, inputs: str | Sequence[str], *, model: str | None = None, dimensions: int | None = None
    ) -> tuple[tuple[float, ...], ...]:
        """One vector for each text, in their order."""
        body = {
            "input": inputs if isinstance(inputs, str) else list(inputs),
            **_model(model or self.model),
            **_given({"dimensions": dimensions}),
        }
        return self._ask("/v1/embeddings", body, lambda document, _: reading.vectors(document))

    def models(self) -> tuple[Model, ...]:
        """The models that the key may ask."""
        return self._ask("/v1/models", None, lambda document, _: reading.models(document))

    def tokenize(self, text: str, *, model: str | None = None) -> tuple[TextToken, ...]:
        """The tokens that a model makes of a text."""
        body = {"inputs": text, **_model(model or self.model)}
        return self._ask("/tokenize", body, lambda document, _: reading.text_tokens(document))

    def _ask(self, path: str, body: object, read: Callable[[Any, Mapping[str, Any]], T]) -> T:
        response = self._transport.send("GET" if body is None else "POST", path, body)
        document = response.document()
        try:
            return read(document, response.facts)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise _foreign(f"{type(error).__name__}: {error}", response) from None


def _extensions(*, continue_until_stop: bool, max_continuations: int | None, confidence: bool) -> dict[str, Any]:
    """What the gateway knows beyond OpenAI; left out where it is not wanted, so that any API understands the rest."""
    wanted = {
        "continue_until_stop": continue_until_stop or None,
        "max_continuations": max_continuations,
        "confidence": confidence or None,
    }
    return _given(wanted)


def _chat_body(
    messages: Messages, *, model: str | None, extensions: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return {"messages": conversation, **_model(model), **extensions, **_given(parameters)}


def _model(name: str | None) -> dict[str, str]:
    return {} if name is None else {"model": name}


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _foreign(what: str, response: Response) -> ApiError:
    return ApiError(
        f"the answer is not what the gateway sends: {what}",
        code="invalid_answer",
        request_id=response.facts["request_id"],
    )
