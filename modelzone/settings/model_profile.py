"""Model profiles (``models/*.yaml``): what a model is and how it is served by default."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from modelzone.architectures import Clip, Decoder
from modelzone.schema import Identifier, Settings

__all__ = [
    "Adapters",
    "Dtype",
    "Model",
    "ModelProfile",
    "Quantization",
    "Scaling",
    "ScalingOverrides",
    "Serving",
    "ServingOverrides",
]

HubId = Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$", max_length=96)]
Revision = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")]
Dtype = Literal["fp16", "bf16"]
# The methods by the names that the servers use. "-4bit" and "-8bit" where one method has two widths.
Quantization = Literal[
    "awq", "gptq", "smoothquant", "fp8", "int8", "bitsandbytes-8bit", "bitsandbytes-4bit", "eetq", "hqq-4bit"
]
# SageMaker: production variant timeouts, CreateEndpointConfig API reference.
Timeout = Annotated[int, Meta(ge=60, le=3600)]
Degree = Annotated[int, Meta(ge=1, le=64)]
BatchSize = Annotated[int, Meta(ge=1, le=1024)]
SequenceLength = Annotated[int, Meta(ge=64, le=1_048_576)]
InputTokens = Annotated[int, Meta(ge=1)]
VolumeSize = Annotated[int, Meta(ge=1, le=512)]
Instances = Annotated[int, Meta(ge=1, le=100)]
Concurrency = Annotated[int, Meta(ge=1, le=1000)]
Cooldown = Annotated[int, Meta(ge=0, le=86_400)]
VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
OptionName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]*$", max_length=128)]
Option = str | int | float | bool


class Model(Settings, frozen=True):
    """A model on the Hugging Face Hub.

    ``revision`` is a commit, so that what was compiled can be compiled again. ``gated`` says that the licence has to
    be accepted on the hub and that downloads need a token. ``chat_template`` names one of the gateway's templates;
    without it chats are left to engines that apply the model's own, and the gateway completes text only with others.
    """

    hub_id: HubId
    revision: Revision
    license: str
    gated: bool
    architecture: Decoder | Clip
    chat_template: Literal["chatml", "llama-2-chat", "llama-3-instruct", "mistral-instruct", "zephyr"] | None = None


class Adapters(Settings, frozen=True):
    """LoRA adapters that are loaded at once: how many, and their largest rank."""

    count: Annotated[int, Meta(ge=1, le=1024)]
    rank: Annotated[int, Meta(ge=1, le=512)] = 16


class Scaling(Settings, frozen=True):
    """Autoscaling of a deployment.

    ``target_concurrency`` is the number of concurrent requests per instance that the target tracking policy holds
    (metric ``SageMakerVariantConcurrentRequestsPerModelHighResolution``); without it the plan takes the batch size.
    """

    min_instances: Instances = 1
    max_instances: Instances = 1
    target_concurrency: Concurrency | None = None
    scale_in_cooldown_seconds: Cooldown = 600
    scale_out_cooldown_seconds: Cooldown = 60

    def __post_init__(self) -> None:
        if self.min_instances > self.max_instances:
            raise ValueError(f"min_instances {self.min_instances} is more than max_instances {self.max_instances}")


class Serving(Settings, frozen=True):
    """How a model is served.

    ``batch_size`` is the number of sequences that are decoded together (compiled in, where an engine compiles).
    ``max_input_tokens`` bounds the prompt; prompt and answer together never exceed ``sequence_length``.
    ``image_uri`` replaces the engine's own image. ``environment`` adds variables to the container's, and ``options``
    adds keys to its ``serving.properties`` or arguments to its command line; neither may contradict the fields here.
    """

    engine: str
    engine_version: str
    instance_type: str
    tensor_parallel_degree: Degree
    batch_size: BatchSize
    sequence_length: SequenceLength
    max_input_tokens: InputTokens
    dtype: Dtype
    health_check_timeout_seconds: Timeout
    download_timeout_seconds: Timeout
    quantization: Quantization | None = None
    volume_size_gib: VolumeSize | None = None
    image_uri: str | None = None
    environment: dict[VariableName, str] = msgspec.field(default_factory=dict)
    options: dict[OptionName, Option] = msgspec.field(default_factory=dict)
    adapters: Adapters | None = None
    scaling: Scaling = msgspec.field(default_factory=Scaling)

    def __post_init__(self) -> None:
        if self.max_input_tokens >= self.sequence_length:
            raise ValueError(
                f"max_input_tokens {self.max_input_tokens} leaves no room for an answer in sequence_length "
                f"{self.sequence_length}; it must be lower"
            )


class ScalingOverrides(Settings, frozen=True):
    """The fields of `Scaling`, all optional."""

    min_instances: Instances | UnsetType = UNSET
    max_instances: Instances | UnsetType = UNSET
    target_concurrency: Concurrency | UnsetType | None = UNSET
    scale_in_cooldown_seconds: Cooldown | UnsetType = UNSET
    scale_out_cooldown_seconds: Cooldown | UnsetType = UNSET

    def __post_init__(self) -> None:
        low, high = self.min_instances, self.max_instances
        if isinstance(low, int) and isinstance(high, int) and low > high:
            raise ValueError(f"min_instances {low} is more than max_instances {high}")


class ServingOverrides(Settings, frozen=True):
    """The fields of `Serving` that a deployment may override, all optional, checked again once merged."""

    engine: str | UnsetType = UNSET
    engine_version: str | UnsetType = UNSET
    instance_type: str | UnsetType = UNSET
    tensor_parallel_degree: Degree | UnsetType = UNSET
    batch_size: BatchSize | UnsetType = UNSET
    sequence_length: SequenceLength | UnsetType = UNSET
    max_input_tokens: InputTokens | UnsetType = UNSET
    dtype: Dtype | UnsetType = UNSET
    health_check_timeout_seconds: Timeout | UnsetType = UNSET
    download_timeout_seconds: Timeout | UnsetType = UNSET
    quantization: Quantization | UnsetType | None = UNSET
    volume_size_gib: VolumeSize | UnsetType | None = UNSET
    image_uri: str | UnsetType | None = UNSET
    environment: dict[VariableName, str] | UnsetType = UNSET
    options: dict[OptionName, Option] | UnsetType = UNSET
    adapters: Adapters | UnsetType | None = UNSET
    scaling: ScalingOverrides | UnsetType = UNSET


class ModelProfile(Settings, frozen=True):
    """One file of ``models/``."""

    name: Identifier
    description: str
    model: Model
    serving: Serving
