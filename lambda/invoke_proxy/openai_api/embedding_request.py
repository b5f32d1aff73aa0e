"""The request of `POST /v1/embeddings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from invoke_proxy.errors import bad_request

from .fields import Fields, missing, require_list, require_text, wrong_type

if TYPE_CHECKING:
    from invoke_proxy.registry import Deployment

__all__ = ["IGNORED", "EmbeddingRequest", "parse_embedding_request"]

# OpenAI's own limit.
MAX_INPUTS = 2048
IGNORED = frozenset({"user"})


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """A checked request for embeddings. `dimensions` None means: the model's own."""

    model: str | None
    inputs: tuple[str, ...]
    dimensions: int | None
    encoding_format: Literal["float", "base64"]

    def check(self, deployment: Deployment) -> None:
        """Refuse a deployment that makes no embeddings.

        Raises
        ------
        ApiError
            400 ``embeddings_not_supported``.
        """
        if "embeddings" not in deployment.features:
            raise bad_request(
                f"'{deployment.deployment}' makes no embeddings: it generates text.",
                param="model",
                code="embeddings_not_supported",
            )


def parse_embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Check a request body.

    Raises
    ------
    ApiError
        400 with the parameter's name for anything unknown, unsupported, of the wrong type or out of range.
    """
    fields = Fields(body)
    encoding_format = fields.text("encoding_format") or "float"
    if encoding_format not in ("float", "base64"):
        raise bad_request("encoding_format must be 'float' or 'base64'.", param="encoding_format")
    request = EmbeddingRequest(
        model=fields.text("model"),
        inputs=_inputs(fields.take("input")),
        dimensions=fields.integer("dimensions", low=1),
        encoding_format=encoding_format,  # type: ignore[arg-type]  # checked above
    )
    fields.refuse_rest(ignored=IGNORED)
    return request


def _inputs(value: Any) -> tuple[str, ...]:
    if value is None:
        raise missing("input")
    if isinstance(value, str):
        items = [value]
    elif isinstance(value, list):
        items = require_list(value, param="input", most=MAX_INPUTS)
    else:
        wrong_type("input", "a string or a list of strings", value)
    if not items:
        raise bad_request("input is an empty list: send at least one text.", param="input")
    if any(isinstance(item, int | list) and not isinstance(item, bool) for item in items):
        raise bad_request(
            "input must be texts: token ids are not supported.", param="input", code="unsupported_parameter"
        )
    single = isinstance(value, str)
    inputs = tuple(
        require_text(item, param="input" if single else f"input[{index}]") for index, item in enumerate(items)
    )
    for index, text in enumerate(inputs):
        if not text:
            at = "input" if single else f"input[{index}]"
            raise bad_request(f"{at} is empty.", param=at)
    return inputs
