"""What text-generation-inference and LoRAX, which grew from it, have in common.

Read from the routers at TGI v2.1.1, v3.0.0 and v3.3.6 and at LoRAX v0.12.1:

- `/invocations` answers a list of one object where `/generate` answers the object, and prepends the prompt to the text
  unless `return_full_text` is false.
- A streamed request that is invalid answers 200 and one event `{"error", "error_type"}`; so does a failure in the
  middle of a stream.
- They sample whenever temperature, top_k, top_p or typical_p is given, whatever `do_sample` says.
- The last event is the one with the whole text. What follows (`[DONE]`, in some versions) means nothing.
- `details` of a stream has `input_length` (TGI from 2.2 on) or `prompt_tokens` (LoRAX) for the prompt; a whole answer
  has `prompt_tokens` (LoRAX) or the prompt's tokens in `prefill` (TGI, when asked).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invoke_proxy.errors import ApiError, bad_request
from invoke_proxy.generation import (
    Alternative,
    Answer,
    Finish,
    Generation,
    Heartbeat,
    Piece,
    StreamEvent,
    Token,
)
from invoke_proxy.sse import Comment, EventParser

from . import reading
from .asking import check_range, is_greedy

__all__ = ["ENGINE", "TgiParser", "generate_answer", "parameters", "whole_answer"]

ENGINE = "text-generation-inference"

# Both launchers' default of --max-stop-sequences, which the plan does not change.
MAX_STOP_SEQUENCES = 4

_ERROR_STATUS = {
    "generation": 424,
    "missing_template_variable": 422,
    "overloaded": 429,
    "template_error": 422,
    "tool_error": 422,
    "validation": 422,
}
_SEEDS = 2**64


def parameters(generation: Generation) -> dict[str, Any]:
    """Return the parameters that both servers know by the same names.

    Raises
    ------
    ApiError
        400 for values that both refuse.
    """
    check_range("repetition_penalty", generation.repetition_penalty, least=0, most=float("inf"), above=True)
    check_range("frequency_penalty", generation.frequency_penalty, least=-2, most=2)
    if len(generation.stop) > MAX_STOP_SEQUENCES:
        raise bad_request(
            f"stop has {len(generation.stop)} sequences, this engine takes {MAX_STOP_SEQUENCES} at most.", param="stop"
        )
    sampling = not is_greedy(generation)
    asked: dict[str, Any] = {
        "details": True,
        "return_full_text": False,
        # null is "what the prompt leaves of the context"; leaving it out is 100 in TGI 2.
        "max_new_tokens": generation.max_tokens,
        "do_sample": sampling,
    }
    if sampling:
        # TGI refuses 1.0 for top_p and typical_p, where clients mean "no limit".
        if generation.top_p is not None and generation.top_p < 1:
            asked["top_p"] = generation.top_p
        if generation.temperature is not None:
            asked["temperature"] = generation.temperature
        if generation.top_k is not None and generation.top_k > 0:
            asked["top_k"] = generation.top_k
    if generation.stop:
        asked["stop"] = list(generation.stop)
    if generation.seed is not None:
        # Theirs is unsigned; a negative one keeps its own place.
        asked["seed"] = generation.seed % _SEEDS
    if generation.repetition_penalty is not None:
        asked["repetition_penalty"] = generation.repetition_penalty
    if generation.frequency_penalty:
        asked["frequency_penalty"] = generation.frequency_penalty
    return asked | {
        name: value
        for name, value in generation.extra.items()
        # Asking for a typical set means sampling from it.
        if value is not None and (name != "typical_p" or (sampling and value != 1))
    }


class TgiParser:
    """Reads a stream of TGI or LoRAX."""

    def __init__(self) -> None:
        self._events = EventParser()
        self._finished = False

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Yield what the bytes complete."""
        if self._finished:
            return
        events = self._events.feed(chunk)
        while True:
            try:
                event = next(events, None)
            except ValueError as error:
                raise reading.not_understood(ENGINE) from error
            if event is None:
                return
            if isinstance(event, Comment):
                yield Heartbeat()
                continue
            piece, finish = _read_event(event.data)
            yield piece
            if finish is not None:
                self._finished = True
                yield finish
                return

    def end(self) -> Iterator[StreamEvent]:
        """Yield nothing: the last event completes an answer."""
        if not self._finished:
            raise reading.incomplete()
        return iter(())


def _read_event(data: str) -> tuple[Piece, Finish | None]:
    try:
        event = reading.load(data)
        if "error" in event:
            raise _failure(event)
        token = _token(event["token"], event.get("top_tokens"))
        finish = None
        if event.get("generated_text") is not None:
            finish = _finish(event.get("details") or {})
    except reading.MALFORMED as error:
        raise reading.not_understood(ENGINE) from error
    return Piece(text="" if token.special else token.text, tokens=(token,)), finish


def _failure(event: Mapping[str, Any]) -> ApiError:
    kind = event.get("error_type")
    status = _ERROR_STATUS.get(kind, 500) if isinstance(kind, str) else 500
    return reading.failure(status, event["error"], kind=kind)


def generate_answer(payload: bytes) -> dict[str, Any]:
    """Return the object inside the list that `/invocations` answers.

    Raises
    ------
    ApiError
        502 when the answer is not one of TGI's.
    """
    try:
        answer = reading.load(payload)
    except reading.MALFORMED:
        answer = None
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict) or not isinstance(answer.get("generated_text"), str):
        raise reading.not_understood(ENGINE)
    return answer


def whole_answer(payload: bytes) -> Answer:
    """Read an answer that came in one piece.

    Raises
    ------
    ApiError
        502 when the answer is not one of TGI's.
    """
    answer = generate_answer(payload)
    try:
        details = answer["details"]
        alternatives = details.get("top_tokens") or []
        tokens = tuple(
            _token(item, alternatives[index] if index < len(alternatives) else None)
            for index, item in enumerate(details["tokens"])
        )
        finish = _finish(details)
    except reading.MALFORMED as error:
        raise reading.not_understood(ENGINE) from error
    return Answer(text=_without_special(answer["generated_text"], tokens), tokens=tokens, finish=finish)


def _token(item: Mapping[str, Any], alternatives: Any) -> Token:
    # LoRAX puts them into the token.
    others = alternatives or item.get("alternative_tokens")
    return Token(
        text=reading.text(item["text"]),
        id=reading.whole_number(item.get("id")),
        logprob=reading.number(item.get("logprob")),
        special=item.get("special") is True,
        alternatives=_alternatives(others) if others else (),
    )


def _alternatives(items: Any) -> tuple[Alternative, ...]:
    """Return those that have a log probability; minus infinity has none in JSON."""
    return tuple(
        Alternative(text=reading.text(item["text"]), logprob=logprob, id=reading.whole_number(item.get("id")))
        for item in items
        if (logprob := reading.number(item["logprob"])) is not None
    )


def _finish(details: Mapping[str, Any]) -> Finish:
    prompt = reading.count(details.get("prompt_tokens", details.get("input_length")))
    if prompt is None:
        prompt = len(details.get("prefill") or ()) or None
    reason = details.get("finish_reason")
    return Finish(
        reason=reading.finish_reason(reason),
        engine_reason=reason,
        completion_tokens=reading.count(details.get("generated_tokens")),
        prompt_tokens=prompt,
        seed=reading.whole_number(details.get("seed")),
    )


def _without_special(words: str, tokens: tuple[Token, ...]) -> str:
    """Return the text without the special tokens at its end, which the server on Neuron leaves there."""
    for token in reversed(tokens):
        if not token.special:
            break
        words = words.removesuffix(token.text)
    return words
