"""Write the compile job's list of known failures from the doctor's: ``python -m tools.signatures``.

The compile job is shipped alone and has the standard library only, so it gets what it needs as JSON: of each failure
that can be seen while compiling, the texts as plain pieces that stand in a line in this order, and what to do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from modelzone.doctor.signatures import Signature, pattern, signatures

__all__ = ["FILE", "main", "rendered"]

FILE = Path(__file__).resolve().parents[1] / "compile_job" / "signatures.json"
# Slow or odd, or refusals of single requests: not why an export failed. What says only that a step failed explains
# nothing to the step that says it.
_LEVELS = ("cause", "consequence")
_OWN = "compile-step-failed"


def rendered() -> str:
    """The file's text."""
    entries = [_entry(signature) for signature in signatures() if _applies(signature)]
    head = {"made_by": "python -m tools.signatures, from modelzone/doctor/data/signatures.yaml", "signatures": entries}
    return json.dumps(head, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file."""
    FILE.write_text(rendered(), encoding="utf-8")
    sys.stdout.write(f"{FILE}: {len(json.loads(rendered())['signatures'])} failures\n")
    return 0


def _applies(signature: Signature) -> bool:
    return "compile" in signature.applies_to and signature.level in _LEVELS and signature.id != _OWN


def _entry(signature: Signature) -> dict[str, Any]:
    return {
        "id": signature.id,
        "level": signature.level,
        "any": _alternatives(signature),
        "unless": list(signature.unless),
        "explained_by": list(signature.explained_by),
        "words": (signature.short or signature.remedy).rstrip("."),
    }


def _alternatives(signature: Signature) -> list[list[str]]:
    """Texts that hold another one whole add nothing where values are not read."""
    found = [[piece for piece in pattern(text).pieces if piece] for text in signature.any]
    single = [pieces[0] for pieces in found if len(pieces) == 1]
    return [pieces for pieces in found if not any(_holds(pieces, text) for text in single)]


def _holds(pieces: list[str], text: str) -> bool:
    return pieces != [text] and any(text in piece for piece in pieces)


if __name__ == "__main__":
    sys.exit(main())
