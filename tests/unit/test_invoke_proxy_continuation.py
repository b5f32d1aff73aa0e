from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invoke_proxy.continuation import Continuation, continued_answer, continued_events, next_generation
from invoke_proxy.errors import ApiError, bad_request
from invoke_proxy.generation import Answer, Finish, Generation, Heartbeat, Piece, StreamEvent, Token, ToolCall
from invoke_proxy.stop_filter import StopFilter

Start = Callable[[Generation], Any]


class Engine:
    """Goes on with a text it knows by heart, a token after the other, within a context of so many characters.

    Parameters
    ----------
    prompt, tokens
        The text that it knows: a prompt and its answer.
    context
        The most characters of prompt and answer; a request that asks for more tokens than may fit is refused.
    knows_stop
        Whether it ends at stop sequences, which it leaves in.
    counts
        Whether it counts the prompt.
    """

    def __init__(
        self,
        prompt: str,
        tokens: list[str],
        *,
        context: int = 10_000,
        knows_stop: bool = True,
        counts: bool = True,
    ) -> None:
        self.prompt, self.tokens, self.context = prompt, tokens, context
        self.knows_stop, self.counts = knows_stop, counts
        self.asked: list[Generation] = []
        self.closed = 0

    def text_of(self, generation: Generation) -> str:
        if generation.prompt is not None:
            return generation.prompt
        messages = list(generation.messages or ())
        assert generation.continue_final == (messages[-1]["role"] == "assistant")
        return "".join(message["content"] for message in messages)

    def run(self, generation: Generation) -> list[StreamEvent]:
        self.asked.append(generation)
        text = self.text_of(generation)
        assert text.startswith(self.prompt)
        done, position = len(text) - len(self.prompt), 0
        rest = []
        for token in self.tokens:
            if position >= done:
                rest.append(token)
            position += len(token)
        room = self.context - len(text)
        if room < 1 or (generation.max_tokens is not None and generation.max_tokens > room):
            raise bad_request("too long")
        events: list[StreamEvent] = []
        reason, made = "eos_token", ""
        for token in rest:
            if len(events) >= (room if generation.max_tokens is None else generation.max_tokens):
                reason = "length"
                break
            events.append(Piece(text=token, tokens=(Token(text=token, logprob=-1.0),)))
            made += token
            if self.knows_stop and any(made.endswith(stop) for stop in generation.stop):
                reason = "stop_sequence"
                break
        count = len(events)
        return [
            *events,
            Finish(
                reason="length" if reason == "length" else "stop",
                engine_reason=reason,
                completion_tokens=count,
                prompt_tokens=len(text) if self.counts else None,
                seed=len(self.asked),
            ),
        ]

    async def stream(self, generation: Generation) -> AsyncIterator[StreamEvent]:
        events = self.run(generation)

        async def each() -> AsyncIterator[StreamEvent]:
            try:
                for event in events:
                    yield event
            finally:
                self.closed += 1

        return each()

    async def whole(self, generation: Generation) -> Answer:
        *pieces, finish = self.run(generation)
        assert isinstance(finish, Finish)
        return Answer(
            text="".join(piece.text for piece in pieces if isinstance(piece, Piece)),
            tokens=tuple(token for piece in pieces if isinstance(piece, Piece) for token in piece.tokens),
            finish=finish,
        )


def asked(prompt: str = "Q:", **overrides: Any) -> Generation:
    return Generation(**{"stream": True, "prompt": prompt, "max_tokens": 2, **overrides})


async def events_of(start: Start, generation: Generation, **limits: Any) -> list[StreamEvent]:
    return [event async for event in continued_events(start, generation, **{"max_requests": 8, **limits})]


def text_of(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def finish_of(events: list[StreamEvent]) -> Finish:
    (finish,) = [event for event in events if isinstance(event, Finish)]
    assert events[-1] is finish
    return finish


async def test_the_answer_goes_on_until_it_stops() -> None:
    engine = Engine("Q:", ["one", " two", " three", " four", " five"])

    events = await events_of(engine.stream, asked())

    assert text_of(events) == "one two three four five"
    assert [request.prompt for request in engine.asked] == ["Q:", "Q:one two", "Q:one two three four"]
    assert finish_of(events) == Finish(
        reason="stop", engine_reason="eos_token", completion_tokens=5, prompt_tokens=2, seed=1
    )
    assert engine.closed == 3
    assert any(isinstance(event, Heartbeat) for event in events)


async def test_messages_get_a_last_one_that_is_continued() -> None:
    engine = Engine("Hi", ["one", " two", " three"])
    messages = ({"role": "user", "content": "Hi"},)

    events = await events_of(engine.stream, asked(prompt=None, messages=messages))  # type: ignore[arg-type]

    assert text_of(events) == "one two three"
    assert engine.asked[1].messages == (*messages, {"role": "assistant", "content": "one two"})
    assert engine.asked[1].continue_final


async def test_an_answer_that_the_client_began_grows() -> None:
    engine = Engine("HiWell", ["one", " two", " three"])
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well", "name": "a"})
    generation = asked(prompt=None, messages=messages, continue_final=True)  # type: ignore[arg-type]

    assert text_of(await events_of(engine.stream, generation)) == "one two three"
    assert engine.asked[1].messages == (messages[0], {**messages[1], "content": "Wellone two"})


async def test_the_number_of_requests_is_a_bound() -> None:
    engine = Engine("Q:", ["a", "b", "c", "d", "e", "f"])

    events = await events_of(engine.stream, asked(), max_requests=2)

    assert text_of(events) == "abcd"
    assert (finish_of(events).reason, finish_of(events).completion_tokens, len(engine.asked)) == ("length", 4, 2)
    with pytest.raises(ValueError, match="max_requests is 0"):
        Continuation(asked(), max_requests=0)


async def test_one_request_passes_unchanged() -> None:
    texts = ["a\ufffd", "b", "c"]

    events = await events_of(Engine("Q:", texts).stream, asked(), max_requests=1)

    assert events == Engine("Q:", texts).run(asked())


async def test_a_stop_sequence_may_span_two_requests() -> None:
    engine = Engine("Q:", ["one", " E", "ND", " more", " and"], knows_stop=False)

    events = await events_of(engine.stream, asked(stop=("END",)))

    assert text_of(events).startswith("one END")
    finish = finish_of(events)
    assert (finish.reason, finish.engine_reason) == ("stop", "stop_sequence")
    assert len(engine.asked) == 2


async def test_an_engine_that_runs_past_a_stop_sequence_is_cut_off() -> None:
    engine = Engine("Q:", ["END", *"abcdefgh"], knows_stop=False)

    events = await events_of(engine.stream, asked(stop=("END",), max_tokens=9), max_requests=1)

    assert text_of(events) == "ENDabc"
    assert finish_of(events).completion_tokens == 4
    assert engine.closed == 1


async def test_no_room_ends_the_answer_with_length() -> None:
    """A limit that does not fit any more is left out, so that the room that is left is used."""
    engine = Engine("Q:", list("abcdefghij"), context=2 + 7)

    events = await events_of(engine.stream, asked(max_tokens=3))

    assert text_of(events) == "abcdefg"
    assert (finish_of(events).reason, finish_of(events).completion_tokens) == ("length", 7)
    assert [request.max_tokens for request in engine.asked] == [3, 3, 3, None, 3, None]


async def test_counts_say_when_there_is_no_room() -> None:
    engine = Engine("Q:", list("abcdefghij"))

    events = await events_of(engine.stream, asked(max_tokens=3), max_input_tokens=2 + 5)

    assert (text_of(events), len(engine.asked)) == ("abcdef", 2)


async def test_the_whole_answer_may_have_a_limit() -> None:
    engine = Engine("Q:", list("abcdefghij"))

    events = await events_of(engine.stream, asked(max_tokens=3), max_output_tokens=7)

    assert text_of(events) == "abcdefg"
    assert [request.max_tokens for request in engine.asked] == [3, 3, 1]


@pytest.mark.parametrize("status", [400, 503])
async def test_a_failing_first_request_fails(status: int) -> None:
    async def start(_: Generation) -> AsyncIterator[StreamEvent]:
        raise ApiError(status=status, message="no", code="no")

    with pytest.raises(ApiError):
        await events_of(start, asked())


@pytest.mark.parametrize(
    ("status", "begun", "fails"),
    [(422, False, False), (422, True, True), (503, False, False), (429, False, False), (503, True, True)],
)
async def test_a_failing_later_request(status: int, begun: bool, fails: bool) -> None:
    engine = Engine("Q:", list("abcd"))

    async def start(generation: Generation) -> AsyncIterator[StreamEvent]:
        if not engine.asked:
            return await engine.stream(generation)

        async def broken() -> AsyncIterator[StreamEvent]:
            if begun:
                yield Piece(text="x")
            raise ApiError(status=status, message="no", code="no")

        return broken()

    if fails:
        with pytest.raises(ApiError):
            await events_of(start, asked())
    else:
        events = await events_of(start, asked())
        finish = finish_of(events)
        # What was paid for is there, and counted.
        assert (finish.reason, finish.completion_tokens) == ("length", 2)
        assert "".join(event.text for event in events if isinstance(event, Piece)) == "ab"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_whole_answer_outlives_a_failing_later_request(status: int) -> None:
    engine = Engine("Q:", list("abcdef"))

    async def ask(generation: Generation) -> Answer:
        if engine.asked:
            engine.asked.append(generation)
            raise ApiError(status=status, message="no", code="no")
        return await engine.whole(generation)

    whole, requests = await continued_answer(ask, asked(), max_requests=8)

    assert (whole.text, whole.finish.reason, requests) == ("ab", "length", 1)
    assert whole.finish.completion_tokens == 2
    # Only a refusal is worth another attempt.
    assert len(engine.asked) == 2


async def test_an_unfinished_character_is_written_again() -> None:
    answers = iter([["a", "\ufffd"], ["🙂", "b"]])
    asked_for: list[str | None] = []

    async def start(generation: Generation) -> AsyncIterator[StreamEvent]:
        asked_for.append(generation.prompt)
        texts = next(answers)

        async def each() -> AsyncIterator[StreamEvent]:
            for text in texts:
                yield Piece(text=text, tokens=(Token(text=text),))
            yield Finish(reason="length" if texts[0] == "a" else "stop", completion_tokens=2)

        return each()

    events = await events_of(start, asked())

    assert asked_for == ["Q:", "Q:a"]
    assert text_of(events) == "a🙂b"
    assert [token.text for event in events if isinstance(event, Piece) for token in event.tokens] == ["a", "🙂", "b"]
    assert finish_of(events).completion_tokens == 4


async def test_an_unfinished_character_at_the_very_end_is_not_lost() -> None:
    engine = Engine("Q:", ["a", "\ufffd"])

    assert text_of(await events_of(engine.stream, asked(max_tokens=5))) == "a\ufffd"


async def test_nothing_new_is_no_reason_to_go_on() -> None:
    count = 0

    async def start(_: Generation) -> AsyncIterator[StreamEvent]:
        nonlocal count
        count += 1

        async def each() -> AsyncIterator[StreamEvent]:
            if count == 1:
                yield Piece(text="x")
            yield Finish(reason="length")

        return each()

    events = await events_of(start, asked())

    assert (count, text_of(events), finish_of(events).reason) == (2, "x", "length")


async def test_calls_are_not_continued() -> None:
    async def start(_: Generation) -> AsyncIterator[StreamEvent]:
        async def each() -> AsyncIterator[StreamEvent]:
            yield Piece(text="x", tool_calls=(ToolCall(index=0, name="f"),))
            yield Finish(reason="length")

        return each()

    assert finish_of(await events_of(start, asked())).reason == "length"


async def test_unknown_counts_stay_unknown() -> None:
    engine = Engine("Q:", list("abcd"), counts=False)

    finish = finish_of(await events_of(engine.stream, asked()))

    assert (finish.prompt_tokens, finish.completion_tokens) == (None, 4)


async def test_a_client_that_leaves_closes_the_engine_s_stream() -> None:
    engine = Engine("Q:", list("abcd"))
    events = continued_events(engine.stream, asked(), max_requests=8)
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]

    assert engine.closed == 1


async def test_whole_answers_go_on_as_streams_do() -> None:
    engine = Engine("Q:", ["one", " two", " three"], context=100)

    answer, requests = await continued_answer(engine.whole, asked(stream=False), max_requests=8)

    assert (answer.text, requests) == ("one two three", 2)
    assert [token.text for token in answer.tokens] == ["one", " two", " three"]
    assert answer.finish.completion_tokens == 3


async def test_whole_answers_end_where_there_is_no_room() -> None:
    engine = Engine("Q:", list("abcdefghij"), context=2 + 7)

    answer, requests = await continued_answer(engine.whole, asked(max_tokens=3), max_requests=8)

    assert (answer.text, answer.finish.reason, requests) == ("abcdefg", "length", 3)


def test_next_generation_needs_text_and_room() -> None:
    assert next_generation(asked(), text_so_far="", tokens_so_far=0) is None
    unlimited = next_generation(asked(max_tokens=None), text_so_far="x", tokens_so_far=3, max_output_tokens=5)
    assert unlimited is not None
    assert (unlimited.max_tokens, unlimited.prompt) == (2, "Q:x")
    assert next_generation(asked(), text_so_far="x", tokens_so_far=5, max_output_tokens=5) is None


@settings(deadline=None)  # the machine may be busy
@given(
    tokens=st.lists(st.text(alphabet="ab\n🙂", min_size=1, max_size=3), min_size=1, max_size=12),
    size=st.integers(1, 12),
    stop=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=3), max_size=2).map(tuple),
    knows_stop=st.booleans(),
    streamed=st.booleans(),
)
def test_wherever_requests_end_the_text_is_the_same(
    tokens: list[str], size: int, stop: tuple[str, ...], knows_stop: bool, streamed: bool
) -> None:
    engine = Engine("Q:", tokens, knows_stop=knows_stop)
    generation = asked(max_tokens=size, stop=stop)
    if streamed:
        events = asyncio.run(events_of(engine.stream, generation, max_requests=len(tokens) + 1))
        text, finish = text_of(events), finish_of(events)
        made = [token.text for event in events if isinstance(event, Piece) for token in event.tokens]
    else:
        answer, _ = asyncio.run(continued_answer(engine.whole, generation, max_requests=len(tokens) + 1))
        text, finish, made = answer.text, answer.finish, [token.text for token in answer.tokens]
    at_once, in_pieces = StopFilter(stop), StopFilter(stop)
    expected = at_once.feed("".join(tokens)) + at_once.flush()

    assert in_pieces.feed(text) + in_pieces.flush() == expected
    assert "".join(made) == text
    assert finish.reason == "stop"
    assert finish.completion_tokens == len(made)
    if not at_once.stopped:
        assert text == "".join(tokens)
