"""The application that `synth.py` times: ``python benchmarks/synth_app.py OUTDIR DEPLOYMENTS`` (0: a bare CDK app)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from aws_cdk import App, Stack  # noqa: E402
from aws_cdk import aws_sns as sns  # noqa: E402
from msgspec.structs import replace  # noqa: E402


def bare(app: App) -> None:
    """One stack with one resource."""
    sns.Topic(Stack(app, "BareStack"), "Topic")


def modelzone(app: App, count: int) -> None:
    """The development environment with `count` deployments of its model."""
    from modelzone.planning import EnvironmentPlan, plan_deployment  # noqa: PLC0415 - not part of the bare app
    from modelzone.settings import load_environment, load_profile  # noqa: PLC0415
    from stacks.environment import build_environment  # noqa: PLC0415

    environment = load_environment(ROOT, "dev")
    settings = next(iter(environment.deployments.values()))
    names = [f"mixtral-{n}" for n in range(count)]
    environment = replace(environment, deployments=dict.fromkeys(names, settings))
    profile = load_profile(ROOT, settings.profile)
    plans = tuple(plan_deployment(environment, name, profile, source="benchmark") for name in names)
    build_environment(app, plan=EnvironmentPlan(environment=environment, deployments=plans))


def main() -> None:
    """Synthesise once."""
    outdir, count = sys.argv[1], int(sys.argv[2])
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    app = App(outdir=outdir, context=context, analytics_reporting=False)
    if count:
        modelzone(app, count)
    else:
        bare(app)
    app.synth()


if __name__ == "__main__":
    main()
