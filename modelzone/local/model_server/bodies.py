"""Request bodies of TGI 2.1.1, read as its router reads them.

Unknown keys are ignored, null stands for an absent optional value, and a body of the wrong form is answered in plain
text with the status and words of the router's web framework (without the line and column of its messages).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

__all__ = ["ChatBody", "ChatMessage", "GenerateBody", "InvalidBody", "Parameters", "parse_json"]

T = TypeVar("T")
Reader = Callable[[object, str], T]

MAX_BODY_BYTES = 2 * 1024 * 1024
DEFAULT_MAX_NEW_TOKENS = 100
_LARGEST_F32 = 3.4028234e38


class InvalidBody(Exception):  # noqa: N818 (a client's error, not the server's)
    """The body is refused before the request is looked at; the text is the answer."""

    def __init__(self, *, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`parameters` of a generate request. None: not given, and the default depends on the rest of the request."""

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = DEFAULT_MAX_NEW_TOKENS
    return_full_text: bool | None = None
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class GenerateBody:
    """Body of `/generate`, `/generate_stream`, `/tokenize`, `/` and `/invocations`; only the last two read `stream`."""

    inputs: str
    parameters: Parameters
    stream: bool

    @classmethod
    def read(cls, content: object) -> GenerateBody:
        """Read a parsed body."""
        body = _Fields(content, "", "struct GenerateRequest")
        inputs = body.required("inputs", _string)
        # Without `parameters` the router samples, with an empty object it does not.
        parameters = Parameters(do_sample=True)
        if "parameters" in body.content:
            given = _Fields(body.content["parameters"], "parameters", "struct GenerateParameters")
            values: dict[str, Any] = {
                name: given.required(name, read) for name, read in _PARAMETERS.items() if name in given.content
            }
            parameters = Parameters(**values)
        return cls(inputs=inputs, parameters=parameters, stream=body.optional("stream", _boolean, default=False))


@dataclass(frozen=True)
class ChatMessage:
    """One message; several text parts have been joined."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class ChatBody:
    """Body of `/v1/chat/completions`, and of `/invocations` with `MESSAGES_API_ENABLED`."""

    messages: tuple[ChatMessage, ...]
    frequency_penalty: float | None
    logprobs: bool
    top_logprobs: int | None
    max_tokens: int
    presence_penalty: float | None
    stop: tuple[str, ...]
    stream: bool
    seed: int | None
    temperature: float | None
    top_p: float | None
    wants_tools: bool
    grammar: Mapping[str, Any] | None

    @classmethod
    def read(cls, content: object) -> ChatBody:
        """Read a parsed body."""
        body = _Fields(content, "", "struct ChatRequest")
        body.required("model", _string)
        messages = tuple(
            _message(message, f"messages[{index}]")
            for index, message in enumerate(body.required("messages", _sequence))
        )
        max_tokens = body.optional("max_tokens", _maybe(_u32), default=None)
        return cls(
            messages=messages,
            frequency_penalty=body.optional("frequency_penalty", _maybe(_float), default=None),
            logprobs=body.optional("logprobs", _maybe(_boolean), default=None) or False,
            top_logprobs=body.optional("top_logprobs", _maybe(_u32), default=None),
            max_tokens=DEFAULT_MAX_NEW_TOKENS if max_tokens is None else max_tokens,
            presence_penalty=body.optional("presence_penalty", _maybe(_float), default=None),
            stop=body.optional("stop", lambda value, path: () if value is None else _strings(value, path), default=()),
            stream=body.optional("stream", _boolean, default=False),
            seed=body.optional("seed", _maybe(_u64), default=None),
            temperature=body.optional("temperature", _maybe(_float), default=None),
            top_p=body.optional("top_p", _maybe(_float), default=None),
            wants_tools=bool(body.content.get("tools")) and body.content.get("tool_choice") is not None,
            grammar=body.optional("response_format", _maybe(_grammar), default=None),
        )


def parse_json(*, content_type: str, raw: bytes) -> object:
    """Parse a request body."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise InvalidBody(status=415, message="Expected request with `Content-Type: application/json`")
    if len(raw) > MAX_BODY_BYTES:
        raise InvalidBody(status=413, message="Failed to buffer the request body: length limit exceeded")
    try:
        content: object = json.loads(raw, parse_constant=_not_a_number)
        if rb"\ud" in raw.lower():
            # A half of a surrogate pair is no character: encoding it raises UnicodeEncodeError, a ValueError.
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        problem = "lone surrogate in hex escape" if isinstance(error, UnicodeEncodeError) else error
        raise InvalidBody(status=400, message=f"Failed to parse the request body as JSON: {problem}") from None
    return content


def _not_a_number(constant: str) -> NoReturn:
    raise ValueError(f"expected value, got {constant}")


class _Fields:
    """The fields of a JSON object at a path of the body."""

    def __init__(self, content: object, path: str, expected: str) -> None:
        if not isinstance(content, dict):
            raise _wrong_type(path, content, expected)
        self.content: dict[str, Any] = content
        self._path = path

    def required(self, name: str, read: Reader[T]) -> T:
        if name not in self.content:
            raise _refused(self._path, f"missing field `{name}`")
        return read(self.content[name], self._at(name))

    def optional(self, name: str, read: Reader[T], default: T) -> T:
        return read(self.content[name], self._at(name)) if name in self.content else default

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _maybe(read: Reader[T]) -> Reader[T | None]:
    """Make null a value."""
    return lambda value, path: None if value is None else read(value, path)


def _string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(path, value, "a string")
    return value


def _boolean(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(path, value, "a boolean")
    return value


def _float(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(path, value, "f32")
    if not abs(value) <= _LARGEST_F32:
        raise _refused(path, "number out of range")
    return float(value)


def _integer(name: str, smallest: int, largest: int) -> Reader[int]:
    def read(value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(path, value, name)
        if not smallest <= value <= largest:
            raise _refused(path, f"invalid value: integer `{value}`, expected {name}")
        return value

    return read


_u32 = _integer("u32", 0, 2**32 - 1)
_i32 = _integer("i32", -(2**31), 2**31 - 1)
_u64 = _integer("u64", 0, 2**64 - 1)
_usize = _integer("usize", 0, 2**64 - 1)


def _sequence(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise _wrong_type(path, value, "a sequence")
    return value


def _strings(value: object, path: str) -> tuple[str, ...]:
    return tuple(_string(item, f"{path}[{index}]") for index, item in enumerate(_sequence(value, path)))


def _grammar(value: object, path: str) -> Mapping[str, Any]:
    grammar = _Fields(value, path, "adjacently tagged enum GrammarType")
    kind = grammar.required("type", _string)
    if kind not in {"json", "json_object", "regex"}:
        raise _refused(f"{path}.type", f"unknown variant `{kind}`, expected one of `json`, `json_object`, `regex`")
    grammar.required("value", lambda content, _: content)
    return grammar.content


def _message(value: object, path: str) -> ChatMessage:
    message = _Fields(value, path, "struct Message")
    role = message.required("role", _string)
    content = message.required("content", lambda given, _: given)
    if isinstance(content, list):
        content = "".join(_message_part(part, f"{path}.content[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        raise _refused(f"{path}.content", "data did not match any variant of untagged enum MessageContent")
    return ChatMessage(role, content)


def _message_part(value: object, path: str) -> str:
    part = _Fields(value, path, "internally tagged enum MessageChunk")
    kind = part.required("type", _string)
    if kind == "text":
        return part.required("text", _string)
    if kind == "image_url":
        url = _Fields(part.required("image_url", lambda given, _: given), f"{path}.image_url", "struct Url")
        return f"![]({url.required('url', _string)})"
    raise _refused(f"{path}.type", f"unknown variant `{kind}`, expected `text` or `image_url`")


_PARAMETERS: dict[str, Reader[Any]] = {
    "best_of": _maybe(_usize),
    "temperature": _maybe(_float),
    "repetition_penalty": _maybe(_float),
    "frequency_penalty": _maybe(_float),
    "top_k": _maybe(_i32),
    "top_p": _maybe(_float),
    "typical_p": _maybe(_float),
    "do_sample": _boolean,
    "max_new_tokens": _maybe(_u32),
    "return_full_text": _maybe(_boolean),
    "stop": _strings,
    "truncate": _maybe(_usize),
    "watermark": _boolean,
    "details": _boolean,
    "decoder_input_details": _boolean,
    "seed": _maybe(_u64),
    "top_n_tokens": _maybe(_u32),
    "grammar": _maybe(_grammar),
}


def _wrong_type(path: str, value: object, expected: str) -> InvalidBody:
    return _refused(path, f"invalid type: {_describe(value)}, expected {expected}")


def _refused(path: str, problem: str) -> InvalidBody:
    where = f"{path}: " if path else ""
    message = f"Failed to deserialize the JSON body into the target type: {where}{problem}"
    return InvalidBody(status=422, message=message)


def _describe(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, str):
        return f"string {json.dumps(value, ensure_ascii=False)}"
    if isinstance(value, int | float):
        return f"{'integer' if isinstance(value, int) else 'floating point'} `{value}`"
    return "sequence" if isinstance(value, list) else "map"
