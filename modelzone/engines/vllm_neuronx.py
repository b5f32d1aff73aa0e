"""vLLM on Neuron: Hugging Face's container with optimum-neuron's plugin, in AWS's Deep Learning Container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import EngineVersion
from modelzone.engines.defaults import MODEL_FOLDER, EngineDefaults
from modelzone.engines.environment import Decided, check_decided, check_no_options, check_secrets
from modelzone.engines.optimum_neuron import (
    DECODER_TYPES,
    LAYOUT_CONFIG_FILE,
    STATIC_BATCH_TYPES,
    check_static_batch,
    decoder_export,
)
from modelzone.engines.shapes import artifact_values
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = ["VllmNeuronx"]

_AMI = "/aws/service/neuron/dlami/base/ubuntu-22.04/latest/image_id"
# TGI's variables and the ones that this container reads instead; it ignores the first without a word.
_INSTEAD = {
    "MAX_BATCH_SIZE": "SM_ON_BATCH_SIZE",
    "MAX_TOTAL_TOKENS": "SM_ON_SEQUENCE_LENGTH",
    "HF_NUM_CORES": "SM_ON_TENSOR_PARALLEL_SIZE",
    "HF_MODEL_ID": "SM_ON_MODEL",
    "MODEL_ID": "SM_ON_MODEL",
}


def _version(version: str) -> EngineVersion:
    return EngineVersion(
        version=version,
        model_types=DECODER_TYPES[version],
        static_batch_types=STATIC_BATCH_TYPES[version],
        instance_families=frozenset({"inf2", "trn1"}),
        dialect="vllm-openai",
        # runner.py: with sampling on the device, which decoders are compiled for, only temperature, top_p and top_k
        # reach the model; log probabilities are dropped, and nothing holds an answer to a grammar.
        features=frozenset({"chat", "continue", "stop", "top_k", "usage"}),
        compiler=LAYOUT_CONFIG_FILE,
        components=MappingProxyType(
            {"vllm": "0.11.0", "optimum-neuron": version, "neuronx-cc": "2.21.33363.0", "neuron-sdk": "2.26.1"}
        ),
        compile_ami_parameters=MappingProxyType({"inf2": _AMI, "trn1": _AMI}),
        limits=(
            "Does not serve Mistral: optimum-neuron dropped it at 0.2.0; tgi-neuronx 0.0.25 and 0.0.28 serve it.",
            "Mixtral is built without continuous batching: batch size 1 only.",
            (
                "Decoders are compiled in the dtype that the checkpoint's config.json names: --torch_dtype does not "
                "reach them. The artifact's neuron_config.json says what was done."
            ),
            "Published in 11 regions only.",
            (
                "Runs with Neuron drivers up to 2.28 only (inferred). That the driver 2.19 of SageMaker's inference "
                "AMI does for runtime 2.28.23 is NOT VERIFIED."
            ),
            "trn2 is not supported by its plugin.",
            (
                "Ignores seeds, penalties, min_p, logit_bias and JSON schemas, fails on logprobs, and has no parser "
                "for tool calls: the gateway offers none of them."
            ),
        ),
        sources=(
            f"optimum-neuron {version}'s wheel: optimum/commands/neuron/serve.py, optimum/neuron/vllm",
            "huggingface/optimum-neuron@f4bc3c5: docker/vllm/Dockerfile (entrypoint)",
            "aws/deep-learning-containers@e0ecede: docs/src/data/huggingface-vllm-inference-neuronx",
        ),
    )


class VllmNeuronx(EngineDefaults):
    """vLLM 0.11.0 with optimum-neuron's plugin."""

    name = "vllm-neuronx"
    title = "vLLM for Neuron (optimum-neuron): decoders compiled ahead of time, OpenAI routes"
    versions: Mapping[str, EngineVersion] = MappingProxyType(
        {version: _version(version) for version in ("0.4.4", "0.4.5")}
    )

    def check(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """Variables that contradict the compiled shapes, or that this container does not read."""
        yield from check_static_batch(self.name, self.versions[version], model, serving)
        if not (serving.environment or serving.options):
            return
        yield from check_secrets(serving)
        yield from check_no_options(serving, engine=f"{self.name} {version}")
        yield from check_decided(serving, self._decided(version, model, serving))
        for name, instead in _INSTEAD.items():
            if name in serving.environment:
                yield Refusal(
                    key=f"environment.{name}",
                    value=serving.environment[name],
                    problem=f"would be ignored: this container reads {instead}, which the plan sets",
                    fix="leave it out",
                )
        if "SM_ON_ALLOW_NON_CACHED_MODEL" in serving.environment:
            yield Refusal(
                key="environment.SM_ON_ALLOW_NON_CACHED_MODEL",
                value=serving.environment["SM_ON_ALLOW_NON_CACHED_MODEL"],
                problem="would compile on the endpoint what the compile job has compiled",
                fix="leave it out",
            )

    def container_environment(self, version: str, model: Model, serving: Serving) -> dict[str, str]:
        """``SM_ON_<ARGUMENT>`` becomes ``--<argument>`` of ``optimum-cli neuron serve``; shapes come from the artifact.

        Without a served name, clients would have to call the model ``/opt/ml/model``.
        """
        del version
        return {"SM_ON_MODEL": MODEL_FOLDER, "SM_ON_SERVED_MODEL_NAME": model.hub_id, **serving.environment}

    def artifact_environment(self, version: str, values: Mapping[str, str]) -> dict[str, str]:
        """The shapes as arguments of ``optimum-cli neuron serve``."""
        del version
        return {
            "SM_ON_BATCH_SIZE": values["batch_size"],
            "SM_ON_SEQUENCE_LENGTH": values["sequence_length"],
            "SM_ON_TENSOR_PARALLEL_SIZE": values["tensor_parallel_degree"],
        }

    def export_command(self, version: str, model: Model, serving: Serving) -> tuple[str, ...]:
        """``optimum-cli export neuron``."""
        del model
        return decoder_export(version, serving)

    def _decided(self, version: str, model: Model, serving: Serving) -> dict[str, Decided]:
        """What the artifact or the plan decides, by variable."""
        values = artifact_values(serving)
        reasons = {
            "SM_ON_BATCH_SIZE": f"batch_size {serving.batch_size}, which is compiled in",
            "SM_ON_SEQUENCE_LENGTH": f"sequence_length {serving.sequence_length}, which is compiled in",
            "SM_ON_TENSOR_PARALLEL_SIZE": f"tensor_parallel_degree {serving.tensor_parallel_degree}, which is "
            "compiled in",
        }
        read = {
            name: Decided(value=value, by=reasons[name])
            for name, value in self.artifact_environment(version, values).items()
        }
        return {
            **read,
            "SM_ON_MODEL": Decided(value=MODEL_FOLDER, by=f"the artifact, which lies in {MODEL_FOLDER}"),
            "SM_ON_SERVED_MODEL_NAME": Decided(value=model.hub_id, by="the model's name in the gateway"),
            # vLLM's own names for the same.
            "SM_ON_MAX_NUM_SEQS": read["SM_ON_BATCH_SIZE"],
            "SM_ON_MAX_MODEL_LEN": read["SM_ON_SEQUENCE_LENGTH"],
            "SM_ON_PORT": Decided(value="8080", by="SageMaker, which asks port 8080"),
        }
