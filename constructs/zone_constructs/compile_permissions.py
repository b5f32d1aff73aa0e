"""What the functions around compilations may do: statements for their roles, and the names that these need.

The state machine has a fixed name, so that the functions that it calls, and those of stacks that are deployed before
it, can be allowed its executions without a reference to it.
"""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import ArnFormat, Aws, Stack
from aws_cdk import aws_iam as iam

from modelzone.hosts import COMPILE_HOST, DEBUG_HOST, ENVIRONMENT_TAG, ROLE_TAG
from modelzone.planning import EnvironmentPlan
from zone_constructs.acknowledge import acknowledge_wildcards
from zone_constructs.compile_host import CompileHost, repository_arns

__all__ = [
    "EXECUTIONS_REASON",
    "acknowledge_steps",
    "end_hosts_statement",
    "executions_arn",
    "host_statements",
    "hosts_arn",
    "order_statements",
    "report_statements",
    "state_machine_arn",
    "state_machine_name",
]

EXECUTIONS_REASON = "Executions of the one state machine of this environment; each has a name of its own."
_NAMESPACE = "Modelzone/Compile"
_EVENT_SOURCE = "modelzone.compile"


def state_machine_name(environment_name: str) -> str:
    """The name of the state machine that compiles."""
    return f"modelzone-{environment_name}-compile"


def state_machine_arn(stack: Stack, environment_name: str) -> str:
    """The state machine, without a reference."""
    return _states(stack, "stateMachine", state_machine_name(environment_name))


def executions_arn(stack: Stack, environment_name: str) -> str:
    """Every execution of the state machine, without a reference."""
    return _states(stack, "execution", f"{state_machine_name(environment_name)}:*")


def hosts_arn(stack: Stack) -> str:
    """Every host; conditions on tags narrow it."""
    return _ec2(stack, "instance")


def end_hosts_statement(stack: Stack, environment_name: str) -> iam.PolicyStatement:
    """Ending hosts of one environment, debugging hosts among them."""
    return iam.PolicyStatement(
        sid="EndHosts",
        actions=["ec2:TerminateInstances"],
        resources=[hosts_arn(stack)],
        conditions={
            "StringEquals": {
                f"aws:ResourceTag/{ENVIRONMENT_TAG}": environment_name,
                f"aws:ResourceTag/{ROLE_TAG}": [COMPILE_HOST, DEBUG_HOST],
            }
        },
    )


def order_statements(stack: Stack, plan: EnvironmentPlan) -> list[iam.PolicyStatement]:
    """What the steps read of an order, and where they write what came of it."""
    return [
        iam.PolicyStatement(
            sid="ReadOrdersAndProgress",
            actions=["ssm:GetParameter"],
            resources=[_parameters(stack, plan.orders_path), _parameters(stack, plan.progress_path)],
        ),
        iam.PolicyStatement(
            sid="RegisterArtifacts",
            actions=["ssm:GetParameter", "ssm:PutParameter"],
            resources=[_parameters(stack, plan.artifacts_path)],
        ),
        # Which image a tag stands for now; nothing is pulled.
        iam.PolicyStatement(
            sid="LookUpImages",
            actions=["ecr:BatchGetImage"],
            resources=repository_arns(stack, plan.deployments),
        ),
    ]


def host_statements(
    stack: Stack, plan: EnvironmentPlan, *, host: CompileHost, subnet_ids: Sequence[str]
) -> list[iam.PolicyStatement]:
    """Hosts of this environment only, started from its launch templates and found by their tags."""
    return [
        *_start_statements(stack, plan, host, subnet_ids),
        *(_spot_statements(stack) if _is_spot(plan) else ()),
        end_hosts_statement(stack, plan.environment.name),
        *_command_statements(stack, plan, host),
    ]


def report_statements(
    stack: Stack, plan: EnvironmentPlan, *, topic_arn: str, key_arn: str
) -> list[iam.PolicyStatement]:
    """Metrics, events and notices, and what the reaper asks.

    Parameters
    ----------
    key_arn
        Encrypts the topic's notices.
    """
    return [
        iam.PolicyStatement(
            sid="SeeWhoStillRuns",
            actions=["states:DescribeExecution"],
            resources=[executions_arn(stack, plan.environment.name)],
        ),
        # Whether another execution makes the same artifact.
        iam.PolicyStatement(
            sid="SeeWhoElseRuns",
            actions=["states:ListExecutions"],
            resources=[state_machine_arn(stack, plan.environment.name)],
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
            resources=[stack.format_arn(service="events", resource="event-bus", resource_name="default")],
            conditions={"StringEquals": {"events:source": _EVENT_SOURCE}},
        ),
        iam.PolicyStatement(sid="Notify", actions=["sns:Publish"], resources=[topic_arn]),
        # Not the key's own grant: it would name the role in the key's policy, from a stack that depends on it.
        iam.PolicyStatement(
            sid="EncryptNotices",
            actions=["kms:Decrypt", "kms:GenerateDataKey"],
            resources=[key_arn],
            conditions={"StringEquals": {"kms:ViaService": f"sns.{stack.region}.amazonaws.com"}},
        ),
    ]


def acknowledge_steps(role: iam.Role, plan: EnvironmentPlan) -> None:
    """Say why the statements for the steps name resources with wildcards."""
    stack = Stack.of(role)
    acknowledge_wildcards(
        role,
        "One parameter for each deployment or artifact, whose keys are not known beforehand.",
        *(_parameters(stack, path) for path in (plan.orders_path, plan.progress_path, plan.artifacts_path)),
    )
    acknowledge_wildcards(
        role,
        "Hosts exist only while they compile; conditions on launch template and tags narrow these to our own.",
        hosts_arn(stack),
        _ec2(stack, "volume"),
        _ec2(stack, "network-interface"),
        _image(stack),
        *([_ec2(stack, "spot-instances-request")] if _is_spot(plan) else []),
    )
    acknowledge_wildcards(role, EXECUTIONS_REASON, executions_arn(stack, plan.environment.name))
    acknowledge_wildcards(
        role, "Describing hosts and commands knows no resources; metrics are narrowed by their namespace.", "*"
    )


def _start_statements(
    stack: Stack, plan: EnvironmentPlan, host: CompileHost, subnet_ids: Sequence[str]
) -> list[iam.PolicyStatement]:
    templates = [template.arn for template in host.templates]
    from_template = {
        "ArnLike": {"ec2:LaunchTemplate": templates},
        # What the template names may not be replaced by something else.
        "Bool": {"ec2:IsLaunchTemplateResource": "true"},
    }
    tagged = {f"aws:RequestTag/{ENVIRONMENT_TAG}": plan.environment.name, f"aws:RequestTag/{ROLE_TAG}": COMPILE_HOST}
    ami_parameters = sorted({deployment.compile.ami_parameter for deployment in plan.deployments})
    instances_and_volumes = [hosts_arn(stack), _ec2(stack, "volume")]
    return [
        iam.PolicyStatement(
            sid="StartTaggedHosts",
            actions=["ec2:RunInstances"],
            resources=instances_and_volumes,
            conditions={"ArnLike": {"ec2:LaunchTemplate": templates}, "StringEquals": tagged},
        ),
        iam.PolicyStatement(
            sid="StartHostsFromTemplates",
            actions=["ec2:RunInstances"],
            resources=[_image(stack), _ec2(stack, "security-group", host.security_group_id)],
            conditions=from_template,
        ),
        iam.PolicyStatement(
            sid="StartHostsInSubnets",
            actions=["ec2:RunInstances"],
            resources=[
                *templates,
                _ec2(stack, "network-interface"),
                *(_ec2(stack, "subnet", subnet) for subnet in subnet_ids),
            ],
            conditions={"ArnLike": {"ec2:LaunchTemplate": templates}},
        ),
        iam.PolicyStatement(
            sid="TagHostsAtStart",
            actions=["ec2:CreateTags"],
            resources=instances_and_volumes,
            conditions={"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        ),
        iam.PolicyStatement(
            sid="GiveHostsTheirRole",
            actions=["iam:PassRole"],
            resources=[host.role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        ),
        # EC2 looks the template's AMI up with the caller's rights.
        iam.PolicyStatement(
            sid="ResolveAmi",
            actions=["ssm:GetParameters"],
            resources=[
                stack.format_arn(
                    service="ssm", account="", resource="parameter", resource_name=parameter.removeprefix("/")
                )
                for parameter in ami_parameters
            ],
        ),
    ]


def _spot_statements(stack: Stack) -> list[iam.PolicyStatement]:
    role = "aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
    return [
        # A request alone starts nothing: its instance is held to the other statements.
        iam.PolicyStatement(
            sid="RequestSpotHosts",
            actions=["ec2:RunInstances"],
            resources=[_ec2(stack, "spot-instances-request")],
        ),
        # EC2 makes the role when the account's first Spot instance is started.
        iam.PolicyStatement(
            sid="FirstSpotInstance",
            actions=["iam:CreateServiceLinkedRole"],
            resources=[f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/{role}"],
            conditions={"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
        ),
    ]


def _command_statements(stack: Stack, plan: EnvironmentPlan, host: CompileHost) -> list[iam.PolicyStatement]:
    return [
        iam.PolicyStatement(sid="RunTheDocument", actions=["ssm:SendCommand"], resources=[host.document_arn]),
        iam.PolicyStatement(
            sid="RunOnHosts",
            actions=["ssm:SendCommand"],
            resources=[hosts_arn(stack)],
            conditions={
                "StringEquals": {
                    f"ssm:resourceTag/{ENVIRONMENT_TAG}": plan.environment.name,
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


def _is_spot(plan: EnvironmentPlan) -> bool:
    return plan.environment.compile.purchase == "spot"


def _states(stack: Stack, resource: str, name: str) -> str:
    return stack.format_arn(
        service="states", resource=resource, resource_name=name, arn_format=ArnFormat.COLON_RESOURCE_NAME
    )


def _parameters(stack: Stack, path: str) -> str:
    return stack.format_arn(service="ssm", resource="parameter", resource_name=f"{path.removeprefix('/')}/*")


def _ec2(stack: Stack, resource: str, name: str = "*") -> str:
    return stack.format_arn(service="ec2", resource=resource, resource_name=name)


def _image(stack: Stack) -> str:
    return stack.format_arn(service="ec2", account="", resource="image", resource_name="*")
