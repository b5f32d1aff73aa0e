"""What a request may ask for: checked here, before the endpoint is called, with the numbers in the refusal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import ApiError, bad_request, context_length_exceeded
from .generation import Generation
from .registry import Deployment, Tenant

if TYPE_CHECKING:
    from .tokens import TokenCounter

__all__ = ["Fitted", "check_input", "default_length", "fit", "prompt_text"]

# Tokens that stand for no byte of the text: the beginning of the sequence, and the space that some put before it.
_TEXTLESS_TOKENS = 2


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A request within its limits.

    Attributes
    ----------
    generation
        The request, with the tenant's limit where the client named none.
    prompt_tokens
        The exact length of the prompt, where it had to be counted.
    """

    generation: Generation
    prompt_tokens: int | None = None


def prompt_text(generation: Generation) -> str:
    """Return the text that the model reads; of messages, their contents without what the engine's template adds."""
    if generation.prompt is not None:
        return generation.prompt
    return "\n".join(_content(message.get("content")) for message in generation.messages or ())


def default_length(default: int | None, *, tenant: Tenant) -> int | None:
    """Return an API's own default for the answer's length, lowered to the tenant's limit.

    Whoever asks for nothing is not refused for it.
    """
    if default is None or tenant.max_output_tokens is None:
        return default
    return min(default, tenant.max_output_tokens)


async def fit(
    generation: Generation,
    *,
    deployment: Deployment,
    tenant: Tenant,
    tokens: TokenCounter,
    text: str,
    param: str,
) -> Fitted:
    """Check the request's lengths against the model's and the tenant's.

    A token is at least one byte, so a short text needs no counting. A long one is counted if the model's tokenizer is
    at hand; if not, the engine judges.

    Parameters
    ----------
    text
        What `prompt_text` returns for the generation.
    param
        The field that holds the prompt, for the refusal.

    Raises
    ------
    ApiError
        400: ``invalid_value`` for a limit that nobody can have, ``context_length_exceeded`` for a prompt that is too
        long or leaves too little room.
    """
    _check_answer_length(generation, deployment, tenant)
    if generation.extra.get("truncate") is not None:
        return Fitted(generation=_with_limit(generation, tenant.max_output_tokens))  # the engine cuts the prompt
    size = len(text.encode()) + _TEXTLESS_TOKENS
    wanted = generation.max_tokens or tenant.max_output_tokens or 1
    room = min(deployment.max_input_tokens, deployment.max_total_tokens - wanted)
    count = await tokens.count(deployment, text) if size > room else None
    if count is None:
        return Fitted(generation=_with_limit(generation, tenant.max_output_tokens))
    # The engine's own template adds to messages: then the count is a lower bound, and no exact one.
    exact = generation.prompt is not None
    _check_prompt_length(count, generation, deployment, param)
    limit = tenant.max_output_tokens
    if limit is not None:
        limit = max(1, min(limit, deployment.max_total_tokens - count))
    return Fitted(generation=_with_limit(generation, limit), prompt_tokens=count if exact else None)


async def check_input(text: str, *, deployment: Deployment, tokens: TokenCounter, param: str) -> None:
    """Check a text that is read and not gone on with: an input of embeddings.

    Raises
    ------
    ApiError
        400 ``context_length_exceeded``.
    """
    if len(text.encode()) + _TEXTLESS_TOKENS <= deployment.max_input_tokens:
        return
    count = await tokens.count(deployment, text)
    if count is not None and count > deployment.max_input_tokens:
        raise _too_long(count, deployment, param)


def _with_limit(generation: Generation, limit: int | None) -> Generation:
    if limit is None or generation.max_tokens is not None:
        return generation
    return replace(generation, max_tokens=limit)


def _check_answer_length(generation: Generation, deployment: Deployment, tenant: Tenant) -> None:
    asked, param = generation.max_tokens, generation.max_tokens_param
    if asked is None:
        return
    most = deployment.max_total_tokens - 1
    if asked > most:
        raise bad_request(
            f"{param} is {asked}, but '{deployment.deployment}' has room for {most} at most: prompt and answer share "
            f"{deployment.max_total_tokens} tokens.",
            param=param,
        )
    if tenant.max_output_tokens is not None and asked > tenant.max_output_tokens:
        raise bad_request(
            f"{param} is {asked}, but tenant '{tenant.name}' may ask for {tenant.max_output_tokens} at most.",
            param=param,
        )


def _check_prompt_length(count: int, generation: Generation, deployment: Deployment, param: str) -> None:
    if count > deployment.max_input_tokens:
        raise _too_long(count, deployment, param)
    asked = generation.max_tokens
    if asked is not None and count + asked > deployment.max_total_tokens:
        raise context_length_exceeded(
            f"This model's maximum context length is {deployment.max_total_tokens} tokens. However, you requested "
            f"{count + asked} tokens ({count} in the {param}, {asked} in the completion). Please reduce the length of "
            f"the {param} or {generation.max_tokens_param}.",
            param=param,
        )


def _too_long(count: int, deployment: Deployment, param: str) -> ApiError:
    return context_length_exceeded(
        f"This model's maximum input length is {deployment.max_input_tokens} tokens (context length "
        f"{deployment.max_total_tokens}). However, your {param} resulted in {count} tokens. Please reduce the "
        f"length of the {param}.",
        param=param,
    )


def _content(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(str(part["text"]) for part in value if isinstance(part, dict) and "text" in part)
    return ""
