"""Corrections to MiniStack's Step Functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ministack.services import stepfunctions

from modelzone.local.emulator import seams

__all__ = ["install"]


def _as_the_api_has_it(value: Any) -> Any:
    """A property of CloudFormation with names as the API has them: ``LogGroupArn`` becomes ``logGroupArn``."""
    if isinstance(value, Mapping):
        return {name[:1].lower() + name[1:]: _as_the_api_has_it(item) for name, item in value.items()}
    return [_as_the_api_has_it(item) for item in value] if isinstance(value, list) else value


def _keep_aborted() -> None:
    """Keep an execution that was stopped ABORTED, whatever its task does afterwards."""

    def fail(execution: dict[str, Any], error: str, cause: str) -> None:
        # A task that was running when the execution was stopped ends later, and not seldom with an error.
        if execution["status"] == "RUNNING":
            original(execution, error, cause)

    original = seams.replace(stepfunctions, "_fail_execution", fail)


def _logging_of_templates() -> None:
    """Keep a machine's LoggingConfiguration so that the API can show it; nothing is logged."""

    def complete(arn: str, props: dict[str, Any]) -> None:
        machine = seams.attribute(stepfunctions, "_state_machines").get(arn)
        given = props.get("LoggingConfiguration")
        if machine is not None and given:
            wanted = _as_the_api_has_it(given)
            wanted["includeExecutionData"] = str(wanted.get("includeExecutionData", False)).lower() == "true"
            machine["loggingConfiguration"] = wanted

    seams.after_provisioning("AWS::StepFunctions::StateMachine", complete)


def install() -> None:
    """Apply the corrections."""
    _keep_aborted()
    _logging_of_templates()
