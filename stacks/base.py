"""What all stacks of an environment share: name, region and account, zones, tags."""

from __future__ import annotations

import jsii
from aws_cdk import Environment as CdkEnvironment
from aws_cdk import Fn, Stack, Tags
from constructs import Construct

from modelzone.settings import Environment

__all__ = ["ZoneStack"]

_MOST_ZONES = 3


class ZoneStack(Stack):
    """A stack of one environment.

    Parameters
    ----------
    suffix
        What follows ``modelzone-<environment>-`` in the CloudFormation stack's name.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, environment: Environment, suffix: str, description: str
    ) -> None:
        super().__init__(
            scope,
            construct_id,
            stack_name=f"modelzone-{environment.name}-{suffix}",
            description=description,
            env=CdkEnvironment(account=environment.account, region=environment.region),
        )
        Tags.of(self).add("modelzone:environment", environment.name)

    @property
    @jsii.member(jsii_name="availabilityZones")
    def availability_zones(self) -> list[str]:
        """The region's first zones, picked by CloudFormation.

        The CDK would look them up with credentials as soon as an environment names its account.
        """
        return [Fn.select(index, Fn.get_azs()) for index in range(_MOST_ZONES)]
