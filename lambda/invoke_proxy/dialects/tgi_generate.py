"""The dialect `tgi-generate`: text-generation-inference 2.1.1 behind SageMaker's `/invocations`.

Read from its router at v2.1.1 and from optimum-neuron's server at v0.0.25:

- `/invocations` answers a list of one object where `/generate` answers the object.
- It prepends the prompt to the text unless `return_full_text` is false; `/generate` does not.
- `max_new_tokens: null` means "what is left of max_total_tokens"; leaving it out means 100.
- `do_sample` defaults to false when `parameters` is there and to true when it is not.
- A streamed request that is invalid answers 200 and one event `{"error", "error_type"}`.
- On Neuron a stop sequence ends with finish reason `length`, the text includes the end-of-sequence token,
  `prefill` is empty, every log probability is 0, and `frequency_penalty` is read by nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from invoke_proxy.chat_answer import Finish, Token
from invoke_proxy.chat_request import ChatRequest, require_text
from invoke_proxy.errors import ApiError, bad_request
from invoke_proxy.registry import Deployment
from invoke_proxy.sagemaker import engine_failure

from .base import StreamEvent, WholeAnswer

__all__ = ["chat_body", "generate_answer", "generate_body", "stream_event", "whole_answer"]

MAX_TOP_N_TOKENS = 5

_FINISH_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
_ERROR_STATUS = {
    "generation": 424,
    "overloaded": 429,
    "validation": 422,
    "template_error": 422,
    "tool_error": 422,
    "incomplete_generation": 500,
}
_NEURON = "tgi-neuronx"


def chat_body(request: ChatRequest, *, prompt: str, deployment: Deployment) -> dict[str, Any]:
    """Return the body for `/invocations` that asks for what the chat request asks for.

    Raises
    ------
    ApiError
        400 for what the deployment or its engine cannot do, naming the parameter.
    """
    _check_limits(request, deployment)
    _check_engine(request, deployment)
    parameters: dict[str, Any] = {
        "details": True,
        "return_full_text": False,
        "max_new_tokens": request.max_tokens,
        "do_sample": request.temperature != 0 and request.top_p != 0,
    }
    if parameters["do_sample"]:
        # TGI refuses 1.0 for top_p, where OpenAI means "no limit".
        if request.top_p is not None and request.top_p < 1:
            parameters["top_p"] = request.top_p
        if request.temperature is not None:
            parameters["temperature"] = request.temperature
    if request.stop:
        parameters["stop"] = list(request.stop)
    if request.seed is not None:
        # TGI's seed is unsigned; a negative one keeps its own place.
        parameters["seed"] = request.seed % 2**64
    if request.frequency_penalty:
        parameters["frequency_penalty"] = request.frequency_penalty
    if request.top_logprobs:
        parameters["top_n_tokens"] = request.top_logprobs
    if not request.stream and deployment.engine != _NEURON:
        # The prompt's tokens, for `usage`. TGI refuses this in streams; on Neuron it returns nothing.
        parameters["decoder_input_details"] = True
    return {"inputs": prompt, "parameters": parameters, "stream": request.stream}


def _check_limits(request: ChatRequest, deployment: Deployment) -> None:
    most = deployment.max_total_tokens - 1
    if request.max_tokens is not None and request.max_tokens > most:
        raise bad_request(
            f"{request.max_tokens_param} is {request.max_tokens}, but '{deployment.deployment}' has room for {most} "
            f"at most: prompt and answer share {deployment.max_total_tokens} tokens.",
            param=request.max_tokens_param,
        )
    if request.top_logprobs > MAX_TOP_N_TOKENS:
        raise bad_request(
            f"top_logprobs is {request.top_logprobs}, this engine returns {MAX_TOP_N_TOKENS} at most.",
            param="top_logprobs",
        )


def _check_engine(request: ChatRequest, deployment: Deployment) -> None:
    """Refuse what TGI on Neuron accepts without doing it."""
    if deployment.engine != _NEURON:
        return
    asked = {"frequency_penalty": request.frequency_penalty, "logprobs": request.logprobs}
    reasons = {
        "frequency_penalty": "ignores this parameter",
        "logprobs": "reports 0 for every token",
    }
    for name, value in asked.items():
        if value:
            raise bad_request(
                f"{name} is not supported by '{deployment.deployment}': its engine {_NEURON} {reasons[name]}.",
                param=name,
                code="unsupported_parameter",
            )


def generate_body(body: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """Return the body for `/invocations` that answers as `/generate` or `/generate_stream` would.

    Raises
    ------
    ApiError
        400 when `inputs` or `parameters` has the wrong type. Everything else is the engine's to judge.
    """
    inputs = require_text(body.get("inputs"), param="inputs")
    given = body.get("parameters")
    if given is None:
        given = {"do_sample": True}
    elif not isinstance(given, dict):
        raise bad_request("parameters must be an object.", param="parameters", code="invalid_type")
    parameters = dict(given)
    if parameters.get("return_full_text") is None:
        parameters["return_full_text"] = False
    return {"inputs": inputs, "parameters": parameters, "stream": stream}


def generate_answer(payload: bytes) -> dict[str, Any]:
    """Return the object inside the list that `/invocations` answers.

    Raises
    ------
    ApiError
        502 when the answer is not one of TGI's.
    """
    try:
        answer = json.loads(payload)
    except ValueError:
        answer = None
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict) or not isinstance(answer.get("generated_text"), str):
        raise _not_understood()
    return answer


def whole_answer(payload: bytes) -> WholeAnswer:
    """Read an answer that came in one piece.

    Raises
    ------
    ApiError
        502 when the answer is not one of TGI's.
    """
    answer = generate_answer(payload)
    details = answer.get("details")
    if not isinstance(details, dict):
        raise _not_understood()
    try:
        alternatives = details.get("top_tokens") or []
        tokens = tuple(
            _token(item, alternatives[index] if index < len(alternatives) else ())
            for index, item in enumerate(details.get("tokens") or [])
        )
        prefill = details.get("prefill") or []
        finish = _finish(details, prompt_tokens=len(prefill) or None)
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_understood() from error
    return WholeAnswer(text=_without_special(answer["generated_text"], tokens), tokens=tokens, finish=finish)


def stream_event(data: str) -> StreamEvent:
    """Read one event of a stream.

    Raises
    ------
    ApiError
        When the event is an error of the engine, or is not one of TGI's.
    """
    if data.strip() == "[DONE]":  # TGI sends it from 2.2.0 on
        return StreamEvent()
    try:
        event = json.loads(data)
        if "error" in event:
            kind = event.get("error_type")
            raise engine_failure(_ERROR_STATUS.get(kind, 500), data)
        token = _token(event["token"], event.get("top_tokens") or ())
        details = event.get("details")
        # The last event is the one with the whole text.
        finish = None
        if event.get("generated_text") is not None:
            finish = _finish(details or {}, prompt_tokens=None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_understood() from error
    return StreamEvent(token=token, finish=finish)


def _token(item: Mapping[str, Any], alternatives: Any) -> Token:
    return Token(
        text=item["text"],
        logprob=item.get("logprob"),
        special=bool(item.get("special", False)),
        alternatives=tuple((other["text"], other["logprob"]) for other in alternatives),
    )


def _finish(details: Mapping[str, Any], *, prompt_tokens: int | None) -> Finish:
    return Finish(
        reason=_FINISH_REASONS.get(str(details.get("finish_reason")), "stop"),
        completion_tokens=details.get("generated_tokens"),
        prompt_tokens=prompt_tokens,
    )


def _without_special(text: str, tokens: tuple[Token, ...]) -> str:
    """Return the text without the special tokens at its end."""
    for token in reversed(tokens):
        if not token.special:
            break
        text = text.removesuffix(token.text)
    return text


def _not_understood() -> ApiError:
    return ApiError(
        status=502,
        message="The model server answered something that is not text-generation-inference's format.",
        code="engine_answer_not_understood",
    )
