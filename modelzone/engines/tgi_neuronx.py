"""Hugging Face's Text Generation Inference for Neuron, in AWS's Deep Learning Container."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import Compiler, EngineVersion
from modelzone.engines.defaults import MODEL_FOLDER, EngineDefaults
from modelzone.engines.environment import Decided, check_decided, check_no_options, check_secrets
from modelzone.engines.optimum_neuron import (
    DECODER_TYPES,
    LAYOUT_CONFIG_FILE,
    LAYOUT_CONFIG_KEY,
    STATIC_BATCH_TYPES,
    check_static_batch,
    decoder_export,
)
from modelzone.engines.shapes import artifact_values
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = ["TgiNeuronx"]

_AMI = MappingProxyType({"inf2": "/aws/service/neuron/dlami/base/ubuntu-22.04/latest/image_id"})
_DRIVER = (
    "Runs with Neuron drivers up to 2.28 only (inferred: 2.29 needs runtime 2.33): compile on the ubuntu-22.04 line of "
    "the base DLAMI."
)
_REBUILDS = (
    "Mixtral, GPT-2, OPT and BLOOM are built without continuous batching: a batch above 1 works, but every new prompt "
    "makes the server run all prompts of the batch again."
)
_NO_MISTRAL = "Does not serve Mistral: optimum-neuron dropped it at 0.2.0; 0.0.25 and 0.0.28 are the last that do."
_MAINTENANCE = "TGI is in maintenance mode since December 2025; Hugging Face recommends vLLM."
_PRETENDS = (
    "Reports 0 for every log probability and ignores frequency_penalty, typical_p, watermark and grammars: the gateway "
    "refuses them."
)
# text_generation_server/generator.py; TGI itself has no presence penalty, min_p or logit_bias.
_SAMPLED_ON_HOST = frozenset({"repetition_penalty", "seed", "stop", "top_k"})
_SERVER = "huggingface/optimum-neuron@{}: text-generation-inference/server"
_ONE = frozenset({"0.0.25", "0.0.28"})


def _version(
    version: str,
    *,
    optimum: str,
    tgi: str,
    neuronx_cc: str,
    compiler: Compiler,
    features: frozenset[str],
    server: str,
    deployable: bool,
    limits: tuple[str, ...],
) -> EngineVersion:
    return EngineVersion(
        version=version,
        model_types=DECODER_TYPES[optimum],
        static_batch_types=STATIC_BATCH_TYPES[optimum],
        # The SDK publishes the images for this family; that they run on trn1 is NOT VERIFIED.
        instance_families=frozenset({"inf2"}),
        dialect="tgi-generate",
        features=features,
        compiler=compiler,
        components=MappingProxyType({"tgi": tgi, "optimum-neuron": optimum, "neuronx-cc": neuronx_cc}),
        compile_ami_parameters=_AMI,
        deployable=deployable,
        limits=(*limits, _PRETENDS, _DRIVER, _MAINTENANCE),
        sources=(
            f"optimum-neuron {optimum}'s wheel: optimum/commands/export/neuronx.py, optimum/exporters/neuron",
            f"{server}/text_generation_server/generator.py",
            f"awslabs/llm-hosting-container@421a60a: huggingface/pytorch/optimum/docker/{version}/Dockerfile",
        ),
    )


class TgiNeuronx(EngineDefaults):
    """TGI 2.1.1 (container 0.0.25), 3.0.0 (0.0.28) and 3.3.6 on Inferentia2."""

    name = "tgi-neuronx"
    title = "Hugging Face TGI for Neuron: decoders compiled ahead of time, on Inferentia2"
    versions: Mapping[str, EngineVersion] = MappingProxyType(
        {
            "0.0.25": _version(
                "0.0.25", optimum="0.0.25", tgi="2.1.1", neuronx_cc="2.15.128.0", compiler=LAYOUT_CONFIG_KEY,
                features=_SAMPLED_ON_HOST, server=_SERVER.format("493a134"), deployable=True,
                limits=(_REBUILDS, "Its streams do not end with data: [DONE]."),
            ),
            "0.0.28": _version(
                "0.0.28", optimum="0.0.28", tgi="3.0.0", neuronx_cc="2.15.143.0", compiler=LAYOUT_CONFIG_KEY,
                features=_SAMPLED_ON_HOST, server=_SERVER.format("f74ddb6"), deployable=False, limits=(_REBUILDS,),
            ),
            "3.3.6": _version(
                "3.3.6", optimum="0.3.0", tgi="3.3.6", neuronx_cc="2.19.8089.0", compiler=LAYOUT_CONFIG_FILE,
                # The device samples, with temperature, top_p and top_k only.
                features=frozenset({"stop", "top_k"}),
                server="huggingface/text-generation-inference@efb94e0 (v3.3.6): backends/neuron/server",
                deployable=False,
                limits=(
                    _NO_MISTRAL,
                    "Mixtral is built without continuous batching and then serves batch size 1 only.",
                    ("Qwen2 and Qwen3 with tensor parallel degree 2 and a batch above 1 sample on the host (a fault of "
                    "the Neuron runtime)."),
                ),
            ),
        }
    )  # fmt: skip

    def check(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """Variables that contradict the compiled shapes, and batches that the server refuses."""
        if version not in _ONE:
            yield from check_static_batch(self.name, self.versions[version], model, serving)
        if not (serving.environment or serving.options):
            return
        yield from check_secrets(serving)
        yield from check_no_options(serving, engine=f"{self.name} {version}")
        yield from check_decided(serving, self._decided(version, serving))
        yield from _check_fatal(version, serving)

    def container_environment(self, version: str, model: Model, serving: Serving) -> dict[str, str]:
        """Where the model is.

        Batch size and token limits are left to the artifact, which has them compiled in. 3.3.6 does not map
        ``HF_MODEL_ID`` to the launcher's ``MODEL_ID``.
        """
        del model
        return {("HF_MODEL_ID" if version in _ONE else "MODEL_ID"): MODEL_FOLDER, **serving.environment}

    def artifact_environment(self, version: str, values: Mapping[str, str]) -> dict[str, str]:
        """Shapes and limits; the launcher compares the first five with the compiled configuration."""
        del version
        return {
            "MAX_BATCH_SIZE": values["batch_size"],
            "MAX_TOTAL_TOKENS": values["sequence_length"],
            "HF_NUM_CORES": values["tensor_parallel_degree"],
            "HF_AUTO_CAST_TYPE": values["dtype"],
            "MAX_INPUT_TOKENS": values["max_input_tokens"],
            "MAX_BATCH_PREFILL_TOKENS": values["max_batch_prefill_tokens"],
        }

    def export_command(self, version: str, model: Model, serving: Serving) -> tuple[str, ...]:
        """``optimum-cli export neuron``."""
        del model
        return decoder_export(self.versions[version].components["optimum-neuron"], serving)

    def _decided(self, version: str, serving: Serving) -> dict[str, Decided]:
        """What the artifact or the plan decides, by variable."""
        values = artifact_values(serving)
        read = {
            name: Decided(value=value, by=_reason(name, serving))
            for name, value in self.artifact_environment(version, values).items()
        }
        model = Decided(value=MODEL_FOLDER, by=f"the artifact, which lies in {MODEL_FOLDER}")
        decided = {
            **read,
            # Other names for the same, which the entrypoint reads as well.
            "HF_BATCH_SIZE": read["MAX_BATCH_SIZE"],
            "HF_SEQUENCE_LENGTH": read["MAX_TOTAL_TOKENS"],
            "HF_MODEL_ID": model,
            "MODEL_ID": model,
            "PORT": Decided(value="8080", by="SageMaker, which asks port 8080"),
        }
        if version == "0.0.25":
            decided["MESSAGES_API_ENABLED"] = Decided(
                value="false",
                by="the gateway, which renders the chat template: TGI 2.1.1 would answer chat bodies only",
            )
        return decided


def _reason(name: str, serving: Serving) -> str:
    """Which setting decides a variable, with its value."""
    batch, longest = serving.batch_size, serving.max_input_tokens
    return {
        "MAX_BATCH_SIZE": f"batch_size {batch}, which is compiled in",
        "MAX_TOTAL_TOKENS": f"sequence_length {serving.sequence_length}, which is compiled in",
        "HF_NUM_CORES": f"tensor_parallel_degree {serving.tensor_parallel_degree}, which is compiled in",
        "HF_AUTO_CAST_TYPE": f"dtype {serving.dtype}, which is compiled in",
        "MAX_INPUT_TOKENS": f"max_input_tokens {longest}",
        "MAX_BATCH_PREFILL_TOKENS": f"batch_size {batch} of prompts with max_input_tokens {longest}",
    }[name]


def _check_fatal(version: str, serving: Serving) -> Iterator[Refusal]:
    environment = serving.environment
    if "MAX_INPUT_LENGTH" in environment:
        yield Refusal(
            key="environment.MAX_INPUT_LENGTH",
            value=environment["MAX_INPUT_LENGTH"],
            problem=f"stops the launcher: MAX_INPUT_TOKENS is set to max_input_tokens {serving.max_input_tokens}, and "
            f"TGI {version} refuses to start with both",
            fix="leave it out and change max_input_tokens",
        )
    yield from _check_total_tokens(version, serving)
    yield from _check_cores(serving)


def _check_total_tokens(version: str, serving: Serving) -> Iterator[Refusal]:
    """The launcher or the router holds it against two others, which the compiled shapes decide."""
    text = serving.environment.get("MAX_BATCH_TOTAL_TOKENS", "")
    needed = {
        "MAX_BATCH_PREFILL_TOKENS": serving.batch_size * serving.max_input_tokens,
        "MAX_TOTAL_TOKENS": serving.sequence_length,
    }
    if not text.strip().isdecimal() or int(text) >= max(needed.values()):
        return
    above = [f"{name} {tokens}" for name, tokens in needed.items() if int(text) < tokens]
    yield Refusal(
        key="environment.MAX_BATCH_TOTAL_TOKENS",
        value=text,
        problem=f"stops TGI {version}: it is lower than {' and '.join(above)}, which follow from the plan",
        fix=f"leave it out, or give at least {max(needed.values())}",
    )


def _check_cores(serving: Serving) -> Iterator[Refusal]:
    for name, read in _CORES.items():
        if name not in serving.environment:
            continue
        value = serving.environment[name]
        try:
            cores = read(value)
        except ValueError:
            problem = "stops the server, which cannot read it as a number of cores"
        else:
            if cores >= serving.tensor_parallel_degree:
                continue
            problem = f"gives the server {cores}, fewer cores than tensor_parallel_degree "
            problem += str(serving.tensor_parallel_degree)
        yield Refusal(key=f"environment.{name}", value=value, problem=problem, fix="leave it out")


def _visible_cores(text: str) -> int:
    """As optimum-neuron counts them: ``7-15`` is a range, and anything else one core, ``0,1`` too."""
    if "-" not in text:
        return 1
    start, end = text.split("-")
    return int(end) - int(start) + 1


_CORES: Mapping[str, Callable[[str], int]] = MappingProxyType(
    {"NEURON_RT_NUM_CORES": int, "NEURON_RT_VISIBLE_CORES": _visible_cores}
)
