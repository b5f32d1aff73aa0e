"""OpenAI's model objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invoke_proxy.registry import Deployment

__all__ = ["model_list", "model_object"]


def model_object(name: str, deployment: Deployment) -> dict[str, Any]:
    """Return the model that goes by this name; `root`, as in vLLM, is the id of the model behind the name."""
    return {
        "id": name,
        "object": "model",
        "created": deployment.registered,
        "owned_by": "modelzone",
        "root": deployment.model_id,
    }


def model_list(models: Iterable[tuple[str, Deployment]]) -> dict[str, Any]:
    """Return the list of models, each with the name it goes by."""
    return {"object": "list", "data": [model_object(name, deployment) for name, deployment in models]}
