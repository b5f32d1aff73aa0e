"""What DJL Serving's rolling batches take and give: `inputs` and `parameters`, and tokens with `log_prob`.

Read from deepjavalibrary/djl-serving@1635512 (0.26.0-dlc), @58eb48b (0.29.0-dlc) and @fefd40e (0.30.0-dlc). A value
that a backend of 0.26.0 cannot take does not fail one request: the whole batch is dropped, other clients' answers
included. So everything is checked here, and numbers that have to be fractions are sent as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from invoke_proxy.errors import bad_request
from invoke_proxy.generation import Generation, Token
from invoke_proxy.registry import Deployment

from . import reading
from .asking import check_range, check_room, is_greedy, prompt_of, refuse_unmapped, unsupported

__all__ = ["Backend", "is_filler", "parameters", "read_token"]

_INFINITY = float("inf")
# More than any vocabulary has: a set of the likeliest tokens that leaves none out.
ALL_TOKENS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Backend:
    """How one backend is asked.

    Attributes
    ----------
    fields
        Fields of `Generation` that it has a word for.
    stop_name
        The parameter for stop sequences.
    greedy
        What makes it take the likeliest token.
    samples
        What makes it sample.
    shares_context
        Whether an answer may fill what the prompt leaves of the context; otherwise it has to fit beside the longest
        prompt.
    fixed_answer
        Whether longer answers than that are impossible, because the engine is compiled for them.
    most_repetition_penalty
        The largest that it takes.
    needs_warper
        Whether sampling without any limit stops the backend (an assertion) or turns into greedy decoding.
    """

    fields: frozenset[str]
    stop_name: str = "stop_sequences"
    greedy: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    shares_context: bool = False
    fixed_answer: bool = False
    most_repetition_penalty: float = _INFINITY
    needs_warper: bool = False


_FRACTIONS: Mapping[str, Callable[[Generation], float | None]] = {
    "repetition_penalty": lambda generation: generation.repetition_penalty,
    "frequency_penalty": lambda generation: generation.frequency_penalty,
    "presence_penalty": lambda generation: generation.presence_penalty,
}


def parameters(generation: Generation, deployment: Deployment, backend: Backend | None) -> tuple[str, dict[str, Any]]:
    """Return the prompt and the parameters for it.

    Raises
    ------
    ApiError
        400 for what the backend cannot do or take.
    """
    if backend is None:
        raise unsupported(deployment, "model", "does not speak the format that the registry names")
    refuse_unmapped(generation, deployment, mapped=backend.fields)
    beside_prompt = max(1, deployment.max_total_tokens - deployment.max_input_tokens)
    check_room(generation, deployment, most=beside_prompt if backend.fixed_answer else None)
    _check_ranges(generation, backend)
    default = deployment.max_total_tokens - 1 if backend.shares_context else beside_prompt
    asked: dict[str, Any] = {
        # Without it there is no finish reason.
        "details": True,
        # Their own defaults are 16, 30 or 128 tokens.
        "max_new_tokens": default if generation.max_tokens is None else generation.max_tokens,
    }
    asked |= backend.greedy if is_greedy(generation) else _sampling(generation, backend)
    for name, value_of in _FRACTIONS.items():
        value = value_of(generation)
        if value:
            asked[name] = float(value)
    if generation.stop and "stop" in backend.fields:
        asked[backend.stop_name] = list(generation.stop)
    if generation.seed is not None:
        # PyTorch and TensorRT-LLM take unsigned ones; a negative one keeps its own place.
        asked["seed"] = generation.seed % 2**64
    return prompt_of(generation, deployment), asked


def _sampling(generation: Generation, backend: Backend) -> dict[str, Any]:
    asked: dict[str, Any] = dict(backend.samples)
    if generation.temperature is not None:
        asked["temperature"] = float(generation.temperature)
    if generation.top_p is not None:
        asked["top_p"] = float(generation.top_p)
    if generation.top_k is not None and generation.top_k > 0:
        asked["top_k"] = generation.top_k
    if generation.min_p:
        asked["min_p"] = float(generation.min_p)
    if backend.needs_warper and asked.get("temperature") == 1 and asked.get("top_p", 1.0) >= 1 and "top_k" not in asked:
        asked["top_k"] = ALL_TOKENS
    return asked


def _check_ranges(generation: Generation, backend: Backend) -> None:
    check_range("temperature", generation.temperature, least=0, most=_INFINITY)
    check_range("top_p", generation.top_p, least=0, most=1)
    check_range("min_p", generation.min_p, least=0, most=1)
    check_range("frequency_penalty", generation.frequency_penalty, least=-2, most=2)
    check_range("presence_penalty", generation.presence_penalty, least=-2, most=2)
    check_range(
        "repetition_penalty",
        generation.repetition_penalty,
        least=0,
        most=backend.most_repetition_penalty,
        above=True,
    )
    if generation.top_k is not None and generation.top_k < -1:
        raise bad_request(f"top_k is {generation.top_k}; use a positive number, or leave it out.", param="top_k")
    if generation.max_tokens is not None and generation.max_tokens < 1:
        raise bad_request(
            f"{generation.max_tokens_param} is {generation.max_tokens}; this engine makes at least one token.",
            param=generation.max_tokens_param,
        )


def is_filler(item: Mapping[str, Any]) -> bool:
    """Whether a token stands for "nothing new": another request's prompt was read in this step."""
    return item.get("id") == -1 and not item.get("text")


def read_token(item: Mapping[str, Any], *, missing_log_prob: float | None = None) -> Token:
    """Read a token. In 0.26.0 a field that is 0, empty or false is left out.

    Parameters
    ----------
    missing_log_prob
        What a `log_prob` that is left out stands for: 0 where the backends always have one.
    """
    return Token(
        text=reading.text(item.get("text", "")),
        id=reading.whole_number(item.get("id", 0)),
        logprob=reading.number(item.get("log_prob", missing_log_prob)),
        special=item.get("special_token") is True,
    )
