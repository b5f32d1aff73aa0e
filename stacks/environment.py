"""All stacks of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aws_cdk import Tags
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.compile import CompileStack
from stacks.gateway import GatewayStack
from stacks.inferentia import InferentiaStack
from stacks.model_store import ModelStoreStack
from stacks.network import NetworkStack

__all__ = ["DEPLOYMENT_STACKS", "build_environment"]

# Instance family -> the stack that serves models on it.
DEPLOYMENT_STACKS: Mapping[str, type[InferentiaStack]] = MappingProxyType({"inf2": InferentiaStack})


def build_environment(scope: Construct, *, plan: EnvironmentPlan) -> None:
    """Compose every stack of an environment below an app or a stage."""
    network = NetworkStack(scope, "NetworkStack", plan=plan)
    model_store = ModelStoreStack(scope, "ModelStoreStack", plan=plan, logs=network.logs)
    compile_stack = CompileStack(
        scope, "CompileStack", plan=plan, logs=network.logs, network=network.network, store=model_store.store
    )
    gateway = GatewayStack(scope, "GatewayStack", plan=plan, logs=network.logs, network=network.network)
    for deployment in plan.deployments:
        stack = DEPLOYMENT_STACKS[deployment.instance.family](
            scope,
            deployment.stack_id,
            plan=plan,
            deployment=deployment,
            network=network.network,
            store=model_store.store,
            logs=network.logs,
            artifact_check=model_store.artifact_check,
            waiter=compile_stack.waiter,
            pipeline=compile_stack.pipeline,
            proxy=gateway.proxy,
        )
        # `cdk deploy <this stack>` is to bring the API along, which nothing in it needs to refer to.
        stack.add_stack_dependency(gateway, reason="requests come through it")
    Tags.of(scope).add("project", "modelzone")
