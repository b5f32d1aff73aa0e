"""Hosts that compile models: launch templates to start them, an SSM document to run the job on them."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aws_cdk import ArnFormat, Stack, Tags
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from modelzone.hosts import lifetime_user_data
from modelzone.planning import DeploymentPlan, EnvironmentPlan
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge_wildcards
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork

__all__ = ["CompileHost", "HostTemplate", "repository_arns"]

_WORK_DIR = "/var/lib/modelzone/compile"
_ROOT_DEVICE = "/dev/sda1"  # Ubuntu images
# As base64; the state machine's first step refuses longer jobs (lambda/compiled_artifact/look.py).
_MOST_JOB_CHARACTERS = 8192
# Docker's own repository, because Ubuntu's answers HTTP only and hosts may send nothing but HTTPS. The fingerprint is
# the one that Docker publishes.
_INSTALL_DOCKER = """\
  echo "modelzone: the host's AMI has no docker; installing it" >&2
  curl --fail --silent --show-error --location https://download.docker.com/linux/ubuntu/gpg -o "$code/docker.asc"
  GNUPGHOME="$code" gpg --batch --with-colons --show-keys "$code/docker.asc" 2> /dev/null \\
    | grep '^fpr:*9DC858229FC7DD38854AE2D88D81803C0EBFCD88:' > /dev/null
  install -D -m 0644 "$code/docker.asc" /etc/apt/keyrings/docker.asc
  source='deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] https://download.docker.com/linux/ubuntu'
  echo "$source $(. /etc/os-release; echo "$VERSION_CODENAME") stable" > /etc/apt/sources.list.d/docker.list
  chmod 0644 /etc/apt/sources.list.d/docker.list
  only='-o Dir::Etc::sourcelist=sources.list.d/docker.list -o Dir::Etc::sourceparts=-'
  apt-get update -qq $only -o APT::Get::List-Cleanup=0
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 \\
    docker-ce docker-ce-cli containerd.io > /dev/null"""
_NO_WAY_TO_DOCKER = """\
  echo "modelzone: the host's AMI has no docker and this environment has no way to install it (egress: none);" \\
    "choose another AMI parameter in modelzone/hardware/data" >&2
  exit 1"""
_SCRIPT = """\
#!/bin/bash
set -euo pipefail
umask 077
finish() {
  status=$?
  # A second command that met a job at work must not end its host.
  if [ -e {{ WorkDir }}/compile_job.lock ] && ! flock --nonblock {{ WorkDir }}/compile_job.lock true; then
    exit "$status"
  fi
  # Leaves the agent time to send the last lines of the log.
  shutdown -P +3 'modelzone: compile job ended' || true
  exit "$status"
}
trap finish EXIT
# Set by the user data; a host that nothing would end must not begin. This counts from now on.
systemctl is-active --quiet modelzone-lifetime.timer \\
  || systemd-run --quiet --on-active={{ Lifetime }}h systemctl poweroff
for tool in aws python3; do
  if ! command -v "$tool" > /dev/null; then
    echo "modelzone: the host's AMI has no $tool; choose another AMI parameter in modelzone/hardware/data" >&2
    exit 1
  fi
done
mkdir -p {{ WorkDir }}
code="$(mktemp -d)"
if ! command -v docker > /dev/null; then
{{ InstallDocker }}
fi
aws s3 cp --only-show-errors '{{ CodeUri }}' "$code/code.zip" --region '{{ Region }}'
python3 -m zipfile -e "$code/code.zip" "$code"
printf '%s' '{{ Job }}' | base64 --decode > "$code/job.json"
# The package brings its own boto3: the distribution's is too old to send checksums.
export PYTHONPATH="$code"
python3 -m compile_job --job "$code/job.json\""""


@dataclass(frozen=True)
class HostTemplate:
    """A launch template.

    Attributes
    ----------
    label
        The instance family, as construct ids and outputs have it.
    launch_template_id, version, arn
        References for other resources.
    """

    label: str
    launch_template_id: str
    version: str
    arn: str


class CompileHost(Construct):
    """Everything that a compile host is started with, and the job that it runs. It starts none itself.

    A debugging host is started from the same templates, by an operator.

    Attributes
    ----------
    templates
        One for each kind of host that the deployments need, in the order of their labels.
    document_name, document_arn
        What runs a job on a host.
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
        plan: EnvironmentPlan,
        network: ZoneNetwork,
        store: ModelStore,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        self._plan = plan
        self._network = network
        self._store = store
        self._lifetime_hours = plan.environment.compile.max_hours + 1
        self._volume_key = kms.Key.from_key_arn(self, "VolumeKey", store.key_arn)
        self._code = s3_assets.Asset(self, "Code", path=str(lambda_package.stage("compile_job")))
        self.log_group = logs.log_group(self, "Logs")
        self.role = self._build_role()
        self._security_group = self._build_security_group()
        self.security_group_id = self._security_group.security_group_id
        self._by_ami = self._build_templates()
        self.templates: Sequence[HostTemplate] = sorted(self._by_ami.values(), key=lambda template: template.label)
        document = self._build_document()
        self.document_name = document.ref
        self.document_arn = Stack.of(self).format_arn(
            service="ssm", resource="document", resource_name=self.document_name
        )

    def template(self, deployment: DeploymentPlan) -> HostTemplate:
        """What a deployment's hosts are started from."""
        return self._by_ami[_kind(deployment)]

    def job(self, deployment: DeploymentPlan) -> Mapping[str, Any]:
        """What of a deployment's job is known beforehand; the rest follows from the facts. It holds no secrets."""
        compile_plan = deployment.compile
        return {
            "bucket": self._store.bucket_name,
            "image": compile_plan.image_uri,
            "accelerator": compile_plan.accelerator,
            "layout": compile_plan.layout,
            "weights": {
                "source": compile_plan.weights_source,
                "token_secret_arn": self._store.hub_token_arn if deployment.model.gated else "",
            },
            "export_command": list(compile_plan.export_command),
            "properties": dict(compile_plan.properties),
            "work_dir": _WORK_DIR,
            "min_free_gib": compile_plan.min_free_gib,
            "min_memory_gib": compile_plan.min_memory_gib,
            "region": deployment.region,
        }

    def _build_role(self) -> iam.Role:
        role = iam.Role(
            self,
            "Role",
            description="Compile hosts: Session Manager, models, serving images, progress, logs",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
        )
        self._store.grant_compile(role)
        stack = Stack.of(self)
        code = self._code.bucket.arn_for_objects(self._code.s3_object_key)
        progress = stack.format_arn(
            service="ssm", resource="parameter", resource_name=f"{self._plan.progress_path.removeprefix('/')}/*"
        )
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
                resources=repository_arns(stack, self._plan.deployments),
            ),
            iam.PolicyStatement(sid="TellProgress", actions=["ssm:PutParameter"], resources=[progress]),
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
        acknowledge_wildcards(role, "One parameter for each artifact's key, which is not known beforehand.", progress)
        return role

    def _build_security_group(self) -> ec2.SecurityGroup:
        group = self._network.client_security_group(self, "SecurityGroup", description="Modelzone compile hosts")
        if self._network.egress == "nat":
            self._network.allow_internet(group, why="the model hub and S3")
        else:
            self._network.allow_gateway_endpoints(group, why="S3, through its gateway endpoint")
        return group

    def _build_templates(self) -> dict[tuple[str, str], HostTemplate]:
        kinds: dict[tuple[str, str], list[DeploymentPlan]] = defaultdict(list)
        for deployment in self._plan.deployments:
            kinds[_kind(deployment)].append(deployment)
        families = [family for family, _ in kinds]
        templates: dict[tuple[str, str], HostTemplate] = {}
        for family, ami_parameter in sorted(kinds):
            label = "".join(part.capitalize() for part in family.split("-"))
            if families.count(family) > 1:
                # Two engines' versions that want different AMIs of one family.
                label += "".join(part.capitalize() for part in ami_parameter.replace("/", "-").split("-"))
                label = "".join(character for character in label if character.isalnum())
            templates[family, ami_parameter] = self._build_launch_template(
                label, ami_parameter, kinds[family, ami_parameter]
            )
        return templates

    def _build_launch_template(
        self, label: str, ami_parameter: str, deployments: Sequence[DeploymentPlan]
    ) -> HostTemplate:
        user_data = ec2.UserData.custom(lifetime_user_data(self._lifetime_hours))
        template = ec2.LaunchTemplate(
            self,
            f"LaunchTemplate{label}",
            machine_image=ec2.MachineImage.resolve_ssm_parameter_at_launch(ami_parameter),
            role=self.role,
            user_data=user_data,
            # At instance level, not on a network interface: only so can run-instances be given a subnet. The subnets
            # assign no public addresses.
            security_group=self._security_group,
            http_tokens=ec2.LaunchTemplateHttpTokens.REQUIRED,
            # One hop: containers do not get at the host's role. The export needs no AWS, the host uploads.
            http_put_response_hop_limit=1,
            instance_initiated_shutdown_behavior=ec2.InstanceInitiatedShutdownBehavior.TERMINATE,
            block_devices=[
                ec2.BlockDevice(
                    device_name=_ROOT_DEVICE,
                    volume=ec2.BlockDeviceVolume.ebs(
                        max(deployment.compile.root_volume_gib for deployment in deployments),
                        volume_type=ec2.EbsDeviceVolumeType.GP3,
                        encrypted=True,
                        kms_key=self._volume_key,
                        delete_on_termination=True,
                        # Weights are read and written several times: the fastest that gp3 has.
                        iops=4000,
                        throughput=1000,
                    ),
                )
            ],
        )
        # The construct would name hosts by its path. Whoever starts one gives it a name that says more.
        Tags.of(template).add("Name", f"modelzone-{self._plan.environment.name}-compile-host")
        resource = cast("ec2.CfnLaunchTemplate", template.node.default_child)
        return HostTemplate(
            label=label,
            launch_template_id=resource.ref,
            version=template.latest_version_number,
            arn=Stack.of(self).format_arn(service="ec2", resource="launch-template", resource_name=resource.ref),
        )

    def _build_document(self) -> ssm.CfnDocument:
        """Nothing but base64 can reach the shell, so no job can hold a command."""
        install = _INSTALL_DOCKER if self._network.egress == "nat" else _NO_WAY_TO_DOCKER
        script = _SCRIPT.replace("{{ InstallDocker }}", install).replace("{{ WorkDir }}", _WORK_DIR)
        script = script.replace("{{ CodeUri }}", self._code.s3_object_url)
        script = script.replace("{{ Region }}", self._plan.environment.region)
        script = script.replace("{{ Lifetime }}", str(self._lifetime_hours))
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
                        "description": "The job, base64 of JSON",
                        # The agent reads patterns with Go's engine, which knows no counts above 1000.
                        "allowedPattern": "^[A-Za-z0-9+/]+={0,2}$",
                        "minChars": 16,
                        "maxChars": _MOST_JOB_CHARACTERS,
                    },
                },
                "mainSteps": [
                    {
                        "action": "aws:runShellScript",
                        "name": "Compile",
                        "precondition": {"StringEquals": ["platformType", "Linux"]},
                        "inputs": {
                            "timeoutSeconds": str(self._plan.environment.compile.max_hours * 3600),
                            "runCommand": script.split("\n"),
                        },
                    }
                ],
            },
        )


def repository_arns(stack: Stack, deployments: Sequence[DeploymentPlan]) -> list[str]:
    """The repositories of the images that deployments are compiled with."""
    arns = set()
    for deployment in deployments:
        # <account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>
        account, _, _, region, *_ = deployment.compile.image_uri.split(".", 5)
        name = deployment.compile.image_repository
        arns.add(
            stack.format_arn(service="ecr", account=account, region=region, resource="repository", resource_name=name)
        )
    return sorted(arns)


def _kind(deployment: DeploymentPlan) -> tuple[str, str]:
    """What tells launch templates apart: the family and its AMI."""
    return deployment.compile.instance_type.split(".", 1)[0], deployment.compile.ami_parameter
