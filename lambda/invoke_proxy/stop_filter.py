"""Stop sequences: where an answer ends, whatever pieces it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["StopFilter"]


@dataclass
class StopFilter:
    """Cut an answer at the first stop sequence, which OpenAI leaves out of the text and engines leave in.

    Text that may be the beginning of a stop sequence is held back until what follows decides. Of several sequences
    the one that is complete first counts (of those, the one that begins first): so the result is the same whether the
    text comes at once or in pieces, and it is what an engine does, which looks after every token.

    Attributes
    ----------
    stopped
        Whether a sequence was found; everything after it is dropped.
    fed
        How many characters there were so far, while nothing was found.
    end
        How many characters the answer has with the sequence that was found; None without.
    """

    sequences: tuple[str, ...]
    stopped: bool = field(default=False, init=False)
    fed: int = field(default=0, init=False)
    end: int | None = field(default=None, init=False)
    _held: str = field(default="", init=False)

    def feed(self, text: str) -> str:
        """Return the text that is certainly part of the answer."""
        if self.stopped:
            return ""
        self.fed += len(text)
        if not self.sequences:
            return text
        text = self._held + text
        best: tuple[int, int] | None = None
        for sequence in self.sequences:
            start = text.find(sequence)
            if start >= 0 and (best is None or (start + len(sequence), start) < best):
                best = start + len(sequence), start
        if best is not None:
            end, start = best
            self.stopped, self.end, self._held = True, self.fed - len(text) + end, ""
            return text[:start]
        keep = max(_overlap(text, sequence) for sequence in self.sequences)
        if not keep:
            self._held = ""
            return text
        self._held = text[-keep:]
        return text[:-keep]

    def flush(self) -> str:
        """Return what was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """Return how many characters at the end of the text begin the sequence."""
    # The last character decides at once for nearly every text.
    if not text or text[-1] not in sequence:
        return 0
    for size in range(min(len(sequence) - 1, len(text)), 0, -1):
        if text.endswith(sequence[:size]):
            return size
    return 0
