"""The request of `POST /v1/completions`, OpenAI's older API for plain texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invoke_proxy.errors import bad_request
from invoke_proxy.generation import Generation

from .fields import Fields, Harmless, missing, refused, require_text, wrong_type
from .sampling import Asked, Extensions, Sampling, check_max_tokens, not_supported, only_one, parse_stream_options
from .tools import parse_response_format

if TYPE_CHECKING:
    from invoke_proxy.registry import Deployment

__all__ = ["HARMLESS", "IGNORED", "CompletionRequest", "parse_completion_request"]

MAX_LOGPROBS = 5
# OpenAI's own default for this API, and vLLM's. Chats have none.
DEFAULT_MAX_TOKENS = 16

IGNORED = frozenset({"user"})
HARMLESS: Harmless = {"echo": (False,), "suffix": ("",)}


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(Asked):
    """A checked completion request. None means: the client left it to the engine, or to the default model.

    `logprobs` is how many likelier tokens come beside each token's own log probability; None for no log probabilities.
    """

    model: str | None
    prompt: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    logprobs: int | None
    response_format: Mapping[str, Any] | None

    def generation(self, deployment: Deployment) -> Generation:
        """Return what is asked of the deployment.

        Raises
        ------
        ApiError
            400 with the parameter's name for what the deployment cannot do.
        """
        self.sampling.check(deployment)
        self.extensions.check(deployment)
        check_max_tokens(self.max_tokens, deployment, param="max_tokens")
        if self.logprobs is not None and "logprobs" not in deployment.features:
            raise not_supported("logprobs", deployment, "reports no log probabilities")
        if self.logprobs and "top_logprobs" not in deployment.features:
            raise not_supported("logprobs", deployment, "reports no likelier tokens; send 0 for the chosen ones alone")
        if self.response_format is not None and "json" not in deployment.features:
            raise not_supported("response_format", deployment)
        return Generation(
            stream=self.stream,
            prompt=self.prompt,
            max_tokens=self.max_tokens,
            logprobs=self.logprobs is not None or self.confidence,
            top_logprobs=self.logprobs or 0,
            response_format=self.response_format,
            **self.sampling.words(),
        )


def parse_completion_request(body: Mapping[str, Any]) -> CompletionRequest:
    """Check a request body.

    Without ``max_tokens`` an answer has at most 16 tokens, as OpenAI's; one that is to be continued until it stops has
    what the model's context leaves.

    Raises
    ------
    ApiError
        400 with the parameter's name for anything unknown, unsupported, of the wrong type or out of range.
    """
    fields = Fields(body)
    model = fields.text("model")
    prompt = _prompt(fields.take("prompt"))
    only_one(fields, "n", low=1)
    only_one(fields, "best_of", low=0)
    stream = fields.boolean("stream", default=False)
    extensions = Extensions.taken_from(fields)
    request = CompletionRequest(
        model=model,
        prompt=prompt,
        stream=stream,
        include_usage=parse_stream_options(fields.take("stream_options"), stream=stream),
        max_tokens=fields.integer("max_tokens", low=1)
        if "max_tokens" in fields or extensions.continue_until_stop
        else DEFAULT_MAX_TOKENS,
        sampling=Sampling.taken_from(fields),
        logprobs=fields.integer("logprobs", low=0, high=MAX_LOGPROBS),
        response_format=parse_response_format(fields.take("response_format")),
        extensions=extensions,
    )
    fields.refuse_rest(ignored=IGNORED, harmless=HARMLESS)
    if request.continue_until_stop and request.response_format is not None:
        raise refused("continue_until_stop", "together with response_format")
    return request


def _prompt(value: Any) -> str:
    if value is None:
        raise missing("prompt")
    if isinstance(value, list):
        if value and not isinstance(value[0], str):
            raise bad_request(
                "prompt must be a text: token ids are not supported.", param="prompt", code="unsupported_parameter"
            )
        if len(value) != 1:
            raise bad_request(
                f"prompt has {len(value)} texts: the engines behind this gateway take one per request.", param="prompt"
            )
        value = value[0]
    elif not isinstance(value, str):
        wrong_type("prompt", "a string or a list of one string", value)
    prompt = require_text(value, param="prompt")
    if not prompt:
        raise bad_request("prompt is empty: there is nothing to go on with.", param="prompt")
    return prompt
