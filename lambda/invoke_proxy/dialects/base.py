"""What a dialect is: how a family of engines is asked, and what its bytes mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from invoke_proxy.generation import Answer, Generation, StreamEvent
from invoke_proxy.registry import Deployment

__all__ = ["Dialect", "Embeddings", "StreamParser"]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One vector for each input, in the order of the inputs."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int | None = None


class StreamParser(Protocol):
    """Reads one stream; made anew for each. Methods raise ApiError for errors of the engine and for garbage.

    After a `Finish` has been yielded nothing more is: what the engine still sends is read and dropped.
    """

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Yield the events that the bytes complete; the bytes may be cut anywhere, also inside a character."""
        ...

    def end(self) -> Iterator[StreamEvent]:
        """Yield what the end of the stream completes.

        Raises
        ------
        ApiError
            502 ``incomplete_answer`` when there was no finish.
        """
        ...


class Dialect(Protocol):
    """One family of engines behind SageMaker's ``/invocations``. Stateless."""

    @property
    def name(self) -> str:
        """The name that engines and the registry use."""
        ...

    @property
    def tokens_are_counted(self) -> bool:
        """Whether each generated token is one `Token` of the answer, so that they can be counted in the end."""
        ...

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the JSON body that asks the engine for this.

        What the deployment's features exclude has been refused before; a dialect refuses only its own limits (a range,
        a combination) with 400 and the parameter's name, and never leaves a parameter out in silence.
        """
        ...

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        ...

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        ...

    def embeddings_body(self, inputs: tuple[str, ...], *, dimensions: int | None) -> dict[str, Any]:
        """Return the body that asks for embeddings, for deployments with the feature ``embeddings``."""
        ...

    def embeddings(self, payload: bytes) -> Embeddings:
        """Read embeddings."""
        ...
