"""Planning: from settings to the one frozen answer that stacks, compile job and CLI read."""

from modelzone.planning.memory import MemoryPlan, kv_cache_bytes_per_token, parameter_count, plan_memory
from modelzone.planning.plan import CompilePlan, DeploymentPlan, EnvironmentPlan, plan_deployment, plan_environment

__all__ = [
    "CompilePlan",
    "DeploymentPlan",
    "EnvironmentPlan",
    "MemoryPlan",
    "kv_cache_bytes_per_token",
    "parameter_count",
    "plan_deployment",
    "plan_environment",
    "plan_memory",
]
