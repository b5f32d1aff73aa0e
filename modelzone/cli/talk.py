"""A conversation on the terminal: what is typed, what is shown, and the commands in between."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from modelzone.cli.output import note, write
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.client import Conversation, Turn

__all__ = ["Talk", "show", "summary"]

# A model may write what a terminal would obey.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHOWN_SENTENCE = 60
_HELP = """\
/model [NAME]   ask another model; without a name list them
/system [TEXT]  what the model is told before everything; - for nothing; without a text show it
/reset          forget what was said
/save FILE      write what was said as JSON
/quit           end (Ctrl-D)
A line that ends in \\ goes on in the next. // begins a message with a slash. Ctrl-C stops an answer."""


def show(text: str) -> None:
    """Print a part of an answer at once; on a terminal without what that would obey."""
    sys.stdout.write(_OBEYED.sub("", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def summary(turn: Turn) -> str:
    """Why an answer ended, its tokens and times, and how sure the model was."""
    answer = turn.answer
    count, rate = answer.completion_tokens, turn.tokens_per_second
    parts = [
        "stopped" if turn.stopped else str(answer.finish_reason),
        _counted(turn.pieces, "piece") if count is None else _counted(count, "token"),
        "" if rate is None else f"{rate:.1f} tokens/s",
        "" if turn.first_seconds is None else f"first after {turn.first_seconds:.2f} s",
        f"all after {turn.total_seconds:.2f} s",
        "from the cache" if answer.cached else "",
        "" if answer.confidence is None else f"confidence {answer.confidence:.2f}",
    ]
    text = f"[{', '.join(part for part in parts if part)}]"
    scored = [(sentence.score, sentence.text) for sentence in answer.sentences if sentence.score is not None]
    if len(scored) > 1:
        score, least = min(scored, key=itemgetter(0))
        words = " ".join(_OBEYED.sub("", least).split())
        cut = words if len(words) <= _SHOWN_SENTENCE else f"{words[:_SHOWN_SENTENCE]}…"
        text += f"\n[least sure, {score:.2f}: {cut}]"
    return text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


class Talk:
    """Turns until ``/quit`` or Ctrl-D.

    Parameters
    ----------
    models
        Names that the gateway knows.
    read
        Shows a prompt and returns a line; raises EOFError and KeyboardInterrupt as ``input`` does.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        models: Callable[[], Sequence[str]],
        read: Callable[[str], str] = input,
    ) -> None:
        self._conversation, self._models, self._read = conversation, models, read
        self._commands: dict[str, Callable[[str], None]] = {
            "/model": self._model,
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/help": lambda _: write(_HELP),
        }

    def run(self, where: str) -> None:
        """Talk."""
        # Editing and earlier lines, for this process only: prompts are not written to a file.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, PLC0415

        note(f"{where}; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends")
        while (line := self._line()) is not None:
            text = line.strip()
            if text in {"/quit", "/exit"}:
                return
            if not text:
                continue
            try:
                self._take(text)
            except KeyboardInterrupt:
                note("stopped")
            except ModelzoneError as error:
                note(f"error: {_OBEYED.sub('', str(error))}")

    def _take(self, text: str) -> None:
        if text.startswith("//"):
            text = text[1:]
        elif text.startswith("/"):
            name, _, rest = text.partition(" ")
            command = self._commands.get(name)
            if command is None:
                note(f"there is no command {name}; /help lists them")
            else:
                command(rest.strip())
            return
        turn = self._conversation.ask(text, on_text=show)
        if not turn.answer.text.endswith("\n"):
            show("\n")
        note(summary(turn))

    def _line(self) -> str | None:
        """A line, or several joined; None at the end."""
        lines: list[str] = []
        while True:
            try:
                line = self._read("... " if lines else "> ")
            except EOFError:
                write("")
                return None
            except KeyboardInterrupt:
                # As in a shell: what was typed is dropped.
                note("\n(/quit or Ctrl-D ends)")
                lines.clear()
                continue
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _model(self, name: str) -> None:
        if name:
            self._conversation.model = name
            note(f"model {name}")
            return
        for known in self._models():
            write(f"{'*' if known == self._conversation.model else ' '} {_OBEYED.sub('', known)}")

    def _system(self, text: str) -> None:
        if not text:
            write(self._conversation.system or "(nothing)")
            return
        self._conversation.system = None if text == "-" else text
        note("the system message is " + ("removed" if text == "-" else "set"))

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        note("forgotten")

    def _save(self, name: str) -> None:
        if not name:
            note("name a file: /save FILE")
            return
        path = Path(name).expanduser()
        document = {"model": self._conversation.model, "messages": self._conversation.messages}
        try:
            # A new file for its owner alone: nothing is written over.
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except (OSError, ValueError) as error:
            raise ModelzoneError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - of a number
            json.dump(document, file, indent=2, ensure_ascii=False)
            file.write("\n")
        note(f"saved {path}")
