"""Hosts that compile models: a launch template to start one, an SSM document to run the job on it."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from aws_cdk import ArnFormat, Fn, Stack, Tags
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from modelzone.planning import DeploymentPlan
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge_wildcards
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork

__all__ = ["CompileHost"]

# A host ends itself after this long, whatever happens to the job or to whoever started it.
_LIFETIME_HOURS = 8
_JOB_SECONDS = 7 * 3600
_WORK_DIR = "/var/lib/modelzone/compile"
_ROOT_DEVICE = "/dev/sda1"  # Ubuntu images
_BOTO3 = "1.43.106"
# A timer, not `shutdown +N`: user data runs once, and a reboot would forget a shutdown that was only announced.
_LIFETIME_UNITS = f"""\
cat > /etc/systemd/system/modelzone-lifetime.service <<'UNIT'
[Unit]
Description=The lifetime of a Modelzone compile host is over
[Service]
Type=oneshot
ExecStart=/usr/bin/systemctl poweroff
UNIT
cat > /etc/systemd/system/modelzone-lifetime.timer <<'UNIT'
[Unit]
Description=Ends a Modelzone compile host {_LIFETIME_HOURS} hours after it started
[Timer]
OnBootSec={_LIFETIME_HOURS}h
[Install]
WantedBy=timers.target
UNIT
systemctl daemon-reload
systemctl enable --now modelzone-lifetime.timer"""
_SCRIPT = """\
#!/bin/bash
set -euo pipefail
umask 077
finish() {
  # Leaves the agent time to send the last lines of the log.
  if [ '{{ KeepHost }}' = 'no' ]; then shutdown -P +3 'modelzone: compile job ended'; fi
}
trap finish EXIT
for tool in aws docker python3; do
  if ! command -v "$tool" > /dev/null; then
    echo "modelzone: the host's AMI has no $tool; choose another AMI parameter in modelzone/hardware/data" >&2
    exit 1
  fi
done
mkdir -p {{ WorkDir }}
code="$(mktemp -d)"
aws s3 cp --only-show-errors '{{ CodeUri }}' "$code/code.zip"
python3 -m zipfile -e "$code/code.zip" "$code"
printf '%s' '{{ Job }}' | base64 --decode > "$code/job.json"
cd "$code"
# The distribution's own boto3, where there is one, is too old to send checksums.
if ! python3 -c 'import boto3; assert tuple(map(int, boto3.__version__.split(".")[:2])) >= (1, 36)' 2> /dev/null; then
  python3 -m pip install --quiet --disable-pip-version-check --target "$code/packages" boto3=={{ Boto3 }}
  export PYTHONPATH="$code/packages"
fi
python3 -m compile_job --job job.json"""


class CompileHost(Construct):
    """Everything that a compile host is started with, and the job that it runs. It starts none itself.

    Attributes
    ----------
    launch_template_id, document_name
        To start a host and to run the job on it.
    log_group
        Receives the job's output.
    role
        What a host may do.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        deployments: Sequence[DeploymentPlan],
        network: ZoneNetwork,
        store: ModelStore,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        self._network = network
        self._store = store
        self._code = s3_assets.Asset(self, "Code", path=str(lambda_package.stage("compile_job")))
        self.log_group = logs.log_group(self, "Logs")
        self.role = self._build_role(deployments)
        self._template = self._build_launch_template(deployments)
        self.launch_template_id = cast("ec2.CfnLaunchTemplate", self._template.node.default_child).ref
        self.document_name = self._build_document().ref

    def start_command(self, deployment: DeploymentPlan) -> str:
        """The command that starts a host able to compile a deployment; it prints the host's id."""
        template = f"LaunchTemplateId={self.launch_template_id},Version={self._template.latest_version_number}"
        return " ".join(
            [
                "aws ec2 run-instances",
                f"--region {Stack.of(self).region}",
                f"--launch-template '{template}'",
                f"--instance-type {deployment.compile.instance_type}",
                # Another of the subnets where the first one's zone has none of these instances.
                f'--subnet-id "${{SUBNET_ID:-{self._network.compile_subnet_ids[0]}}}"',
                "--query 'Instances[0].InstanceId' --output text",
            ]
        )

    def compile_command(self, deployment: DeploymentPlan) -> str:
        """The command that compiles a deployment on the host whose id is in ``$INSTANCE_ID``."""
        log = f"CloudWatchOutputEnabled=true,CloudWatchLogGroupName={self.log_group.log_group_name}"
        return " ".join(
            [
                "aws ssm send-command",
                f"--region {Stack.of(self).region}",
                f"--document-name {self.document_name}",
                '--instance-ids "$INSTANCE_ID"',
                f"""--parameters '{{"Job":["{self.job(deployment)}"]}}'""",
                f"--cloud-watch-output-config '{log}'",
            ]
        )

    def job(self, deployment: DeploymentPlan) -> str:
        """The job of a deployment as the document's parameter: base64 of JSON. It holds no secrets."""
        facts, compile_plan = deployment.facts, deployment.compile
        job: dict[str, Any] = {
            "facts": facts.as_dict(),
            "bucket": self._store.bucket.bucket_name,
            "prefix": deployment.artifact_prefix,
            "image": compile_plan.image_uri,
            "runner": "docker",
            "weights": {
                "source": "hub",
                "model_id": facts.model_id,
                "revision": facts.model_revision,
                "token_secret_arn": self._store.hub_token.secret_arn if deployment.model.gated else "",
            },
            "devices": compile_plan.devices,
            "export_command": list(compile_plan.export_command),
            "work_dir": _WORK_DIR,
            "min_free_gib": compile_plan.min_free_gib,
            "min_memory_gib": compile_plan.min_memory_gib,
            "region": deployment.region,
        }
        return Fn.base64(Stack.of(self).to_json_string(job))

    def _build_role(self, deployments: Sequence[DeploymentPlan]) -> iam.Role:
        role = iam.Role(
            self,
            "Role",
            description="Compile hosts: Session Manager, models, serving images, logs",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
        )
        self._store.grant_compile(role)
        stack = Stack.of(self)
        repositories = {
            stack.format_arn(
                service="ecr",
                account=deployment.image_account,
                resource="repository",
                resource_name=deployment.compile.image_repository,
            )
            for deployment in deployments
        }
        code = self._code.bucket.arn_for_objects(self._code.s3_object_key)
        groups = stack.format_arn(
            service="logs", resource="log-group", resource_name="*", arn_format=ArnFormat.COLON_RESOURCE_NAME
        )
        for statement in (
            # What the SSM agent needs for Session Manager and Run Command. The managed policy would also let the
            # host read every parameter of the account.
            iam.PolicyStatement(
                sid="SystemsManagerAgent",
                actions=[
                    "ec2messages:AcknowledgeMessage",
                    "ec2messages:DeleteMessage",
                    "ec2messages:FailMessage",
                    "ec2messages:GetEndpoint",
                    "ec2messages:GetMessages",
                    "ec2messages:SendReply",
                    "ssm:ListInstanceAssociations",
                    "ssm:UpdateInstanceInformation",
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ],
                resources=["*"],
            ),
            iam.PolicyStatement(sid="ReadJobCode", actions=["s3:GetObject"], resources=[code]),
            iam.PolicyStatement(sid="RegistryLogin", actions=["ecr:GetAuthorizationToken"], resources=["*"]),
            iam.PolicyStatement(
                sid="PullServingImages",
                actions=["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                resources=sorted(repositories),
            ),
            iam.PolicyStatement(
                sid="WriteJobLogs",
                actions=["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                resources=[self.log_group.log_group_arn],
            ),
            # The agent looks for the group by a prefix before it writes.
            iam.PolicyStatement(sid="FindLogGroup", actions=["logs:DescribeLogGroups"], resources=[groups]),
        ):
            role.add_to_policy(statement)
        acknowledge_wildcards(role, "The agent's messages and ECR's login know no resources.", "*")
        acknowledge_wildcards(role, "Finding a log group by its name needs the right to list all.", groups)
        return role

    def _build_security_group(self) -> ec2.SecurityGroup:
        group = self._network.client_security_group(self, "SecurityGroup", description="Modelzone compile hosts")
        why = "the model hub and S3" if self._network.egress == "nat" else "S3, through its gateway endpoint"
        self._network.allow_s3(group, why=why)
        return group

    def _build_launch_template(self, deployments: Sequence[DeploymentPlan]) -> ec2.LaunchTemplate:
        (ami_parameter,) = {deployment.compile.ami_parameter for deployment in deployments}
        volume_gib = max(deployment.compile.root_volume_gib for deployment in deployments)
        user_data = ec2.UserData.for_linux()
        user_data.add_commands("set -eu", *_LIFETIME_UNITS.split("\n"))
        template = ec2.LaunchTemplate(
            self,
            "LaunchTemplate",
            machine_image=ec2.MachineImage.resolve_ssm_parameter_at_launch(ami_parameter),
            role=self.role,
            user_data=user_data,
            # At instance level, not on a network interface: only so can run-instances be given a subnet. The subnets
            # assign no public addresses.
            security_group=self._build_security_group(),
            http_tokens=ec2.LaunchTemplateHttpTokens.REQUIRED,
            # One hop: containers do not get at the host's role. The export needs no AWS, the host uploads.
            http_put_response_hop_limit=1,
            instance_initiated_shutdown_behavior=ec2.InstanceInitiatedShutdownBehavior.TERMINATE,
            block_devices=[
                ec2.BlockDevice(
                    device_name=_ROOT_DEVICE,
                    volume=ec2.BlockDeviceVolume.ebs(
                        volume_gib,
                        volume_type=ec2.EbsDeviceVolumeType.GP3,
                        encrypted=True,
                        delete_on_termination=True,
                        # Weights are read and written several times: the fastest that gp3 has.
                        iops=4000,
                        throughput=1000,
                    ),
                )
            ],
        )
        Tags.of(template).add("Name", f"modelzone-{deployments[0].environment}-compile-host")
        return template

    def _build_document(self) -> ssm.CfnDocument:
        """Nothing but base64 can reach the shell, so no job can hold a command."""
        script = _SCRIPT.replace("{{ WorkDir }}", _WORK_DIR).replace("{{ CodeUri }}", self._code.s3_object_url)
        script = script.replace("{{ Boto3 }}", _BOTO3)
        return ssm.CfnDocument(
            self,
            "Document",
            document_type="Command",
            document_format="JSON",
            target_type="/AWS::EC2::Instance",
            # A change makes a new version of the same document; the default would replace it under a new name.
            update_method="NewVersion",
            content={
                "schemaVersion": "2.2",
                "description": "Compiles one model on a Modelzone compile host and publishes the artifact",
                "parameters": {
                    "Job": {
                        "type": "String",
                        "description": "The job, base64 of JSON; see the outputs of the compile stack",
                        # The agent reads patterns with Go's engine, which knows no counts above 1000.
                        "allowedPattern": "^[A-Za-z0-9+/]+={0,2}$",
                        "minChars": 16,
                        "maxChars": 8192,
                    },
                    "KeepHost": {
                        "type": "String",
                        "description": "Leave the host running when the job ends; its lifetime is limited all the same",
                        "allowedValues": ["no", "yes"],
                        "default": "no",
                    },
                },
                "mainSteps": [
                    {
                        "action": "aws:runShellScript",
                        "name": "Compile",
                        "precondition": {"StringEquals": ["platformType", "Linux"]},
                        "inputs": {"timeoutSeconds": str(_JOB_SECONDS), "runCommand": script.split("\n")},
                    }
                ],
            },
        )
