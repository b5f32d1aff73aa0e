"""The CDK application: ``cdk deploy InferentiaMixtralStack -c environment=dev``."""

from __future__ import annotations

import sys
from pathlib import Path

from aws_cdk import App

from modelzone.costs import monthly_line
from modelzone.errors import ModelzoneError
from modelzone.planning import plan_environment
from modelzone.settings import deployment_overrides
from stacks.environment import build_environment

ROOT = Path(__file__).resolve().parent
DEFAULT_ENVIRONMENT = "dev"


def main() -> int:
    """Plan the chosen environment and synthesise its stacks; a refusal is one message, without a traceback.

    What the environment costs is said in one line, on stderr, where it does not disturb templates on stdout.
    """
    app = App(analytics_reporting=False)
    try:
        name = str(app.node.try_get_context("environment") or DEFAULT_ENVIRONMENT)
        plan = plan_environment(ROOT, name, overrides=deployment_overrides(app.node.get_all_context()))
        build_environment(app, plan=plan)
    except ModelzoneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    app.synth()
    sys.stderr.write(f"{monthly_line(plan)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
