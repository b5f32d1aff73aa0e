"""Plans of environments: the plans of all their deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelzone.errors import SettingsError
from modelzone.planning.plan import DeploymentPlan, plan_deployment
from modelzone.settings import Environment, apply_overrides, load_environment, load_profile, shown_override

__all__ = ["EnvironmentPlan", "plan_environment"]


@dataclass(frozen=True, kw_only=True)
class EnvironmentPlan:
    """An environment with the plans of all its deployments."""

    environment: Environment
    deployments: tuple[DeploymentPlan, ...]

    @property
    def registry_path(self) -> str:
        """SSM path below which each deployment announces itself to the gateway."""
        return f"/modelzone/{self.environment.name}/deployments"


def plan_environment(
    root: Path, name: str, *, overrides: Mapping[str, Mapping[str, str]] | None = None
) -> EnvironmentPlan:
    """Read an environment with its profiles below the project's root folder and plan every deployment."""
    overrides = overrides or {}
    environment = apply_overrides(load_environment(root, name), overrides)
    source = str(root / "environments" / f"{name}.yaml")

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
