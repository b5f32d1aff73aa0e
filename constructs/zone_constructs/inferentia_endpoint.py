"""A SageMaker endpoint on Inferentia2 that serves a compiled artifact from the model bucket."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import Aws, Fn, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from modelzone.engines import ENGINES
from modelzone.planning import DeploymentPlan
from zone_constructs.acknowledge import acknowledge_wildcards
from zone_constructs.compiled_artifact import CompiledArtifact
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork

__all__ = ["InferentiaEndpoint"]


class InferentiaEndpoint(Construct):
    """Model, endpoint configuration and endpoint.

    Model and configuration have no names of ours: SageMaker replaces both when they change, and a fixed name would be
    in the way.

    Attributes
    ----------
    variant_name
        The one production variant.
    endpoint_name, endpoint_arn
        Known once the endpoint is in service.
    """

    variant_name = "AllTraffic"

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        deployment: DeploymentPlan,
        artifact: CompiledArtifact,
        network: ZoneNetwork,
        store: ModelStore,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        self._deployment = deployment
        self._network = network
        # The stack's own id in the name: known beforehand, and another one when the stack is made anew.
        stack_uuid = Fn.select(2, Fn.split("/", Aws.STACK_ID))
        name = f"{deployment.endpoint_prefix}-{Fn.select(0, Fn.split('-', stack_uuid))}"
        # SageMaker would make the group itself, without a key, without an end, and leave it behind.
        self._logs = logs.log_group(self, "Logs", name=f"/aws/sagemaker/Endpoints/{name}")
        self._security_group = network.client_security_group(
            self, "SecurityGroup", description=f"Modelzone {deployment.name} model hosts"
        )
        network.allow_gateway_endpoints(self._security_group, why="S3, through its gateway endpoint")
        self._interfaces = self._ec2_arn("network-interface", "*")
        self._role = self._build_role(artifact, store)
        self.model = self._build_model(deployment, artifact)
        self._config = self._build_config(deployment, artifact, store)
        self.endpoint = sagemaker.CfnEndpoint(
            self,
            "Endpoint",
            endpoint_name=name,
            endpoint_config_name=self._config.attr_endpoint_config_name,
            # Otherwise every update resets the number of instances that autoscaling has arrived at.
            retain_all_variant_properties=True,
        )
        self.endpoint.node.add_dependency(self._logs)
        self.endpoint_name = self.endpoint.attr_endpoint_name
        self.endpoint_arn = self.endpoint.ref

    def grant_use(self, role: iam.IRole, *, artifact: CompiledArtifact, store: ModelStore) -> None:
        """Allow a role to call this endpoint, streaming or not, and to read the tokenizer of what it serves.

        The policy lies in this stack, so that stacks of several deployments can add theirs to one role.
        """
        iam.Policy(
            self,
            "InvokePolicy",
            # Inline policies of a role go by name, and the CDK would give this one the same in every deployment.
            policy_name=f"invoke-{self._deployment.name}",
            roles=[role],
            statements=[
                iam.PolicyStatement(
                    sid="InvokeThisEndpoint",
                    actions=["sagemaker:InvokeEndpoint", "sagemaker:InvokeEndpointWithResponseStream"],
                    resources=[self.endpoint_arn],
                ),
                iam.PolicyStatement(
                    sid="ReadItsTokenizer", actions=["s3:GetObject"], resources=[artifact.tokenizer_arn]
                ),
                iam.PolicyStatement(
                    sid="DecryptItsTokenizer",
                    actions=["kms:Decrypt"],
                    resources=[store.key_arn],
                    conditions={"StringEquals": {"kms:ViaService": f"s3.{Stack.of(self).region}.amazonaws.com"}},
                ),
            ],
        )

    def _build_role(self, artifact: CompiledArtifact, store: ModelStore) -> iam.Role:
        role = iam.Role(
            self,
            "Role",
            description="SageMaker pulls the image and the artifact and writes logs with it",
            assumed_by=iam.ServicePrincipal(
                "sagemaker.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
            ),
        )
        store.grant_read_artifacts(role)
        store.grant_list_artifacts(role)
        store.grant_encrypt_volumes(role)
        for statement in (*self._image_statements(artifact), *self._log_statements(), *self._network_statements()):
            role.add_to_policy(statement)
        acknowledge_wildcards(
            role,
            "ECR's login, metrics and describing the network know no resources; metrics are narrowed by namespace.",
            "*",
        )
        acknowledge_wildcards(
            role,
            "Interfaces that SageMaker makes; they can be made in the named subnets with the named group only.",
            self._interfaces,
        )
        return role

    @staticmethod
    def _image_statements(artifact: CompiledArtifact) -> list[iam.PolicyStatement]:
        """Pull from the image's own repository, whoever chose the image: the check of the artifact takes it apart."""
        region, account = artifact.text("RegistryRegion"), artifact.text("RegistryAccount")
        return [
            iam.PolicyStatement(sid="RegistryLogin", actions=["ecr:GetAuthorizationToken"], resources=["*"]),
            iam.PolicyStatement(
                sid="PullServingImage",
                actions=["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                resources=[f"arn:{Aws.PARTITION}:ecr:{region}:{account}:repository/{artifact.text('Repository')}"],
            ),
        ]

    def _log_statements(self) -> list[iam.PolicyStatement]:
        return [
            iam.PolicyStatement(
                sid="ContainerLogs",
                actions=["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                resources=[self._logs.log_group_arn],
            ),
            iam.PolicyStatement(
                sid="EndpointMetrics",
                actions=["cloudwatch:PutMetricData"],
                resources=["*"],
                conditions={"StringEquals": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/Endpoints"]}},
            ),
        ]

    def _network_statements(self) -> list[iam.PolicyStatement]:
        """Network interfaces in the private subnets with this endpoint's security group only."""
        return [
            iam.PolicyStatement(
                sid="CreateNetworkInterface",
                actions=["ec2:CreateNetworkInterface"],
                resources=[
                    self._interfaces,
                    self._ec2_arn("security-group", self._security_group.security_group_id),
                    *(self._ec2_arn("subnet", subnet) for subnet in self._network.private_subnet_ids),
                ],
            ),
            iam.PolicyStatement(
                sid="ManageNetworkInterface",
                actions=[
                    "ec2:CreateNetworkInterfacePermission",
                    "ec2:DeleteNetworkInterface",
                    "ec2:DeleteNetworkInterfacePermission",
                ],
                resources=[self._interfaces],
            ),
            iam.PolicyStatement(
                sid="DescribeNetwork",
                actions=[
                    "ec2:DescribeDhcpOptions",
                    "ec2:DescribeNetworkInterfaces",
                    "ec2:DescribeSecurityGroups",
                    "ec2:DescribeSubnets",
                    "ec2:DescribeVpcs",
                ],
                resources=["*"],
            ),
        ]

    def _ec2_arn(self, resource: str, name: str) -> str:
        return Stack.of(self).format_arn(service="ec2", resource=resource, resource_name=name)

    def _build_model(self, deployment: DeploymentPlan, artifact: CompiledArtifact) -> sagemaker.CfnModel:
        engine = ENGINES[deployment.facts.engine]
        # What was compiled in, as the artifact's manifest says.
        compiled = engine.artifact_environment(
            deployment.facts.engine_version,
            {
                "batch_size": artifact.text("BatchSize"),
                "sequence_length": artifact.text("SequenceLength"),
                "tensor_parallel_degree": artifact.text("TensorParallelDegree"),
                "dtype": artifact.text("Dtype"),
                "max_input_tokens": str(deployment.serving.max_input_tokens),
                "max_batch_prefill_tokens": artifact.text("MaxBatchPrefillTokens"),
            },
        )
        environment = {
            **deployment.container_environment,
            **compiled,
            # Not read by the container: says in the model's description what it serves.
            "MODELZONE_ARTIFACT_SHA256": artifact.manifest_sha256,
        }
        model = sagemaker.CfnModel(
            self,
            "Model",
            execution_role_arn=self._role.role_arn,
            enable_network_isolation=True,
            vpc_config=sagemaker.CfnModel.VpcConfigProperty(
                security_group_ids=[self._security_group.security_group_id],
                subnets=list(self._network.private_subnet_ids),
            ),
            primary_container=sagemaker.CfnModel.ContainerDefinitionProperty(
                image=artifact.text("ImageUri"),
                environment=environment,
                model_data_source=sagemaker.CfnModel.ModelDataSourceProperty(
                    s3_data_source=sagemaker.CfnModel.S3DataSourceProperty(
                        s3_uri=artifact.s3_uri, s3_data_type="S3Prefix", compression_type="None"
                    )
                ),
            ),
        )
        # SageMaker tries the role's permissions when the model is made, and the network rules when it starts.
        model.node.add_dependency(self._role, self._security_group)
        return model

    def _build_config(
        self, deployment: DeploymentPlan, artifact: CompiledArtifact, store: ModelStore
    ) -> sagemaker.CfnEndpointConfig:
        has_volume = deployment.volume_size_gib is not None
        return sagemaker.CfnEndpointConfig(
            self,
            "Config",
            kms_key_id=store.key_arn,
            production_variants=[
                sagemaker.CfnEndpointConfig.ProductionVariantProperty(
                    variant_name=self.variant_name,
                    model_name=self.model.attr_model_name,
                    instance_type=artifact.text("InstanceType"),
                    # Only how the endpoint begins: autoscaling raises it to its minimum, and updates keep what it
                    # arrived at. A minimum here would replace the whole fleet whenever it is changed.
                    initial_instance_count=1,
                    initial_variant_weight=1,
                    volume_size_in_gb=artifact.number("VolumeSizeGiB") if has_volume else None,
                    container_startup_health_check_timeout_in_seconds=artifact.number("HealthCheckTimeoutSeconds"),
                    model_data_download_timeout_in_seconds=artifact.number("ModelDownloadTimeoutSeconds"),
                    inference_ami_version=deployment.inference_ami_version,
                    routing_config=sagemaker.CfnEndpointConfig.RoutingConfigProperty(
                        routing_strategy="LEAST_OUTSTANDING_REQUESTS"
                    ),
                )
            ],
        )
