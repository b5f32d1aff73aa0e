"""Plans of environments: the plans of all their deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelzone.errors import SettingsError
from modelzone.planning.plan import DeploymentPlan, plan_deployment
from modelzone.settings import (
    Environment,
    apply_overrides,
    environment_names,
    load_environment,
    load_profile,
    shown_override,
)

__all__ = ["EnvironmentPlan", "plan_environment"]


@dataclass(frozen=True, kw_only=True)
class EnvironmentPlan:
    """An environment with the plans of all its deployments."""

    environment: Environment
    deployments: tuple[DeploymentPlan, ...]

    @property
    def store_owner(self) -> str:
        """The environment whose model store is used: this one, or the one it shares with."""
        store = self.environment.model_store
        return self.environment.name if store is None else store.shared_with

    @property
    def orders_path(self) -> str:
        """SSM path of what can be compiled: one order a deployment."""
        return f"/modelzone/{self.environment.name}/compile/orders"

    @property
    def progress_path(self) -> str:
        """SSM path below which compile jobs say how far they are."""
        return f"/modelzone/{self.environment.name}/compile/progress"

    @property
    def artifacts_path(self) -> str:
        """SSM path of the registry of compiled artifacts."""
        return f"/modelzone/{self.environment.name}/artifacts"

    @property
    def registry_path(self) -> str:
        """SSM path below which each deployment announces itself to the gateway."""
        return f"/modelzone/{self.environment.name}/deployments"

    @property
    def gateway_path(self) -> str:
        """SSM path of what the gateway knows of itself: its settings, and below ``tenants`` its tenants."""
        return f"/modelzone/{self.environment.name}/gateway"

    @property
    def caches_answers(self) -> bool:
        """Whether answers of any deployment are kept."""
        return any(deployment.cache_ttl_seconds for deployment in self.deployments)


def plan_environment(
    root: Path, name: str, *, overrides: Mapping[str, Mapping[str, str]] | None = None
) -> EnvironmentPlan:
    """Read an environment with its profiles below the project's root folder and plan every deployment."""
    overrides = overrides or {}
    environment = apply_overrides(load_environment(root, name), overrides)
    source = str(root / "environments" / f"{name}.yaml")
    _check_store(root, environment, source=source)

    def source_of(deployment: str) -> str:
        given = [shown_override(deployment, *pair) for pair in overrides.get(deployment, {}).items()]
        return " ".join([source, *given])

    plans = tuple(
        plan_deployment(
            environment,
            deployment,
            load_profile(root, settings.profile, source=source_of(deployment), key=f"deployments.{deployment}.profile"),
            source=source_of(deployment),
        )
        for deployment, settings in environment.deployments.items()
    )
    ids = [plan.stack_id for plan in plans]
    for stack_id in ids:
        if ids.count(stack_id) > 1:
            same = [plan.name for plan in plans if plan.stack_id == stack_id]
            raise SettingsError(
                source=source,
                key="deployments",
                problem=f"{' and '.join(same)} would both become {stack_id}",
                fix="rename one of them",
            )
    return EnvironmentPlan(environment=environment, deployments=plans)


def _check_store(root: Path, environment: Environment, *, source: str) -> None:
    """The environment whose store is used has one, where this one can reach it."""
    if environment.model_store is None:
        return
    name = environment.model_store.shared_with
    key = "model_store.shared_with"
    if name not in environment_names(root):
        raise SettingsError(
            source=source,
            key=key,
            problem=f"there is no environment named {name!r}",
            fix=f"use one of: {', '.join(other for other in environment_names(root) if other != environment.name)}",
        )
    owner = load_environment(root, name)
    if owner.model_store is not None:
        raise SettingsError(
            source=source,
            key=key,
            problem=f"{name} has no store of its own, it uses that of {owner.model_store.shared_with}",
            fix=f"name {owner.model_store.shared_with}",
        )
    for what in ("region", "account"):
        theirs, ours = getattr(owner, what), getattr(environment, what)
        if theirs != ours:
            raise SettingsError(
                source=source,
                key=key,
                problem=f"{name} has {what} {theirs}, this environment {ours}: a store is shared within one {what}",
                fix="leave model_store out for a store of its own",
            )
