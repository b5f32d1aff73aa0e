"""Errors that a request can end with, as TGI 2.1.1 reports them."""

from __future__ import annotations

__all__ = ["GenerationFailed", "InvalidRequest", "Overloaded", "RequestFailed", "TemplateFailed"]


class RequestFailed(Exception):  # noqa: N818 (named like the statuses of a request)
    """A request ends with an error body; `metric` is the label of `tgi_request_failure`."""

    status = 500
    error_type = "incomplete_generation"
    metric = "incomplete"

    @property
    def body(self) -> dict[str, str]:
        """The error as the client sees it, in a response or as an event of a stream."""
        return {"error": str(self), "error_type": self.error_type}


class InvalidRequest(RequestFailed):
    """A parameter or the prompt's length is outside the limits."""

    status = 422
    error_type = "validation"
    metric = "validation"

    def __init__(self, problem: str) -> None:
        super().__init__(f"Input validation error: {problem}")


class TemplateFailed(RequestFailed):
    """The chat template cannot express the messages."""

    status = 422
    error_type = "template_error"
    metric = "template"

    def __init__(self, problem: str) -> None:
        super().__init__(f"Template error: syntax error: {problem} (in <string>:1)")


class Overloaded(RequestFailed):
    """Too many requests run and wait already."""

    status = 429
    error_type = "overloaded"
    metric = "overloaded"

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class GenerationFailed(RequestFailed):
    """The model failed."""

    status = 424
    error_type = "generation"
    metric = "generation"

    def __init__(self, problem: str) -> None:
        super().__init__(f"Request failed during generation: {problem}")
