"""Autoscaling of an endpoint's instances by concurrent requests."""

from __future__ import annotations

from aws_cdk import aws_applicationautoscaling as autoscaling
from constructs import Construct

from modelzone.settings import Scaling
from zone_constructs.compiled_artifact import CompiledArtifact

__all__ = ["EndpointScaling"]

_POLICY = autoscaling.CfnScalingPolicy


class EndpointScaling(Construct):
    """Holds a number of concurrent requests per instance.

    Invocations per minute, the older metric, hardly moves while long generations fill an endpoint.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        endpoint_name: str,
        variant_name: str,
        scaling: Scaling,
        artifact: CompiledArtifact,
    ) -> None:
        super().__init__(scope, construct_id)
        self.target = autoscaling.CfnScalableTarget(
            self,
            "Target",
            service_namespace="sagemaker",
            scalable_dimension="sagemaker:variant:DesiredInstanceCount",
            resource_id=f"endpoint/{endpoint_name}/variant/{variant_name}",
            min_capacity=artifact.number("MinInstanceCount"),
            max_capacity=artifact.number("MaxInstanceCount"),
        )
        self.policy = _POLICY(
            self,
            "Policy",
            policy_name="concurrent-requests",
            policy_type="TargetTrackingScaling",
            scaling_target_id=self.target.ref,
            target_tracking_scaling_policy_configuration=_POLICY.TargetTrackingScalingPolicyConfigurationProperty(
                target_value=artifact.number("TargetConcurrency"),
                scale_in_cooldown=scaling.scale_in_cooldown_seconds,
                scale_out_cooldown=scaling.scale_out_cooldown_seconds,
                predefined_metric_specification=_POLICY.PredefinedMetricSpecificationProperty(
                    predefined_metric_type="SageMakerVariantConcurrentRequestsPerModelHighResolution"
                ),
            ),
        )
