"""Long answers in several requests: what ended at its limit of tokens is given back to the model to go on.

The client sees one answer. Where a text was asked for, the next request's text is the old one and the answer so far;
where messages were, the answer so far is a last message that the engine continues. ``max_tokens`` is the limit of each
request's answer, as if the client had sent the requests itself; the whole is bounded by the number of requests and by
the model's context. `prompt_tokens` are those of the client's own prompt, `completion_tokens` the sum of all requests'.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Answer, Finish, Generation, Heartbeat, Piece, StreamEvent, Token
from invoke_proxy.stop_filter import StopFilter

__all__ = ["Continuation", "continued_answer", "continued_events", "next_generation"]

# What an engine says to a request that it has answered before, with less text: that there is no room.
_NO_ROOM = frozenset({400, 413, 422})
# An engine that knows the stop sequence ends with it; one that does not would go on to its limit.
_PIECES_AFTER_STOP = 2


def next_generation(
    generation: Generation,
    *,
    text_so_far: str,
    tokens_so_far: int | None,
    prompt_tokens: int | None = None,
    max_input_tokens: int | None = None,
    max_output_tokens: int | None = None,
) -> Generation | None:
    """Return the request that goes on after the text, or None when there is no room or nothing to go on with.

    Parameters
    ----------
    generation
        The client's request.
    text_so_far, tokens_so_far
        What the model has answered since, and how many tokens; None for a number that the engine did not report.
    prompt_tokens
        How many tokens the client's prompt has, if known.
    max_input_tokens
        The most tokens that the engine takes as a prompt. Where counts are unknown the engine itself has to refuse.
    max_output_tokens
        The most tokens of the whole answer.
    """
    if not text_so_far:
        return None
    limits: dict[str, Any] = {}
    if tokens_so_far is not None:
        if max_input_tokens is not None and (prompt_tokens or 0) + tokens_so_far > max_input_tokens:
            return None
        if max_output_tokens is not None:
            left = max_output_tokens - tokens_so_far
            if left < 1:
                return None
            limits["max_tokens"] = left if generation.max_tokens is None else min(left, generation.max_tokens)
    if generation.prompt is not None:
        return replace(generation, prompt=generation.prompt + text_so_far, **limits)
    messages = list(generation.messages or ())
    if generation.continue_final and messages:
        begun = messages.pop()
        messages.append({**begun, "content": f"{begun.get('content') or ''}{text_so_far}"})
    else:
        messages.append({"role": "assistant", "content": text_so_far})
    return replace(generation, messages=tuple(messages), continue_final=True, **limits)


class Continuation:
    """Keep account of one answer over its requests: feed it every event, in order.

    Stop sequences are looked for over the borders of requests. A last character that is incomplete at the end of a
    request (U+FFFD) is held back and left out if the model goes on: it will write the character again.

    Parameters
    ----------
    generation
        The client's request, which is the first.
    max_requests
        How many requests there are at most; with 1 everything passes unchanged.
    max_input_tokens, max_output_tokens
        See `next_generation`.
    tokens_are_counted
        Whether each generated token is one of the pieces' tokens.

    Attributes
    ----------
    requests
        How many requests there were so far.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        max_requests: int,
        max_input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        tokens_are_counted: bool = True,
    ) -> None:
        if max_requests < 1:
            raise ValueError(f"max_requests is {max_requests}, it must be at least 1")
        self.requests = 1
        self._first = generation
        self._max_requests = max_requests
        self._limits = {"max_input_tokens": max_input_tokens, "max_output_tokens": max_output_tokens}
        self._stop = StopFilter(generation.stop)
        self._texts: list[str] = []
        self._held = Piece()
        self._seen_tokens = 0
        self._uncounted = False
        self._counts_tokens = tokens_are_counted
        self._length = 0
        self._length_before = 0
        self._following: Generation | None = None
        self._completion_tokens: int | None = 0
        self._prompt_tokens: int | None = None
        self._seed: int | None = None
        self._called = False
        self._since_stop = 0
        self._last: Finish | None = None

    @property
    def overdue(self) -> bool:
        """Whether a stop sequence was found and the engine goes on all the same: its stream may be dropped."""
        return self._since_stop > _PIECES_AFTER_STOP

    def feed(self, piece: Piece) -> Piece | None:
        """Return what of the piece goes on to the client now."""
        self._seen_tokens += len(piece.tokens)
        self._uncounted |= bool(piece.text) and not piece.tokens
        self._called |= bool(piece.tool_calls)
        if self._stop.stopped:
            self._since_stop += 1
        elif self._stop.sequences:
            self._stop.feed(piece.text)
        if self._max_requests == 1:
            return piece
        if self._held.text or self._held.tokens:
            piece = Piece(
                text=self._held.text + piece.text,
                tokens=self._held.tokens + piece.tokens,
                tool_calls=piece.tool_calls,
            )
            self._held = Piece()
        if piece.text.endswith("\ufffd"):
            piece, self._held = _without_broken_end(piece)
        if not (piece.text or piece.tokens or piece.tool_calls):
            return None
        self._texts.append(piece.text)
        self._length += len(piece.text)
        return piece

    def finish(self, finish: Finish) -> Generation | Finish:
        """Return the next request when the answer goes on, else the one finish of the whole."""
        self._count(finish)
        if self._stop.stopped or finish.reason != "length" or self._called or self.requests >= self._max_requests:
            return self._whole(finish)
        following = next_generation(
            self._first,
            text_so_far="".join(self._texts),
            tokens_so_far=self._completion_tokens,
            prompt_tokens=self._prompt_tokens,
            **self._limits,
        )
        # A request that brought nothing would bring nothing again.
        if following is None or self._length == self._length_before:
            return self._whole(finish)
        self._length_before = self._length
        self._held = Piece()
        self.requests += 1
        self._following = following
        return following

    def held(self) -> Piece | None:
        """Return what was held back, once the whole has ended."""
        held, self._held = self._held, Piece()
        return held if held.text or held.tokens else None

    def cut(self) -> Finish:
        """Return the finish for an answer whose stop sequence was found while the engine went on.

        Its tokens are those that were seen, if each text came with them.
        """
        reported = self._seen_tokens if self._counts_tokens and not self._uncounted else None
        return self.finish(  # type: ignore[return-value]  # a stopped answer never goes on
            Finish(reason="stop", engine_reason="stop_sequence", completion_tokens=reported)
        )

    @property
    def may_end(self) -> bool:
        """Whether the answer so far can be the whole: a later request that fails takes nothing of it away."""
        return self.requests > 1

    def refused(self, error: ApiError) -> Generation | Finish:
        """Return what follows when a later request failed before it brought anything.

        Engines refuse a limit of tokens that the context cannot hold: the request is made once more without one. Then,
        and after any other failure (an engine that is busy or has broken down), the answer ends with what there is.
        """
        last = self._last
        if last is None or self._following is None:
            raise RuntimeError("the first request is not this class's to judge")
        if error.status in _NO_ROOM and self._following.max_tokens is not None:
            self._following = replace(self._following, max_tokens=None)
            return self._following
        self.requests -= 1
        return self._whole(last)

    def _count(self, finish: Finish) -> None:
        if self._last is None:
            self._prompt_tokens, self._seed = finish.prompt_tokens, finish.seed
        self._last = finish
        if finish.completion_tokens is None or self._completion_tokens is None:
            self._completion_tokens = None
        else:
            self._completion_tokens += finish.completion_tokens
        self._seen_tokens = 0
        self._uncounted = False

    def _whole(self, finish: Finish) -> Finish:
        stopped = self._stop.stopped
        return replace(
            finish,
            reason="stop" if stopped else finish.reason,
            engine_reason="stop_sequence" if stopped else finish.engine_reason,
            completion_tokens=self._completion_tokens,
            prompt_tokens=self._prompt_tokens,
            seed=self._seed,
        )


async def continued_events(
    start: Callable[[Generation], Awaitable[AsyncIterator[StreamEvent]]],
    generation: Generation,
    *,
    max_requests: int,
    max_input_tokens: int | None = None,
    max_output_tokens: int | None = None,
    tokens_are_counted: bool = True,
) -> AsyncIterator[StreamEvent]:
    """Yield the events of one answer, whatever the number of requests; the last is its one finish.

    A stream that goes on after a stop sequence is closed. Closing this generator closes the engine's stream.

    Parameters
    ----------
    start
        Starts a request and returns its events; called for the first when the first event is asked for.
    generation, max_requests, max_input_tokens, max_output_tokens, tokens_are_counted
        See `Continuation`.

    Raises
    ------
    ApiError
        What `start` and its events raise. Only a failure of a later request, before anything of it, ends the answer
        with ``length``.
    """
    continuation = Continuation(
        generation,
        max_requests=max_requests,
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        tokens_are_counted=tokens_are_counted,
    )
    asked: Generation | Finish | None = generation
    while isinstance(asked, Generation):
        request, asked = asked, None
        pieces = 0
        events: AsyncIterator[StreamEvent] | None = None
        try:
            events = await start(request)
            async for event in events:
                if isinstance(event, Finish):
                    asked = continuation.finish(event)
                    break
                pieces += isinstance(event, Piece)
                passed = continuation.feed(event) if isinstance(event, Piece) else event
                if passed is not None:
                    yield passed
                if continuation.overdue:
                    asked = continuation.cut()
                    break
        except ApiError as error:
            if pieces or not continuation.may_end:
                raise
            asked = continuation.refused(error)
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
        if isinstance(asked, Generation):
            # The next request's first token may take a while.
            yield Heartbeat()
    held = continuation.held()
    if held is not None:
        yield held
    if asked is not None:
        yield asked


async def continued_answer(
    ask: Callable[[Generation], Awaitable[Answer]],
    generation: Generation,
    *,
    max_requests: int,
    max_input_tokens: int | None = None,
    max_output_tokens: int | None = None,
    tokens_are_counted: bool = True,
) -> tuple[Answer, int]:
    """Return one answer in one piece and the number of requests that it took; see `continued_events`."""
    continuation = Continuation(
        generation,
        max_requests=max_requests,
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        tokens_are_counted=tokens_are_counted,
    )
    pieces: list[Piece] = []
    asked: Generation | Finish = generation
    while isinstance(asked, Generation):
        try:
            answer = await ask(asked)
        except ApiError as error:
            if not continuation.may_end:
                raise
            asked = continuation.refused(error)
            continue
        passed = continuation.feed(Piece(text=answer.text, tokens=answer.tokens, tool_calls=answer.tool_calls))
        if passed is not None:
            pieces.append(passed)
        asked = continuation.finish(answer.finish)
    held = continuation.held()
    if held is not None:
        pieces.append(held)
    tokens: tuple[Token, ...] = tuple(token for piece in pieces for token in piece.tokens)
    whole = Answer(
        text="".join(piece.text for piece in pieces),
        finish=asked,
        tokens=tokens,
        tool_calls=tuple(call for piece in pieces for call in piece.tool_calls),
    )
    return whole, continuation.requests


def _without_broken_end(piece: Piece) -> tuple[Piece, Piece]:
    """Divide a piece before the incomplete character at its end, tokens included."""
    text = piece.text.rstrip("\ufffd")
    broken = piece.text[len(text) :]
    keep = len(piece.tokens)
    while keep and not piece.tokens[keep - 1].special and piece.tokens[keep - 1].text.strip("\ufffd") == "":
        keep -= 1
    return (
        Piece(text=text, tokens=piece.tokens[:keep], tool_calls=piece.tool_calls),
        Piece(text=broken, tokens=piece.tokens[keep:]),
    )
