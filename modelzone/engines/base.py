"""The shape that every engine has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Quantization, Serving

__all__ = ["FEATURES", "Compiler", "Engine", "EngineVersion", "Hosting"]

Hosting = Literal["sagemaker", "ec2"]

FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "adapters": "applies a LoRA adapter that the request names",
        "chat": "applies the model's chat template itself",
        "continue": "goes on with a last message of the assistant",
        "embeddings": "makes embeddings",
        "frequency_penalty": "takes a frequency penalty, without the presence penalty",
        "json": "holds the answer to JSON or to a JSON schema",
        "logit_bias": "takes a bias for tokens",
        "logprobs": "reports the log probability of each token",
        "min_p": "takes min_p",
        "penalties": "takes frequency and presence penalties",
        "repetition_penalty": "takes a repetition penalty",
        "seed": "samples the same for the same seed",
        "stop": "takes stop sequences",
        "tools": "calls tools",
        "top_k": "takes top_k",
        "top_logprobs": "reports likelier tokens beside each token",
        "usage": "counts the prompt's tokens",
    }
)
"""The words of `EngineVersion.features`, which the registry and the gateway use too."""


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """How an engine version turns weights into what it serves.

    Attributes
    ----------
    tool
        What runs: ``optimum-neuron``, ``tensorrt-llm``, ``torch-neuronx``.
    artifact_layout
        How the result is laid out; ``compile_job`` verifies by this name. ``neuron-config-key``: ``config.json`` with
        a ``neuron`` key and ``compiled/*.neff``; ``neuron-config-file``: ``neuron_config.json`` and ``model.pt``;
        ``tensorrt-llm-repo``; ``traced-modules``.
    required
        False where the engine can also compile when it starts.
    """

    tool: str
    artifact_layout: str
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class EngineVersion:
    """One released container of an engine.

    Attributes
    ----------
    model_types
        ``model_type`` values of ``config.json`` that it can serve and that this project can size.
    instance_families
        Families that the image runs on.
    dialect
        How the gateway talks to it, by a module name of ``lambda/invoke_proxy/dialects``; what each one means is in
        ``docs/engines.md``. ``clip`` has no text to generate and no module.
    features
        What clients may ask of it, in the words of `FEATURES`. What a version accepts and then ignores is not among
        them: the gateway refuses the rest by name.
    dtypes, quantizations
        What it can compute in, and which quantised weights it can serve.
    device_memory_fraction
        Share of a device's memory that the engine takes for weights, KV cache and activations.
    components
        Versions of what is inside, by name: ``optimum-neuron``, ``neuronx-cc``, ``vllm``, ``tensorrt-llm``.
    inference_ami_versions
        SageMaker's ``InferenceAmiVersion`` by instance family, where the family's default does not do.
    compile_ami_parameters
        Public SSM parameter of the AMI that hosts a compilation (or, on EC2, the server), by instance family.
    static_batch_types
        Model types whose batch it cannot refill while it decodes: it starts all sequences again for every new
        prompt, or refuses a batch above 1.
    deployable
        Whether a stack exists that deploys it; the others can be planned and compared.
    limits
        What the version cannot do, a sentence each, for people.
    sources
        Where the facts come from.
    """

    version: str
    model_types: frozenset[str]
    instance_families: frozenset[str]
    dialect: str
    features: frozenset[str] = frozenset()
    dtypes: frozenset[str] = frozenset({"fp16", "bf16"})
    quantizations: frozenset[Quantization] = frozenset()
    device_memory_fraction: float = 1.0
    components: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    compiler: Compiler | None = None
    inference_ami_versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    compile_ami_parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    static_batch_types: frozenset[str] = frozenset()
    supports_adapters: bool = False
    deployable: bool = False
    limits: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class Engine(Protocol):
    """A container family that serves models. Methods are pure; `version` is a key of `versions`."""

    @property
    def name(self) -> str:
        """The name that settings use."""
        ...

    @property
    def title(self) -> str:
        """One line for people."""
        ...

    @property
    def hosting(self) -> Hosting:
        """Whether SageMaker runs the container or an EC2 host does."""
        ...

    @property
    def versions(self) -> Mapping[str, EngineVersion]:
        """Supported versions by their name, oldest first."""
        ...

    def check(self, version: str, model: Model, serving: Serving) -> Iterable[Refusal]:
        """What only this engine knows: variables and options that contradict the plan, combinations it cannot do.

        Model type, instance family, dtype, quantisation, memory and topology are the planner's.
        """
        ...

    def container_environment(self, version: str, model: Model, serving: Serving) -> dict[str, str]:
        """What the container is told at start, without what a compiled artifact decides."""
        ...

    def artifact_environment(self, version: str, values: Mapping[str, str]) -> dict[str, str]:
        """What a compiled artifact decides about the container: the one place that knows the variables for it.

        `values` are those of `shapes.artifact_values`; they may also be references that CloudFormation fills from the
        artifact's manifest.
        """
        ...

    def serving_properties(self, version: str, model: Model, serving: Serving) -> dict[str, str] | None:
        """The lines of ``serving.properties`` for DJL Serving; None for other engines."""
        ...

    def launch_arguments(self, version: str, model: Model, serving: Serving) -> tuple[str, ...]:
        """Arguments of the server's command line, for engines that are configured by it.

        ``{model}`` stands for the folder of the weights inside the container.
        """
        ...

    def export_command(self, version: str, model: Model, serving: Serving) -> tuple[str, ...] | None:
        """The command that compiles a model inside the serving container.

        ``{model}`` and ``{output}`` stand for folders, ``{properties}`` for one with a ``serving.properties``, and the
        placeholders of `shapes` for what is compiled in. None when the version compiles nothing ahead of time.
        """
        ...
