"""The limits of TGI 2.1.1's router, with its messages, and what a valid request becomes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from modelzone.local.model_server.bodies import Parameters
from modelzone.local.model_server.errors import InvalidRequest
from modelzone.local.model_server.sampling import DEFAULT_TOP_K, Sampling, Stopping
from modelzone.local.model_server.settings import ServerSettings
from modelzone.local.model_server.tokenizer import TextTokenizer

__all__ = ["ValidRequest", "validate", "validate_best_of", "validate_stream"]

_MAX_PENALTY = 2.0


@dataclass(frozen=True, kw_only=True)
class ValidRequest:
    """A request that can be generated."""

    prompt: list[int]
    sampling: Sampling
    stopping: Stopping
    top_n_tokens: int


def validate_best_of(best_of: int, settings: ServerSettings) -> None:
    """Check the number of sequences."""
    if settings.max_best_of == 1 and best_of != 1:
        raise InvalidRequest("`best_of` != 1 is not allowed for this endpoint")
    if best_of > settings.max_best_of:
        raise InvalidRequest(f"`best_of` must be > 0 and <= {settings.max_best_of}. Given: {best_of}")


def validate_stream(parameters: Parameters) -> None:
    """Check what a stream cannot have."""
    if parameters.best_of not in {None, 1}:
        raise InvalidRequest("`best_of` != 1 is not supported when streaming tokens")
    if parameters.decoder_input_details:
        raise InvalidRequest("`decoder_input_details` == true is not supported when streaming tokens")


def validate(
    inputs: str, parameters: Parameters, *, settings: ServerSettings, tokenizer: TextTokenizer
) -> ValidRequest:
    """Check a request against the limits, in the router's order, and tokenize its prompt."""
    sampling = _sampling(parameters)
    if parameters.max_new_tokens == 0:
        raise InvalidRequest("`max_new_tokens` must be strictly positive")
    if len(parameters.stop) > settings.max_stop_sequences:
        raise InvalidRequest(
            f"`stop` supports up to {settings.max_stop_sequences} stop sequences. Given: {len(parameters.stop)}"
        )
    if parameters.seed is not None and (parameters.best_of or 1) > 1:
        raise InvalidRequest("`seed` must not be set when `best_of` > 1")
    top_n_tokens = parameters.top_n_tokens or 0
    if top_n_tokens > settings.max_top_n_tokens:
        raise InvalidRequest(f"`top_n_tokens` must be >= 0 and <= {settings.max_top_n_tokens}. Given: {top_n_tokens}")
    if not inputs:
        raise InvalidRequest("`inputs` cannot be empty")
    truncate = parameters.truncate
    if truncate is not None and not 0 < truncate <= settings.max_input_tokens:
        raise InvalidRequest(
            f"`truncate` must be strictly positive and less than {settings.max_input_tokens}. Given: {truncate}"
        )
    prompt = tokenizer.encode(inputs)
    if truncate is not None:
        prompt = tokenizer.truncate(prompt, truncate)
    max_new_tokens = _max_new_tokens(parameters, len(prompt), settings)
    if parameters.grammar is not None and settings.disable_grammar_support:
        raise InvalidRequest("grammar is not supported")
    return ValidRequest(
        prompt=prompt,
        sampling=sampling,
        stopping=Stopping(max_new_tokens=max_new_tokens, stop_sequences=parameters.stop),
        top_n_tokens=top_n_tokens,
    )


def _sampling(parameters: Parameters) -> Sampling:
    """Check the sampling parameters; a seed is drawn when none is given."""
    temperature, top_k, top_p, typical_p = (
        parameters.temperature,
        parameters.top_k,
        parameters.top_p,
        parameters.typical_p,
    )
    asked = (temperature, top_k, top_p, typical_p)
    if (parameters.best_of or 1) > 1 and not parameters.do_sample and all(value is None for value in asked):
        raise InvalidRequest("you must use sampling when `best_of` is > 1")
    if temperature is not None and temperature <= 0:
        raise InvalidRequest("`temperature` must be strictly positive")
    if parameters.repetition_penalty is not None and parameters.repetition_penalty <= 0:
        raise InvalidRequest("`repetition_penalty` must be strictly positive")
    if parameters.frequency_penalty is not None and not abs(parameters.frequency_penalty) <= _MAX_PENALTY:
        raise InvalidRequest("`frequency_penalty` must be >= -2.0 and <= 2.0")
    if top_p is not None and not 0 < top_p < 1:
        raise InvalidRequest("`top_p` must be > 0.0 and < 1.0")
    if typical_p is not None and not 0 < typical_p < 1:
        raise InvalidRequest("`typical_p` must be > 0.0 and < 1.0")
    if top_k is not None and top_k <= 0:
        raise InvalidRequest("`top_k` must be strictly positive")
    return Sampling(
        do_sample=parameters.do_sample,
        temperature=1.0 if temperature is None else temperature,
        top_k=DEFAULT_TOP_K if top_k is None else top_k,
        top_p=1.0 if top_p is None else top_p,
        repetition_penalty=1.0 if parameters.repetition_penalty is None else parameters.repetition_penalty,
        seed=secrets.randbits(64) if parameters.seed is None else parameters.seed,
    )


def _max_new_tokens(parameters: Parameters, input_length: int, settings: ServerSettings) -> int:
    """Check the lengths; without `max_new_tokens` (null) the answer may fill what is left."""
    limit = settings.max_total_tokens
    asked = parameters.max_new_tokens
    max_new_tokens = max(0, limit - input_length) if asked is None else asked
    if input_length + max_new_tokens > limit:
        raise InvalidRequest(
            f"`inputs` tokens + `max_new_tokens` must be <= {limit}. "
            f"Given: {input_length} `inputs` tokens and {max_new_tokens} `max_new_tokens`"
        )
    if input_length > settings.max_input_tokens:
        raise InvalidRequest(f"`inputs` must have less than {settings.max_input_tokens} tokens. Given: {input_length}")
    return max_new_tokens
