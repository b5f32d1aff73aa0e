"""An environment as its stacks register it: deployments of every dialect, tenants, aliases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelzone.engines import ENGINES
from tests.gateway.fake_aws import FakeAws
from tests.gateway.scripts import Script

__all__ = ["DEPLOYMENTS", "ENVIRONMENT", "Served", "endpoint_of", "fill", "parameters", "reset"]

ENVIRONMENT = "test"
REGISTRY_PATH = f"/modelzone/{ENVIRONMENT}/deployments"
GATEWAY_PATH = f"/modelzone/{ENVIRONMENT}/gateway"
CACHE_TABLE = "modelzone-test-cache"
TOKENIZER = "s3://models/counted/tokenizer.json"
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A deployment, in the registry's words where they differ from its name."""

    name: str
    engine: str
    version: str
    dialect: str
    features: str
    model_id: str
    chat_template: str = "mistral-instruct"
    max_input_tokens: int = 1023
    max_total_tokens: int = 1024
    cache_ttl_seconds: int = 0
    tokenizer: str = ""
    embeds: bool = False

    def entry(self) -> dict[str, str]:
        """Return the parameter's JSON, as the deployment's stack writes it."""
        return {
            "deployment": self.name,
            "model_id": self.model_id,
            "endpoint_name": endpoint_of(self.name),
            "engine": self.engine,
            "engine_version": self.version,
            "dialect": self.dialect,
            "chat_template": self.chat_template,
            "max_input_tokens": str(self.max_input_tokens),
            "max_total_tokens": str(self.max_total_tokens),
            "features": self.features,
            "cache_ttl_seconds": str(self.cache_ttl_seconds),
            "tokenizer": self.tokenizer,
            "artifact": f"s3://models/compiled/{self.name}/1/",
        }


def _of_engine(name: str, *, engine: str, version: str, model_id: str | None = None, tokenizer: str = "") -> Served:
    """Return a deployment with what the engine's own file says of it."""
    known = ENGINES[engine].versions[version]
    return Served(
        name=name,
        model_id=model_id or f"acme/{name}",
        engine=engine,
        version=version,
        dialect=known.dialect,
        features=",".join(sorted(known.features)),
        tokenizer=tokenizer,
    )


# TGI on GPUs and vLLM itself, which no engine of the repository is yet, but their dialects are.
_TGI_FEATURES = "frequency_penalty,logprobs,repetition_penalty,seed,stop,top_k,top_logprobs,usage"
_CHAT_FEATURES = (
    "adapters,chat,continue,json,logit_bias,logprobs,min_p,penalties,repetition_penalty,seed,stop,tools,top_k,"
    "top_logprobs,usage"
)


def _tgi(name: str, *, cache_ttl_seconds: int = 0) -> Served:
    return Served(
        name=name,
        model_id=f"acme/{name}",
        engine="tgi",
        version="2.1.1",
        dialect="tgi-generate",
        features=_TGI_FEATURES,
        cache_ttl_seconds=cache_ttl_seconds,
    )


def _vllm(name: str, *, features: str, embeds: bool = False) -> Served:
    return Served(
        name=name,
        model_id=f"acme/{name}",
        engine="vllm",
        version="0.11.0",
        dialect="vllm-openai",
        features=features,
        chat_template="",
        embeds=embeds,
    )


DEPLOYMENTS: tuple[Served, ...] = (
    _of_engine("mixtral", engine="tgi-neuronx", version="0.0.25", model_id="mistralai/Mixtral-8x7B-Instruct-v0.1"),
    _of_engine("counted", engine="tgi-neuronx", version="0.0.25", tokenizer=TOKENIZER),
    _tgi("gpu"),
    _tgi("kept", cache_ttl_seconds=3600),
    _of_engine("jsonlines", engine="lmi-vllm", version="0.26.0"),
    _of_engine("json", engine="lmi-neuronx", version="0.26.0"),
    _of_engine("rolling", engine="lmi-neuronx", version="0.30.0"),
    _of_engine("async-vllm", engine="lmi-vllm", version="0.38.0"),
    _of_engine("async-trtllm", engine="lmi-trtllm", version="0.33.0"),
    _of_engine("neuron", engine="vllm-neuronx", version="0.4.5"),
    _of_engine("lorax", engine="lorax", version="0.12.1"),
    _vllm("vllm", features=_CHAT_FEATURES),
    _vllm("vectors", features="embeddings,usage", embeds=True),
)
SETTINGS: Mapping[str, Any] = {
    "aliases": {"gpt-4o-mini": "gpu", "tgi": "gpu", "text-embedding-3-small": "vectors"},
    "default_model": "mixtral",
    "wait_seconds": 0,
    "hedge_after_seconds": None,
    "max_messages": 1000,
    "access": "keys",
    "tenant_claim": "custom:tenant",
}
TENANTS: tuple[Mapping[str, Any], ...] = (
    {"tenant": "default", "models": [], "log_content": False, "principals": [], "max_output_tokens": None},
    {"tenant": "narrow", "models": ["gpu"], "log_content": False, "principals": [], "max_output_tokens": 16},
    {"tenant": "single", "models": ["vllm"], "log_content": False, "principals": [], "max_output_tokens": None},
)


def endpoint_of(name: str) -> str:
    """Return the name of a deployment's endpoint."""
    return f"endpoint-{name}"


def parameters(
    served: Iterable[Served] = DEPLOYMENTS,
    *,
    settings: Mapping[str, Any] = SETTINGS,
    tenants: Iterable[Mapping[str, Any]] = TENANTS,
) -> dict[str, str]:
    """Return the SSM parameters of an environment: values by name."""
    found = {f"{REGISTRY_PATH}/{item.name}": json.dumps(item.entry()) for item in served}
    found[f"{GATEWAY_PATH}/settings"] = json.dumps(dict(settings))
    for tenant in tenants:
        found[f"{GATEWAY_PATH}/tenants/{tenant['tenant']}"] = json.dumps(dict(tenant))
    return found


def fill(aws: FakeAws, *, settings: Mapping[str, Any] = SETTINGS) -> None:
    """Make the fake serve all deployments, as new."""
    aws.parameters = parameters(settings=settings)
    aws.objects = {TOKENIZER.removeprefix("s3://"): _tokenizer()}
    reset(aws)


def _tokenizer() -> bytes:
    """Return a `tokenizer.json` that splits at spaces and puts a token before the text."""
    words = {"<unk>": 0, "<s>": 1, "[INST]": 2, "Hello": 3, "[/INST]": 4, "there": 5}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": 1, "content": "<s>", "special": True, **_PLAIN}],
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
        }
    ).encode()


def reset(aws: FakeAws, served: Iterable[Served] = DEPLOYMENTS) -> None:
    """Forget what was asked and what a test wanted; the registry stays as it is."""
    aws.dialects = {endpoint_of(item.name): item.dialect for item in served}
    aws.scripts = {endpoint_of(item.name): Script(embeds=item.embeds) for item in served}
    aws.items.clear()
    aws.failures.clear()
    aws.seen.clear()
    aws.calls.clear()
    aws.dropped.clear()
    aws.parts_sent = 0
