"""The request of `POST /v1/chat/completions`: every parameter is understood, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from .chat_templates import Message
from .errors import bad_request

__all__ = ["ChatRequest", "parse_chat_request", "require_text"]

MAX_STOP_SEQUENCES = 4
MAX_TOP_LOGPROBS = 20

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Accepted and without effect: they identify the caller or tune OpenAI's own machinery.
_IGNORED = frozenset({"user", "safety_identifier", "prompt_cache_key", "metadata"})

# Parameters that no engine behind this gateway can honour, with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}

# An assistant message that a client sends back as it got it carries these, empty.
_EMPTY_MESSAGE_FIELDS = frozenset({"refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning"})


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A checked chat request. None means: the client left it to the engine."""

    model: str
    messages: tuple[Message, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    max_tokens_param: str
    temperature: float | None
    top_p: float | None
    stop: tuple[str, ...]
    seed: int | None
    frequency_penalty: float
    logprobs: bool
    top_logprobs: int


def parse_chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """Check a request body.

    A parameter set to null counts as absent, as OpenAI has it.

    Raises
    ------
    ApiError
        400 with the parameter's name for anything unknown, unsupported, of the wrong type or out of range.
    """
    fields = _Fields({name: value for name, value in body.items() if value is not None})
    model = fields.text("model")
    messages = _messages(fields.take("messages"))
    if fields.integer("n", default=1, low=1) != 1:
        raise bad_request("n must be 1: the engines behind this gateway give one answer per request.", param="n")
    stream = fields.boolean("stream", default=False)
    max_tokens_param = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    if max_tokens_param == "max_completion_tokens" and "max_tokens" in fields:
        raise bad_request("max_tokens and max_completion_tokens are the same limit: send one.", param="max_tokens")
    logprobs = fields.boolean("logprobs", default=False)
    top_logprobs = fields.integer("top_logprobs", default=0, low=0, high=MAX_TOP_LOGPROBS)
    if top_logprobs and not logprobs:
        raise bad_request("top_logprobs needs logprobs to be true.", param="top_logprobs")
    request = ChatRequest(
        model=model,
        messages=messages,
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream=stream),
        max_tokens=fields.optional_integer(max_tokens_param, low=1),
        max_tokens_param=max_tokens_param,
        temperature=fields.number("temperature", low=0, high=2),
        top_p=fields.number("top_p", low=0, high=1),
        stop=_stop(fields.take("stop")),
        seed=fields.optional_integer("seed", low=-(2**63), high=2**63 - 1),
        frequency_penalty=fields.number("frequency_penalty", low=-2, high=2) or 0.0,
        logprobs=logprobs,
        top_logprobs=top_logprobs,
    )
    fields.refuse_rest()
    return request


def require_text(value: Any, *, param: str) -> str:
    """Return the value if it is a text that can be sent on, else raise a 400 naming the field."""
    if not isinstance(value, str):
        _wrong_type(param, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_request(f"{param} holds half a surrogate pair, which is not valid Unicode.", param=param) from None
    return value


class _Fields:
    """The top-level fields of a request, taken out one by one; what stays is unknown."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def take(self, name: str) -> Any:
        return self._values.pop(name, None)

    def text(self, name: str) -> str:
        value = self.take(name)
        if value is None:
            raise bad_request(f"{name} is missing.", param=name, code="missing_required_parameter")
        return require_text(value, param=name)

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            _wrong_type(name, "a boolean", value)
        return value

    def optional_integer(self, name: str, *, low: int, high: int | None = None) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            _wrong_type(name, "an integer", value)
        _check_range(name, value, low, high)
        return value

    def integer(self, name: str, *, default: int, low: int, high: int | None = None) -> int:
        value = self.optional_integer(name, low=low, high=high)
        return default if value is None else value

    def number(self, name: str, *, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            _wrong_type(name, "a number", value)
        _check_range(name, value, low, high)
        return float(value)

    def refuse_rest(self) -> None:
        for name, value in self._values.items():
            if name in _IGNORED:
                continue
            if name not in _REFUSED:
                raise bad_request(f"Unknown parameter: '{name}'. Leave it out.", param=name, code="unknown_parameter")
            if not any(value == harmless and type(value) is type(harmless) for harmless in _harmless(name)):
                raise bad_request(
                    f"{name} is not supported by the engines behind this gateway. Leave it out.",
                    param=name,
                    code="unsupported_parameter",
                )


def _harmless(name: str) -> tuple[Any, ...]:
    values = _REFUSED[name]
    return (*values, *(float(value) for value in values if type(value) is int))


def _messages(value: Any) -> tuple[Message, ...]:
    if value is None:
        raise bad_request("messages is missing.", param="messages", code="missing_required_parameter")
    if not isinstance(value, list):
        _wrong_type("messages", "a list", value)
    if not value:
        raise bad_request("messages is empty: send at least one user message.", param="messages")
    return tuple(_message(item, param=f"messages[{index}]") for index, item in enumerate(value))


def _message(value: Any, *, param: str) -> Message:
    if not isinstance(value, dict):
        _wrong_type(param, "an object", value)
    for name, field in value.items():
        if name in ("role", "content", "name"):
            continue
        if name in _EMPTY_MESSAGE_FIELDS and (field is None or field == []):
            continue
        raise bad_request(
            f"{param}.{name} is not supported: a message has a role and a content.",
            param=f"{param}.{name}",
            code="unsupported_parameter",
        )
    role = require_text(value.get("role"), param=f"{param}.role")
    if role not in _ROLES:
        raise bad_request(
            f"{param}.role is '{role[:40]}', expected one of system, developer, user, assistant.",
            param=f"{param}.role",
        )
    return Message(role=_ROLES[role], content=_content(value.get("content"), param=f"{param}.content"))


def _content(value: Any, *, param: str) -> str:
    """Return the text of a message; a list of text parts is joined."""
    if not isinstance(value, list):
        return require_text(value, param=param)
    texts: list[str] = []
    for index, part in enumerate(value):
        at = f"{param}[{index}]"
        if not isinstance(part, dict):
            _wrong_type(at, "an object", part)
        if part.get("type") != "text":
            raise bad_request(f"{at}.type must be 'text': this model reads text only.", param=f"{at}.type")
        texts.append(require_text(part.get("text"), param=f"{at}.text"))
    return "".join(texts)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        _wrong_type("stop", "a string or a list of strings", value)
    if len(value) > MAX_STOP_SEQUENCES:
        raise bad_request(f"stop has {len(value)} sequences, at most {MAX_STOP_SEQUENCES} are possible.", param="stop")
    sequences = tuple(require_text(item, param=f"stop[{index}]") for index, item in enumerate(value))
    if not all(sequences):
        raise bad_request("stop holds an empty string, which would end every answer at once.", param="stop")
    return sequences


def _include_usage(value: Any, *, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        _wrong_type("stream_options", "an object", value)
    if not stream:
        raise bad_request("stream_options needs stream to be true.", param="stream_options")
    options = _Fields({f"stream_options.{name}": item for name, item in value.items() if item is not None})
    include = options.boolean("stream_options.include_usage", default=False)
    options.boolean("stream_options.include_obfuscation", default=False)
    options.refuse_rest()
    return include


def _check_range(name: str, value: float, low: float, high: float | None) -> None:
    if not (low <= value and (high is None or value <= high)):
        limits = f"at least {low}" if high is None else f"between {low} and {high}"
        raise bad_request(f"{name} is {value}, expected {limits}.", param=name)


def _wrong_type(param: str, expected: str, value: Any) -> NoReturn:
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    found = "null or missing" if value is None else kinds.get(type(value), "something else")
    raise bad_request(f"{param} must be {expected}, got {found}.", param=param, code="invalid_type")
