"""Model profiles (``models/*.yaml``): what a model is and how it is served by default."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from modelzone.settings.base import Identifier, Settings

__all__ = ["Architecture", "Dtype", "Model", "ModelProfile", "Scaling", "Serving", "ServingOverrides"]

HubId = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$", max_length=96)]
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Dtype = Literal["fp16", "bf16"]
# SageMaker: production variant timeouts, CreateEndpointConfig API reference.
Timeout = Annotated[int, Field(ge=60, le=3600)]


class Architecture(Settings):
    """The numbers of a decoder's ``config.json`` that decide how much memory it needs."""

    type: Literal["llama", "mistral", "mixtral"]
    layers: int = Field(ge=1, le=512)
    hidden_size: int = Field(ge=1)
    attention_heads: int = Field(ge=1)
    key_value_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    vocabulary_size: int = Field(ge=1)
    context_length: int = Field(ge=64)
    experts: int = Field(default=1, ge=1)
    experts_per_token: int = Field(default=1, ge=1)
    tied_embeddings: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of attention_heads {self.attention_heads}"
            )
        if self.attention_heads % self.key_value_heads:
            raise ValueError(
                f"attention_heads {self.attention_heads} is not a multiple of key_value_heads {self.key_value_heads}"
            )
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} is more than experts {self.experts}")
        return self

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.attention_heads


class Model(Settings):
    """A model on the Hugging Face Hub.

    ``revision`` is a commit, so that what was compiled can be compiled again. ``gated`` says that the licence has to
    be accepted on the hub and that downloads need a token.
    """

    hub_id: HubId
    revision: Revision
    license: str
    gated: bool
    chat_template: Literal["mistral-instruct"]
    architecture: Architecture


class Scaling(Settings):
    """Autoscaling of a deployment.

    ``target_concurrency`` is the number of concurrent requests per instance that the target tracking policy holds
    (metric ``SageMakerVariantConcurrentRequestsPerModelHighResolution``); without it the plan takes the batch size.
    """

    min_instances: int = Field(default=1, ge=1, le=100)
    max_instances: int = Field(default=1, ge=1, le=100)
    target_concurrency: int | None = Field(default=None, ge=1, le=1000)
    scale_in_cooldown_seconds: int = Field(default=600, ge=0, le=86_400)
    scale_out_cooldown_seconds: int = Field(default=60, ge=0, le=86_400)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError(f"min_instances {self.min_instances} is more than max_instances {self.max_instances}")
        return self


class Serving(Settings):
    """How a model is served.

    ``max_input_tokens`` bounds the prompt; prompt and answer together never exceed ``sequence_length``, because the
    shapes are compiled in. ``image_uri`` replaces the engine's own image.
    """

    engine: str
    engine_version: str
    instance_type: str
    tensor_parallel_degree: int = Field(ge=1, le=64)
    batch_size: int = Field(ge=1, le=256)
    sequence_length: int = Field(ge=64, le=131_072)
    max_input_tokens: int = Field(ge=1)
    dtype: Dtype
    health_check_timeout_seconds: Timeout
    download_timeout_seconds: Timeout
    volume_size_gib: int | None = Field(default=None, ge=1, le=512)
    image_uri: str | None = None
    scaling: Scaling = Scaling()

    @model_validator(mode="after")
    def _room_for_an_answer(self) -> Self:
        if self.max_input_tokens >= self.sequence_length:
            raise ValueError(
                f"max_input_tokens {self.max_input_tokens} leaves no room for an answer in sequence_length "
                f"{self.sequence_length}; it must be lower"
            )
        return self


class ServingOverrides(Settings):
    """The fields of `Serving` that a deployment may override, all optional, checked again once merged."""

    engine: str | None = None
    engine_version: str | None = None
    instance_type: str | None = None
    tensor_parallel_degree: int | None = Field(default=None, ge=1, le=64)
    batch_size: int | None = Field(default=None, ge=1, le=256)
    sequence_length: int | None = Field(default=None, ge=64, le=131_072)
    max_input_tokens: int | None = Field(default=None, ge=1)
    dtype: Dtype | None = None
    health_check_timeout_seconds: Timeout | None = None
    download_timeout_seconds: Timeout | None = None
    volume_size_gib: int | None = Field(default=None, ge=1, le=512)
    image_uri: str | None = None
    scaling: Scaling | None = None


class ModelProfile(Settings):
    """One file of ``models/``."""

    name: Identifier
    description: str
    model: Model
    serving: Serving
