"""Settings: environments and model profiles, read from YAML, frozen and checked."""

from modelzone.settings.environment import (
    DeploymentSettings,
    Environment,
    ExistingVpc,
    Gateway,
    Network,
    NewVpc,
)
from modelzone.settings.loading import (
    apply_overrides,
    deployment_overrides,
    load_environment,
    load_profile,
    merge_serving,
)
from modelzone.settings.model_profile import Architecture, Model, ModelProfile, Scaling, Serving

__all__ = [
    "Architecture",
    "DeploymentSettings",
    "Environment",
    "ExistingVpc",
    "Gateway",
    "Model",
    "ModelProfile",
    "Network",
    "NewVpc",
    "Scaling",
    "Serving",
    "apply_overrides",
    "deployment_overrides",
    "load_environment",
    "load_profile",
    "merge_serving",
]
