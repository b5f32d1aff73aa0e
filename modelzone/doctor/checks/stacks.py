"""The state of the environment's stacks: some states take no deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelzone.doctor.checks.base import Context, Kind, Outcome

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan

__all__ = ["KINDS", "stack_suffixes"]


def stack_suffixes(plan: EnvironmentPlan) -> tuple[str, ...]:
    """What follows ``modelzone-<environment>-`` in the names of all stacks."""
    return ("network", "model-store", "compile", "gateway", *(f"deployment-{d.name}" for d in plan.deployments))


def _states(context: Context, _: None) -> Outcome:
    found = {context.stack_name(s): stack for s in stack_suffixes(context.plan) if (stack := context.stack(s))}
    outcomes = [outcome for name, stack in found.items() if (outcome := _of_state(context, name, stack.status))]
    if outcomes:
        statuses = {outcome.status for outcome in outcomes}
        return Outcome(
            "fail" if "fail" in statuses else "warn",
            "; ".join(outcome.detail for outcome in outcomes),
            "; ".join(dict.fromkeys(outcome.remedy for outcome in outcomes)),
        )
    if not found:
        return Outcome("ok", "none is deployed yet")
    return Outcome("ok", f"{len(found)} of {len(stack_suffixes(context.plan))} are deployed and take a deploy")


def _of_state(context: Context, name: str, status: str) -> Outcome | None:
    """What stops a deploy; None when nothing does."""
    detail = f"{name} is in {status}"
    events = context.aws(
        f"cloudformation describe-stack-events --stack-name {name} "
        "--query \"StackEvents[?contains(ResourceStatus, 'FAILED')].ResourceStatusReason\""
    )
    # A change set that was made and never executed: there is no stack yet.
    if status == "REVIEW_IN_PROGRESS":
        return None
    if status.endswith("_IN_PROGRESS"):
        return Outcome("fail", detail, "wait until the other deployment has ended")
    if status == "DELETE_FAILED":
        again = context.aws(f"cloudformation delete-stack --stack-name {name}")
        return Outcome("fail", detail, f"see why ({events}), then delete it: {again}")
    if status in {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED"}:
        return Outcome(
            "warn",
            f"{detail}: its creation failed, and the CDK deletes it before it creates it again",
            f"see why first: {events}",
        )
    if status.endswith("_FAILED"):
        return Outcome("fail", detail, f"see why ({events}), then roll it back: {context.cdk('rollback --all')}")
    return None


KINDS = (
    Kind(
        id="stacks",
        permissions=("cloudformation:DescribeStacks",),
        items=lambda _: [None],
        title=lambda _: "state of the environment's stacks",
        run=_states,
    ),
)
