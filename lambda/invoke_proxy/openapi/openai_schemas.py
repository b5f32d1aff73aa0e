"""Requests, answers, chunks and errors of OpenAI's routes."""

from __future__ import annotations

from collections.abc import Collection

from invoke_proxy.openai_api import chat_request, completion_request, embedding_request
from invoke_proxy.openai_api.fields import Harmless
from invoke_proxy.openai_api.sampling import MAX_CONTINUATIONS, MAX_STOP_SEQUENCES
from invoke_proxy.openai_api.tools import MAX_TOOLS

from .words import Schema, array, boolean, integer, number, one_of, optional, record, ref, request, text

__all__ = ["CONFIDENCE", "EXTENSIONS", "SCHEMAS", "STOP"]

_INT64 = 2**63
_INT32 = 2**31

_FUNCTION_NAME = text(pattern="^[A-Za-z0-9_-]{1,64}$")
_JSON_SCHEMA: Schema = {"type": "object", "description": "A JSON Schema."}

STOP = one_of(
    text(minLength=1),
    array(text(minLength=1), most=MAX_STOP_SEQUENCES),
    description="The answer ends before the first of these.",
)

EXTENSIONS: dict[str, Schema] = {
    "continue_until_stop": boolean(
        "Go on with further requests to the engine while the answer ends at its limit of tokens."
    ),
    "max_continuations": integer(
        "How many requests an answer may take with continue_until_stop, the first included; 8 when left out.",
        low=1,
        high=MAX_CONTINUATIONS,
    ),
    "confidence": boolean(
        "Report how sure the model was. Needs log probabilities; refused where the engine reports none."
    ),
}

_SAMPLING: dict[str, Schema] = {
    "temperature": number("0 is greedy.", low=0, high=2),
    "top_p": number(low=0, high=1),
    "top_k": integer("0 and -1: all tokens.", low=-1, high=_INT32 - 1),
    "min_p": number(low=0, high=1),
    "repetition_penalty": number("1 is none.", above=0),
    "frequency_penalty": number(low=-2, high=2),
    "presence_penalty": number(low=-2, high=2),
    "logit_bias": {
        "type": "object",
        "description": "Token ids, as texts, with what is added to their logits.",
        "patternProperties": {"^[0-9]+$": number(low=-100, high=100)},
        "additionalProperties": False,
    },
    "stop": STOP,
    "seed": integer(
        "The same seed and request give the same answer, as far as the engine goes.", low=-_INT64, high=_INT64 - 1
    ),
    "adapters": one_of(
        text(minLength=1),
        array(text(minLength=1), most=MAX_STOP_SEQUENCES),
        description="LoRA adapters to apply, where the engine has them.",
    ),
}

_STREAMING: dict[str, Schema] = {
    "stream": boolean("Answer as server-sent events."),
    "stream_options": request(
        {
            "include_usage": boolean("Send a last chunk with the counts of tokens."),
            "include_obfuscation": boolean("Without effect."),
        },
        required=(),
        description="Only with stream.",
    ),
}

_MODEL = text("A deployment, an alias or a hub id; left out: the gateway's default model.")


def _without_effect(names: Collection[str]) -> dict[str, Schema]:
    return {name: {"description": "Accepted, without effect."} for name in sorted(names)}


def _asking_for_nothing(harmless: Harmless, given: Collection[str]) -> dict[str, Schema]:
    """Return the parameters that no engine here honours, with the values that ask for nothing."""
    return {
        name: {"enum": [*values, None], "description": "No engine here honours it: only these values are accepted."}
        for name, values in sorted(harmless.items())
        if name not in given
    }


def _content(*, refusal: bool) -> Schema:
    kinds = [record({"type": {"const": "text"}, "text": text()})]
    if refusal:
        kinds.append(record({"type": {"const": "refusal"}, "refusal": text()}))
    return one_of(text(), array(one_of(*kinds) if refusal else kinds[0], least=1))


_TOOL_CALL = record(
    {
        "id": text(),
        "type": {"const": "function"},
        "function": record({"name": text(), "arguments": text("JSON, as the model wrote it.")}),
    }
)

_NOTHING: Schema = {"enum": [None, [], ""], "description": "Taken back from an earlier answer, empty."}

_MESSAGES = {
    "SystemMessage": record(
        {"role": {"enum": ["system", "developer"]}, "content": _content(refusal=False), "name": optional(text())},
        required=("role", "content"),
    ),
    "UserMessage": record(
        {"role": {"const": "user"}, "content": _content(refusal=False), "name": optional(text())},
        required=("role", "content"),
    ),
    "AssistantMessage": record(
        {
            "role": {"const": "assistant"},
            "content": optional(_content(refusal=True)),
            "name": optional(text()),
            "refusal": optional(text()),
            "tool_calls": optional(array(ref("ToolCall"))),
            **dict.fromkeys(("annotations", "audio", "function_call", "reasoning", "reasoning_content"), _NOTHING),
        },
        required=("role",),
        description="It needs a content, a refusal or tool_calls.",
    ),
    "ToolMessage": record(
        {"role": {"const": "tool"}, "content": _content(refusal=False), "tool_call_id": text()},
    ),
}

_TOOL = request(
    {
        "type": {"const": "function"},
        "function": request(
            {
                "name": _FUNCTION_NAME,
                "description": text(),
                "parameters": _JSON_SCHEMA,
                "strict": boolean(),
            },
            required=("name",),
        ),
    },
    required=("type", "function"),
)

_TOOL_CHOICE = one_of(
    {"enum": ["none", "auto", "required"]},
    record({"type": {"const": "function"}, "function": record({"name": _FUNCTION_NAME})}),
)

_RESPONSE_FORMAT = one_of(
    record({"type": {"enum": ["text", "json_object"]}}),
    record(
        {
            "type": {"const": "json_schema"},
            "json_schema": request(
                {"name": _FUNCTION_NAME, "description": text(), "schema": _JSON_SCHEMA, "strict": boolean()},
                required=("name", "schema"),
            ),
        }
    ),
)

_CHAT_WORDS: dict[str, Schema] = {
    "messages": array(ref("Message"), least=1),
    "model": _MODEL,
    **_STREAMING,
    "max_tokens": integer("The most tokens of the answer; left out: what the prompt leaves of the context.", low=1),
    "max_completion_tokens": integer("The same; send one of the two.", low=1),
    **_SAMPLING,
    "n": {"type": "integer", "enum": [1]},
    "logprobs": boolean(),
    "top_logprobs": integer("Needs logprobs.", low=0, high=chat_request.MAX_TOP_LOGPROBS),
    "tools": array(_TOOL, most=MAX_TOOLS),
    "tool_choice": _TOOL_CHOICE,
    "parallel_tool_calls": boolean(),
    "response_format": _RESPONSE_FORMAT,
    "continue_final_message": boolean("The last message, the assistant's, is the beginning of the answer."),
    **EXTENSIONS,
}

_COMPLETION_WORDS: dict[str, Schema] = {
    "prompt": one_of(text(minLength=1), array(text(minLength=1), least=1, most=1)),
    "model": _MODEL,
    **_STREAMING,
    "max_tokens": integer(f"{completion_request.DEFAULT_MAX_TOKENS} when left out.", low=1),
    **_SAMPLING,
    "n": {"type": "integer", "enum": [1]},
    "best_of": {"type": "integer", "enum": [0, 1]},
    "logprobs": integer("How many likelier tokens come with each.", low=0, high=completion_request.MAX_LOGPROBS),
    "response_format": _RESPONSE_FORMAT,
    **EXTENSIONS,
}

_USAGE = record({"prompt_tokens": integer(low=0), "completion_tokens": integer(low=0), "total_tokens": integer(low=0)})

CONFIDENCE = record(
    {
        "score": optional(number("exp of the mean log probability of the tokens.", low=0, high=1)),
        "tokens": integer("How many tokens it rests on.", low=0),
        "sentences": array(
            record({"text": text(), "score": optional(number(low=0, high=1)), "tokens": integer(low=0)})
        ),
    },
    description="With the request's confidence: how sure the model was.",
)

_FINISH_REASON: Schema = {"enum": ["stop", "length", "tool_calls", "content_filter"]}

_ONE_LOGPROB: dict[str, Schema] = {
    "token": text(),
    "logprob": optional(number()),
    "bytes": optional(array(integer(low=0, high=255))),
}
_LOGPROBS = record(
    {
        "content": optional(array(record({**_ONE_LOGPROB, "top_logprobs": array(record(_ONE_LOGPROB))}))),
        "refusal": {"type": "null"},
    }
)
_TEXT_LOGPROBS = record(
    {
        "tokens": array(text()),
        "token_logprobs": array(optional(number())),
        "top_logprobs": optional(array(optional({"type": "object", "additionalProperties": optional(number())}))),
        "text_offset": array(integer(low=0)),
    }
)


def _head(kind: str) -> dict[str, Schema]:
    return {
        "id": text(),
        "object": {"const": kind},
        "created": integer("Seconds since 1970."),
        "model": text("As the request named it."),
        "system_fingerprint": text("The engine and its version."),
    }


def _answer(kind: str, choice: dict[str, Schema], *, optional_fields: Collection[str] = ()) -> Schema:
    choice = {"index": {"const": 0}, **choice, "confidence": ref("Confidence")}
    required = [name for name in choice if name not in {"confidence", *optional_fields}]
    properties = {**_head(kind), "choices": array(record(choice, required=required), least=1, most=1), "usage": _USAGE}
    return record(properties, required=[name for name in properties if name != "usage"])


def _chunk(kind: str, choice: dict[str, Schema]) -> Schema:
    choice = {"index": {"const": 0}, **choice, "confidence": ref("Confidence")}
    choices = array(record(choice, required=[name for name in choice if name != "confidence"]), most=1)
    properties = {**_head(kind), "choices": choices, "usage": optional(_USAGE)}
    return record(properties, required=[name for name in properties if name != "usage"])


_DELTA = record(
    {
        "role": {"const": "assistant"},
        "content": optional(text()),
        "refusal": optional(text()),
        "tool_calls": array(
            record(
                {
                    "index": integer(low=0),
                    "id": text(),
                    "type": {"const": "function"},
                    "function": record({"name": text(), "arguments": text()}, required=()),
                },
                required=("index",),
            )
        ),
    },
    required=(),
)

_MODEL_OBJECT = record(
    {
        "id": text(),
        "object": {"const": "model"},
        "created": integer("When the deployment was registered, in seconds since 1970."),
        "owned_by": text(),
        "root": text("The hub id of the model behind the name."),
    }
)

SCHEMAS: dict[str, Schema] = {
    "ToolCall": _TOOL_CALL,
    **_MESSAGES,
    "Message": one_of(*(ref(name) for name in _MESSAGES)),
    "ChatCompletionRequest": request(
        {
            **_CHAT_WORDS,
            **_without_effect(chat_request.IGNORED),
            **_asking_for_nothing(chat_request.HARMLESS, _CHAT_WORDS),
        },
        required=("messages",),
        description="What the deployment's engine cannot do is refused with 400 and the parameter's name.",
    ),
    "CompletionRequest": request(
        {
            **_COMPLETION_WORDS,
            **_without_effect(completion_request.IGNORED),
            **_asking_for_nothing(completion_request.HARMLESS, _COMPLETION_WORDS),
        },
        required=("prompt",),
    ),
    "EmbeddingRequest": request(
        {
            "input": one_of(text(minLength=1), array(text(minLength=1), least=1, most=embedding_request.MAX_INPUTS)),
            "model": _MODEL,
            "dimensions": integer("The length of the vectors, where the model can choose.", low=1),
            "encoding_format": {"enum": ["float", "base64"]},
            **_without_effect(embedding_request.IGNORED),
        },
        required=("input",),
    ),
    "ChatCompletion": _answer(
        "chat.completion",
        {
            "message": record(
                {
                    "role": {"const": "assistant"},
                    "content": optional(text()),
                    "refusal": optional(text()),
                    "tool_calls": array(ref("ToolCall"), least=1),
                },
                required=("role", "content", "refusal"),
            ),
            "logprobs": optional(_LOGPROBS),
            "finish_reason": _FINISH_REASON,
        },
    ),
    "ChatCompletionChunk": _chunk(
        "chat.completion.chunk",
        {"delta": _DELTA, "logprobs": optional(_LOGPROBS), "finish_reason": optional(_FINISH_REASON)},
    ),
    "Completion": _answer(
        "text_completion",
        {"text": text(), "logprobs": optional(_TEXT_LOGPROBS), "finish_reason": _FINISH_REASON},
    ),
    "CompletionChunk": _chunk(
        "text_completion",
        {"text": text(), "logprobs": optional(_TEXT_LOGPROBS), "finish_reason": optional(_FINISH_REASON)},
    ),
    "EmbeddingList": record(
        {
            "object": {"const": "list"},
            "data": array(
                record(
                    {
                        "object": {"const": "embedding"},
                        "index": integer(low=0),
                        "embedding": one_of(
                            array(number()), text("Little-endian 32-bit floats in base64.", contentEncoding="base64")
                        ),
                    }
                )
            ),
            "model": text(),
            "usage": record({"prompt_tokens": integer(low=0), "total_tokens": integer(low=0)}),
        },
        required=("object", "data", "model"),
    ),
    "Model": _MODEL_OBJECT,
    "ModelList": record({"object": {"const": "list"}, "data": array(ref("Model"))}),
    "Error": record(
        {
            "error": record(
                {
                    "message": text("What is wrong and what to do."),
                    "type": text(),
                    "param": optional(text("The request's field at fault.")),
                    "code": optional(text("A short word for programs.")),
                }
            )
        },
        description="As OpenAI writes errors.",
    ),
}
