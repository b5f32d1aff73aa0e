"""The limits of the router and its messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelzone.local.model_server.bodies import Parameters
from modelzone.local.model_server.errors import InvalidRequest
from modelzone.local.model_server.export import SHIPPED_MODEL
from modelzone.local.model_server.settings import ServerSettings
from modelzone.local.model_server.tokenizer import TextTokenizer
from modelzone.local.model_server.validation import ValidRequest, validate, validate_best_of, validate_stream

SETTINGS = ServerSettings(
    model_id="/opt/ml/model",
    max_batch_size=1,
    max_input_tokens=20,
    max_total_tokens=32,
    max_batch_prefill_tokens=20,
)
TOKENIZER = TextTokenizer.load(SHIPPED_MODEL)
HELLO = len(TOKENIZER.encode("Hello"))
LONG = "x" * 25  # more tokens than fit: letters that no merge joins


def check(inputs: str = "Hello", settings: ServerSettings = SETTINGS, **parameters: Any) -> ValidRequest:
    given = {"max_new_tokens": 4, **parameters}
    return validate(inputs, Parameters(**given), settings=settings, tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ("a",) * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 20. Given: 0"),
        ({"truncate": 21}, "`truncate` must be strictly positive and less than 20. Given: 21"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
        (
            {"max_new_tokens": 31},
            f"`inputs` tokens + `max_new_tokens` must be <= 32. Given: {HELLO} `inputs` tokens and 31 `max_new_tokens`",
        ),
    ],
)
def test_a_value_outside_the_limits_is_refused(parameters: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(**parameters)
    assert caught.value.body == {"error": f"Input validation error: {problem}", "error_type": "validation"}
    assert caught.value.status == 422


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="`inputs` cannot be empty"):
        check("")


def test_a_long_prompt_is_refused_even_when_the_answer_would_fit() -> None:
    tokens = len(TOKENIZER.encode(LONG))
    assert 20 < tokens < 28
    with pytest.raises(InvalidRequest, match=f"`inputs` must have less than 20 tokens. Given: {tokens}$"):
        check(LONG)


def test_truncation_keeps_the_beginning_of_sequence_and_the_end() -> None:
    whole, cut = TOKENIZER.encode(LONG), check(LONG, truncate=6).prompt
    assert len(cut) == 6
    assert cut == [whole[0], *whole[-5:]]
    assert check("Hello", truncate=6).prompt == TOKENIZER.encode("Hello")


def test_without_max_new_tokens_the_answer_may_fill_the_sequence() -> None:
    assert check(max_new_tokens=None).stopping.max_new_tokens == 32 - HELLO


def test_a_temperature_alone_does_not_sample() -> None:
    # The generator of the container looks at do_sample only.
    assert not check(temperature=0.7).sampling.do_sample


def test_sampling_defaults_are_those_of_the_container() -> None:
    sampling = check(do_sample=True).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty) == (1.0, 50, 1.0, 1.0)


def test_a_seed_is_kept_or_drawn() -> None:
    assert check(seed=11).sampling.seed == 11
    assert check().sampling.seed != check().sampling.seed


def test_grammars_are_refused_when_they_are_switched_off() -> None:
    grammar = {"type": "regex", "value": "a+"}
    assert check(grammar=grammar)
    with pytest.raises(InvalidRequest, match="grammar is not supported"):
        check(settings=replace(SETTINGS, disable_grammar_support=True), grammar=grammar)


@pytest.mark.parametrize(
    ("best_of", "allowed", "problem"),
    [
        (3, 2, "`best_of` must be > 0 and <= 2. Given: 3"),
        (2, 1, "`best_of` != 1 is not allowed for this endpoint"),
    ],
)
def test_best_of_has_a_limit(best_of: int, allowed: int, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        validate_best_of(best_of, replace(SETTINGS, max_best_of=allowed))


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        (Parameters(best_of=2), "`best_of` != 1 is not supported when streaming tokens"),
        (
            Parameters(decoder_input_details=True),
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
def test_a_stream_cannot_have_everything(parameters: Parameters, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        validate_stream(parameters)
