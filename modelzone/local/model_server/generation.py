"""Generating an answer token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelzone.local.model_server.mixtral import Array, Mixtral
from modelzone.local.model_server.sampling import Sampler, Sampling, Stopping, log_probabilities
from modelzone.local.model_server.tokenizer import TextTokenizer, TokenStream

__all__ = ["Step", "Token", "generate"]


@dataclass(frozen=True, kw_only=True)
class Token:
    """A generated token; `logprob` is the model's, before temperature and penalties."""

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One generated token, the likeliest tokens in its place and, at the last token, why it is the last."""

    token: Token
    top_tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None


def generate(
    *,
    model: Mixtral,
    tokenizer: TextTokenizer,
    prompt: Sequence[int],
    sampling: Sampling,
    stopping: Stopping,
    top_n_tokens: int = 0,
) -> Iterator[Step]:
    """Prefill the prompt, then decode until the end of the sequence, a stop sequence or the token limit.

    The generator of optimum-neuron 0.0.25 reports a stop sequence as `length`, and so does this.
    """
    sampler = Sampler(sampling)
    stream = TokenStream(tokenizer)
    seen = list(prompt)
    text = ""
    cache = model.new_cache(len(prompt) + stopping.max_new_tokens)
    logits = model.forward(prompt, cache)
    for number in range(1, stopping.max_new_tokens + 1):
        logprobs = log_probabilities(logits)
        chosen = sampler.choose(logits, seen)
        seen.append(chosen)
        token = _token(tokenizer, chosen, stream.push(chosen), logprobs)
        text += token.text
        finish_reason = None
        if chosen == tokenizer.eos:
            finish_reason = "eos_token"
        elif number == stopping.max_new_tokens or any(sequence in text for sequence in stopping.stop_sequences):
            finish_reason = "length"
        top = np.argsort(-logprobs, kind="stable")[:top_n_tokens]
        top_tokens = tuple(_token(tokenizer, int(other), tokenizer.decode([other]), logprobs) for other in top)
        yield Step(token=token, top_tokens=top_tokens, finish_reason=finish_reason)
        if finish_reason:
            return
        logits = model.forward([chosen], cache)


def _token(tokenizer: TextTokenizer, number: int, text: str, logprobs: Array) -> Token:
    # By way of its shortest text, as the router writes 32-bit numbers: -0.34 and not -0.3400000035762787.
    logprob = float(str(logprobs[number]))
    return Token(id=number, text=text, logprob=logprob, special=tokenizer.is_special(number))
