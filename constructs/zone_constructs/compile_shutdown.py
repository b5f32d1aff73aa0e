"""Ends what compiles before the stack that it belongs to is deleted."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import CustomResource, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from zone_constructs import compile_permissions as permissions
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge, acknowledge_wildcards
from zone_constructs.compile_host import CompileHost
from zone_constructs.compile_pipeline import CompilePipeline
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs

__all__ = ["CompileShutdown"]


class CompileShutdown(Construct):
    """``Custom::CompileShutdown``: stops executions and ends hosts when it is deleted, and does nothing else.

    Without the rules and the functions nobody would end a host before its own timer does, and its network interface
    would keep the security group from being deleted. So this depends on everything of the pipeline, and CloudFormation
    deletes it first.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        environment_name: str,
        host: CompileHost,
        pipeline: CompilePipeline,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)
        machine_arn = pipeline.state_machine.state_machine_arn
        log_group = logs.log_group(self, "Logs")
        role = function_role(
            self, "Role", description="Ends compilations with their stack", log_group=log_group, in_vpc=False
        )
        for statement in (
            iam.PolicyStatement(sid="FindCompilations", actions=["states:ListExecutions"], resources=[machine_arn]),
            iam.PolicyStatement(
                sid="StopCompilations", actions=["states:StopExecution"], resources=[pipeline.executions]
            ),
            iam.PolicyStatement(sid="FindHosts", actions=["ec2:DescribeInstances"], resources=["*"]),
            permissions.end_hosts_statement(stack, environment_name),
        ):
            role.add_to_policy(statement)
        acknowledge_wildcards(role, permissions.EXECUTIONS_REASON, pipeline.executions)
        acknowledge_wildcards(role, "EC2 knows no resources for describing hosts; nothing is changed by it.", "*")
        acknowledge_wildcards(
            role,
            "Hosts exist only while they compile; conditions on tags narrow these to this environment's.",
            permissions.hosts_arn(stack),
        )
        function = lambda_.Function(
            self,
            "Function",
            description="Stops compilations and ends their hosts when the stack is deleted",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.X86_64,
            handler="compiled_artifact.shutdown.handler",
            code=lambda_.Code.from_asset(str(lambda_package.stage("compiled_artifact"))),
            timeout=Duration.minutes(3),
            memory_size=256,
            role=role,
            log_group=log_group,
        )
        acknowledge(function, RUNTIME_REASON, "AwsSolutions-L1")
        # Its permissions have to be there when it is asked for the last time.
        function.node.add_dependency(role)
        resource = CustomResource(
            self,
            "Resource",
            resource_type="Custom::CompileShutdown",
            service_token=function.function_arn,
            service_timeout=Duration.minutes(5),
            properties={"StateMachineArn": machine_arn, "Environment": environment_name},
        )
        resource.node.add_dependency(role, host, pipeline)
