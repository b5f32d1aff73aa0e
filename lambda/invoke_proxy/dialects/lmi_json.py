"""The dialect `lmi-json`: LMI 0.26.0 with transformers-neuronx, whose stream is one JSON document in pieces.

Read from deepjavalibrary/djl-serving@1635512: rolling_batch.py (`_json_output_formatter`), neuron_rolling_batch.py,
optimum_neuron_scheduler.py, RollingBatch.java. The document is `{"generated_text": "…", "details": {…}}`, written token
by token, the same whether the client streams or not; the text is handed on as it comes. Sampling without any limit
stops the backend, stop sequences and seeds are ignored, log probabilities are not reported. An error is written into
the middle of the document as another one, over several lines; a line end cannot stand in a JSON text, so it is found.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any

from invoke_proxy.generation import Answer, Finish, Generation, Piece, StreamEvent
from invoke_proxy.registry import Deployment

from . import reading
from .asking import TextDialect
from .base import StreamParser
from .json_lines import MAX_LINE_BYTES, gathered
from .lmi import Backend, is_filler, parameters, read_token

__all__ = ["LmiJson"]

_ENGINE = "DJL Serving"
_BACKEND = Backend(
    fields=frozenset({"top_k", "repetition_penalty"}),
    greedy={"do_sample": False},
    samples={"do_sample": True},
    shares_context=True,
    needs_warper=True,
)

_HEAD = re.compile(r'\s*\{\s*"generated_text"\s*:\s*"')
_MAX_HEAD = 64
# Characters and escapes of a JSON text, as many as are complete.
_TEXT = re.compile(r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_BEGUN_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
# What cannot be handed on before more is there: the first half of a pair, and a brace that may begin an error.
_UNDECIDED = re.compile(r"(?:\\u[dD][89abAB][0-9a-fA-F]{2}|\{)\Z")


class LmiJson(TextDialect):
    """`inputs` and `parameters`; one JSON document in pieces."""

    name = "lmi-json"
    tokens_are_counted = True

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`. 0.26.0 has no switch for streams: it always sends pieces."""
        prompt, asked = parameters(generation, deployment, _BACKEND)
        return {"inputs": prompt, "parameters": asked}

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        return gathered(self.parser(), payload)

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return _Parser()


class _Parser:
    """Reads the document: its head, the text, and the tail with the details, which is kept until the end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._in_text = False
        # Before the text, or inside of it, what is not decided yet; never longer than an escape.
        self._held = ""
        self._kept: list[str] | None = None
        self._size = 0
        self._failed = False
        self._finished = False

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Yield the text that the bytes complete."""
        if self._finished:
            return
        try:
            words = self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise reading.not_understood(_ENGINE) from error
        if not words:
            return
        if self._kept is None and not self._in_text:
            words = self._head(words)
        if self._kept is None and self._in_text:
            text, words = self._text(words)
            if text:
                yield Piece(text=text)
        if self._kept is not None and words:
            self._size += len(words)
            if self._size > MAX_LINE_BYTES:
                raise reading.not_understood(_ENGINE)
            self._kept.append(words)

    def end(self) -> Iterator[StreamEvent]:
        """Yield the tokens of the details and the finish."""
        if self._finished:
            return
        try:
            self._decoder.decode(b"", final=True)
            document = self._document()
            reading.raise_failure(document)
            details = document.get("details", {})
            items = details.get("tokens") or []
            tokens = tuple(read_token(item) for item in items if not is_filler(item))
            reason = details.get("finish_reason")
            finish = Finish(
                reason=reading.finish_reason(reason),
                engine_reason=reason,
                # One entry for each generated token: what is left after the fillers is their number.
                completion_tokens=len(tokens) if items else None,
            )
        except reading.MALFORMED as error:
            raise reading.incomplete() from error
        self._finished = True
        if tokens:
            yield Piece(tokens=tokens)
        yield finish

    def _document(self) -> dict[str, Any]:
        if self._kept is None and self._in_text:
            raise reading.incomplete()
        rest = self._held if self._kept is None else "".join(self._kept)
        if self._in_text and not self._failed:
            rest = '{"generated_text": "' + rest
        document = reading.load(rest)
        if not isinstance(document, dict) or (self._failed and "code" not in document):
            raise reading.incomplete()
        if not self._in_text and "code" not in document and "error" not in document:
            raise reading.not_understood(_ENGINE)
        return document

    def _head(self, words: str) -> str:
        """Find the beginning of the text; anything else is kept as a document of its own, an error."""
        words = self._held + words
        self._held = ""
        found = _HEAD.match(words)
        if found is not None:
            self._in_text = True
            return words[found.end() :]
        if len(words) > _MAX_HEAD:
            self._kept = []
            return words
        self._held = words
        return ""

    def _text(self, words: str) -> tuple[str, str]:
        """Return the text that is complete, and what follows it."""
        words = self._held + words
        self._held = ""
        found = _TEXT.match(words)
        end = found.end() if found is not None else 0
        text, rest = words[:end], words[end:]
        if not rest or _BEGUN_ESCAPE.match(rest):
            undecided = None if rest else _UNDECIDED.search(text)
            if undecided is not None:
                text, rest = text[: undecided.start()], undecided.group()
            elif rest:
                half = _UNDECIDED.search(text)
                if half is not None and half.group() != "{":
                    text, rest = text[: half.start()], half.group() + rest
            self._held = rest
            rest = ""
        elif rest[0] == '"':
            self._kept = []
        elif rest[0] == "\n" and text.endswith("{"):
            self._failed = True
            self._kept = []
            text, rest = text[:-1], "{" + rest
        else:
            raise reading.not_understood(_ENGINE)
        return _decoded(text), rest


def _decoded(text: str) -> str:
    if "\\" not in text:
        return text
    value: str = reading.load(f'"{text}"')
    return value
