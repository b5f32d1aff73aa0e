"""Weights, compiled artifacts and the hub token: an environment's own, or those of another environment."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Aws, CfnOutput, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from zone_constructs.acknowledge import acknowledge, acknowledge_wildcards

__all__ = ["ModelStore", "OwnModelStore", "SharedModelStore"]

_ARTIFACTS = "compiled/"
_WEIGHTS = "weights/"
_CACHE = "cache/"
# Object tags, legal holds and the like are never used.
_READ_AND_WRITE = ("s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject")

_ENCRYPT_VOLUMES = ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext")
_SPOT_ROLE = "aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
_FOR_AWS = {"Bool": {"kms:GrantIsForAWSResource": "true"}}


def _export_name(environment_name: str, name: str) -> str:
    """What another environment imports by: fixed, whatever the constructs here are called."""
    return f"modelzone-{environment_name}-model-store:{name}"


class ModelStore(Construct):
    """What the rest of an environment needs from where its models are kept.

    Attributes
    ----------
    bucket_name
        ``compiled/`` holds artifacts, ``weights/`` mirrored snapshots, ``cache/`` what the compiler may use again.
    key_arn
        Encrypts bucket, secret and the volumes of hosts that serve or compile models.
    hub_token_arn
        The secret that holds a token for gated models.
    """

    bucket_name: str
    bucket_arn: str
    key_arn: str
    hub_token_arn: str

    def grant_read_artifacts(self, role: iam.Role) -> None:
        """Allow reading compiled artifacts whose names are known."""
        self._grant_objects(role, [_ARTIFACTS], ["s3:GetObject"])
        self._grant(role, ["kms:Decrypt"], self.key_arn)

    def grant_list_artifacts(self, role: iam.Role) -> None:
        """Allow finding out which objects a compiled artifact has."""
        self._grant(
            role,
            ["s3:ListBucket"],
            self.bucket_arn,
            conditions={"StringLike": {"s3:prefix": [f"{_ARTIFACTS}*"]}},
        )

    def grant_compile(self, role: iam.Role) -> None:
        """Allow what compiling needs: read and write artifacts, weights and cache, read the hub token."""
        self._grant_objects(role, [_ARTIFACTS, _WEIGHTS, _CACHE], list(_READ_AND_WRITE))
        # On the whole bucket: asked for an object that is not there, S3 answers "not found" only to those who may
        # list, and does not look at a condition on the prefix then.
        self._grant(role, ["s3:ListBucket"], self.bucket_arn)
        self._grant(role, ["kms:Decrypt", "kms:GenerateDataKey"], self.key_arn)
        # Not the secret's own grant: it would name the reader in the key's policy, from a stack that depends on this.
        self._grant(role, ["secretsmanager:GetSecretValue"], self.hub_token_arn)

    def grant_follow_compilation(self, role: iam.Role) -> None:
        """Allow comparing artifacts and mirrored weights with their manifests, and deleting what is in none."""
        self._grant_objects(role, [_ARTIFACTS, _WEIGHTS], ["s3:GetObject"])
        self._grant_objects(role, [_ARTIFACTS], ["s3:DeleteObject"])
        self._grant(role, ["s3:ListBucket"], self.bucket_arn)  # see `grant_compile`
        self._grant(role, ["kms:Decrypt"], self.key_arn)

    def grant_delete_artifacts(self, role: iam.Role) -> None:
        """Allow deleting compiled artifacts; the bucket keeps their versions for a while."""
        self._grant_objects(role, [_ARTIFACTS], ["s3:DeleteObject"])
        self.grant_list_artifacts(role)

    def grant_encrypt_volumes(self, role: iam.Role) -> None:
        """Allow passing the key on to AWS services that encrypt volumes with it, and to nobody else.

        SageMaker's documentation does not say whether it uses the caller's permission or the model's role for that.
        """
        self._grant(role, ["kms:CreateGrant"], self.key_arn, conditions=_FOR_AWS)

    def grant_encrypt_host_volumes(self, role: iam.Role) -> None:
        """Allow starting hosts whose volumes are encrypted with the key; the key's other uses stay closed.

        These are what EBS documents for whoever starts an instance, but for ``ReEncrypt``: that is for snapshots under
        other keys, and public AMIs have no encrypted ones. The key of another environment's store is in the same
        account, to which its policy leaves the decision.
        """
        via = {"StringEquals": {"kms:ViaService": f"ec2.{Stack.of(role).region}.amazonaws.com"}}
        self._grant(role, list(_ENCRYPT_VOLUMES), self.key_arn, conditions=via)
        self._grant(role, ["kms:CreateGrant"], self.key_arn, conditions={**via, **_FOR_AWS})

    def _grant_objects(self, role: iam.Role, prefixes: list[str], actions: list[str]) -> None:
        self._grant(role, actions, *(f"{self.bucket_arn}/{prefix}*" for prefix in prefixes))
        bucket = self._bucket_arn_in(Stack.of(role))
        acknowledge_wildcards(
            role,
            "Objects below these prefixes of the model bucket only; their names are not known beforehand.",
            *(f"{bucket}/{prefix}*" for prefix in prefixes),
        )

    def _bucket_arn_in(self, stack: Stack) -> str:
        """The bucket's ARN as that stack's template will hold it."""
        del stack
        return self.bucket_arn

    @staticmethod
    def _grant(
        role: iam.Role, actions: list[str], *arns: str, conditions: Mapping[str, Mapping[str, object]] | None = None
    ) -> None:
        role.add_to_policy(iam.PolicyStatement(actions=actions, resources=list(arns), conditions=conditions))


class OwnModelStore(ModelStore):
    """One encrypted, versioned bucket for an environment's models, and the token that downloads gated ones.

    Attributes
    ----------
    key, bucket
        See `ModelStore`.
    hub_token
        Holds a generated placeholder until an operator puts a token in.
    """

    def __init__(self, scope: Construct, construct_id: str, *, environment_name: str, retain_data: bool) -> None:
        super().__init__(scope, construct_id)
        self._retain_data = retain_data
        self._removal_policy = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if retain_data else RemovalPolicy.DESTROY
        self.key = self._build_key(environment_name)
        self._access_logs = self._build_access_log_bucket()
        self.bucket = self._build_bucket()
        self.hub_token = self._build_hub_token(environment_name)
        self.bucket_name, self.bucket_arn = self.bucket.bucket_name, self.bucket.bucket_arn
        self.key_arn, self.hub_token_arn = self.key.key_arn, self.hub_token.secret_arn
        self._export(environment_name)

    def _bucket_arn_in(self, stack: Stack) -> str:
        home = Stack.of(self)
        return self.bucket_arn if stack == home else home.export_value(self.bucket_arn)

    def _export(self, environment_name: str) -> None:
        """Always, so that another environment can share the store without a change here."""
        for name, value in (
            ("BucketName", self.bucket_name),
            ("KeyArn", self.key_arn),
            ("HubTokenArn", self.hub_token_arn),
        ):
            output = CfnOutput(
                self,
                name,
                value=value,
                export_name=_export_name(environment_name, name),
                description="For environments that share this model store",
            )
            output.override_logical_id(f"Shared{name}")

    def _build_key(self, environment_name: str) -> kms.Key:
        key = kms.Key(
            self,
            "Key",
            alias=f"alias/modelzone/{environment_name}/models",
            description=f"Modelzone {environment_name}: models, hub token, volumes of model hosts",
            enable_key_rotation=True,
            pending_window=Duration.days(30 if self._retain_data else 7),
            removal_policy=self._removal_policy,
        )
        self._allow_spot(key)
        return key

    @staticmethod
    def _allow_spot(key: kms.Key) -> None:
        """Spot hosts are launched by a role of EC2's own, which has no rights at customers' keys but those given here.

        By a condition, because a policy that names a role that is not there yet is refused. Environments that share
        the store may buy on Spot even if its owner does not.
        """
        role = f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/{_SPOT_ROLE}"
        by_spot = {"ArnEquals": {"aws:PrincipalArn": role}, "StringEquals": {"kms:CallerAccount": Aws.ACCOUNT_ID}}
        for sid, actions, conditions in (
            ("VolumesOfSpotHosts", list(_ENCRYPT_VOLUMES), by_spot),
            ("AttachVolumesToSpotHosts", ["kms:CreateGrant"], {**by_spot, **_FOR_AWS}),
        ):
            key.add_to_resource_policy(
                iam.PolicyStatement(
                    sid=sid, principals=[iam.AnyPrincipal()], actions=actions, resources=["*"], conditions=conditions
                )
            )

    def _build_access_log_bucket(self) -> s3.Bucket:
        """S3 delivers access logs to buckets with S3-managed encryption only."""
        bucket = s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="expire",
                    expiration=Duration.days(365 if self._retain_data else 30),
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                )
            ],
            removal_policy=self._removal_policy,
            auto_delete_objects=not self._retain_data,
        )
        acknowledge(bucket, "It receives the access logs; logging its own accesses would never end.", "AwsSolutions-S1")
        return bucket

    def _build_bucket(self) -> s3.Bucket:
        return s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            server_access_logs_bucket=self._access_logs,
            server_access_logs_prefix="models/",
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="abort-incomplete-uploads", abort_incomplete_multipart_upload_after=Duration.days(2)
                ),
                # What the compiler may use again; `weights/` and `compiled/` are kept until somebody deletes them.
                s3.LifecycleRule(id="expire-cache", prefix=_CACHE, expiration=Duration.days(30)),
                s3.LifecycleRule(
                    id="expire-replaced-objects",
                    noncurrent_version_expiration=Duration.days(30),
                    expired_object_delete_marker=True,
                ),
            ],
            removal_policy=self._removal_policy,
            auto_delete_objects=not self._retain_data,
        )

    def _build_hub_token(self, environment_name: str) -> secretsmanager.Secret:
        secret = secretsmanager.Secret(
            self,
            "HubToken",
            description=f"Modelzone {environment_name}: Hugging Face token for gated models; replace the placeholder",
            encryption_key=self.key,
            removal_policy=self._removal_policy,
        )
        acknowledge(
            secret,
            "The hub issues the token to a person and has no call that would rotate it.",
            "AwsSolutions-SMG4",
        )
        return secret


class SharedModelStore(ModelStore):
    """The store of another environment in the same account and region, which is deployed before."""

    def __init__(self, scope: Construct, construct_id: str, *, owner: str) -> None:
        super().__init__(scope, construct_id)
        self.bucket_name = Fn.import_value(_export_name(owner, "BucketName"))
        self.bucket_arn = f"arn:{Aws.PARTITION}:s3:::{self.bucket_name}"
        self.key_arn = Fn.import_value(_export_name(owner, "KeyArn"))
        self.hub_token_arn = Fn.import_value(_export_name(owner, "HubTokenArn"))
