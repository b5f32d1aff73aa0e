"""Who may do what: least privilege, checked on the templates of every environment."""

from __future__ import annotations

from unittest import mock

from infrastructure.support import Zone, as_list, proxy_function, text

# Statement -> why its actions cannot name resources. Anything else with Resource "*" fails.
ANY_RESOURCE = {
    "CompileMetrics": "metrics know no resources; one namespace by condition",
    "DeliverExecutionLogs": "Step Functions' log delivery knows no resources",
    "DescribeNetwork": "describe actions of EC2 know no resources",
    "EndpointMetrics": "metrics know no resources; two namespaces by condition",
    "FindHosts": "describe actions of EC2 know no resources",
    "FindHostsAndCommands": "describe actions of EC2 and Systems Manager know no resources",
    "NetworkInterfacesOfTheFunction": "interfaces that Lambda makes; describe actions know no resources",
    "RegistryLogin": "ECR's login knows no resources",
    "SendTraces": "X-Ray knows no resources",
    "SystemsManagerAgent": "the agent's message channels know no resources",
    "WaiterProviderwaiterstatemachineRoleDefaultPolicy": "the provider framework's log delivery, which the CDK writes",
}
# The same, of environments that delete artifacts.
ANY_RESOURCE_TO_DELETE = {"FindModels": "listing SageMaker's models knows no resources"}
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
        # A logical id ends in eight digits of a hash.
        statement.get("Sid", resource.logical_id[:-8])
        for resource, statement in zone.statements()
        if "*" in statement["Resource"]
    }
    deletes = zone.plan.environment.compile.delete_artifacts
    assert found == set(ANY_RESOURCE) | (set(ANY_RESOURCE_TO_DELETE) if deletes else set())


def test_metrics_are_limited_to_namespaces(zone: Zone) -> None:
    endpoints = ["AWS/SageMaker", "/aws/sagemaker/Endpoints"]
    found = [
        (resource.stack, statement["Condition"]["StringEquals"]["cloudwatch:namespace"])
        for resource, statement in zone.statements()
        if "cloudwatch:PutMetricData" in statement["Action"]
    ]
    expected = [("CompileStack", "Modelzone/Compile")]
    expected += [(deployment.stack_id, endpoints) for deployment in zone.plan.deployments]
    assert sorted(found, key=str) == sorted(expected, key=str)


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
    proxy_role = proxy_function(zone).properties["Role"]["Fn::GetAtt"][0]
    for resource, statement in callers:
        assert set(statement["Action"]) == {
            "sagemaker:InvokeEndpoint",
            "sagemaker:InvokeEndpointWithResponseStream",
        }
        assert statement["Resource"] == [{"Ref": endpoints[resource.stack].logical_id}]
        (role,) = resource.properties["Roles"]
        assert f"ExportsOutputRef{proxy_role}" in role["Fn::ImportValue"]


def test_only_compile_hosts_read_the_hub_token(zone: Zone) -> None:
    own = zone.plan.environment.model_store is None
    secret = zone.one("AWS::SecretsManager::Secret").logical_id if own else "modelzone-dev-model-store:HubTokenArn"
    readers = [
        (resource.stack, [text(arn) for arn in statement["Resource"]])
        for resource, statement in zone.statements()
        if any(action.startswith("secretsmanager:") for action in statement["Action"])
    ]
    assert len(readers) == 1
    stack, arns = readers[0]
    assert stack == "CompileStack"
    assert len(arns) == 1
    assert secret in arns[0]


def test_objects_are_read_and_written_below_known_prefixes_only(zone: Zone) -> None:
    """Hosts that serve and the functions read artifacts, the proxy only their tokenizers, only compile hosts write.

    Unasked, only the steps of compilations delete, and only below artifacts.
    """
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
    tokenizer = ("s3:GetObject", "tokenizer.json")
    serving = {("s3:GetObject", "/compiled/*"), ("s3:ListBucket", "compiled/*"), tokenizer}
    written = ("s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject")
    checking = {("s3:GetObject", "/compiled/*")}
    if zone.plan.environment.compile.delete_artifacts:
        checking |= {("s3:DeleteObject", "/compiled/*"), ("s3:ListBucket", "compiled/*")}
    expected = {
        "ModelStoreStack": checking,
        "CompileStack": {(action, f"/{prefix}/*") for action in written for prefix in ("compiled", "weights", "cache")}
        | {("s3:ListBucket", "all names"), ("s3:GetObject", "job code"), ("s3:DeleteObject", "/compiled/*")},
        **{deployment.stack_id: serving for deployment in zone.plan.deployments},
    }
    assert found == expected


def test_parameters_are_read_and_written_below_their_own_paths_only(zone: Zone) -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for resource, statement in zone.statements():
        for action in statement["Action"]:
            if action.startswith(("ssm:GetParameter", "ssm:Put", "ssm:Delete")):
                for arn in statement["Resource"]:
                    name = text(arn).split(":parameter/", 1)[1].replace(f"modelzone/{zone.name}/", "~/")
                    found.setdefault((resource.logical_id[:-8], action), set()).add(name)
    (ami,) = {deployment.compile.ami_parameter.removeprefix("/") for deployment in zone.plan.deployments}
    steps = {"~/compile/orders/*", "~/compile/progress/*", "~/artifacts/*"}
    expected = {
        ("ProxyRoleDefaultPolicy", "ssm:GetParametersByPath"): {"~/deployments", "~/gateway"},
        ("HostRoleDefaultPolicy", "ssm:PutParameter"): {"~/compile/progress/*"},
        ("PipelineStepsRoleDefaultPolicy", "ssm:GetParameter"): steps,
        ("PipelineStepsRoleDefaultPolicy", "ssm:PutParameter"): {"~/artifacts/*"},
        ("PipelineStepsRoleDefaultPolicy", "ssm:GetParameters"): {ami},
        ("WaiterRoleDefaultPolicy", "ssm:GetParameter"): {"~/compile/progress/*"},
    }
    if zone.plan.environment.compile.delete_artifacts:
        # Several environments may share a store: whoever deletes looks into all registries.
        check = "ArtifactCheckRoleDefaultPolicy"
        expected[check, "ssm:GetParametersByPath"] = {"modelzone", "modelzone/*"}
        expected[check, "ssm:DeleteParameter"] = {"modelzone/*/artifacts/*"}
    assert found == expected


def test_images_are_pulled_from_the_serving_repository_only(zone: Zone) -> None:
    for resource, statement in zone.statements():
        if "ecr:BatchGetImage" in statement["Action"]:
            (arn,) = statement["Resource"]
            flat = text(arn)
            if resource.stack == "CompileStack":
                assert flat.endswith(":763104351884:repository/huggingface-pytorch-tgi-inference")
            else:
                # Whoever chose the image: the check of the artifact says where it is.
                (check,) = zone.resources("Custom::CompiledArtifact", stack=resource.stack)
                names = [f"<{check.logical_id}.{name}>" for name in ("RegistryRegion", "RegistryAccount", "Repository")]
                assert flat == "arn:<AWS::Partition>:ecr:{}:{}:repository/{}".format(*names)


def test_functions_are_invoked_by_the_api_and_by_rules_only(zone: Zone) -> None:
    permissions: dict[str, list[str]] = {"apigateway.amazonaws.com": [], "events.amazonaws.com": []}
    for permission in zone.resources("AWS::Lambda::Permission"):
        permissions[permission.properties["Principal"]].append(text(permission.properties["SourceArn"]))
    methods = list(zone.resources("AWS::ApiGateway::Method"))
    authorizers = [source for source in permissions["apigateway.amazonaws.com"] if "/authorizers/<" in source]
    assert len(authorizers) == (zone.plan.environment.access.method == "keys")
    called = set(permissions["apigateway.amazonaws.com"]) - set(authorizers)
    assert len(called) == len(methods)
    for source in called:
        assert "/<GatewayApiDeploymentStageapi" in source, "only the deployed stage, not the console's test calls"
    rules = {f"<{rule.logical_id}.Arn>" for rule in zone.resources("AWS::Events::Rule")}
    assert set(permissions["events.amazonaws.com"]) == rules
    assert len(rules) == 2
    assert not list(zone.resources("AWS::Lambda::Url"))


def test_the_proxy_reads_the_tokenizer_of_what_is_served_and_nothing_else_of_the_store(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        policies = zone.resources("AWS::IAM::Policy", stack=deployment.stack_id)
        (policy,) = [p.properties for p in policies if p.properties["PolicyName"] == f"invoke-{deployment.name}"]
        check = zone.one("Custom::CompiledArtifact", stack=deployment.stack_id)
        _, objects, decrypt = policy["PolicyDocument"]["Statement"]
        assert objects["Action"] == "s3:GetObject"
        assert text(objects["Resource"]).endswith(f"/<{check.logical_id}.Prefix>tokenizer.json")
        assert decrypt["Action"] == "kms:Decrypt"
        via = {"kms:ViaService": f"s3.{zone.plan.environment.region}.amazonaws.com"}
        assert decrypt["Condition"] == {"StringEquals": via}


def test_tables_are_used_by_one_function_each_item_by_item(zone: Zone) -> None:
    """The authorizer reads keys, the proxy reads and writes answers; nobody lists, and nobody deletes."""
    found = {
        (resource.logical_id[:-8], text(arn).split(".")[0].strip("<")[:-8]): set(statement["Action"])
        for resource, statement in zone.statements()
        if any(action.startswith("dynamodb:") for action in statement["Action"])
        for arn in statement["Resource"]
    }
    expected = {}
    if zone.plan.environment.access.method == "keys":
        expected["GatewayKeysRoleDefaultPolicy", "GatewayKeysStoreTable"] = {"dynamodb:GetItem"}
    if zone.plan.caches_answers:
        expected["ProxyRoleDefaultPolicy", "CacheTable"] = {"dynamodb:GetItem", "dynamodb:PutItem"}
    assert found == expected
    for _, statement in zone.statements():
        if "kms:DescribeKey" in statement["Action"] and statement.get("Condition", {}).get("StringEquals"):
            (service,) = statement["Condition"]["StringEquals"].values()
            assert service.split(".")[0] in {"dynamodb", "ec2"}


def test_the_proxys_code_cannot_use_the_network_rights_of_its_role(zone: Zone) -> None:
    proxy = proxy_function(zone)
    role = zone.templates["GatewayStack"]["Resources"][proxy.properties["Role"]["Fn::GetAtt"][0]]
    assert role["Type"] == "AWS::IAM::Role"
    policies = list(zone.resources("AWS::IAM::Policy", stack="GatewayStack"))
    (allowed,) = [
        as_list(statement["Action"])
        for policy in policies
        for statement in policy.properties["PolicyDocument"]["Statement"]
        if statement.get("Sid") == "NetworkInterfacesOfTheFunction"
    ]
    (denial,) = [
        (policy, statement)
        for policy in policies
        for statement in policy.properties["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny"
    ]
    policy, statement = denial
    assert policy.properties["Roles"] == [{"Ref": proxy.properties["Role"]["Fn::GetAtt"][0]}]
    assert statement["Action"] == allowed
    assert statement["Resource"] == "*"
    arn = {"Fn::GetAtt": [proxy.logical_id, "Arn"]}
    assert statement["Condition"] == {"ArnEquals": {"lambda:SourceFunctionArn": arn}}
    # Lambda makes the interfaces while the function is made: it must not wait for a policy that names it.
    assert policy.logical_id not in proxy.body["DependsOn"]


def test_keys_are_used_by_their_own_account(zone: Zone) -> None:
    """The account's administrators, CloudWatch Logs for log groups, alarms, and EC2 for Spot hosts; one account."""
    spot = ":role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
    for key in zone.resources("AWS::KMS::Key"):
        for statement in key.properties["KeyPolicy"]["Statement"]:
            principal = statement["Principal"]
            if principal.get("Service") == "cloudwatch.amazonaws.com":
                assert list(statement["Condition"]["StringEquals"]) == ["aws:SourceAccount"]
            elif "Service" in principal:
                assert principal["Service"] == f"logs.{zone.plan.environment.region}.amazonaws.com"
                assert "ArnLike" in statement["Condition"]
            elif principal["AWS"] == "*":
                assert text(statement["Condition"]["ArnEquals"]["aws:PrincipalArn"]).endswith(spot)
                account = statement["Condition"]["StringEquals"]["kms:CallerAccount"]
                assert account in ({"Ref": "AWS::AccountId"}, "123456789012")
                assert ("Bool" in statement["Condition"]) == ("kms:CreateGrant" in as_list(statement["Action"]))
            else:
                assert text(principal["AWS"]).endswith(":root")
    grants = [s for _, s in zone.statements() if "kms:CreateGrant" in s["Action"]]
    assert grants
    assert all(s["Condition"]["Bool"] == {"kms:GrantIsForAWSResource": "true"} for s in grants)


def test_executions_are_seen_by_name_where_a_reference_would_be_a_cycle(zone: Zone) -> None:
    """The check of artifacts and the steps are deployed before the state machine."""
    found = {
        (resource.stack, action): [text(arn).split(":")[-3:] for arn in statement["Resource"]]
        for resource, statement in zone.statements()
        for action in statement["Action"]
        if action.startswith("states:") and resource.logical_id.startswith(("ArtifactCheck", "PipelineSteps"))
    }
    machine = f"modelzone-{zone.name}-compile"
    executions, listed = [["execution", machine, "*"]], [[mock.ANY, "stateMachine", machine]]
    expected = {
        ("ModelStoreStack", "states:DescribeExecution"): executions,
        ("CompileStack", "states:DescribeExecution"): executions,
        ("CompileStack", "states:ListExecutions"): listed,
    }
    if zone.plan.environment.compile.delete_artifacts:
        expected["ModelStoreStack", "states:ListExecutions"] = listed
    assert found == expected


def test_who_deletes_artifacts_sees_own_stacks_and_all_models(zone: Zone) -> None:
    deletes = zone.plan.environment.compile.delete_artifacts
    stacks = [s for _, s in zone.statements() if "cloudformation:DescribeStacks" in s["Action"]]
    models = [s for _, s in zone.statements() if "sagemaker:DescribeModel" in s["Action"]]
    assert len(stacks) == len(models) == deletes
    for statement in stacks:
        assert [text(arn).rsplit(":", 1)[-1] for arn in statement["Resource"]] == [f"stack/modelzone-{zone.name}-*/*"]


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
