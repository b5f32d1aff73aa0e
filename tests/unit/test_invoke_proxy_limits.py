"""Limits are checked before the endpoint is called, exactly, and only counted where counting can matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from invoke_proxy.errors import ApiError, openai_error
from invoke_proxy.generation import Generation
from invoke_proxy.limits import Fitted, check_input, fit, prompt_text
from invoke_proxy.registry import Deployment, Tenant
from invoke_proxy.tokens import TokenCounter

DEPLOYMENT = Deployment(
    deployment="mixtral",
    model_id="acme/mixtral",
    endpoint_name="endpoint",
    engine="tgi-neuronx",
    engine_version="0.0.25",
    dialect="tgi-generate",
    chat_template="mistral-instruct",
    max_input_tokens=100,
    max_total_tokens=200,
    registered=1,
)
TENANT = Tenant(name="search")


class Words:
    """Counts words; without a tokenizer, nothing."""

    def __init__(self, *, known: bool = True) -> None:
        self.known = known
        self.counted = 0

    async def count(self, _: Deployment, text: str) -> int | None:
        self.counted += 1
        return len(text.split()) if self.known else None


def generation(**words: Any) -> Generation:
    return Generation(stream=False, **{"prompt": "hello", **words})


async def fitted(asked: Generation, *, words: Words | None = None, tenant: Tenant = TENANT) -> Fitted:
    return await fit(
        asked,
        deployment=DEPLOYMENT,
        tenant=tenant,
        tokens=cast("TokenCounter", words or Words()),
        text=prompt_text(asked),
        param="messages",
    )


async def refused(asked: Generation, *, words: Words | None = None, tenant: Tenant = TENANT) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await fitted(asked, words=words, tenant=tenant)
    return caught.value


async def test_short_prompts_are_not_counted() -> None:
    words = Words()

    assert await fitted(generation(prompt="x" * 98), words=words) == Fitted(generation=generation(prompt="x" * 98))
    assert words.counted == 0


async def test_bytes_and_not_characters_decide() -> None:
    words = Words()

    await fitted(generation(prompt="ß" * 49), words=words)
    assert words.counted == 0
    await fitted(generation(prompt="ß" * 50), words=words)
    assert words.counted == 1


async def test_a_long_text_of_few_tokens_is_let_through_and_counted_once() -> None:
    words = Words()

    assert (await fitted(generation(prompt="word " * 100), words=words)).prompt_tokens == 100
    assert words.counted == 1


async def test_a_prompt_of_too_many_tokens_is_refused_with_the_numbers() -> None:
    error = await refused(generation(prompt="a " * 101))

    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert openai_error(error)["error"]["type"] == "invalid_request_error"
    assert openai_error(error)["error"]["param"] == "messages"
    assert "100 tokens" in error.message
    assert "200" in error.message
    assert "101 tokens" in error.message


async def test_prompt_and_answer_share_the_context() -> None:
    assert await fitted(generation(prompt="a " * 90, max_tokens=110))
    error = await refused(generation(prompt="a " * 91, max_tokens=110))

    assert error.code == "context_length_exceeded"
    assert "201 tokens (91 in the messages, 110 in the completion)" in error.message


async def test_without_a_tokenizer_the_engine_judges() -> None:
    asked = generation(prompt="a " * 500)

    assert await fitted(asked, words=Words(known=False)) == Fitted(generation=asked)


async def test_a_prompt_that_the_engine_cuts_is_not_counted() -> None:
    words = Words()

    await fitted(generation(prompt="a " * 500, extra={"truncate": 50}), words=words)
    assert words.counted == 0


@pytest.mark.parametrize(("asked", "allowed"), [(199, True), (200, False)])
async def test_answer_that_no_prompt_leaves_room_for(asked: int, *, allowed: bool) -> None:
    request = generation(prompt="", max_tokens=asked, max_tokens_param="max_completion_tokens")
    if allowed:
        assert await fitted(request)
    else:
        error = await refused(request)
        assert (error.code, error.param) == ("invalid_value", "max_completion_tokens")
        assert "199" in error.message


async def test_tenant_s_limit_is_refused_when_exceeded_and_set_when_nothing_is_asked() -> None:
    tenant = replace(TENANT, max_output_tokens=20)

    assert (await refused(generation(max_tokens=21), tenant=tenant)).param == "max_tokens"
    assert (await fitted(generation(max_tokens=20), tenant=tenant)).generation.max_tokens == 20
    assert (await fitted(generation(), tenant=tenant)).generation.max_tokens == 20


async def test_tenant_s_limit_gives_way_to_the_prompt() -> None:
    tenant = replace(TENANT, max_output_tokens=150)

    assert (await fitted(generation(prompt="a " * 90), tenant=tenant)).generation.max_tokens == 110


async def test_tenant_s_limit_holds_for_prompts_that_are_cut_or_not_countable() -> None:
    tenant = replace(TENANT, max_output_tokens=20)
    long = "a " * 500

    cut = await fitted(generation(prompt=long, extra={"truncate": 50}), tenant=tenant)
    uncounted = await fitted(generation(prompt=long), tenant=tenant, words=Words(known=False))

    assert (cut.generation.max_tokens, uncounted.generation.max_tokens) == (20, 20)


async def test_count_of_messages_is_no_exact_one() -> None:
    """The engine's template adds to them, so the count refuses what is too long and serves for nothing else."""
    messages = ({"role": "user", "content": "a " * 100}, {"role": "user", "content": [{"type": "text", "text": "b"}]})

    assert prompt_text(Generation(stream=False, messages=messages)) == "a " * 100 + "\nb"
    assert (await refused(Generation(stream=False, messages=messages))).code == "context_length_exceeded"
    known = await fitted(Generation(stream=False, messages=messages[:1]))
    assert known.prompt_tokens is None


async def test_inputs_of_embeddings() -> None:
    words = Words()
    tokens = cast("TokenCounter", words)
    await check_input("x" * 98, deployment=DEPLOYMENT, tokens=tokens, param="input")
    assert words.counted == 0
    await check_input("a " * 100, deployment=DEPLOYMENT, tokens=tokens, param="input")
    with pytest.raises(ApiError) as caught:
        await check_input("a " * 101, deployment=DEPLOYMENT, tokens=tokens, param="input")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
