"""This project's own client against the proxy as shipped."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from modelzone.client import ApiError, Client, Conversation
from tests.gateway.engines import Said
from tests.gateway.scripts import no_capacity
from tests.gateway.stack import NARROW_KEY, SINGLE_KEY, Gateway
from tests.gateway.world import DEPLOYMENTS, Served

GENERATING = [item for item in DEPLOYMENTS if not item.embeds and not item.cache_ttl_seconds]
SURE = [item for item in GENERATING if "logprobs" in item.features]
SAID = Said(tokens=("One", " sentence", ".", " Another", "."), reason="length", logprob=-0.5)
TEXT = "One sentence. Another."


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url, gateway.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("served", GENERATING, ids=lambda item: item.name)
def test_every_dialect_says_the_same_on_every_route(gateway: Gateway, client: Client, served: Served) -> None:
    gateway.script(served.name).said = SAID
    whole = client.chat("Hi", model=served.name, max_tokens=5, temperature=0)
    with client.stream("Hi", model=served.name, max_tokens=5, temperature=0) as stream:
        pieces = [piece.text for piece in stream]
    completed = client.complete("Hi", model=served.name, max_tokens=5, temperature=0)
    generated = client.generate("Hi", model=served.name, max_new_tokens=5)
    assert "".join(pieces) == TEXT
    assert len(pieces) > 1
    for answer in (whole, stream.answer, completed, generated):
        assert (answer.text, answer.finish_reason) == (TEXT, "length")
        assert (answer.deployment, answer.cached) == (served.name, False)
        assert answer.request_id
    # Text Generation Inference counts the prompt in whole answers only.
    assert stream.answer.usage in {None, whole.usage}


@pytest.mark.parametrize("served", SURE, ids=lambda item: item.name)
def test_tokens_and_confidence(gateway: Gateway, client: Client, served: Served) -> None:
    gateway.script(served.name).said = SAID
    whole = client.chat("Hi", model=served.name, logprobs=True, confidence=True, max_tokens=5)
    with client.stream("Hi", model=served.name, logprobs=True, confidence=True, max_tokens=5) as stream:
        streamed = [token for piece in stream for token in piece.tokens]
    generated = client.generate("Hi", model=served.name, confidence=True, max_new_tokens=5)
    for answer in (whole, stream.answer, generated):
        assert [token.text for token in answer.tokens] == list(SAID.tokens)
        assert {token.logprob for token in answer.tokens} == {-0.5}
        assert answer.confidence == pytest.approx(math.exp(-0.5), abs=1e-3)
        assert [sentence.text for sentence in answer.sentences] == ["One sentence.", "Another."]
        assert sum(sentence.tokens for sentence in answer.sentences) == 5
    assert tuple(streamed) == whole.tokens


def test_without_log_probabilities_a_conversation_goes_on_without_confidence(gateway: Gateway, client: Client) -> None:
    gateway.script("mixtral").said = SAID
    with pytest.raises(ApiError) as caught:
        client.chat("Hi", model="mixtral", confidence=True)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", "confidence")
    notes: list[str] = []
    talk = Conversation(client, model="mixtral", note=notes.append)
    turn = talk.ask("Hi", on_text=lambda _: None)
    assert (turn.answer.text, turn.answer.confidence, len(notes)) == (TEXT, None, 1)
    assert talk.ask("Go on.", on_text=lambda _: None).answer.text == TEXT
    sure = Conversation(client, model="gpu", note=notes.append)
    assert sure.ask("Hi", on_text=lambda _: None).answer.confidence == pytest.approx(math.exp(-0.5), abs=1e-3)
    assert len(notes) == 1


def test_an_answer_is_made_of_several_requests(gateway: Gateway, client: Client) -> None:
    gateway.script("gpu").said = Said(tokens=("a", " b"), reason="length")
    whole = client.chat("Hi", model="gpu", max_tokens=2, continue_until_stop=True, max_continuations=3)
    asked = len(gateway.seen)
    with client.stream("Hi", model="gpu", max_tokens=2, continue_until_stop=True, max_continuations=3) as stream:
        text = "".join(piece.text for piece in stream)
    assert asked == 3
    assert whole.text == text == "a ba ba b"
    assert (whole.finish_reason, stream.answer.finish_reason) == ("length", "length")


def test_the_other_routes(client: Client) -> None:
    names = {model.id for model in client.models()}
    assert {"mixtral", "gpu", "vectors"} <= names
    one, two = client.embeddings(["first", "second"], model="vectors")
    assert one != two
    assert client.embeddings("first", model="vectors") == (one,)
    text = "Hello there"
    found = client.tokenize(text, model="counted")
    assert [text[token.start : token.stop] for token in found if token.stop > token.start] == ["Hello", "there"]
    with pytest.raises(ApiError) as caught:
        client.tokenize(text, model="mixtral")
    assert (caught.value.status, caught.value.message.startswith("No fast tokenizer")) == (404, True)


def test_a_kept_answer_says_so(gateway: Gateway, client: Client) -> None:
    gateway.script("kept").said = SAID
    answers = [client.chat("Hi", model="kept", temperature=0) for _ in range(2)]
    assert [answer.cached for answer in answers] == [False, True]
    assert answers[0].text == answers[1].text == TEXT


def test_a_tenant_with_one_model_need_not_name_it(gateway: Gateway) -> None:
    for key in (SINGLE_KEY, NARROW_KEY):
        with Client(gateway.url, key) as client:
            assert Conversation(client).ask("Hi", on_text=lambda _: None).answer.text


def test_refusals(gateway: Gateway, client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.chat("Hi", model="nobody")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert caught.value.request_id
    with Client(gateway.url, "mz_wrong") as stranger, pytest.raises(ApiError) as caught:
        stranger.models()
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    with pytest.raises(ApiError) as caught:
        client.generate("Hi", model="gpu", max_new_tokens=-1)
    assert caught.value.status in {400, 422}


def test_an_endpoint_without_capacity_is_waited_for(gateway: Gateway) -> None:
    waits: list[float] = []
    gateway.script("gpu").said = SAID
    gateway.script("gpu").failures = [no_capacity()]
    with Client(gateway.url, gateway.key, sleep=waits.append) as client, client.stream("Hi", model="gpu") as stream:
        assert "".join(piece.text for piece in stream) == TEXT
    assert len(waits) == 1
    assert waits[0] >= 1
