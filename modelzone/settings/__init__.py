"""Settings: environments and model profiles, read from YAML, frozen and checked."""

from modelzone.settings.environment import (
    Compile,
    DeploymentSettings,
    Environment,
    ExistingVpc,
    Gateway,
    ModelStoreSettings,
    Network,
    NewVpc,
)
from modelzone.settings.loading import (
    apply_overrides,
    deployment_overrides,
    environment_names,
    load_environment,
    load_profile,
    merge_serving,
    profile_names,
    shown_override,
)
from modelzone.settings.model_profile import Adapters, Model, ModelProfile, Quantization, Scaling, Serving

__all__ = [
    "Adapters",
    "Compile",
    "DeploymentSettings",
    "Environment",
    "ExistingVpc",
    "Gateway",
    "Model",
    "ModelProfile",
    "ModelStoreSettings",
    "Network",
    "NewVpc",
    "Quantization",
    "Scaling",
    "Serving",
    "apply_overrides",
    "deployment_overrides",
    "environment_names",
    "load_environment",
    "load_profile",
    "merge_serving",
    "profile_names",
    "shown_override",
]
