"""Turns with a model: what is remembered, what is measured, and what happens without log probabilities."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from unit.gateway_stand_in import DONE, KEY, Gateway, chunk, document, event, gateway, hello, refusal, stream

from modelzone.client import Answer, ApiError, Client, Conversation, Turn, Usage

QUESTION = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Hello there."}


@pytest.fixture
def server() -> Iterator[Gateway]:
    with gateway() as found:
        yield found


@pytest.fixture
def client(server: Gateway) -> Iterator[Client]:
    with Client(server.base_url, KEY) as found:
        yield found


def ask(conversation: Conversation, prompt: str = "Who?") -> Turn:
    return conversation.ask(prompt, on_text=lambda _: None)


def test_turns_are_remembered(server: Gateway, client: Client) -> None:
    server.replies = [hello(), hello(), hello()]
    conversation = Conversation(client, model="mixtral", system="Be brief.", parameters={"temperature": 0.5})
    first = ask(conversation)
    assert (first.answer.text, first.answer.finish_reason, first.pieces, first.stopped) == (
        "Hello there.",
        "stop",
        3,
        False,
    )
    ask(conversation, "And?")
    system = {"role": "system", "content": "Be brief."}
    assert server.seen[0].body["messages"] == [system, QUESTION]
    assert server.seen[1].body["messages"] == [system, QUESTION, ANSWER, {"role": "user", "content": "And?"}]
    assert (server.seen[1].body["temperature"], server.seen[1].body["model"]) == (0.5, "mixtral")
    conversation.reset()
    conversation.system = None
    ask(conversation)
    assert server.seen[2].body["messages"] == [QUESTION]
    assert conversation.messages == [QUESTION, ANSWER]


def test_a_turn_that_fails_leaves_nothing(server: Gateway, client: Client) -> None:
    server.replies = [refusal(400, "context_length_exceeded"), stream(chunk("Hel")), hello()]
    conversation = Conversation(client, model="mixtral")
    for _ in range(2):
        with pytest.raises(ApiError):
            ask(conversation)
        assert conversation.messages == []
    ask(conversation)
    assert conversation.messages == [QUESTION, ANSWER]


def test_an_answer_of_nothing_is_not_remembered(server: Gateway, client: Client) -> None:
    server.replies = [stream(chunk(""), chunk(reason="stop"), DONE)]
    conversation = Conversation(client, model="mixtral")
    turn = ask(conversation)
    assert (turn.answer.text, turn.pieces, turn.first_seconds) == ("", 0, None)
    assert conversation.messages == []


def test_confidence_is_asked_for(server: Gateway, client: Client) -> None:
    server.replies = [hello(confidence=0.8)]
    turn = ask(Conversation(client, model="mixtral"))
    assert server.seen[0].body["confidence"] is True
    assert turn.answer.confidence == 0.8


@pytest.mark.parametrize("param", ["confidence", "logprobs"])
def test_without_log_probabilities_it_is_asked_for_once(server: Gateway, client: Client, param: str) -> None:
    server.replies = [refusal(400, "unsupported_parameter", param=param), hello(), hello(), hello(confidence=0.5)]
    notes: list[str] = []
    conversation = Conversation(client, model="mixtral", note=notes.append)
    ask(conversation)
    ask(conversation)
    assert notes == ["mixtral tells no log probabilities, so there is no confidence"]
    # Another model may.
    conversation.model = "other"
    assert ask(conversation).answer.confidence == 0.5
    assert [body.get("confidence") for body in server.bodies()] == [True, None, None, True]


def test_another_refusal_is_no_reason_to_ask_again(server: Gateway, client: Client) -> None:
    server.replies = [refusal(400, "unsupported_parameter", param="top_k")]
    with pytest.raises(ApiError, match="unsupported_parameter"):
        ask(Conversation(client, model="mixtral"))
    assert len(server.seen) == 1


def test_the_only_model_is_taken(server: Gateway, client: Client) -> None:
    server.replies = [document({"data": [{"id": "mixtral"}]}), hello(), hello()]
    conversation = Conversation(client)
    ask(conversation)
    ask(conversation)
    assert [request.path for request in server.seen] == ["/api/v1/models", *["/api/v1/chat/completions"] * 2]
    assert {body["model"] for body in server.bodies()[1:]} == {"mixtral"}
    assert [body.get("confidence") for body in server.bodies()[1:]] == [True, True]


def test_of_several_models_the_gateway_chooses(server: Gateway, client: Client) -> None:
    server.replies = [document({"data": [{"id": "a"}, {"id": "b"}]}), hello()]
    ask(Conversation(client))
    assert "model" not in server.seen[1].body


def test_an_interrupt_stops_the_answer_and_keeps_what_came(server: Gateway, client: Client) -> None:
    def endless() -> bytes:
        time.sleep(0.005)
        return chunk("x" * 20_000)

    server.replies = [stream(chunk("Hel"), *[endless] * 2000, cut=True), hello()]
    conversation = Conversation(client, model="mixtral")

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    turn = conversation.ask("Who?", on_text=interrupt)
    assert (turn.stopped, turn.answer.text, turn.answer.finish_reason) == (True, "Hel", None)
    assert server.gone.wait(10)
    ask(conversation, "Go on.")
    assert server.seen[1].body["messages"][:2] == [QUESTION, {"role": "assistant", "content": "Hel"}]


def test_an_interrupt_before_the_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    conversation = Conversation(client, model="mixtral")
    monkeypatch.setattr(client, "stream", interrupt)
    turn = ask(conversation)
    assert (turn.stopped, turn.answer.text, turn.pieces) == (True, "", 0)
    assert conversation.messages == []


def test_times_are_those_of_the_pieces(server: Gateway, client: Client) -> None:
    def late() -> bytes:
        time.sleep(0.1)
        return chunk(" there")

    counts = event({"choices": [], "usage": {"completion_tokens": 11}})
    server.replies = [stream(chunk("Hello"), late, chunk(reason="stop"), counts, DONE)]
    turn = ask(Conversation(client, model="mixtral"))
    assert turn.first_seconds is not None
    assert 0 < turn.first_seconds <= turn.total_seconds - 0.05
    # Ten tokens after the first, in the time after the first.
    assert turn.tokens_per_second == pytest.approx(10 / (turn.total_seconds - turn.first_seconds))


@pytest.mark.parametrize(
    ("count", "pieces", "first", "rate"),
    [
        (11, 5, 1.0, 10.0), (None, 5, 1.0, None), (1, 1, 1.0, None), (11, 1, 1.0, None), (11, 5, None, None),
        (3, 3, 2.0, None),
    ],
)  # fmt: skip
def test_a_rate_needs_tokens_and_a_time(
    count: int | None, pieces: int, first: float | None, rate: float | None
) -> None:
    answer = Answer(text="x", finish_reason="stop", usage=Usage(completion_tokens=count))
    turn = Turn(answer=answer, pieces=pieces, first_seconds=first, total_seconds=2.0)
    assert turn.tokens_per_second == rate
