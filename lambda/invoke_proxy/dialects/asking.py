"""What every dialect needs to turn a `Generation` into an engine's request: refusals by name, and limits."""

from __future__ import annotations

from typing import Any

from invoke_proxy.errors import ApiError, bad_request
from invoke_proxy.generation import Generation
from invoke_proxy.registry import Deployment

from .base import Embeddings

__all__ = ["TextDialect", "check_range", "check_room", "is_greedy", "prompt_of", "refuse_unmapped", "unsupported"]

# What a dialect may map, by the client's names; temperature, top_p, max_tokens and stream every dialect has. A stop
# sequence needs no word: the gateway cuts the answer there and drops what an engine goes on with.
_PARAMETERS = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "adapters",
    "continue_final",
)
# Asking for these is asking for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_k": (0, -1),
    "repetition_penalty": (1,),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
}
_NEEDS_VALUE = frozenset({"seed"})
_API_NAMES = {"continue_final": "messages"}


class TextDialect:
    """A dialect without embeddings."""

    name: str
    tokens_are_counted: bool

    def embeddings_body(self, inputs: tuple[str, ...], *, dimensions: int | None) -> dict[str, Any]:
        """Refuse."""
        del inputs, dimensions
        raise self._no_embeddings()

    def embeddings(self, payload: bytes) -> Embeddings:
        """Refuse."""
        del payload
        raise self._no_embeddings()

    def _no_embeddings(self) -> ApiError:
        return bad_request(
            f"Embeddings are not supported by engines that speak {self.name}. Name a model that makes embeddings.",
            param="model",
            code="unsupported_parameter",
        )


def is_greedy(generation: Generation) -> bool:
    """Whether the likeliest token is wanted each time: OpenAI's temperature 0, or a nucleus of nothing."""
    return generation.temperature == 0 or generation.top_p == 0


def prompt_of(generation: Generation, deployment: Deployment) -> str:
    """Return the prompt.

    Raises
    ------
    ApiError
        400 when there are messages instead, for which the engine has no template.
    """
    if generation.prompt is None:
        raise unsupported(deployment, "messages", "takes a rendered prompt, and the deployment has no chat template")
    return generation.prompt


def refuse_unmapped(
    generation: Generation, deployment: Deployment, *, mapped: frozenset[str], extra: frozenset[str] = frozenset()
) -> None:
    """Refuse what a dialect has no word for: nothing is left out in silence.

    Parameters
    ----------
    mapped
        The fields of `Generation` that it has a word for.
    extra
        The names in `Generation.extra` that it takes.

    Raises
    ------
    ApiError
        400 with the name of the first such parameter.
    """
    for name in _PARAMETERS:
        if name not in mapped and _is_asked(name, getattr(generation, name)):
            raise unsupported(deployment, _API_NAMES.get(name, name), "cannot do this")
    for name, value in generation.extra.items():
        if name not in extra and value not in (None, False):
            raise unsupported(deployment, name, "cannot do this")


def _is_asked(name: str, value: Any) -> bool:
    if name in _NEEDS_VALUE:
        return value is not None
    return bool(value) and value not in _NEUTRAL.get(name, ())


def unsupported(deployment: Deployment, param: str, why: str) -> ApiError:
    """Return the 400 for a parameter that the deployment's engine has nothing for."""
    return bad_request(
        f"{param} is not supported by '{deployment.deployment}': its engine {deployment.engine} "
        f"{deployment.engine_version} {why}. Leave it out.",
        param=param,
        code="unsupported_parameter",
    )


def check_room(generation: Generation, deployment: Deployment, *, most: int | None = None) -> None:
    """Refuse answers that are longer than the deployment's context, or than `most` tokens where the engine says so.

    Raises
    ------
    ApiError
        400 with the name under which the client sent the limit, and both numbers.
    """
    asked = generation.max_tokens
    if asked is None:
        return
    total = deployment.max_total_tokens
    room = total - 1 if most is None else most
    if asked > room:
        why = (
            f"prompt and answer share {total} tokens"
            if most is None
            else f"it is built for {deployment.max_input_tokens} tokens of prompt and {room} of answer"
        )
        raise bad_request(
            f"{generation.max_tokens_param} is {asked}, but '{deployment.deployment}' has room for {room} at most: "
            f"{why}.",
            param=generation.max_tokens_param,
        )


def check_range(name: str, value: float | None, *, least: float, most: float, above: bool = False) -> None:
    """Refuse a value outside of what the engine takes; with `above`, `least` itself is outside.

    Raises
    ------
    ApiError
        400 with the name and the range.
    """
    if value is None or (least < value <= most) or (value == least and not above):
        return
    raise bad_request(
        f"{name} is {value}; this engine takes {'more than' if above else 'from'} {least:g} "
        f"{'and' if above else 'to'} {'at most ' if above else ''}{most:g}.",
        param=name,
    )
