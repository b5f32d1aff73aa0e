"""The request of `POST /v1/chat/completions`: every parameter is understood, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invoke_proxy.chat_templates import render, template_names
from invoke_proxy.errors import bad_request
from invoke_proxy.generation import Generation

from .fields import Fields, Harmless, refused
from .messages import parse_messages, plain_messages, uses_tools
from .sampling import Asked, Extensions, Sampling, check_max_tokens, not_supported, only_one, parse_stream_options
from .tools import parse_response_format, parse_tool_choice, parse_tools

if TYPE_CHECKING:
    from invoke_proxy.registry import Deployment

__all__ = ["HARMLESS", "IGNORED", "ChatRequest", "parse_chat_request"]

MAX_TOP_LOGPROBS = 20

# Accepted and without effect: they identify the caller or tune OpenAI's own machinery.
IGNORED = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "user"}
)

# Parameters that no engine behind this gateway can honour, with the values that ask for nothing.
HARMLESS: Harmless = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Asked):
    """A checked chat request. None means: the client left it to the engine, or to the gateway's default model.

    `messages` are OpenAI's objects, see `parse_messages`. `continue_final` is vLLM's ``continue_final_message``: the
    last message is the beginning of the answer.
    """

    model: str | None
    messages: tuple[Mapping[str, Any], ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    max_tokens_param: str
    logprobs: bool
    top_logprobs: int
    tools: tuple[Mapping[str, Any], ...]
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None
    continue_final: bool

    def generation(self, deployment: Deployment) -> Generation:
        """Return what is asked of the deployment: its messages, or the text that its template makes of them.

        Raises
        ------
        ApiError
            400 with the parameter's name for what the deployment cannot do, ``chat_not_supported`` when it offers no
            chat at all.
        """
        self._check(deployment)
        native = "chat" in deployment.features
        goes_on = self.continue_final or self.continue_until_stop
        templated = deployment.chat_template in template_names()
        if native and goes_on and "continue" not in deployment.features and templated and not self.tools:
            # The engine cannot go on with a message, but with a text it can.
            native = uses_tools(self.messages) is not None
        if not native and not templated:
            raise bad_request(
                f"'{deployment.deployment}' offers no chat: its engine takes texts, and the gateway has no chat "
                f"template '{deployment.chat_template}' for it. Use /v1/completions.",
                param="model",
                code="chat_not_supported",
            )
        if native and goes_on and "continue" not in deployment.features:
            name = "continue_final_message" if self.continue_final else "continue_until_stop"
            raise not_supported(name, deployment, "cannot go on with a message")
        asked: dict[str, Any]
        if native:
            asked = {"messages": self.messages, "continue_final": self.continue_final}
        else:
            asked = {
                "prompt": render(
                    deployment.chat_template, plain_messages(self.messages), continue_final=self.continue_final
                )
            }
        return Generation(
            stream=self.stream,
            max_tokens=self.max_tokens,
            max_tokens_param=self.max_tokens_param,
            logprobs=self.logprobs or self.confidence,
            top_logprobs=self.top_logprobs,
            tools=self.tools,
            tool_choice=self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls if self.tools else None,
            response_format=self.response_format,
            **asked,
            **self.sampling.words(),
        )

    def _check(self, deployment: Deployment) -> None:
        features = deployment.features
        self.sampling.check(deployment)
        self.extensions.check(deployment)
        check_max_tokens(self.max_tokens, deployment, param=self.max_tokens_param)
        if self.logprobs and "logprobs" not in features:
            raise not_supported("logprobs", deployment, "reports no log probabilities")
        if self.top_logprobs and "top_logprobs" not in features:
            raise not_supported("top_logprobs", deployment)
        if self.tools and "tools" not in features:
            raise not_supported("tools", deployment)
        if self.response_format is not None and "json" not in features:
            raise not_supported("response_format", deployment)
        field = uses_tools(self.messages)
        if field is not None and not ("chat" in features and "tools" in features):
            raise not_supported(field, deployment, "takes no tools")


def parse_chat_request(body: Mapping[str, Any], *, max_messages: int) -> ChatRequest:
    """Check a request body.

    A parameter set to null counts as absent, as OpenAI has it.

    Raises
    ------
    ApiError
        400 with the parameter's name for anything unknown, unsupported, of the wrong type or out of range.
    """
    fields = Fields(body)
    model = fields.text("model")
    messages = parse_messages(fields.take("messages"), max_messages=max_messages)
    only_one(fields, "n", low=1)
    stream = fields.boolean("stream", default=False)
    max_tokens_param = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    if max_tokens_param == "max_completion_tokens" and "max_tokens" in fields:
        raise bad_request("max_tokens and max_completion_tokens are the same limit: send one.", param="max_tokens")
    logprobs = fields.boolean("logprobs", default=False)
    top_logprobs = fields.integer("top_logprobs", low=0, high=MAX_TOP_LOGPROBS) or 0
    if top_logprobs and not logprobs:
        raise bad_request("top_logprobs needs logprobs to be true.", param="top_logprobs")
    tools = parse_tools(fields.take("tools"))
    request = ChatRequest(
        model=model,
        messages=messages,
        stream=stream,
        include_usage=parse_stream_options(fields.take("stream_options"), stream=stream),
        max_tokens=fields.integer(max_tokens_param, low=1),
        max_tokens_param=max_tokens_param,
        sampling=Sampling.taken_from(fields),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        tools=tools,
        tool_choice=parse_tool_choice(fields.take("tool_choice"), tools=tools),
        parallel_tool_calls=fields.boolean("parallel_tool_calls", default=True)
        if "parallel_tool_calls" in fields
        else None,
        response_format=parse_response_format(fields.take("response_format")),
        continue_final=fields.boolean("continue_final_message", default=False),
        extensions=Extensions.taken_from(fields),
    )
    fields.refuse_rest(ignored=IGNORED, harmless=HARMLESS)
    _check_together(request)
    return request


def _check_together(request: ChatRequest) -> None:
    if request.continue_final:
        last = request.messages[-1]
        if last["role"] != "assistant" or last["content"] is None or "tool_calls" in last:
            raise bad_request(
                "continue_final_message needs a last message of the assistant with a text.",
                param="continue_final_message",
            )
    if not request.continue_until_stop:
        return
    # A grammar begins anew with every request: the whole would not be what was asked for.
    for name, value in (("response_format", request.response_format), ("tools", request.tools or None)):
        if value is not None:
            raise refused("continue_until_stop", f"together with {name}")
