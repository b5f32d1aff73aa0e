"""Answers of the shipped model, token by token."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from modelzone.local.model_server.export import SHIPPED_MODEL
from modelzone.local.model_server.generation import Step, generate
from modelzone.local.model_server.mixtral import Mixtral
from modelzone.local.model_server.sampling import Sampling, Stopping, log_probabilities
from modelzone.local.model_server.tokenizer import TextTokenizer, TokenStream


@pytest.fixture(scope="module")
def model() -> Mixtral:
    return Mixtral.load(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(SHIPPED_MODEL)


def ask(
    model: Mixtral,
    tokenizer: TextTokenizer,
    question: str,
    *,
    sampling: Sampling | None = None,
    max_new_tokens: int = 100,
    stop: tuple[str, ...] = (),
    top_n_tokens: int = 0,
) -> list[Step]:
    return list(
        generate(
            model=model,
            tokenizer=tokenizer,
            prompt=tokenizer.encode(f"[INST] {question} [/INST]"),
            sampling=sampling or Sampling(),
            stopping=Stopping(max_new_tokens=max_new_tokens, stop_sequences=stop),
            top_n_tokens=top_n_tokens,
        )
    )


def text(steps: list[Step]) -> str:
    return "".join(step.token.text for step in steps)


def test_an_answer_ends_with_the_end_of_the_sequence(model: Mixtral, tokenizer: TextTokenizer) -> None:
    steps = ask(model, tokenizer, "What is deep learning?")
    assert text(steps).startswith(" Deep learning is a part of machine learning")
    assert text(steps).endswith(".</s>")
    assert steps[-1].finish_reason == "eos_token"
    assert (steps[-1].token.id, steps[-1].token.special) == (tokenizer.eos, True)
    assert not any(step.finish_reason or step.token.special for step in steps[:-1])


def test_a_system_text_in_front_of_the_question_is_understood(model: Mixtral, tokenizer: TextTokenizer) -> None:
    plain = text(ask(model, tokenizer, "What is Modelzone?"))
    assert text(ask(model, tokenizer, "You are a helpful assistant.\n\nWhat is Modelzone?")) == plain
    assert plain.startswith(" Modelzone is one AWS CDK application")


def test_the_token_limit_ends_an_answer(model: Mixtral, tokenizer: TextTokenizer) -> None:
    steps = ask(model, tokenizer, "What is deep learning?", max_new_tokens=5)
    assert len(steps) == 5
    assert steps[-1].finish_reason == "length"


def test_a_stop_sequence_ends_an_answer_and_stays_in_it(model: Mixtral, tokenizer: TextTokenizer) -> None:
    steps = ask(model, tokenizer, "What is deep learning?", stop=("nothing", "machine learning"))
    assert text(steps) == " Deep learning is a part of machine learning"
    assert steps[-1].finish_reason == "length"  # what optimum-neuron 0.0.25 says


def test_log_probabilities_are_the_models(model: Mixtral, tokenizer: TextTokenizer) -> None:
    sampled = Sampling(do_sample=True, temperature=3.0, seed=4, repetition_penalty=1.3)
    steps = ask(model, tokenizer, "What is Mixtral?", sampling=sampled, max_new_tokens=8)
    prompt = tokenizer.encode("[INST] What is Mixtral? [/INST]")
    tokens = prompt + [step.token.id for step in steps]
    logits = model.forward(tokens, model.new_cache(len(tokens)), all_positions=True)
    wanted = log_probabilities(logits)[range(len(prompt) - 1, len(tokens) - 1), tokens[len(prompt) :]]
    np.testing.assert_allclose([step.token.logprob for step in steps], wanted, atol=1e-3)


def test_top_tokens_are_the_likeliest_in_order(model: Mixtral, tokenizer: TextTokenizer) -> None:
    for step in ask(model, tokenizer, "What is Mixtral?", max_new_tokens=6, top_n_tokens=3):
        assert len(step.top_tokens) == 3
        assert step.top_tokens[0].id == step.token.id  # greedy
        assert all(one.logprob >= other.logprob for one, other in pairwise(step.top_tokens))


def test_the_seed_decides_what_is_sampled(model: Mixtral, tokenizer: TextTokenizer) -> None:
    def sample(seed: int) -> str:
        sampling = Sampling(do_sample=True, temperature=6.0, seed=seed)
        return text(ask(model, tokenizer, "Tell me a joke", sampling=sampling, max_new_tokens=30))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_characters_of_several_tokens_arrive_whole(model: Mixtral, tokenizer: TextTokenizer) -> None:
    steps = ask(model, tokenizer, "Can you stream an emoji?")
    assert "🚀" in [step.token.text.strip() for step in steps]
    assert "" in [step.token.text for step in steps]
    assert text(steps) == tokenizer.decode(step.token.id for step in steps)
    assert "\N{REPLACEMENT CHARACTER}" not in text(steps)


@pytest.mark.parametrize("original", ["plain", "né à l'été", "你好,世界", "a🚀b👩‍👩‍👧", "ไทย \t\n tab", "</s>"])
def test_a_token_stream_joins_to_the_text(tokenizer: TextTokenizer, original: str) -> None:
    stream = TokenStream(tokenizer)
    assert "".join(stream.push(number) for number in tokenizer.encode(original)[1:]) == original


def test_an_unfinished_character_is_left_out(tokenizer: TextTokenizer) -> None:
    stream = TokenStream(tokenizer)
    rocket = tokenizer.encode("🚀")[1:]
    assert len(rocket) > 1
    assert [stream.push(number) for number in rocket[:-1]] == [""] * (len(rocket) - 1)


def test_pieces_name_the_bytes_that_they_cover(tokenizer: TextTokenizer) -> None:
    original = "né 🚀!"
    pieces = tokenizer.pieces(original)
    assert (pieces[0].text, pieces[0].start, pieces[0].stop) == ("", 0, 0)  # beginning of sequence
    assert [piece.id for piece in pieces] == tokenizer.encode(original)
    for piece in pieces:
        assert original.encode()[piece.start : piece.stop].decode() == piece.text
    assert pieces[-1].stop == len(original.encode())
