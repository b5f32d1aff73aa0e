"""LoRAX, Predibase's server of one base model with many LoRA adapters, on EC2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from modelzone.engines.base import EngineVersion, Hosting
from modelzone.engines.defaults import EngineDefaults
from modelzone.engines.environment import check_secrets, without_secrets
from modelzone.engines.lmi import AMPERE
from modelzone.engines.serving_properties import option_text
from modelzone.refusals import Refusal
from modelzone.resources import read_data
from modelzone.settings.model_profile import Model, Option, Quantization, Serving

__all__ = ["Lorax"]

_ADAPTER_TYPES = frozenset({"cohere", "gemma", "gemma2", "gpt2", "llama", "mistral", "mixtral", "phi", "phi3", "qwen2"})
_QUANTIZE: dict[Quantization, str] = {
    "awq": "awq",
    "gptq": "gptq",
    "eetq": "eetq",
    "fp8": "fp8",
    "hqq-4bit": "hqq-4bit",
    "bitsandbytes-8bit": "bitsandbytes",
    "bitsandbytes-4bit": "bitsandbytes-nf4",
}
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16"}
# The server refuses to start with both.
_EXCLUSIVE = frozenset({"dtype", "quantize"})
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "flag": "true or false"}

_VERSION = EngineVersion(
    version="0.12.1",
    model_types=_ADAPTER_TYPES | {"bloom", "falcon", "gpt_bigcode", "gpt_neox", "mpt", "opt"},
    instance_families=AMPERE,
    dialect="lorax",
    features=frozenset(
        {"adapters", "json", "logprobs", "penalties", "repetition_penalty", "seed", "stop", "top_k", "usage"}
    ),
    quantizations=frozenset(_QUANTIZE),
    # The cache takes 0.95 of what the weights leave below 1 - adapter-memory-fraction.
    device_memory_fraction=0.855,
    components=MappingProxyType({"lorax": "0.12.1"}),
    supports_adapters=True,
    limits=(
        "Dormant since April 2025: vLLM with enable_lora (lmi-vllm) is the successor.",
        f"Loads adapters for: {', '.join(sorted(_ADAPTER_TYPES))}.",
        "Takes no dtype for quantised models: they compute in the torch_dtype of config.json, or fp16 without one.",
        "batch_size bounds nothing: it admits as many sequences as the KV cache holds, up to 128 requests.",
        "Adapters have 10 % of the memory for themselves, beside what the plan counts.",
        "Accepts return_k_alternatives and returns none.",
        "No /v1/models route. Adapters in S3 need a trailing slash: lorax/a/1 also matches lorax/a/10.",
        "That the registry holds the tag 0.12.1 is NOT VERIFIED: the project's workflow writes it on a release.",
    ),
    sources=(
        (
            "predibase/lorax@c0e5798 (v0.12.1): launcher/src/main.rs, server/lorax_server/cli.py, models/__init__.py, "
            "models/flash_causal_lm.py, utils/dist.py, utils/tokens.py, router/src (lib.rs, validation.rs, server.rs), "
            ".github/workflows/build.yaml"
        ),
    ),
)


class Lorax(EngineDefaults):
    """LoRAX 0.12.1."""

    name = "lorax"
    title = "LoRAX: many LoRA adapters on one base model, on an EC2 host"
    hosting: Hosting = "ec2"
    versions: Mapping[str, EngineVersion] = MappingProxyType({_VERSION.version: _VERSION})

    def check(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """Adapters that the type cannot take, arguments that do not exist, variables that are overruled."""
        kind = model.architecture.type
        if serving.adapters is not None and kind not in _ADAPTER_TYPES:
            yield Refusal(
                key="adapters",
                value=serving.adapters.count,
                problem=f"cannot be loaded for {kind} models",
                fix=f"leave them out; it loads adapters for: {', '.join(sorted(_ADAPTER_TYPES))}",
            )
        if serving.quantization and serving.dtype != "fp16":
            yield Refusal(
                key="dtype",
                value=serving.dtype,
                problem=f"cannot be combined with quantization {serving.quantization}: {self.name} {version} takes no "
                "dtype for quantised models and computes in the torch_dtype of their config.json, or in fp16",
                fix="use fp16",
            )
        if not (serving.options or serving.environment):
            return
        yield from check_secrets(serving)
        decided = dict(self._arguments(serving))
        arguments = _arguments_of(version)
        for key, value in without_secrets(serving.options):
            found = _check_argument(key, value, arguments, decided, version)
            if found is not None:
                yield Refusal(key=f"options.{key}", value=value, problem=found[0], fix=found[1])
        for name, text in without_secrets(serving.environment):
            flag = name.lower().replace("_", "-")
            if flag in arguments["arguments"]:
                yield Refusal(
                    key=f"environment.{name}",
                    value=text,
                    problem=f"is the launcher's --{flag}, which the plan writes as {decided[flag]}"
                    if flag in decided
                    else f"is the launcher's --{flag} in another place, which the plan does not see",
                    fix="leave it out" if flag in decided or flag in _EXCLUSIVE else f"use serving.options.{flag}",
                )

    def launch_arguments(self, version: str, model: Model, serving: Serving) -> tuple[str, ...]:
        """Arguments of ``lorax-launcher``, the image's entrypoint."""
        del model
        known = _arguments_of(version)["arguments"]
        words = ["--json-output"]
        values: dict[str, Option] = {key.replace("_", "-"): value for key, value in serving.options.items()}
        for flag, value in {**values, **dict(self._arguments(serving))}.items():
            if known.get(flag, {}).get("kind") == "flag":
                words += [f"--{flag}"] if value is True else []
            else:
                words += [f"--{flag}", option_text(value)]
        return tuple(words)

    @staticmethod
    def _arguments(serving: Serving) -> Iterator[tuple[str, str]]:
        """A local folder is found by the source ``hub``; ``local`` is for adapters only."""
        yield "model-id", "{model}"
        yield "source", "hub"
        yield "port", "80"
        yield "num-shard", str(serving.tensor_parallel_degree)
        yield "max-input-length", str(serving.max_input_tokens)
        yield "max-total-tokens", str(serving.sequence_length)
        yield "adapter-memory-fraction", "0.1"
        yield "cuda-memory-fraction", "1.0"
        if serving.quantization:
            yield "quantize", _QUANTIZE[serving.quantization]
        else:
            yield "dtype", _TORCH_NAMES[serving.dtype]
        if serving.adapters is not None:
            yield "max-active-adapters", str(serving.adapters.count)


@cache
def _arguments_of(version: str) -> dict[str, Any]:
    table: dict[str, Any] = read_data("modelzone.engines", "lorax_arguments.yaml")["versions"][version]
    return table


def _check_argument(
    key: str, value: Option, table: dict[str, Any], decided: Mapping[str, str], version: str
) -> tuple[str, str] | None:
    flag = key.replace("_", "-")
    row = table["arguments"].get(flag)
    if row is None:
        return f"is not an argument of lorax-launcher {version}", f"known: {', '.join(sorted(table['arguments']))}"
    if flag in decided:
        if option_text(value) == decided[flag]:
            return None
        return f"contradicts the plan, which writes --{flag} {decided[flag]}", "change the setting it follows"
    if flag in _EXCLUSIVE:
        other = next(iter(_EXCLUSIVE & decided.keys()))
        return (
            f"cannot be combined with --{other} {decided[other]}, which the plan writes: the server refuses both",
            "leave it out: serving.quantization decides which one is written",
        )
    return _check_value(flag, value, row["kind"], table["choices"].get(flag))


def _check_value(flag: str, value: Option, kind: str, choices: list[str] | None) -> tuple[str, str] | None:
    fits = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "flag": isinstance(value, bool),
    }.get(kind, True)
    if not fits:
        return f"is not what --{flag} takes", f"give {_KINDS[kind]}"
    if choices and value not in choices:
        return f"is not a choice of --{flag}", f"use one of: {', '.join(choices)}"
    return None
