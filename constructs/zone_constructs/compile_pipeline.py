"""The state machine that compiles a model: starts a host, runs the job, publishes, and always ends the host."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aws_cdk import ArnFormat, Aws, Duration, Stack
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
from modelzone.hosts import COMPILE_HOST, DEBUG_HOST, ENVIRONMENT_TAG, ROLE_TAG
from modelzone.planning import DeploymentPlan, EnvironmentPlan
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge, acknowledge_wildcards
from zone_constructs.compile_host import CompileHost, repository_arns
from zone_constructs.compile_states import CompileStates
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork

__all__ = ["CompilePipeline"]

_NAMESPACE = "Modelzone/Compile"
_EVENT_SOURCE = "modelzone.compile"
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
    state_machine_name
        Fixed, so that the function that the machine calls can know it.
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
        self.state_machine_name = f"modelzone-{plan.environment.name}-compile"
        self.executions = Stack.of(self).format_arn(
            service="states",
            resource="execution",
            resource_name=f"{self.state_machine_name}:*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        self._is_spot = plan.environment.compile.purchase == "spot"
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
        for statement in (*self._order_statements(), *self._host_statements(), *self._report_statements()):
            role.add_to_policy(statement)
        self._acknowledge(role)
        plan = self._plan
        function = lambda_.Function(
            self,
            "Steps",
            description="One step of a compilation; ends hosts that nobody waits for",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.X86_64,
            handler="compiled_artifact.steps.handler",
            code=lambda_.Code.from_asset(str(lambda_package.stage("compiled_artifact"))),
            # Verifying asks S3 about every object; starting a host tries subnets and types one after another.
            timeout=Duration.minutes(5),
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
                "STATE_MACHINE_ARN": Stack.of(self).format_arn(
                    service="states",
                    resource="stateMachine",
                    resource_name=self.state_machine_name,
                    arn_format=ArnFormat.COLON_RESOURCE_NAME,
                ),
            },
        )
        acknowledge(function, RUNTIME_REASON, "AwsSolutions-L1")
        function.node.add_dependency(role)
        return function

    def _order_statements(self) -> list[iam.PolicyStatement]:
        return [
            iam.PolicyStatement(
                sid="ReadOrdersAndProgress",
                actions=["ssm:GetParameter"],
                resources=[self._parameters(self._plan.orders_path), self._parameters(self._plan.progress_path)],
            ),
            iam.PolicyStatement(
                sid="RegisterArtifacts",
                actions=["ssm:GetParameter", "ssm:PutParameter"],
                resources=[self._parameters(self._plan.artifacts_path)],
            ),
            # Which image a tag stands for now; nothing is pulled.
            iam.PolicyStatement(
                sid="LookUpImages",
                actions=["ecr:BatchGetImage"],
                resources=repository_arns(Stack.of(self), self._plan.deployments),
            ),
        ]

    def _host_statements(self) -> list[iam.PolicyStatement]:
        """Hosts of this environment only, started from its launch templates and found by their tags."""
        name = self._plan.environment.name
        templates = [template.arn for template in self._host.templates]
        from_template = {
            "ArnLike": {"ec2:LaunchTemplate": templates},
            # What the template names may not be replaced by something else.
            "Bool": {"ec2:IsLaunchTemplateResource": "true"},
        }
        tagged = {f"aws:RequestTag/{ENVIRONMENT_TAG}": name, f"aws:RequestTag/{ROLE_TAG}": COMPILE_HOST}
        ami_parameters = sorted({deployment.compile.ami_parameter for deployment in self._plan.deployments})
        statements = [
            iam.PolicyStatement(
                sid="StartTaggedHosts",
                actions=["ec2:RunInstances"],
                resources=[self._ec2("instance"), self._ec2("volume")],
                conditions={"ArnLike": {"ec2:LaunchTemplate": templates}, "StringEquals": tagged},
            ),
            iam.PolicyStatement(
                sid="StartHostsFromTemplates",
                actions=["ec2:RunInstances"],
                resources=[self._image(), self._ec2("security-group", self._host.security_group_id)],
                conditions=from_template,
            ),
            iam.PolicyStatement(
                sid="StartHostsInSubnets",
                actions=["ec2:RunInstances"],
                resources=[
                    *templates,
                    self._ec2("network-interface"),
                    *(self._ec2("subnet", subnet) for subnet in self._network.compile_subnet_ids),
                ],
                conditions={"ArnLike": {"ec2:LaunchTemplate": templates}},
            ),
            iam.PolicyStatement(
                sid="TagHostsAtStart",
                actions=["ec2:CreateTags"],
                resources=[self._ec2("instance"), self._ec2("volume")],
                conditions={"StringEquals": {"ec2:CreateAction": "RunInstances"}},
            ),
            iam.PolicyStatement(
                sid="GiveHostsTheirRole",
                actions=["iam:PassRole"],
                resources=[self._host.role.role_arn],
                conditions={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            ),
            # EC2 looks the template's AMI up with the caller's rights.
            iam.PolicyStatement(
                sid="ResolveAmi",
                actions=["ssm:GetParameters"],
                resources=[
                    Stack.of(self).format_arn(
                        service="ssm", account="", resource="parameter", resource_name=parameter.removeprefix("/")
                    )
                    for parameter in ami_parameters
                ],
            ),
            iam.PolicyStatement(
                sid="EndHosts",
                actions=["ec2:TerminateInstances"],
                resources=[self._ec2("instance")],
                conditions={
                    "StringEquals": {
                        f"aws:ResourceTag/{ENVIRONMENT_TAG}": name,
                        f"aws:ResourceTag/{ROLE_TAG}": [COMPILE_HOST, DEBUG_HOST],
                    }
                },
            ),
            iam.PolicyStatement(sid="RunTheDocument", actions=["ssm:SendCommand"], resources=[self._host.document_arn]),
            iam.PolicyStatement(
                sid="RunOnHosts",
                actions=["ssm:SendCommand"],
                resources=[self._ec2("instance")],
                conditions={
                    "StringEquals": {
                        f"ssm:resourceTag/{ENVIRONMENT_TAG}": name,
                        f"ssm:resourceTag/{ROLE_TAG}": COMPILE_HOST,
                    }
                },
            ),
            iam.PolicyStatement(
                sid="FindHostsAndCommands",
                actions=[
                    "ec2:DescribeInstances",
                    "ec2:DescribeSubnets",
                    "ssm:DescribeInstanceInformation",
                    "ssm:GetCommandInvocation",
                    "ssm:ListCommands",
                ],
                resources=["*"],
            ),
        ]
        if self._is_spot:
            # EC2 makes the role when the account's first Spot instance is started.
            role = "aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
            statements += [
                # A request alone starts nothing: its instance is held to the statements above.
                iam.PolicyStatement(
                    sid="RequestSpotHosts",
                    actions=["ec2:RunInstances"],
                    resources=[self._ec2("spot-instances-request")],
                ),
                iam.PolicyStatement(
                    sid="FirstSpotInstance",
                    actions=["iam:CreateServiceLinkedRole"],
                    resources=[f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/{role}"],
                    conditions={"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
                ),
            ]
        return statements

    def _report_statements(self) -> list[iam.PolicyStatement]:
        bus = Stack.of(self).format_arn(service="events", resource="event-bus", resource_name="default")
        return [
            iam.PolicyStatement(
                sid="SeeWhoStillRuns", actions=["states:DescribeExecution"], resources=[self.executions]
            ),
            iam.PolicyStatement(
                sid="CompileMetrics",
                actions=["cloudwatch:PutMetricData"],
                resources=["*"],
                conditions={"StringEquals": {"cloudwatch:namespace": _NAMESPACE}},
            ),
            iam.PolicyStatement(
                sid="CompileEvents",
                actions=["events:PutEvents"],
                resources=[bus],
                conditions={"StringEquals": {"events:source": _EVENT_SOURCE}},
            ),
            iam.PolicyStatement(sid="Notify", actions=["sns:Publish"], resources=[self.topic.topic_arn]),
            # Not the key's own grant: it would name the role in the key's policy, from a stack that depends on it.
            iam.PolicyStatement(
                sid="EncryptNotices",
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                resources=[self._logs.key.key_arn],
                conditions={"StringEquals": {"kms:ViaService": f"sns.{Stack.of(self).region}.amazonaws.com"}},
            ),
        ]

    def _acknowledge(self, role: iam.Role) -> None:
        acknowledge_wildcards(
            role,
            "One parameter for each deployment or artifact, whose keys are not known beforehand.",
            *(
                self._parameters(path)
                for path in (self._plan.orders_path, self._plan.progress_path, self._plan.artifacts_path)
            ),
        )
        acknowledge_wildcards(
            role,
            "Hosts exist only while they compile; conditions on launch template and tags narrow these to our own.",
            self._ec2("instance"),
            self._ec2("volume"),
            self._ec2("network-interface"),
            self._image(),
            *([self._ec2("spot-instances-request")] if self._is_spot else []),
        )
        acknowledge_wildcards(
            role,
            "Executions of the one state machine of this environment; each has a name of its own.",
            self.executions,
        )
        acknowledge_wildcards(
            role, "Describing hosts and commands knows no resources; metrics are narrowed by their namespace.", "*"
        )

    def _parameters(self, path: str) -> str:
        return Stack.of(self).format_arn(
            service="ssm", resource="parameter", resource_name=f"{path.removeprefix('/')}/*"
        )

    def _ec2(self, resource: str, name: str = "*") -> str:
        return Stack.of(self).format_arn(service="ec2", resource=resource, resource_name=name)

    def _image(self) -> str:
        return Stack.of(self).format_arn(service="ec2", account="", resource="image", resource_name="*")

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
        machine = sfn.StateMachine(
            self,
            "StateMachine",
            state_machine_name=self.state_machine_name,
            comment=f"Compiles one model of environment {self._plan.environment.name}; always ends its host",
            definition_body=sfn.DefinitionBody.from_chainable(CompileStates(self, self._function).start),
            # Hosts end themselves an hour after the longest compilation.
            timeout=Duration.minutes(self._plan.environment.compile.max_hours * 60 + 90),
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
