"""A deployment's stack: parameters and their rules, the artifact's check, model, endpoint, scaling, registry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from infrastructure.support import Resource, Zone, text

from compiled_artifact.check import Artifact, Order
from compiled_artifact.images import Image
from compiled_artifact.waiting import Window
from modelzone.artifacts import artifact_key

STACK = "InferentiaMixtralStack"
# The parameters that decide what is compiled, and where it has to run.
COMPILED = {"ModelId", "ModelRevision", "TensorParallelDegree", "BatchSize", "SequenceLength", "InstanceType"}


@dataclass(frozen=True)
class _Written:
    """A parameter as the proxy reads it."""

    name: str
    value: str
    written: int


def _parameters(zone: Zone, stack: str = STACK) -> dict[str, dict[str, Any]]:
    return {k: v for k, v in zone.templates[stack]["Parameters"].items() if k != "BootstrapVersion"}


def _check(zone: Zone, stack: str, **given: str) -> dict[str, Any]:
    """The properties that the artifact's check gets when an operator gives these parameters."""
    check = zone.one("Custom::CompiledArtifact", stack=stack)
    assert check.properties["Given"] == {name: {"Ref": name} for name in _parameters(zone, stack)}
    return {**check.properties, "Bucket": "a-bucket", "Given": {**dict.fromkeys(_parameters(zone, stack), ""), **given}}


def _answer(zone: Zone, stack: str) -> dict[str, str]:
    """What the check answers about an artifact that is as planned."""
    order = Order.from_properties(_check(zone, stack))
    image = Image.parse(order.values["ImageUri"])
    assert image is not None
    attributes: dict[str, str] = Artifact(
        bucket=order.bucket,
        key="",
        prefix="compiled/model/key/",
        facts=order.facts,
        manifest_sha256="",
        instance_type=order.instance_type,
        values=order.values,
        max_input_tokens=order.max_input_tokens,
        image=image,
        image_uri=image.uri,
    ).attributes
    return attributes


def _accepts(parameter: Mapping[str, Any], value: str) -> bool:
    """What CloudFormation does with a parameter's constraint."""
    return re.fullmatch(parameter["AllowedPattern"], value) is not None


def _rules_hold(zone: Zone, values: Mapping[str, str]) -> bool:
    """What CloudFormation does with the template's rules."""

    def evaluate(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        ((function, argument),) = node.items()
        if function == "Ref":
            return values[argument]
        if function == "Fn::Or":
            return any(evaluate(part) for part in argument)
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


def test_parameters_are_few_and_empty_means_as_planned(zone: Zone) -> None:
    """A default that were the planned value would hide later edits: the CLI sends previous values."""
    for deployment in zone.plan.deployments:
        serving = deployment.serving
        planned = {
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
        parameters = _parameters(zone, deployment.stack_id)
        assert {name: parameter["Default"] for name, parameter in parameters.items()} == dict.fromkeys(planned, "")
        assert _check(zone, deployment.stack_id)["Planned"] == planned


def test_every_parameter_accepts_empty_and_planned_and_explains_itself(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        planned = _check(zone, deployment.stack_id)["Planned"]
        for name, parameter in _parameters(zone, deployment.stack_id).items():
            assert _accepts(parameter, ""), name
            assert _accepts(parameter, planned[name]), name
            assert planned[name] in parameter["Description"]
            assert planned[name] in parameter["ConstraintDescription"]


def test_parameters_reach_the_template_through_the_check_only(zone: Zone) -> None:
    """So that an empty one never arrives anywhere as an empty value."""
    for deployment in zone.plan.deployments:
        names = set(_parameters(zone, deployment.stack_id))
        for resource in zone.resources(stack=deployment.stack_id):
            if resource.type not in {"Custom::CompiledArtifact", "Custom::ArtifactCompilation"}:
                assert not names & set(re.findall(r'"Ref": "(\w+)"', json.dumps(resource.body))), resource.logical_id


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
        ("", "", True),
        ("", "8", True),
        ("", "24", False),
        ("ml.inf2.24xlarge", "", True),
        ("ml.inf2.24xlarge", "8", True),
        ("ml.inf2.24xlarge", "24", False),
        ("ml.inf2.48xlarge", "", True),
        ("ml.inf2.48xlarge", "8", True),
        ("ml.inf2.48xlarge", "24", True),
    ],
)
def test_rules_refuse_a_degree_that_the_instance_type_cannot_have(
    dev: Zone, instance_type: str, degree: str, holds: bool
) -> None:
    assert _rules_hold(dev, {"InstanceType": instance_type, "TensorParallelDegree": degree}) is holds


def test_the_check_gets_what_is_planned(zone: Zone) -> None:
    """With the function's own reader."""
    for deployment in zone.plan.deployments:
        properties = _check(zone, deployment.stack_id)
        order = Order.from_properties(properties)
        order.check_numbers()
        assert order.facts == deployment.facts.as_dict()
        assert artifact_key(order.facts) in deployment.artifact_prefix
        assert order.deployment == deployment.name
        assert order.max_input_tokens == deployment.serving.max_input_tokens
        assert order.max_sequence_length == deployment.maximum_sequence_length
        assert order.allowed_degrees == deployment.allowed_tensor_parallel_degrees
        assert f"modelzone compile {deployment.name} -e {zone.name}" in properties["CompileHint"]
        assert properties["DeleteArtifact"] == str(zone.plan.environment.compile.delete_artifacts).lower()


def test_the_check_gets_what_an_operator_gives(dev: Zone) -> None:
    given = {"InstanceType": "ml.inf2.48xlarge", "TensorParallelDegree": "24", "SequenceLength": "2048"}
    order = Order.from_properties(_check(dev, STACK, **given, MaxInstanceCount="5"))
    order.check_numbers()
    assert order.instance_type == "ml.inf2.48xlarge"
    assert (order.facts["tensor_parallel_degree"], order.facts["sequence_length"]) == ("24", "2048")
    assert (order.min_instances, order.max_instances) == (1, 5)


def test_the_check_answers_with_everything_that_the_stack_asks_for(zone: Zone) -> None:
    """With the function's own answer: a missing attribute would fail the deployment."""
    for deployment in zone.plan.deployments:
        check = zone.one("Custom::CompiledArtifact", stack=deployment.stack_id)
        template = json.dumps(zone.templates[deployment.stack_id])
        asked = set(re.findall(rf'"Fn::GetAtt": \["{check.logical_id}", "(\w+)"\]', template))
        answer = _answer(zone, deployment.stack_id)
        assert asked
        assert asked <= set(answer)


def _windows(zone: Zone, stack: str) -> list[Resource]:
    """In the order in which they are waited for."""
    found = list(zone.resources("Custom::ArtifactCompilation", stack=stack))
    return sorted(found, key=lambda window: int(window.properties["Window"]))


def test_the_stack_waits_long_enough_one_window_after_another(zone: Zone) -> None:
    settings = zone.plan.environment.compile
    for deployment in zone.plan.deployments:
        windows = _windows(zone, deployment.stack_id)
        numbers = [window.properties["Window"] for window in windows]
        assert numbers == [str(number) for number in range(1, len(windows) + 1)]
        if settings.automatic:
            assert len(windows) * 55 >= settings.max_hours * 60 + 50
        else:
            assert len(windows) == 1
        before: object = ""
        for window in windows:
            # The reference is what CloudFormation goes by.
            assert window.properties["Previous"] == before
            before = {"Fn::GetAtt": [window.logical_id, "Outcome"]}
            assert window.properties["ServiceTimeout"] == "3600"
            # The function answers before CloudFormation gives up.
            assert int(window.properties["WindowSeconds"]) + 120 <= 3600
        check = zone.one("Custom::CompiledArtifact", stack=deployment.stack_id)
        assert check.properties["Outcome"] == before


def test_windows_are_what_the_function_reads(zone: Zone) -> None:
    """With the function's own reader, and with the values that the check gets."""
    for deployment in zone.plan.deployments:
        check = _check(zone, deployment.stack_id)
        for resource in _windows(zone, deployment.stack_id):
            properties = {**resource.properties, "Bucket": "a-bucket", "Given": {}}
            window = Window.from_properties({**properties, "StateMachineArn": text(properties["StateMachineArn"])})
            assert window.count == len(_windows(zone, deployment.stack_id))
            assert window.compiles is zone.plan.environment.compile.automatic
            assert window.key == artifact_key(deployment.facts.as_dict())
            same = {
                "Deployment", "Facts", "AllowedTensorParallelDegrees", "MaxSequenceLength", "MaxInputTokens",
                "CompileHint", "StateMachineArn",
            }  # fmt: skip
            assert {name: properties[name] for name in same} == {name: check[name] for name in same}
            assert resource.properties["Planned"] == {name: check["Planned"][name] for name in COMPILED}
            assert resource.properties["Given"] == {name: {"Ref": name} for name in COMPILED}
            own = {"Bucket", "Given", "Planned", "Window", "Windows", "WindowSeconds", "Compile", "Previous"}
            assert set(properties) == same | own | {"ServiceToken", "ServiceTimeout"}


def test_how_it_is_served_changes_no_window(zone: Zone) -> None:
    """CloudFormation updates a resource whose properties change, and a window that is updated may wait again."""
    for deployment in zone.plan.deployments:
        others = set(_parameters(zone, deployment.stack_id)) - COMPILED
        assert {"MinInstanceCount", "ImageUri", "HealthCheckTimeoutSeconds"} <= others
        for window in _windows(zone, deployment.stack_id):
            assert not others & set(re.findall(r"\w+", json.dumps(window.body)))


def test_nothing_is_made_before_the_artifact_is_checked(zone: Zone) -> None:
    """Whatever costs money or serves refers to the check, and so waits for it."""
    kinds = ("AWS::SageMaker::Model", "AWS::SageMaker::EndpointConfig", "AWS::ApplicationAutoScaling::ScalableTarget")
    for deployment in zone.plan.deployments:
        check = zone.one("Custom::CompiledArtifact", stack=deployment.stack_id).logical_id
        for kind in kinds:
            assert f'"Fn::GetAtt": ["{check}"' in json.dumps(zone.one(kind, stack=deployment.stack_id).body), kind
        others = {
            name: body
            for name, body in zone.templates[deployment.stack_id]["Resources"].items()
            if body["Type"] not in {"Custom::CompiledArtifact", "Custom::ArtifactCompilation"}
        }
        asked = set(re.findall(r'"Fn::GetAtt": \["(\w+)", ', json.dumps(others)))
        assert not asked & {window.logical_id for window in _windows(zone, deployment.stack_id)}


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
    check = dev.one("Custom::CompiledArtifact").logical_id

    def attribute(name: str) -> dict[str, list[str]]:
        return {"Fn::GetAtt": [check, name]}

    assert variant == {
        "VariantName": "AllTraffic",
        "ModelName": {"Fn::GetAtt": [dev.one("AWS::SageMaker::Model").logical_id, "ModelName"]},
        "InstanceType": attribute("InstanceType"),
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1,
        "VolumeSizeInGB": attribute("VolumeSizeGiB"),
        "ContainerStartupHealthCheckTimeoutInSeconds": attribute("HealthCheckTimeoutSeconds"),
        "ModelDataDownloadTimeoutInSeconds": attribute("ModelDownloadTimeoutSeconds"),
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
        assert target.properties["MinCapacity"]["Fn::GetAtt"][1] == "MinInstanceCount"
        assert target.properties["MaxCapacity"]["Fn::GetAtt"][1] == "MaxInstanceCount"
        policy = zone.one("AWS::ApplicationAutoScaling::ScalingPolicy", stack=deployment.stack_id)
        tracking = policy.properties["TargetTrackingScalingPolicyConfiguration"]
        assert tracking["TargetValue"]["Fn::GetAtt"][1] == "TargetConcurrency"
        assert tracking["PredefinedMetricSpecification"] == {
            "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
        }


def test_the_registry_entry_is_what_the_proxy_reads(zone: Zone) -> None:
    """With the proxy's own reader."""
    from invoke_proxy.registry import Deployment  # noqa: PLC0415

    for plan in zone.plan.deployments:
        parameter = zone.one("AWS::SSM::Parameter", stack=plan.stack_id)
        assert parameter.properties["Name"] == f"/modelzone/{zone.name}/deployments/{plan.name}"
        separator, parts = parameter.properties["Value"]["Fn::Join"]
        attributes = {"EndpointName": "the-endpoint", **_answer(zone, plan.stack_id)}
        filled = separator.join(p if isinstance(p, str) else attributes[p["Fn::GetAtt"][1]] for p in parts)
        read = Deployment.from_entry(_Written(name=parameter.properties["Name"], value=filled, written=1))
        assert all(isinstance(value, str) for value in json.loads(filled).values())
        assert read.artifact == "s3://a-bucket/compiled/model/key/"
        assert read.tokenizer == "s3://a-bucket/compiled/model/key/tokenizer.json"
        assert read.features == plan.features
        assert read.cache_ttl_seconds == zone.plan.environment.deployments[plan.name].cache.ttl_seconds
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


def test_zones_are_the_regions_first_or_those_that_are_named(two: Zone, synthesise: Callable[[str], Zone]) -> None:
    picked = {json.dumps(s.properties["AvailabilityZone"]) for s in two.resources("AWS::EC2::Subnet")}
    assert picked == {json.dumps({"Fn::Select": [index, {"Fn::GetAZs": ""}]}) for index in range(3)}
    named = synthesise("named")
    assert "missing" not in named.manifest
    zones = {s.properties["AvailabilityZone"] for s in named.resources("AWS::EC2::Subnet")}
    assert zones == {"us-west-2b", "us-west-2d"}
