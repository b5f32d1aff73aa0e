"""A deployment's stack: parameters and their rules, the artifact's check, model, endpoint, scaling, registry."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from infrastructure.support import Zone, text

from modelzone.artifacts import artifact_key

STACK = "InferentiaMixtralStack"


def _parameters(zone: Zone, stack: str = STACK) -> dict[str, dict[str, Any]]:
    return {k: v for k, v in zone.templates[stack]["Parameters"].items() if k != "BootstrapVersion"}


def _with_defaults(value: Any, defaults: Mapping[str, Any]) -> Any:
    """Replace references to parameters by their defaults."""
    if isinstance(value, Mapping):
        if set(value) == {"Ref"} and value["Ref"] in defaults:
            return str(defaults[value["Ref"]])
        return {key: _with_defaults(item, defaults) for key, item in value.items()}
    return [_with_defaults(item, defaults) for item in value] if isinstance(value, list) else value


def _accepts(parameter: Mapping[str, Any], value: str) -> bool:
    """What CloudFormation does with a parameter's constraints."""
    if "AllowedValues" in parameter:
        return value in [str(allowed) for allowed in parameter["AllowedValues"]]
    if "AllowedPattern" in parameter:
        return re.fullmatch(parameter["AllowedPattern"], value) is not None
    return parameter["MinValue"] <= float(value) <= parameter["MaxValue"]


def _rules_hold(zone: Zone, values: Mapping[str, str]) -> bool:
    """What CloudFormation does with the template's rules."""

    def evaluate(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        ((function, argument),) = node.items()
        if function == "Ref":
            return values[argument]
        if function == "Fn::Equals":
            return evaluate(argument[0]) == evaluate(argument[1])
        assert function == "Fn::Contains"
        return evaluate(argument[1]) in argument[0]

    rules = {k: v for k, v in zone.templates[STACK]["Rules"].items() if k != "CheckBootstrapVersion"}
    assert rules
    return all(
        evaluate(assertion["Assert"])
        for rule in rules.values()
        if evaluate(rule["RuleCondition"])
        for assertion in rule["Assertions"]
    )


def test_parameters_are_few_and_default_to_the_plan(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        serving = deployment.serving
        defaults = {k: str(v["Default"]) for k, v in _parameters(zone, deployment.stack_id).items()}
        assert defaults == {
            "MinInstanceCount": str(serving.scaling.min_instances),
            "MaxInstanceCount": str(serving.scaling.max_instances),
            "TargetConcurrency": str(deployment.target_concurrency),
            "HealthCheckTimeoutSeconds": str(serving.health_check_timeout_seconds),
            "ModelDownloadTimeoutSeconds": str(serving.download_timeout_seconds),
            "VolumeSizeGiB": str(serving.volume_size_gib),
            "ImageUri": deployment.image_uri,
            "ModelId": deployment.model.hub_id,
            "ModelRevision": deployment.model.revision,
            "InstanceType": serving.instance_type,
            "TensorParallelDegree": str(serving.tensor_parallel_degree),
            "BatchSize": str(serving.batch_size),
            "SequenceLength": str(serving.sequence_length),
        }


def test_every_parameter_accepts_its_default_and_explains_itself(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        for name, parameter in _parameters(zone, deployment.stack_id).items():
            assert _accepts(parameter, str(parameter["Default"])), name
            assert parameter["Description"]
            assert parameter["ConstraintDescription"].startswith("must be")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MinInstanceCount", "0"),
        ("MaxInstanceCount", "101"),
        ("TargetConcurrency", "0"),
        ("HealthCheckTimeoutSeconds", "59"),
        ("HealthCheckTimeoutSeconds", "3601"),
        ("ModelDownloadTimeoutSeconds", "3601"),
        ("VolumeSizeGiB", "513"),
        ("ImageUri", "ghcr.io/huggingface/neuronx-tgi:0.0.25"),
        ("ImageUri", "763104351884.dkr.ecr.us-east-1.amazonaws.com/repository"),
        ("ModelId", "Mixtral-8x7B"),
        ("ModelId", "../../etc/passwd"),
        ("ModelRevision", "main"),
        ("InstanceType", "ml.g5.2xlarge"),
        ("InstanceType", "ml.inf2.xlarge"),
        ("TensorParallelDegree", "16"),
        ("BatchSize", "0"),
        ("SequenceLength", "512"),
        ("SequenceLength", "32769"),
    ],
)
def test_values_that_cannot_work_are_refused(dev: Zone, name: str, value: str) -> None:
    assert not _accepts(_parameters(dev)[name], value)


@pytest.mark.parametrize(
    ("instance_type", "degree", "holds"),
    [
        ("ml.inf2.24xlarge", "8", True),
        ("ml.inf2.24xlarge", "24", False),
        ("ml.inf2.48xlarge", "8", True),
        ("ml.inf2.48xlarge", "24", True),
    ],
)
def test_rules_refuse_a_degree_that_the_instance_type_cannot_have(
    dev: Zone, instance_type: str, degree: str, holds: bool
) -> None:
    assert _rules_hold(dev, {"InstanceType": instance_type, "TensorParallelDegree": degree}) is holds


def test_the_artifact_is_checked_for_what_is_deployed(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        defaults = {k: v["Default"] for k, v in _parameters(zone, deployment.stack_id).items()}
        check = zone.one("Custom::CompiledArtifact", stack=deployment.stack_id)
        properties = _with_defaults(check.properties, defaults)
        assert properties["Facts"] == deployment.facts.as_dict()
        assert artifact_key(properties["Facts"]) in deployment.artifact_prefix
        assert properties["Deployment"] == deployment.name
        assert properties["MaxInputTokens"] == str(deployment.serving.max_input_tokens)
        assert properties["MaxSequenceLength"] == str(deployment.maximum_sequence_length)
        assert properties["InstanceType"] in properties["AllowedTensorParallelDegrees"]
        assert "CompileStack" not in properties["CompileHint"]
        outputs = zone.templates["CompileStack"]["Outputs"]
        assert all(name in outputs for name in re.findall(r"output ((?:Start|Compile)\w+)", properties["CompileHint"]))


def test_the_checks_function_understands_the_properties(zone: Zone) -> None:
    """With the function's own reader."""
    from compiled_artifact.check import Order  # noqa: PLC0415

    for deployment in zone.plan.deployments:
        defaults = {k: v["Default"] for k, v in _parameters(zone, deployment.stack_id).items()}
        check = zone.one("Custom::CompiledArtifact", stack=deployment.stack_id)
        properties = {**_with_defaults(check.properties, defaults), "Bucket": "a-bucket"}
        order = Order.from_properties(properties)
        order.check_numbers()
        assert order.allowed_degrees == deployment.allowed_tensor_parallel_degrees


def test_the_container_is_told_what_was_compiled(dev: Zone) -> None:
    artifact = dev.one("Custom::CompiledArtifact").logical_id
    model = dev.one("AWS::SageMaker::Model")
    environment = model.properties["PrimaryContainer"]["Environment"]

    def attribute(name: str) -> dict[str, list[str]]:
        return {"Fn::GetAtt": [artifact, name]}

    assert environment == {
        "HF_MODEL_ID": "/opt/ml/model",
        "MAX_BATCH_SIZE": attribute("BatchSize"),
        "MAX_TOTAL_TOKENS": attribute("SequenceLength"),
        "MAX_INPUT_TOKENS": "512",
        "MAX_BATCH_PREFILL_TOKENS": attribute("MaxBatchPrefillTokens"),
        "HF_NUM_CORES": attribute("TensorParallelDegree"),
        "HF_AUTO_CAST_TYPE": attribute("Dtype"),
        "MODELZONE_ARTIFACT_SHA256": attribute("ManifestSha256"),
    }
    source = model.properties["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
    assert source == {"S3Uri": attribute("S3Uri"), "S3DataType": "S3Prefix", "CompressionType": "None"}


def test_both_names_of_the_input_limit_are_never_set_together(zone: Zone) -> None:
    """The launcher refuses to start with both, and the messages API would make /generate impossible."""
    for model in zone.resources("AWS::SageMaker::Model"):
        names = set(model.properties["PrimaryContainer"]["Environment"])
        assert "MAX_INPUT_TOKENS" in names
        assert not names & {"MAX_INPUT_LENGTH", "MESSAGES_API_ENABLED", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}


def test_the_container_has_no_network_and_runs_in_the_vpc(zone: Zone) -> None:
    for model in zone.resources("AWS::SageMaker::Model"):
        assert model.properties["EnableNetworkIsolation"] is True
        assert len(model.properties["VpcConfig"]["SecurityGroupIds"]) == 1
        assert len(model.properties["VpcConfig"]["Subnets"]) >= 2


def test_model_and_configuration_can_be_replaced(zone: Zone) -> None:
    """A fixed name breaks replacement, and nearly every change of either is one."""
    for model in zone.resources("AWS::SageMaker::Model"):
        assert "ModelName" not in model.properties
    for config in zone.resources("AWS::SageMaker::EndpointConfig"):
        assert "EndpointConfigName" not in config.properties
    for endpoint in zone.resources("AWS::SageMaker::Endpoint"):
        assert endpoint.properties["EndpointConfigName"]["Fn::GetAtt"][1] == "EndpointConfigName"
        assert endpoint.properties["RetainAllVariantProperties"] is True


def test_the_variant_is_the_articles_with_its_corrections(dev: Zone) -> None:
    config = dev.one("AWS::SageMaker::EndpointConfig")
    (variant,) = config.properties["ProductionVariants"]
    assert variant == {
        "VariantName": "AllTraffic",
        "ModelName": {"Fn::GetAtt": [dev.one("AWS::SageMaker::Model").logical_id, "ModelName"]},
        "InstanceType": {"Ref": "InstanceType"},
        "InitialInstanceCount": {"Ref": "MinInstanceCount"},
        "InitialVariantWeight": 1,
        "VolumeSizeInGB": {"Ref": "VolumeSizeGiB"},
        "ContainerStartupHealthCheckTimeoutInSeconds": {"Ref": "HealthCheckTimeoutSeconds"},
        "ModelDataDownloadTimeoutInSeconds": {"Ref": "ModelDownloadTimeoutSeconds"},
        "InferenceAmiVersion": "al2-ami-sagemaker-inference-neuron-2",
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }


def test_the_model_waits_for_its_permissions(zone: Zone) -> None:
    """SageMaker tries the role when the model is made."""
    for model in zone.resources("AWS::SageMaker::Model"):
        role = model.properties["ExecutionRoleArn"]["Fn::GetAtt"][0]
        policies = [
            r.logical_id
            for r in zone.resources("AWS::IAM::Policy", stack=model.stack)
            if {"Ref": role} in r.properties["Roles"]
        ]
        assert policies
        assert set(policies) <= set(model.body["DependsOn"])


def test_instances_follow_concurrent_requests(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        target = zone.one("AWS::ApplicationAutoScaling::ScalableTarget", stack=deployment.stack_id)
        endpoint = zone.one("AWS::SageMaker::Endpoint", stack=deployment.stack_id)
        assert text(target.properties["ResourceId"]) == (
            f"endpoint/<{endpoint.logical_id}.EndpointName>/variant/AllTraffic"
        )
        assert target.properties["MinCapacity"] == {"Ref": "MinInstanceCount"}
        assert target.properties["MaxCapacity"] == {"Ref": "MaxInstanceCount"}
        policy = zone.one("AWS::ApplicationAutoScaling::ScalingPolicy", stack=deployment.stack_id)
        tracking = policy.properties["TargetTrackingScalingPolicyConfiguration"]
        assert tracking["TargetValue"] == {"Ref": "TargetConcurrency"}
        assert tracking["PredefinedMetricSpecification"] == {
            "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
        }


def test_the_registry_entry_is_what_the_proxy_reads(zone: Zone) -> None:
    """With the proxy's own reader."""
    from invoke_proxy.registry import Deployment, Entry  # noqa: PLC0415

    for plan in zone.plan.deployments:
        defaults = {k: v["Default"] for k, v in _parameters(zone, plan.stack_id).items()}
        parameter = zone.one("AWS::SSM::Parameter", stack=plan.stack_id)
        assert parameter.properties["Name"] == f"/modelzone/{zone.name}/deployments/{plan.name}"
        separator, parts = parameter.properties["Value"]["Fn::Join"]
        attributes = {"EndpointName": "the-endpoint", "SequenceLength": str(plan.serving.sequence_length)}
        filled = separator.join(
            part
            if isinstance(part, str)
            else str(defaults[part["Ref"]])
            if "Ref" in part
            else attributes[part["Fn::GetAtt"][1]]
            for part in parts
        )
        read = Deployment.from_entry(Entry(name=parameter.properties["Name"], value=filled, written=1))
        assert read.deployment == plan.name
        assert read.model_id == plan.model.hub_id
        assert read.endpoint_name == "the-endpoint"
        assert read.max_total_tokens == plan.serving.sequence_length
        assert read.max_input_tokens == plan.serving.max_input_tokens


def test_deploying_it_brings_everything_along(zone: Zone) -> None:
    artifacts = zone.manifest["artifacts"]

    def needed(stack: str) -> set[str]:
        direct = {d for d in artifacts[stack].get("dependencies", []) if not d.endswith(".assets")}
        return direct.union(*(needed(name) for name in direct))

    for deployment in zone.plan.deployments:
        assert needed(deployment.stack_id) == {"NetworkStack", "ModelStoreStack", "CompileStack", "GatewayStack"}


def test_stack_names_are_the_contract(two: Zone) -> None:
    names = {
        artifact_id: artifact["properties"]["stackName"]
        for artifact_id, artifact in two.manifest["artifacts"].items()
        if artifact["type"] == "aws:cloudformation:stack"
    }
    assert names == {
        "NetworkStack": "modelzone-two-network",
        "ModelStoreStack": "modelzone-two-model-store",
        "CompileStack": "modelzone-two-compile",
        "GatewayStack": "modelzone-two-gateway",
        "InferentiaMixtralStack": "modelzone-two-deployment-mixtral",
        "InferentiaMixtralLongStack": "modelzone-two-deployment-mixtral-long",
    }


def test_no_stack_waits_for_a_look_up(zone: Zone) -> None:
    """The CDK would ask AWS for the zones of an environment that names its account."""
    assert "missing" not in zone.manifest
    assert not json.dumps(zone.manifest).count("availability-zones")


def test_zones_are_those_that_were_asked_for(prod: Zone, two: Zone) -> None:
    assert {s.properties["AvailabilityZone"] for s in two.resources("AWS::EC2::Subnet")} == {
        "us-west-2a",
        "us-west-2b",
        "us-west-2d",
    }
    picked = {json.dumps(s.properties["AvailabilityZone"]) for s in prod.resources("AWS::EC2::Subnet")}
    assert picked == {json.dumps({"Fn::Select": [index, {"Fn::GetAZs": ""}]}) for index in range(3)}
