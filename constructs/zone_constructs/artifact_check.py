"""The function behind the custom resource that checks compiled artifacts; one for an environment."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore

__all__ = ["ArtifactCheck"]


class ArtifactCheck(Construct):
    """Reads manifests in the model bucket and answers CloudFormation.

    Attributes
    ----------
    function
        The service behind ``Custom::CompiledArtifact``.
    """

    def __init__(self, scope: Construct, construct_id: str, *, store: ModelStore, logs: EncryptedLogs) -> None:
        super().__init__(scope, construct_id)
        log_group = logs.log_group(self, "Logs")
        role = function_role(self, "Role", description="Checks compiled artifacts", log_group=log_group, in_vpc=False)
        store.grant_read_artifacts(role)
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
