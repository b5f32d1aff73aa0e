"""Settings: environments and model profiles, read from YAML, frozen and checked."""

from modelzone.settings.access import Access, AccessMethod, Tenant
from modelzone.settings.environment import (
    Compile,
    DeploymentSettings,
    Environment,
    ExistingVpc,
    ModelStoreSettings,
    Network,
    NewVpc,
)
from modelzone.settings.gateway import AnswerCache, Firewall, Gateway
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
    "Access",
    "AccessMethod",
    "Adapters",
    "AnswerCache",
    "Compile",
    "DeploymentSettings",
    "Environment",
    "ExistingVpc",
    "Firewall",
    "Gateway",
    "Model",
    "ModelProfile",
    "ModelStoreSettings",
    "Network",
    "NewVpc",
    "Quantization",
    "Scaling",
    "Serving",
    "Tenant",
    "apply_overrides",
    "deployment_overrides",
    "environment_names",
    "load_environment",
    "load_profile",
    "merge_serving",
    "profile_names",
    "shown_override",
]
