"""Planning: what fits where, how, and what follows from it. No AWS, no network."""

from modelzone.planning.assess import assess
from modelzone.planning.assessment import Assessment
from modelzone.planning.compilation import CompileNeeds
from modelzone.planning.environment_plan import EnvironmentPlan, plan_environment
from modelzone.planning.memory import MemoryItem, MemoryPlan, plan_memory
from modelzone.planning.plan import CompilePlan, DeploymentPlan, plan_deployment
from modelzone.planning.search import SearchSpace, rank, search
from modelzone.planning.throughput import Throughput

__all__ = [
    "Assessment",
    "CompileNeeds",
    "CompilePlan",
    "DeploymentPlan",
    "EnvironmentPlan",
    "MemoryItem",
    "MemoryPlan",
    "SearchSpace",
    "Throughput",
    "assess",
    "plan_deployment",
    "plan_environment",
    "plan_memory",
    "rank",
    "search",
]
