"""The function behind the custom resource that checks compiled artifacts; one for an environment."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from modelzone.settings import Environment
from zone_constructs import compile_permissions as permissions
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge, acknowledge_wildcards
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore

__all__ = ["ArtifactCheck"]


class ArtifactCheck(Construct):
    """Reads manifests in the model bucket and answers CloudFormation; deletes artifacts only where that is asked for.

    Attributes
    ----------
    function
        The service behind ``Custom::CompiledArtifact``.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, environment: Environment, store: ModelStore, logs: EncryptedLogs
    ) -> None:
        super().__init__(scope, construct_id)
        log_group = logs.log_group(self, "Logs")
        role = function_role(self, "Role", description="Checks compiled artifacts", log_group=log_group, in_vpc=False)
        store.grant_read_artifacts(role)
        self._allow_executions(role, environment.name)
        if environment.compile.delete_artifacts:
            store.grant_delete_artifacts(role)
            self._allow_registries(role)
            self._allow_users(role, environment.name)
        self.function = lambda_.Function(
            self,
            "Function",
            description="Checks that a compiled artifact exists and fits before it is served",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.X86_64,
            handler="compiled_artifact.handler.handler",
            code=lambda_.Code.from_asset(str(lambda_package.stage("compiled_artifact"))),
            timeout=Duration.minutes(2),
            memory_size=512,
            role=role,
            log_group=log_group,
        )
        acknowledge(self.function, RUNTIME_REASON, "AwsSolutions-L1")
        # The custom resource may be asked as soon as the function exists; its permissions have to be there.
        self.function.node.add_dependency(role)

    @staticmethod
    def _allow_executions(role: iam.Role, environment_name: str) -> None:
        """It says why the last compilation failed. The state machine's stack depends on this one, so by name."""
        executions = permissions.executions_arn(Stack.of(role), environment_name)
        role.add_to_policy(
            iam.PolicyStatement(sid="ReadCompilations", actions=["states:DescribeExecution"], resources=[executions])
        )
        acknowledge_wildcards(role, permissions.EXECUTIONS_REASON, executions)

    @staticmethod
    def _allow_users(role: iam.Role, environment_name: str) -> None:
        """An artifact is kept while its stack is only rolled back, while a model has it, or while it is made."""
        stack = Stack.of(role)
        stacks = stack.format_arn(
            service="cloudformation", resource="stack", resource_name=f"modelzone-{environment_name}-*/*"
        )
        models = stack.format_arn(service="sagemaker", resource="model", resource_name="*")
        for statement in (
            iam.PolicyStatement(sid="SeeOwnStacks", actions=["cloudformation:DescribeStacks"], resources=[stacks]),
            iam.PolicyStatement(sid="FindModels", actions=["sagemaker:ListModels"], resources=["*"]),
            iam.PolicyStatement(sid="ReadModels", actions=["sagemaker:DescribeModel"], resources=[models]),
            iam.PolicyStatement(
                sid="FindCompilations",
                actions=["states:ListExecutions"],
                resources=[permissions.state_machine_arn(stack, environment_name)],
            ),
        ):
            role.add_to_policy(statement)
        acknowledge_wildcards(role, "Stacks of this environment, whose ids are not known beforehand.", stacks)
        acknowledge_wildcards(
            role, "Any model of the account may be served from the artifact; SageMaker names models itself.", models
        )
        acknowledge_wildcards(role, "Listing SageMaker's models knows no resources.", "*")

    def _allow_registries(self, role: iam.Role) -> None:
        """An artifact that any environment's deployment uses is kept, and a deleted one is registered no more."""
        stack = Stack.of(self)

        def parameter(name: str) -> str:
            return stack.format_arn(service="ssm", resource="parameter", resource_name=name)

        everything, artifacts = parameter("modelzone/*"), parameter("modelzone/*/artifacts/*")
        role.add_to_policy(
            iam.PolicyStatement(
                sid="WhoUsesArtifacts",
                actions=["ssm:GetParametersByPath"],
                resources=[parameter("modelzone"), everything],
            )
        )
        role.add_to_policy(
            iam.PolicyStatement(sid="ForgetArtifacts", actions=["ssm:DeleteParameter"], resources=[artifacts])
        )
        acknowledge_wildcards(
            role,
            "Environments may share a model store, so the registries of all of them say whether an artifact is in use.",
            everything,
            artifacts,
        )
