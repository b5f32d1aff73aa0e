"""A conversation of several turns, and what each of them took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelzone.client.answers import Answer
from modelzone.client.client import Client
from modelzone.client.errors import ApiError
from modelzone.client.stream import AnswerStream

__all__ = ["Conversation", "Turn"]

# What the gateway calls a wish that the deployment's engine cannot fulfil.
_UNSUPPORTED = {"unsupported_parameter", "unsupported_value"}
_OF_CONFIDENCE = {"confidence", "logprobs", "top_logprobs"}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An answer and its times in seconds: until its first piece (None: none came), and until its end.

    `stopped` says that whoever asked did not want the rest.
    """

    answer: Answer
    pieces: int
    first_seconds: float | None
    total_seconds: float
    stopped: bool = False

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first in the time after the first; None where they are not counted or came at once."""
        count = self.answer.completion_tokens
        if count is None or self.first_seconds is None or count < 2 or self.pieces < 2:  # noqa: PLR2004
            return None
        span = self.total_seconds - self.first_seconds
        return (count - 1) / span if span > 0 else None


class Conversation:
    """Turns with a model. A turn that fails leaves no trace in what the model is sent next.

    Parameters
    ----------
    model
        None: the gateway's own default, or the only one that there is.
    system
        What stands before everything.
    parameters
        For every request, as of `Client.chat`.
    note
        Is told when confidence is not to be had.
    """

    def __init__(
        self,
        client: Client,
        *,
        model: str | None = None,
        system: str | None = None,
        parameters: dict[str, Any] | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._client, self._note = client, note
        self.model, self.system = model, system
        self._parameters = parameters or {}
        self._history: list[dict[str, Any]] = []
        # Models whose engine tells no log probabilities.
        self._unsure: set[str | None] = set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that was said, as OpenAI's message objects."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self._history]

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self._history.clear()

    def ask(self, prompt: str, *, on_text: Callable[[str], object]) -> Turn:
        """Ask, and hand each piece of the answer's text over as it comes.

        A KeyboardInterrupt ends the answer: what came of it is kept, and the turn says that it was stopped.

        Raises
        ------
        ApiError
            The gateway refuses or breaks off.
        """
        question = {"role": "user", "content": prompt}
        turn = self._turn([*self.messages, question], on_text)
        if turn.answer.text:
            self._history += [question, {"role": "assistant", "content": turn.answer.text}]
        return turn

    def _turn(self, messages: list[dict[str, Any]], on_text: Callable[[str], object]) -> Turn:
        started = time.monotonic()
        first: float | None = None
        pieces, stopped = 0, False
        stream: AnswerStream | None = None
        try:
            if self.model is None:
                self._choose_model()
                started = time.monotonic()
            stream = self._open(messages)
            for piece in stream:
                if piece.text:
                    first = time.monotonic() - started if first is None else first
                    pieces += 1
                    on_text(piece.text)
        except KeyboardInterrupt:
            # Also before the first piece: that is when one waits longest.
            stopped = True
        finally:
            if stream is not None:
                stream.close()
        return Turn(
            answer=stream.answer if stream else Answer(text="", finish_reason=None, model=self.model),
            pieces=pieces,
            first_seconds=first,
            total_seconds=time.monotonic() - started,
            stopped=stopped,
        )

    def _open(self, messages: list[dict[str, Any]]) -> AnswerStream:
        """Ask with confidence; where the engine has none the gateway refuses that before it asks the model."""
        sure = self.model not in self._unsure
        try:
            return self._client.stream(messages, model=self.model, confidence=sure, **self._parameters)
        except ApiError as error:
            if not sure or error.code not in _UNSUPPORTED or error.param not in _OF_CONFIDENCE:
                raise
        self._forgo_confidence()
        return self._client.stream(messages, model=self.model, **self._parameters)

    def _forgo_confidence(self) -> None:
        self._unsure.add(self.model)
        self._note(f"{self.model or 'the model'} tells no log probabilities, so there is no confidence")

    def _choose_model(self) -> None:
        """Take the only model; where there are several, the gateway decides or says which ones."""
        found = self._client.models()
        if len(found) == 1:
            self.model = found[0].id
