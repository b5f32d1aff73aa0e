"""Requests, answers, events and errors of Text Generation Inference's routes."""

from __future__ import annotations

from invoke_proxy.tgi_api.generate_request import (
    DEFAULT_MAX_NEW_TOKENS,
    MAJORITY_SIGN_METHODS,
    MAX_BEST_OF,
    MAX_STOP_SEQUENCES,
    MAX_TOP_N_TOKENS,
    MERGE_STRATEGIES,
)

from .openai_schemas import EXTENSIONS
from .words import Schema, array, boolean, integer, number, one_of, optional, record, ref, request, text

__all__ = ["SCHEMAS"]

_UINT64 = 2**64
_INT32 = 2**31

_JSON_SCHEMA = one_of({"type": "object"}, text("The same as JSON."), description="A JSON Schema.")
_GRAMMAR = one_of(
    record({"type": {"const": "regex"}, "value": text()}),
    record({"type": {"enum": ["json", "json_object"]}, "value": _JSON_SCHEMA}),
    record(
        {
            "type": {"const": "json_schema"},
            "value": request({"name": text(), "schema": _JSON_SCHEMA, "strict": boolean()}, required=("schema",)),
        }
    ),
)

_PARAMETERS: dict[str, Schema] = {
    "max_new_tokens": integer(
        f"The most tokens of the answer; {DEFAULT_MAX_NEW_TOKENS} when left out, null: what the prompt leaves of the "
        "context.",
        low=1,
    ),
    "do_sample": boolean("False when left out, but true without parameters."),
    "temperature": number(above=0),
    "top_k": integer(low=1, high=_INT32 - 1),
    "top_p": {**number(above=0), "exclusiveMaximum": 1},
    "typical_p": {**number(above=0), "exclusiveMaximum": 1},
    "repetition_penalty": number("1 is none.", above=0),
    "frequency_penalty": number(low=-2, high=2),
    "stop": array(text(minLength=1), most=MAX_STOP_SEQUENCES),
    "seed": integer(low=0, high=_UINT64 - 1),
    "best_of": integer("Whole answers only, with do_sample and without seed.", low=1, high=MAX_BEST_OF),
    "truncate": integer("How many tokens of the prompt are kept: the last ones.", low=1),
    "watermark": boolean(),
    "grammar": _GRAMMAR,
    "adapter_id": text("A LoRA adapter, where the engine has them."),
    "adapter_source": text("LoRAX only: where the adapter comes from."),
    "merged_adapters": {
        **request(
            {
                "ids": array(text(), least=1),
                "weights": array(number(), least=1),
                "merge_strategy": {"enum": list(MERGE_STRATEGIES)},
                "density": number(low=0, high=1),
                "majority_sign_method": {"enum": list(MAJORITY_SIGN_METHODS)},
            },
            required=("ids", "weights"),
        ),
        "description": "LoRAX only: several adapters and a weight for each, without adapter_id.",
    },
    "api_token": text("LoRAX only: the hub's token for a private adapter. Never logged.", format="password"),
    "ignore_eos_token": boolean("LoRAX only: go on after the end-of-sequence token."),
    "presence_penalty": number("Where the engine has it; not TGI's.", low=-2, high=2),
    "response_format": {
        **request(
            {"type": {"enum": ["text", "json_object", "json_schema"]}, "schema": {"type": "object"}}, required=("type",)
        ),
        "description": "LoRAX's name for grammar; json_schema needs the schema.",
    },
    "return_full_text": boolean("Put the prompt before the answer."),
    "details": boolean(),
    "decoder_input_details": boolean("The prompt's tokens; whole answers of TGI and LoRAX only."),
    "top_n_tokens": integer("How many likelier tokens come with each.", low=0, high=MAX_TOP_N_TOKENS),
    **EXTENSIONS,
}

_TOKEN = record(
    {"id": integer(), "text": text(), "logprob": optional(number()), "special": boolean()},
    required=("id", "text"),
)

# Where the engine is TGI or LoRAX its answer passes through: there may be more in it than is named here.
_OPEN: Schema = {"type": "object"}

_DETAILS: Schema = {
    **_OPEN,
    "properties": {
        "finish_reason": {"enum": ["length", "eos_token", "stop_sequence"]},
        "generated_tokens": integer(low=0),
        "seed": optional(integer()),
        "prefill": array(_OPEN),
        "tokens": array(ref("GeneratedToken")),
        "top_tokens": array(one_of(array(_OPEN), _OPEN)),
        "input_length": integer("The prompt's tokens.", low=0),
        "confidence": ref("Confidence"),
    },
    "required": ["finish_reason", "generated_tokens"],
}

SCHEMAS: dict[str, Schema] = {
    "GenerateRequest": request(
        {
            "inputs": text("The prompt, without a template.", minLength=1),
            "parameters": request(_PARAMETERS, required=()),
            "model": text("A deployment, an alias or a hub id; left out: the gateway's default model."),
            "stream": boolean("Decides on the route `/`; without effect on the others, which decide themselves."),
        },
        required=("inputs",),
        description="What the deployment's engine cannot do is refused with 400 and the parameter's name.",
    ),
    "GeneratedToken": {key: value for key, value in _TOKEN.items() if key != "additionalProperties"},
    "GenerateDetails": _DETAILS,
    "GenerateAnswer": {
        **_OPEN,
        "properties": {"generated_text": text(), "details": optional(ref("GenerateDetails"))},
        "required": ["generated_text"],
    },
    "GenerateAnswers": array(ref("GenerateAnswer"), least=1, most=1),
    "GenerateEvent": {
        **_OPEN,
        "properties": {
            "index": integer(low=0),
            "token": ref("GeneratedToken"),
            "top_tokens": array(_OPEN),
            "generated_text": optional(text("In the last event: the whole text.")),
            "details": optional(ref("GenerateDetails")),
        },
        "required": ["token"],
    },
    "TokenizeRequest": request(
        {
            "inputs": text(),
            "model": text("A deployment, an alias or a hub id; left out: the gateway's default model."),
            "parameters": {"type": "object", "description": "Without effect."},
        },
        required=("inputs",),
    ),
    "TokenizeAnswer": array(
        record(
            {
                "id": integer(),
                "text": text(),
                "start": integer("In bytes of the text's UTF-8.", low=0),
                "stop": integer(low=0),
            }
        )
    ),
    "Info": record(
        {
            "model_id": text("The hub id."),
            "max_input_tokens": integer(low=1),
            "max_input_length": integer("The same, by its older name.", low=1),
            "max_total_tokens": integer("Of prompt and answer together.", low=1),
            "max_stop_sequences": integer(low=1),
            "version": text("Of the engine."),
            "router": {"const": "modelzone"},
            "environment": text(),
            "deployment": text(),
            "engine": text(),
            "features": array(text()),
        }
    ),
    "GenerateError": record(
        {"error": text("What is wrong and what to do."), "error_type": text("A short word for programs.")},
        description="As Text Generation Inference writes errors.",
    ),
}
