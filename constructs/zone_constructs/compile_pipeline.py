"""The state machine that compiles a model: starts a host, runs the job, publishes, and always ends the host."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aws_cdk import Aws, Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_ssm as ssm
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from modelzone.artifacts import artifact_key
from modelzone.errors import ModelzoneError
from modelzone.planning import DeploymentPlan, EnvironmentPlan
from zone_constructs import compile_permissions as permissions
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge, acknowledge_wildcards
from zone_constructs.compile_host import CompileHost
from zone_constructs.compile_states import CompileStates
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork

__all__ = ["CompilePipeline"]

# Verifying asks S3 about every object; starting a host tries subnets and types one after another.
_STEP_TIMEOUT = Duration.minutes(5)
_REAP_EVERY = Duration.minutes(30)
_EXECUTION_NAME_CHARACTERS = 80
_TIMESTAMP_CHARACTERS = 14
# Of a standard parameter. References in it are filled when it is deployed: the longest is a secret's ARN.
_PARAMETER_CHARACTERS = 4096
_REFERENCE_CHARACTERS = 140


class CompilePipeline(Construct):
    """Orders of what can be compiled, the state machine that carries one out, and what cleans up behind it.

    Attributes
    ----------
    state_machine
        One execution compiles one artifact.
    topic
        Gets a notice at the end of every execution.
    executions
        ARN of the machine's executions, with a wildcard.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        plan: EnvironmentPlan,
        host: CompileHost,
        network: ZoneNetwork,
        store: ModelStore,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        self._plan, self._host, self._network, self._store, self._logs = plan, host, network, store, logs
        self.executions = permissions.executions_arn(Stack.of(self), plan.environment.name)
        for deployment in plan.deployments:
            self._build_order(deployment)
        self.topic = self._build_topic()
        self._function = self._build_function()
        self.log_group = logs.log_group(self, "ExecutionLogs")
        self.state_machine = self._build_state_machine()
        self._build_rules()
        if plan.environment.compile.notify:
            # Without subscribers nobody would hear it.
            self._build_alarm()

    def start_command(self, deployment: DeploymentPlan) -> str:
        """The command that compiles a deployment as planned."""
        key = artifact_key(deployment.facts.as_dict())
        room = _EXECUTION_NAME_CHARACTERS - _TIMESTAMP_CHARACTERS - len(key) - 2
        return " ".join(
            [
                "aws stepfunctions start-execution",
                f"--region {Stack.of(self).region}",
                f"--state-machine-arn {self.state_machine.state_machine_arn}",
                f'--name "{deployment.name[:room]}-{key}-$(date -u +%Y%m%d%H%M%S)"',
                f"--input '{json.dumps({'deployment': deployment.name})}'",
            ]
        )

    def order(self, deployment: DeploymentPlan) -> Mapping[str, Any]:
        """What an execution reads about a deployment."""
        environment, compile_plan = self._plan.environment, deployment.compile
        template = self._host.template(deployment)
        return {
            "format": 1,
            "environment": environment.name,
            "deployment": deployment.name,
            "facts": deployment.facts.as_dict(),
            "job": self._host.job(deployment),
            "hosts": [
                {
                    "instance_type": choice.instance_type,
                    "devices": choice.devices,
                    # Deploy-time parameters may ask for another degree than the planned one.
                    "tensor_parallel_degrees": list(choice.tensor_parallel_degrees),
                }
                for choice in compile_plan.hosts
            ],
            "mirror_host": {"instance_type": compile_plan.mirror_instance_type},
            "launch_template": {"id": template.launch_template_id, "version": template.version},
            "purchase": environment.compile.purchase,
            "max_hours": environment.compile.max_hours,
        }

    def _build_order(self, deployment: DeploymentPlan) -> None:
        stack = Stack.of(self)
        value = stack.to_json_string(self.order(deployment))
        length = _expected_length(stack.resolve(value))
        if length > _PARAMETER_CHARACTERS:
            raise ModelzoneError(
                f"environment {deployment.environment}: deployment {deployment.name}: what its compilation needs takes "
                f"about {length} characters, and a parameter holds {_PARAMETER_CHARACTERS}\n"
                "  fix: shorten compile.instance_types of the environment, or options of the deployment"
            )
        ssm.StringParameter(
            self,
            f"Order{deployment.camel_name}",
            parameter_name=f"{self._plan.orders_path}/{deployment.name}",
            description=f"Modelzone {deployment.environment}: how deployment {deployment.name} is compiled",
            string_value=value,
        )

    def _build_topic(self) -> sns.Topic:
        topic = sns.Topic(
            self,
            "Notices",
            display_name=f"Modelzone {self._plan.environment.name}: compilations",
            master_key=self._logs.key,
            enforce_ssl=True,
        )
        # The policy that refuses plain HTTP replaces the default one, which let CloudWatch in.
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisAccount",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
        for address in self._plan.environment.compile.notify:
            topic.add_subscription(subscriptions.EmailSubscription(address))
        return topic

    def _build_function(self) -> lambda_.Function:
        log_group = self._logs.log_group(self, "StepsLogs")
        role = function_role(self, "StepsRole", description="Steps of compilations", log_group=log_group, in_vpc=False)
        self._store.grant_follow_compilation(role)
        self._store.grant_encrypt_host_volumes(role)
        plan, stack = self._plan, Stack.of(self)
        for statement in (
            *permissions.order_statements(stack, plan),
            *permissions.host_statements(stack, plan, host=self._host, subnet_ids=self._network.compile_subnet_ids),
            *permissions.report_statements(stack, plan, topic_arn=self.topic.topic_arn, key_arn=self._logs.key.key_arn),
        ):
            role.add_to_policy(statement)
        permissions.acknowledge_steps(role, plan)
        function = lambda_.Function(
            self,
            "Steps",
            description="One step of a compilation; ends hosts that nobody waits for",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.X86_64,
            handler="compiled_artifact.steps.handler",
            code=lambda_.Code.from_asset(str(lambda_package.stage("compiled_artifact"))),
            timeout=_STEP_TIMEOUT,
            memory_size=512,
            role=role,
            log_group=log_group,
            environment={
                "ENVIRONMENT": plan.environment.name,
                "BUCKET": self._store.bucket_name,
                "ORDERS_PATH": plan.orders_path,
                "PROGRESS_PATH": plan.progress_path,
                "ARTIFACTS_PATH": plan.artifacts_path,
                "SUBNET_IDS": ",".join(self._network.compile_subnet_ids),
                "DOCUMENT_NAME": self._host.document_name,
                "LOG_GROUP": self._host.log_group.log_group_name,
                "TOPIC_ARN": self.topic.topic_arn,
                # Not by reference: the machine refers to this function.
                "STATE_MACHINE_ARN": permissions.state_machine_arn(stack, plan.environment.name),
            },
        )
        acknowledge(function, RUNTIME_REASON, "AwsSolutions-L1")
        function.node.add_dependency(role)
        return function

    def _build_state_machine(self) -> sfn.StateMachine:
        role = iam.Role(
            self,
            "MachineRole",
            description="Calls the steps of compilations",
            assumed_by=iam.ServicePrincipal(
                "states.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
            ),
        )
        for statement in (
            iam.PolicyStatement(
                sid="CallSteps", actions=["lambda:InvokeFunction"], resources=[self._function.function_arn]
            ),
            iam.PolicyStatement(
                sid="DeliverExecutionLogs",
                actions=[
                    "logs:CreateLogDelivery",
                    "logs:DeleteLogDelivery",
                    "logs:DescribeLogGroups",
                    "logs:DescribeResourcePolicies",
                    "logs:GetLogDelivery",
                    "logs:ListLogDeliveries",
                    "logs:PutResourcePolicy",
                    "logs:UpdateLogDelivery",
                ],
                resources=["*"],
            ),
            iam.PolicyStatement(
                sid="SendTraces",
                actions=[
                    "xray:GetSamplingRules",
                    "xray:GetSamplingTargets",
                    "xray:PutTelemetryRecords",
                    "xray:PutTraceSegments",
                ],
                resources=["*"],
            ),
        ):
            role.add_to_policy(statement)
        acknowledge_wildcards(role, "Step Functions' log delivery and X-Ray know no resources.", "*")
        max_hours = self._plan.environment.compile.max_hours
        # Waiting for another execution of the same artifact, compiling, and what is around it.
        timeout = Duration.hours(2 * max_hours + 2)
        states = CompileStates(
            self, self._function, function_timeout=_STEP_TIMEOUT, timeout=timeout, max_hours=max_hours
        )
        machine = sfn.StateMachine(
            self,
            "StateMachine",
            state_machine_name=permissions.state_machine_name(self._plan.environment.name),
            comment=f"Compiles one model of environment {self._plan.environment.name}; always ends its host",
            definition_body=sfn.DefinitionBody.from_chainable(states.start),
            timeout=timeout,
            # Complete already, and the policy must be there first: without it the first execution would fail.
            role=role.without_policy_updates(),
            tracing_enabled=True,
            # All events, but not what was passed: that is in the functions' own logs where it helps.
            logs=sfn.LogOptions(destination=self.log_group, level=sfn.LogLevel.ALL, include_execution_data=False),
        )
        machine.node.add_dependency(role)
        return machine

    def _build_rules(self) -> None:
        target = targets.LambdaFunction(self._function)
        events.Rule(
            self,
            "CleanUp",
            description="Ends the host of a compilation that was cancelled, timed out or failed",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={
                    "status": ["ABORTED", "FAILED", "TIMED_OUT"],
                    "stateMachineArn": [self.state_machine.state_machine_arn],
                },
            ),
            targets=[target],
        )
        reap = {"step": "reap", "state_machine_arn": self.state_machine.state_machine_arn}
        events.Rule(
            self,
            "Reap",
            description="Ends hosts that are past their time or that no execution waits for",
            schedule=events.Schedule.rate(_REAP_EVERY),
            targets=[targets.LambdaFunction(self._function, event=events.RuleTargetInput.from_object(reap))],
        )

    def _build_alarm(self) -> None:
        alarm = cloudwatch.Alarm(
            self,
            "FailedExecutions",
            alarm_description=f"A compilation of environment {self._plan.environment.name} failed",
            metric=self.state_machine.metric_failed(period=Duration.minutes(5), statistic="Sum"),
            threshold=1,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        alarm.add_alarm_action(cloudwatch_actions.SnsAction(self.topic))


def _expected_length(value: Any) -> int:
    """Characters of a template's value when everything that it refers to is filled in."""
    if isinstance(value, str):
        return len(value)
    ((function, argument),) = value.items()
    if function == "Fn::Join":
        separator, parts = argument
        return sum(_expected_length(part) for part in parts) + len(separator) * (len(parts) - 1)
    return _REFERENCE_CHARACTERS
