"""What a deployment's stack waits with while its artifact is compiled."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import cast

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import custom_resources as cr
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge, acknowledge_wildcards
from zone_constructs.compile_pipeline import CompilePipeline
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore

__all__ = ["CompileWaiter"]

_FRAMEWORK_RUNTIME = "The provider framework's runtime is chosen by the CDK, which ships the function."
_FRAMEWORK_CALLS = "The provider framework may call any version of the two functions behind it; there is one of each."

_WAITER_TRACES = (
    "The provider framework's state machine has no setting for traces; it asks one function again and again."
)


class CompileWaiter(Construct):
    """The provider behind ``Custom::ArtifactCompilation``: one resource waits for most of an hour at most.

    CloudFormation gives a custom resource an hour and a compilation may take longer, so a stack chains several.

    Attributes
    ----------
    service_token
        For the custom resources.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        plan: EnvironmentPlan,
        pipeline: CompilePipeline,
        store: ModelStore,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        self._plan, self._pipeline = plan, pipeline
        self._log_group = logs.log_group(self, "Logs")
        self._role = self._build_role(store)
        on_event = self._function("OnEvent", "on_event", "Attaches to a compilation or starts one")
        is_complete = self._function("IsComplete", "is_complete", "Says how far a compilation is")
        framework_on_event = self._framework_role("FrameworkOnEventRole", on_event, is_complete)
        framework_is_complete = self._framework_role("FrameworkIsCompleteRole", on_event, is_complete)
        provider = cr.Provider(
            self,
            "Provider",
            on_event_handler=on_event,
            is_complete_handler=is_complete,
            query_interval=Duration.seconds(30),
            total_timeout=Duration.hours(1),
            log_group=self._log_group,
            framework_on_event_role=framework_on_event,
            framework_complete_and_timeout_role=framework_is_complete,
            disable_waiter_state_machine_logging=False,
            waiter_state_machine_log_options=cr.LogOptions(
                destination=self._log_group, level=sfn.LogLevel.ALL, include_execution_data=False
            ),
        )
        self.service_token = provider.service_token
        self._acknowledge_framework(provider)

    def _build_role(self, store: ModelStore) -> iam.Role:
        role = function_role(
            self, "Role", description="Starts compilations and follows them", log_group=self._log_group, in_vpc=False
        )
        store.grant_read_artifacts(role)
        progress = Stack.of(self).format_arn(
            service="ssm", resource="parameter", resource_name=f"{self._plan.progress_path.removeprefix('/')}/*"
        )
        for statement in (
            iam.PolicyStatement(
                sid="StartCompilations",
                actions=["states:ListExecutions", "states:StartExecution"],
                resources=[self._pipeline.state_machine.state_machine_arn],
            ),
            iam.PolicyStatement(
                sid="FollowCompilations", actions=["states:DescribeExecution"], resources=[self._pipeline.executions]
            ),
            iam.PolicyStatement(sid="ReadProgress", actions=["ssm:GetParameter"], resources=[progress]),
        ):
            role.add_to_policy(statement)
        acknowledge_wildcards(
            role,
            "Executions of the one state machine of this environment; each has a name of its own.",
            self._pipeline.executions,
        )
        acknowledge_wildcards(role, "One parameter for each artifact's key, which is not known beforehand.", progress)
        return role

    def _function(self, construct_id: str, name: str, description: str) -> lambda_.Function:
        function = lambda_.Function(
            self,
            construct_id,
            description=description,
            runtime=RUNTIME,
            architecture=lambda_.Architecture.X86_64,
            handler=f"compiled_artifact.waiting.{name}",
            code=lambda_.Code.from_asset(str(lambda_package.stage("compiled_artifact"))),
            timeout=Duration.minutes(2),
            memory_size=512,
            role=self._role,
            log_group=self._log_group,
            environment={"PROGRESS_PATH": self._plan.progress_path},
        )
        acknowledge(function, RUNTIME_REASON, "AwsSolutions-L1")
        # The custom resource may be asked as soon as the function exists; its permissions have to be there.
        function.node.add_dependency(self._role)
        return function

    def _framework_role(self, construct_id: str, *functions: lambda_.Function) -> iam.Role:
        """Without the managed policy that the framework would take, which may write to any log group."""
        role = function_role(
            self,
            construct_id,
            description="The CDK's provider framework in front of the functions that wait",
            log_group=self._log_group,
            in_vpc=False,
        )
        acknowledge_wildcards(role, _FRAMEWORK_CALLS, *(f"{function.function_arn}:*" for function in functions))
        return role

    @staticmethod
    def _acknowledge_framework(provider: cr.Provider) -> None:
        for name in ("framework-onEvent", "framework-isComplete", "framework-onTimeout"):
            acknowledge(provider.node.find_child(name), _FRAMEWORK_RUNTIME, "AwsSolutions-L1")
        waiter = provider.node.find_child("waiter-state-machine")
        role = waiter.node.find_child("Role")
        acknowledge_wildcards(role, "Step Functions' log delivery knows no resources.", "*")
        for name in ("framework-isComplete", "framework-onTimeout"):
            function = cast("lambda_.Function", provider.node.find_child(name))
            acknowledge_wildcards(role, _FRAMEWORK_CALLS, f"{function.function_arn}:*")
        acknowledge(waiter.node.find_child("Resource"), _WAITER_TRACES, "AwsSolutions-SF2")
