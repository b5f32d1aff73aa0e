"""The shapes that are compiled in, as placeholders of the export command: one command compiles them all.

What an operator gives when a stack is deployed (`modelzone.planning.parameters`) changes the facts of the artifact, not
the command: the compile job fills the placeholders from the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelzone.settings.model_profile import Serving

__all__ = ["BATCH_SIZE", "SEQUENCE_LENGTH", "TENSOR_PARALLEL_DEGREE", "artifact_values", "fill_shapes"]

BATCH_SIZE = "{batch_size}"
SEQUENCE_LENGTH = "{sequence_length}"
TENSOR_PARALLEL_DEGREE = "{tensor_parallel_degree}"


def artifact_values(serving: Serving) -> dict[str, str]:
    """What an artifact decides about its container, as planned; when it is served, the manifest says it."""
    return {
        "batch_size": str(serving.batch_size),
        "sequence_length": str(serving.sequence_length),
        "tensor_parallel_degree": str(serving.tensor_parallel_degree),
        "dtype": serving.dtype,
        "max_input_tokens": str(serving.max_input_tokens),
        # TGI refuses to start with a prefill budget above what a full batch of longest prompts needs.
        "max_batch_prefill_tokens": str(serving.batch_size * serving.max_input_tokens),
    }


def fill_shapes(words: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Put the shapes into the words of a command; other placeholders stay."""
    filled = list(words)
    for name in ("batch_size", "sequence_length", "tensor_parallel_degree"):
        filled = [word.replace(f"{{{name}}}", values[name]) for word in filled]
    return tuple(filled)
