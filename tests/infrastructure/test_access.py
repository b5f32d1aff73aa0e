"""Who may do what: least privilege, checked on the templates of every environment."""

from __future__ import annotations

from infrastructure.support import Zone, as_list, text

# Statement -> why its actions cannot name resources. Anything else with Resource "*" fails.
ANY_RESOURCE = {
    "DescribeNetwork": "describe actions of EC2 know no resources",
    "EndpointMetrics": "metrics know no resources; two namespaces by condition",
    "NetworkInterfacesOfTheFunction": "interfaces that Lambda makes; describe actions know no resources",
    "RegistryLogin": "ECR's login knows no resources",
    "SystemsManagerAgent": "the agent's message channels know no resources",
}
# Managed policies and where the CDK or API Gateway itself asks for them.
MANAGED_POLICIES = {
    "AmazonAPIGatewayPushToCloudWatchLogs": "GatewayStack",
    "AWSLambdaBasicExecutionRole": "ModelStoreStack",
}


def test_no_identity_policy_has_a_wildcard_action(zone: Zone) -> None:
    found = [
        (resource.logical_id, action)
        for resource, statement in zone.statements()
        for action in statement["Action"]
        if "*" in action
    ]
    assert not found


def test_every_statement_on_any_resource_is_listed_with_a_reason(zone: Zone) -> None:
    found = {
        statement.get("Sid", resource.logical_id)
        for resource, statement in zone.statements()
        if "*" in statement["Resource"]
    }
    assert found == set(ANY_RESOURCE)


def test_metrics_are_limited_to_the_endpoints_namespaces(zone: Zone) -> None:
    conditions = [
        statement.get("Condition")
        for _, statement in zone.statements()
        if "cloudwatch:PutMetricData" in statement["Action"]
    ]
    assert conditions
    allowed = {"StringEquals": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/Endpoints"]}}
    assert all(condition == allowed for condition in conditions)


def test_managed_policies_are_the_two_that_aws_asks_for(zone: Zone) -> None:
    for resource in zone.resources("AWS::IAM::Role"):
        for policy in resource.properties.get("ManagedPolicyArns", []):
            name = text(policy).rsplit("/", 1)[-1]
            assert MANAGED_POLICIES.get(name) == resource.stack, (resource.logical_id, name)


def test_roles_trust_one_aws_service_each(zone: Zone) -> None:
    for resource in zone.resources("AWS::IAM::Role"):
        for statement in resource.properties["AssumeRolePolicyDocument"]["Statement"]:
            assert set(statement["Principal"]) == {"Service"}, resource.logical_id
            assert isinstance(statement["Principal"]["Service"], str)
            if statement["Principal"]["Service"] == "sagemaker.amazonaws.com":
                account = statement["Condition"]["StringEquals"]["aws:SourceAccount"]
                assert account in ({"Ref": "AWS::AccountId"}, "123456789012")


def test_no_role_or_policy_has_a_fixed_name(zone: Zone) -> None:
    """A name of ours would forbid a second environment in the account."""
    assert not [r.logical_id for r in zone.resources("AWS::IAM::Role") if "RoleName" in r.properties]


def test_each_endpoint_is_called_by_the_proxy_only(zone: Zone) -> None:
    callers = [
        (resource, statement)
        for resource, statement in zone.statements()
        if any(action.startswith("sagemaker:Invoke") for action in statement["Action"])
    ]
    endpoints = {resource.stack: resource for resource in zone.resources("AWS::SageMaker::Endpoint")}
    assert len(callers) == len(endpoints) == len(zone.plan.deployments)
    (proxy_role,) = {
        resource.properties["Role"]["Fn::GetAtt"][0]
        for resource in zone.resources("AWS::Lambda::Function", stack="GatewayStack")
    }
    for resource, statement in callers:
        assert set(statement["Action"]) == {
            "sagemaker:InvokeEndpoint",
            "sagemaker:InvokeEndpointWithResponseStream",
        }
        assert statement["Resource"] == [{"Ref": endpoints[resource.stack].logical_id}]
        (role,) = resource.properties["Roles"]
        assert f"ExportsOutputRef{proxy_role}" in role["Fn::ImportValue"]


def test_only_compile_hosts_read_the_hub_token(zone: Zone) -> None:
    (secret,) = zone.resources("AWS::SecretsManager::Secret")
    readers = [
        (resource.stack, [text(arn) for arn in statement["Resource"]])
        for resource, statement in zone.statements()
        if any(action.startswith("secretsmanager:") for action in statement["Action"])
    ]
    assert len(readers) == 1
    stack, arns = readers[0]
    assert stack == "CompileStack"
    assert len(arns) == 1
    assert secret.logical_id in arns[0]


def test_objects_are_read_and_written_below_known_prefixes_only(zone: Zone) -> None:
    """Hosts that serve and the function that checks read artifacts; only compile hosts write."""
    found: dict[str, set[tuple[str, str]]] = {}
    for resource, statement in zone.statements():
        for action in statement["Action"]:
            if not action.startswith("s3:"):
                continue
            for arn in statement["Resource"]:
                tail = text(arn).rpartition(">")[2]
                if action == "s3:ListBucket":
                    (tail,) = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", ["all names"])
                if tail.endswith(".zip"):
                    tail = "job code"
                found.setdefault(resource.stack, set()).add((action, tail))
    serving = {("s3:GetObject", "/compiled/*"), ("s3:ListBucket", "compiled/*")}
    written = ("s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject")
    expected = {
        "ModelStoreStack": {("s3:GetObject", "/compiled/*")},
        "CompileStack": {(action, f"/{prefix}/*") for action in written for prefix in ("compiled", "weights")}
        | {("s3:ListBucket", "all names"), ("s3:GetObject", "job code")},
        **{deployment.stack_id: serving for deployment in zone.plan.deployments},
    }
    assert found == expected


def test_the_proxy_reads_its_own_registry_only(zone: Zone) -> None:
    arns = [
        text(arn)
        for _, statement in zone.statements()
        if "ssm:GetParametersByPath" in statement["Action"]
        for arn in statement["Resource"]
    ]
    assert len(arns) == 1
    assert arns[0].endswith(f":parameter/modelzone/{zone.name}/deployments")
    others = {
        action
        for _, statement in zone.statements()
        for action in statement["Action"]
        if action.startswith(("ssm:Get", "ssm:Put"))
    }
    assert others == {"ssm:GetParametersByPath"}


def test_images_are_pulled_from_the_serving_repository_only(zone: Zone) -> None:
    for resource, statement in zone.statements():
        if "ecr:BatchGetImage" in statement["Action"]:
            (arn,) = statement["Resource"]
            flat = text(arn)
            if resource.stack == "CompileStack":
                assert flat.endswith(":763104351884:repository/huggingface-pytorch-tgi-inference")
            else:
                assert "*" not in flat
                assert flat.count('"ImageUri"]}') == 3  # region, account and repository of the image that holds


def test_functions_are_invoked_by_the_api_only(zone: Zone) -> None:
    permissions = list(zone.resources("AWS::Lambda::Permission"))
    methods = list(zone.resources("AWS::ApiGateway::Method"))
    assert len(permissions) == len(methods)
    for permission in permissions:
        assert permission.properties["Principal"] == "apigateway.amazonaws.com"
        source = text(permission.properties["SourceArn"])
        assert "/<GatewayApiDeploymentStageapi" in source, "only the deployed stage, not the console's test calls"
    assert not list(zone.resources("AWS::Lambda::Url"))


def test_keys_are_used_by_their_own_account(zone: Zone) -> None:
    """The account's administrators, and CloudWatch Logs for log groups of the same account and region."""
    for key in zone.resources("AWS::KMS::Key"):
        for statement in key.properties["KeyPolicy"]["Statement"]:
            principal = statement["Principal"]
            if "Service" in principal:
                assert principal["Service"] == f"logs.{zone.plan.environment.region}.amazonaws.com"
                assert "ArnLike" in statement["Condition"]
            else:
                assert text(principal["AWS"]).endswith(":root")
    grants = [s for _, s in zone.statements() if "kms:CreateGrant" in s["Action"]]
    assert grants
    assert all(s["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}} for s in grants)


def test_bucket_policies_allow_aws_services_and_the_cleaner_only(zone: Zone) -> None:
    for policy in zone.resources("AWS::S3::BucketPolicy"):
        for statement in policy.properties["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Deny":
                continue
            principal = statement["Principal"]
            if principal.get("Service") == "logging.s3.amazonaws.com":
                assert set(statement["Condition"]) == {"ArnLike", "StringEquals"}
            else:
                assert "AutoDeleteObjects" in text(principal["AWS"])
                assert "s3:PutObject" not in as_list(statement["Action"])


def test_inline_policies_of_one_role_have_names_of_their_own(zone: Zone) -> None:
    """Two of the same name on one role, from two stacks, would overwrite one another."""
    seen = set()
    for policy in zone.resources("AWS::IAM::Policy"):
        for role in policy.properties["Roles"]:
            # A role of another stack is imported, under one name everywhere.
            name = text(role) if "Fn::ImportValue" in role else f"{policy.stack}{text(role)}"
            pair = (name, policy.properties["PolicyName"])
            assert pair not in seen
            seen.add(pair)
