"""The resource types of the project's stacks: created, updated, rolled back and deleted on an emulator process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from integration.test_emulator_support import (
    ACCOUNT,
    REGION,
    RunningEmulator,
    Stacks,
    attribute,
    output,
    running_emulator,
)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("cloudformation")) as running:
        yield running


@pytest.fixture(scope="module")
def stacks(emulator: RunningEmulator) -> Stacks:
    return Stacks(emulator)


def named(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": kind, "Properties": properties}


def ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def network() -> dict[str, Any]:
    tags = [{"Key": "Name", "Value": "zone"}]
    return {
        "Vpc": named("AWS::EC2::VPC", CidrBlock="10.0.0.0/16", EnableDnsHostnames=True, Tags=tags),
        "Public": named("AWS::EC2::Subnet", VpcId=ref("Vpc"), CidrBlock="10.0.0.0/24", MapPublicIpOnLaunch=True),
        "Private": named("AWS::EC2::Subnet", VpcId=ref("Vpc"), CidrBlock="10.0.1.0/24"),
        "Address": named("AWS::EC2::EIP", Domain="vpc", Tags=tags),
        "Nat": named(
            "AWS::EC2::NatGateway",
            AllocationId=attribute("Address", "AllocationId"),
            SubnetId=ref("Public"),
            Tags=tags,
        ),
        "Table": named("AWS::EC2::RouteTable", VpcId=ref("Vpc")),
        "Route": named(
            "AWS::EC2::Route", RouteTableId=ref("Table"), DestinationCidrBlock="0.0.0.0/0", NatGatewayId=ref("Nat")
        ),
        "Endpoints": named("AWS::EC2::SecurityGroup", GroupDescription="endpoints", VpcId=ref("Vpc")),
        "Hosts": named("AWS::EC2::SecurityGroup", GroupDescription="hosts", VpcId=ref("Vpc")),
        "In": named(
            "AWS::EC2::SecurityGroupIngress",
            GroupId=attribute("Endpoints", "GroupId"),
            SourceSecurityGroupId=attribute("Hosts", "GroupId"),
            IpProtocol="tcp",
            FromPort=443,
            ToPort=443,
            Description="from the hosts",
        ),
        "Out": named(
            "AWS::EC2::SecurityGroupEgress",
            GroupId=attribute("Hosts", "GroupId"),
            DestinationSecurityGroupId=attribute("Endpoints", "GroupId"),
            IpProtocol="tcp",
            FromPort="443",
            ToPort="443",
        ),
        "S3": named(
            "AWS::EC2::VPCEndpoint",
            VpcId=ref("Vpc"),
            ServiceName="com.amazonaws.us-east-1.s3",
            VpcEndpointType="Gateway",
            RouteTableIds=[ref("Table")],
        ),
        "Runtime": named(
            "AWS::EC2::VPCEndpoint",
            VpcId=ref("Vpc"),
            ServiceName="com.amazonaws.us-east-1.sagemaker.runtime",
            VpcEndpointType="Interface",
            SubnetIds=[ref("Private")],
            SecurityGroupIds=[attribute("Endpoints", "GroupId")],
            PrivateDnsEnabled=True,
        ),
        "Flows": named(
            "AWS::EC2::FlowLog",
            ResourceId=ref("Vpc"),
            ResourceType="VPC",
            TrafficType="ALL",
            LogDestinationType="cloud-watch-logs",
            LogGroupName="flows",
            DeliverLogsPermissionArn="arn:aws:iam::000000000000:role/flows",
        ),
    }


def test_a_network_exists_and_goes(emulator: RunningEmulator, stacks: Stacks) -> None:
    outputs = {
        "Vpc": output(ref("Vpc")),
        "Cidr": output(attribute("Vpc", "CidrBlock")),
        "Address": output(ref("Address")),
        "Allocation": output(attribute("Address", "AllocationId")),
        "Nat": output(ref("Nat")),
        "Endpoints": output(attribute("Endpoints", "GroupId")),
        "Hosts": output(attribute("Hosts", "GroupId")),
    }
    made = stacks.deploy("network", network(), Outputs=outputs)
    ec2 = emulator.client("ec2")
    assert made["Cidr"] == "10.0.0.0/16"
    (address,) = ec2.describe_addresses(PublicIps=[made["Address"]])["Addresses"]
    assert address["AllocationId"] == made["Allocation"]
    (gateway,) = ec2.describe_nat_gateways(NatGatewayIds=[made["Nat"]])["NatGateways"]
    assert (gateway["VpcId"], gateway["Tags"]) == (made["Vpc"], [{"Key": "Name", "Value": "zone"}])
    (ingress,) = ec2.describe_security_groups(GroupIds=[made["Endpoints"]])["SecurityGroups"][0]["IpPermissions"]
    assert (ingress["FromPort"], ingress["UserIdGroupPairs"][0]["GroupId"]) == (443, made["Hosts"])
    egress = ec2.describe_security_groups(GroupIds=[made["Hosts"]])["SecurityGroups"][0]["IpPermissionsEgress"]
    assert made["Endpoints"] in [pair["GroupId"] for rule in egress for pair in rule["UserIdGroupPairs"]]
    (flow_log,) = ec2.describe_flow_logs()["FlowLogs"]
    assert flow_log["ResourceId"] == made["Vpc"]
    endpoints = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert {endpoint["VpcEndpointType"] for endpoint in endpoints} == {"Gateway", "Interface"}

    changed = network()
    changed["In"]["Properties"].update(FromPort=8443, ToPort=8443)
    stacks.deploy("network", changed, Outputs=outputs)
    (ingress,) = ec2.describe_security_groups(GroupIds=[made["Endpoints"]])["SecurityGroups"][0]["IpPermissions"]
    assert ingress["FromPort"] == 8443

    stacks.delete("network")
    assert made["Vpc"] not in [vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]]
    assert ec2.describe_addresses()["Addresses"] == []
    assert ec2.describe_flow_logs()["FlowLogs"] == []
    assert all(nat["State"] == "deleted" for nat in ec2.describe_nat_gateways()["NatGateways"])


def store(**bucket: Any) -> dict[str, Any]:
    return {
        "Key": named("AWS::KMS::Key", EnableKeyRotation=True, KeyPolicy={"Statement": []}),
        "Alias": named("AWS::KMS::Alias", AliasName="alias/store", TargetKeyId=attribute("Key", "Arn")),
        "Logs": named("AWS::S3::Bucket", OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}),
        "Bucket": named(
            "AWS::S3::Bucket",
            VersioningConfiguration={"Status": "Enabled"},
            BucketEncryption={
                "ServerSideEncryptionConfiguration": [
                    {
                        "BucketKeyEnabled": True,
                        "ServerSideEncryptionByDefault": {
                            "SSEAlgorithm": "aws:kms",
                            "KMSMasterKeyID": attribute("Key", "Arn"),
                        },
                    }
                ]
            },
            LoggingConfiguration={"DestinationBucketName": ref("Logs"), "LogFilePrefix": "store/"},
            PublicAccessBlockConfiguration={"BlockPublicAcls": True, "RestrictPublicBuckets": True},
            LifecycleConfiguration={
                "Rules": [
                    {
                        "Id": "old",
                        "Status": "Enabled",
                        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                        "ExpirationInDays": 90,
                        "Prefix": "tmp/",
                        "Transitions": [{"StorageClass": "INTELLIGENT_TIERING", "TransitionInDays": 1}],
                    }
                ]
            },
            **bucket,
        ),
        "Policy": named(
            "AWS::S3::BucketPolicy",
            Bucket=ref("Bucket"),
            PolicyDocument={
                "Statement": [
                    {
                        "Effect": "Deny",
                        "Principal": "*",
                        "Action": "s3:*",
                        "Resource": attribute("Bucket", "Arn"),
                        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                    }
                ]
            },
        ),
    }


def test_a_bucket_has_the_properties_of_its_template(emulator: RunningEmulator, stacks: Stacks) -> None:
    bucket = stacks.deploy("store", store(), Outputs={"Bucket": output(ref("Bucket"))})["Bucket"]
    s3 = emulator.client("s3")
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["Expiration"] == {"Days": 90}
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    (encryption,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert s3.get_bucket_logging(Bucket=bucket)["LoggingEnabled"]["TargetPrefix"] == "store/"
    assert "aws:SecureTransport" in s3.get_bucket_policy(Bucket=bucket)["Policy"]
    s3.put_object(Bucket=bucket, Key="a", Body=b"encrypted by the key")
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"encrypted by the key"


def test_a_bucket_with_objects_in_it_stays(emulator: RunningEmulator, stacks: Stacks) -> None:
    bucket = stacks.deploy("full", {"Bucket": named("AWS::S3::Bucket")}, Outputs={"B": output(ref("Bucket"))})["B"]
    s3, cloudformation = emulator.client("s3"), emulator.client("cloudformation")
    s3.put_object(Bucket=bucket, Key="a", Body=b"")
    cloudformation.delete_stack(StackName="full")
    assert stacks.settled("full") == "DELETE_FAILED"
    assert any("not empty" in reason for reason in stacks.failures("full"))
    s3.delete_object(Bucket=bucket, Key="a")
    stacks.delete("full")
    with pytest.raises(ClientError, match="404"):
        s3.head_bucket(Bucket=bucket)


def test_a_retained_bucket_is_left_with_its_objects(emulator: RunningEmulator, stacks: Stacks) -> None:
    made = {"Bucket": {**named("AWS::S3::Bucket"), "DeletionPolicy": "Retain"}}
    bucket = stacks.deploy("retained", made, Outputs={"B": output(ref("Bucket"))})["B"]
    emulator.client("s3").put_object(Bucket=bucket, Key="a", Body=b"kept")
    stacks.delete("retained")
    assert emulator.client("s3").get_object(Bucket=bucket, Key="a")["Body"].read() == b"kept"


def test_cdks_auto_delete_empties_a_versioned_bucket(emulator: RunningEmulator, stacks: Stacks) -> None:
    made = {
        "Bucket": named("AWS::S3::Bucket", VersioningConfiguration={"Status": "Enabled"}),
        "Empty": named("Custom::S3AutoDeleteObjects", ServiceToken="arn:aws:lambda:x", BucketName=ref("Bucket")),
    }
    bucket = stacks.deploy("emptied", made, Outputs={"B": output(ref("Bucket"))})["B"]
    s3 = emulator.client("s3")
    for text in (b"1", b"2"):
        s3.put_object(Bucket=bucket, Key="a", Body=text)
    s3.delete_object(Bucket=bucket, Key="a")
    assert len(s3.list_object_versions(Bucket=bucket)["Versions"]) == 2
    stacks.delete("emptied")
    assert bucket not in [row["Name"] for row in s3.list_buckets()["Buckets"]]


def test_the_ref_of_a_secret_is_its_arn(emulator: RunningEmulator, stacks: Stacks) -> None:
    made = {"Secret": named("AWS::SecretsManager::Secret", Description="token", SecretString="first")}
    outputs = {"Arn": output(ref("Secret")), "Same": output(attribute("Secret", "Id"))}
    arns = stacks.deploy("secret", made, Outputs=outputs)
    assert arns["Arn"] == arns["Same"]
    assert arns["Arn"].startswith(f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:")
    secrets = emulator.client("secretsmanager")
    made["Secret"]["Properties"]["SecretString"] = "second"
    assert stacks.deploy("secret", made, Outputs=outputs) == arns
    assert secrets.get_secret_value(SecretId=arns["Arn"])["SecretString"] == "second"
    stacks.delete("secret")
    listed = [row["ARN"] for row in secrets.list_secrets()["SecretList"]]
    assert arns["Arn"] not in listed


def document(text: str, **more: Any) -> dict[str, Any]:
    step = {"action": "aws:runShellScript", "name": "a", "inputs": {}}
    content = {"schemaVersion": "2.2", "mainSteps": [step], "description": text}
    return {"Document": named("AWS::SSM::Document", DocumentType="Command", Content=content, **more)}


def test_a_document_gets_a_new_version(emulator: RunningEmulator, stacks: Stacks) -> None:
    outputs = {"Name": output(ref("Document"))}
    name = stacks.deploy("document", document("first", UpdateMethod="NewVersion"), Outputs=outputs)["Name"]
    assert stacks.deploy("document", document("second", UpdateMethod="NewVersion"), Outputs=outputs)["Name"] == name
    ssm = emulator.client("ssm")
    assert json.loads(ssm.get_document(Name=name)["Content"])["description"] == "second"
    assert ssm.describe_document(Name=name)["Document"]["Status"] == "Active"
    stacks.delete("document")
    with pytest.raises(ClientError, match="does not exist"):
        ssm.get_document(Name=name)


def test_a_named_document_cannot_be_replaced(stacks: Stacks) -> None:
    stacks.deploy("named", document("first", Name="fixed"))
    with pytest.raises(AssertionError, match="custom-named resource requires replacing"):
        stacks.deploy("named", document("second", Name="fixed"))
    assert stacks.settled("named") == "UPDATE_ROLLBACK_COMPLETE"


def test_an_unnamed_document_is_replaced_by_default(emulator: RunningEmulator, stacks: Stacks) -> None:
    outputs = {"Name": output(ref("Document"))}
    before = stacks.deploy("replaced", document("first"), Outputs=outputs)["Name"]
    after = stacks.deploy("replaced", document("second"), Outputs=outputs)["Name"]
    assert after != before
    ssm = emulator.client("ssm")
    assert json.loads(ssm.get_document(Name=after)["Content"])["description"] == "second"
    with pytest.raises(ClientError, match="does not exist"):
        ssm.get_document(Name=before)


def test_a_launch_template_names_its_image_by_parameter(emulator: RunningEmulator, stacks: Stacks) -> None:
    image = "resolve:ssm:/aws/service/neuron/dlami/multi-framework/ubuntu-22.04/latest/image_id"
    data = {
        "ImageId": image,
        "InstanceType": "inf2.24xlarge",
        "MetadataOptions": {"HttpTokens": "required"},
        "IamInstanceProfile": {"Arn": attribute("Profile", "Arn")},
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 500, "Encrypted": True}}],
    }
    trust = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2"}}]}
    made = {
        "Role": named("AWS::IAM::Role", AssumeRolePolicyDocument=trust),
        "Profile": named("AWS::IAM::InstanceProfile", Roles=[ref("Role")]),
        "Template": named("AWS::EC2::LaunchTemplate", LaunchTemplateData=data),
    }
    template = stacks.deploy("host", made, Outputs={"Id": output(ref("Template"))})["Id"]
    versions = emulator.client("ec2").describe_launch_template_versions(LaunchTemplateId=template)
    described = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert (described["ImageId"], described["MetadataOptions"]["HttpTokens"]) == (image, "required")


@pytest.mark.parametrize(
    "name", ["/aws/service/neuron/dlami/multi-framework/ubuntu-22.04/latest/image_id", "/aws/service/ami-x/y"]
)
def test_public_image_parameters_have_a_value(emulator: RunningEmulator, name: str) -> None:
    assert emulator.client("ssm").get_parameter(Name=name)["Parameter"]["Value"].startswith("ami-")


def test_an_unknown_parameter_is_unknown(emulator: RunningEmulator) -> None:
    with pytest.raises(ClientError, match="ParameterNotFound"):
        emulator.client("ssm").get_parameter(Name="/mine")


def test_parameters_are_constrained_and_rules_are_checked(stacks: Stacks) -> None:
    made = {"Value": named("AWS::SSM::Parameter", Name="/sized", Type="String", Value=ref("Size"))}
    template: dict[str, Any] = {
        "Parameters": {"Size": {"Type": "Number", "MinValue": 1, "MaxValue": 4, "Default": 1}},
        "Rules": {
            "Even": {
                "Assertions": [
                    {"Assert": {"Fn::Contains": [["2", "4"], ref("Size")]}, "AssertDescription": "size must be even"}
                ]
            }
        },
    }
    with pytest.raises(ClientError, match="size must be even"):
        stacks.deploy("sized", made, parameters={"Size": "3"}, **template)
    with pytest.raises(ClientError, match="not greater than 4"):
        stacks.deploy("sized", made, parameters={"Size": "8"}, **template)
    stacks.deploy("sized", made, parameters={"Size": "4"}, **template)


def test_exports_are_imported_and_protect_their_stack(emulator: RunningEmulator, stacks: Stacks) -> None:
    exported = {"Name": {"Value": ref("Value"), "Export": {"Name": "shared"}}}
    stacks.deploy("exporter", {"Value": named("AWS::SSM::Parameter", Type="String", Value="1")}, Outputs=exported)
    imported = named("AWS::SSM::Parameter", Name="/imported", Type="String", Value={"Fn::ImportValue": "shared"})
    stacks.deploy("importer", {"Value": imported})
    value = emulator.client("ssm").get_parameter(Name="/imported")["Parameter"]["Value"]
    assert value == stacks.resources("exporter")["Value"]
    with pytest.raises(ClientError, match="is imported by stack importer"):
        emulator.client("cloudformation").delete_stack(StackName="exporter")
    stacks.delete("importer")
    stacks.delete("exporter")


def test_alarms_topics_and_encrypted_log_groups(emulator: RunningEmulator, stacks: Stacks) -> None:
    made = {
        "Key": named("AWS::KMS::Key", KeyPolicy={"Statement": []}),
        "Logs": named("AWS::Logs::LogGroup", LogGroupName="/own", RetentionInDays=30, KmsKeyId=attribute("Key", "Arn")),
        "Topic": named("AWS::SNS::Topic", KmsMasterKeyId=ref("Key")),
        "Alarm": named(
            "AWS::CloudWatch::Alarm",
            AlarmName="errors",
            Namespace="AWS/SageMaker",
            MetricName="Invocation5XXErrors",
            ComparisonOperator="GreaterThanThreshold",
            EvaluationPeriods=1,
            Period=60,
            Statistic="Sum",
            Threshold=0,
            AlarmActions=[ref("Topic")],
        ),
    }
    topic = stacks.deploy("watched", made, Outputs={"T": output(ref("Topic"))})["T"]
    (alarm,) = emulator.client("cloudwatch").describe_alarms(AlarmNames=["errors"])["MetricAlarms"]
    assert alarm["AlarmActions"] == [topic]
    (group,) = emulator.client("logs").describe_log_groups(logGroupNamePrefix="/own")["logGroups"]
    assert (group["retentionInDays"], group["kmsKeyId"].startswith("arn:aws:kms")) == (30, True)
    stacks.delete("watched")


def test_the_template_is_returned_as_it_was_deployed(emulator: RunningEmulator, stacks: Stacks) -> None:
    made = {"Value": named("AWS::SSM::Parameter", Type="String", Value={"Fn::Sub": "${AWS::Region}"})}
    stacks.deploy("echoed", made)
    cloudformation = emulator.client("cloudformation")
    assert cloudformation.get_template(StackName="echoed")["TemplateBody"] == {"Resources": made}
    with pytest.raises(ClientError, match="No updates"):
        stacks.deploy("echoed", made)


def test_a_change_set_says_what_would_be_replaced(emulator: RunningEmulator, stacks: Stacks) -> None:
    stacks.deploy("replacing", {"Address": named("AWS::EC2::EIP", Domain="vpc")})
    cloudformation = emulator.client("cloudformation")
    changed = {"Resources": {"Address": named("AWS::EC2::EIP", Domain="vpc", Tags=[{"Key": "a", "Value": "b"}])}}
    changed["Resources"]["Address"]["Properties"]["NetworkBorderGroup"] = "us-east-1"
    cloudformation.create_change_set(
        StackName="replacing", ChangeSetName="change", TemplateBody=json.dumps(changed), ChangeSetType="UPDATE"
    )
    cloudformation.get_waiter("change_set_create_complete").wait(
        StackName="replacing", ChangeSetName="change", WaiterConfig={"Delay": 0.1}
    )
    (change,) = cloudformation.describe_change_set(StackName="replacing", ChangeSetName="change")["Changes"]
    assert change["ResourceChange"]["Replacement"] == "True"
    targets = {
        row["Target"]["Name"]: row["Target"]["RequiresRecreation"] for row in change["ResourceChange"]["Details"]
    }
    assert targets == {"NetworkBorderGroup": "Always", "Tags": "Never"}


def table_stack(**properties: Any) -> dict[str, Any]:
    table = named(
        "AWS::DynamoDB::Table",
        KeySchema=[{"AttributeName": "key_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "key_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        **properties,
    )
    return {"Key": named("AWS::KMS::Key", KeyPolicy={"Statement": []}), "Table": table}


def test_a_table_keeps_what_its_template_says(emulator: RunningEmulator, stacks: Stacks) -> None:
    tables = emulator.client("dynamodb")
    full = table_stack(
        TimeToLiveSpecification={"AttributeName": "purge", "Enabled": True},
        SSESpecification={"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": attribute("Key", "Arn")},
        PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        DeletionProtectionEnabled=True,
    )
    outputs = {"Table": output(ref("Table")), "Key": output(attribute("Key", "Arn"))}

    def described(name: str) -> tuple[Any, ...]:
        table = tables.describe_table(TableName=name)["Table"]
        backups = tables.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        return (
            tables.describe_time_to_live(TableName=name)["TimeToLiveDescription"].get("AttributeName"),
            (table.get("SSEDescription") or {}).get("KMSMasterKeyArn"),
            backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"],
            table["DeletionProtectionEnabled"],
        )

    made = stacks.deploy("table", full, Outputs=outputs)
    assert described(made["Table"]) == ("purge", made["Key"], "ENABLED", True)
    tables.put_item(TableName=made["Table"], Item={"key_id": {"S": "a"}})

    emulator.client("cloudformation").delete_stack(StackName="table")
    assert stacks.settled("table") == "DELETE_FAILED"
    assert any("deletion protection" in reason for reason in stacks.failures("table"))

    assert stacks.deploy("plain-table", table_stack(), Outputs=outputs)["Table"] != made["Table"]
    changed = {"AttributeName": "expires", "Enabled": True}
    updated = stacks.deploy("plain-table", table_stack(TimeToLiveSpecification=changed), Outputs=outputs)
    assert described(updated["Table"]) == ("expires", None, "DISABLED", False)
    back = stacks.deploy("plain-table", table_stack(), Outputs=outputs)
    assert described(back["Table"]) == (None, None, "DISABLED", False)
    stacks.delete("plain-table")
    assert updated["Table"] not in tables.list_tables()["TableNames"]
    assert made["Table"] in tables.list_tables()["TableNames"]


def firewalled_api(*, kind: str, **properties: Any) -> dict[str, Any]:
    policy = {
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": "execute-api:Invoke",
                "Resource": "execute-api:/*",
                "Condition": {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8"]}},
            }
        ]
    }
    visibility = {"CloudWatchMetricsEnabled": True, "MetricName": "all", "SampledRequestsEnabled": False}
    rate = {"AggregateKeyType": "IP", "Limit": 2000, "EvaluationWindowSec": 300}
    stage_arn = "arn:aws:apigateway:${AWS::Region}::/restapis/${Api}/stages/${Stage}"
    return {
        "Api": named(
            "AWS::ApiGateway::RestApi",
            Name="private",
            EndpointConfiguration={"Types": [kind], **properties},
            Policy=policy,
            ApiKeySourceType="AUTHORIZER",
        ),
        "Root": named(
            "AWS::ApiGateway::Method",
            RestApiId=ref("Api"),
            ResourceId=attribute("Api", "RootResourceId"),
            HttpMethod="GET",
            AuthorizationType="NONE",
            Integration={"Type": "MOCK"},
        ),
        "Deployment": {**named("AWS::ApiGateway::Deployment", RestApiId=ref("Api")), "DependsOn": ["Root"]},
        "Stage": named("AWS::ApiGateway::Stage", RestApiId=ref("Api"), DeploymentId=ref("Deployment"), StageName="api"),
        "Acl": named(
            "AWS::WAFv2::WebACL",
            Scope="REGIONAL",
            DefaultAction={"Allow": {}},
            VisibilityConfig=visibility,
            Rules=[
                {
                    "Name": "rate",
                    "Priority": 0,
                    "Action": {"Block": {}},
                    "Statement": {"RateBasedStatement": rate},
                    "VisibilityConfig": visibility,
                }
            ],
        ),
        "Association": named(
            "AWS::WAFv2::WebACLAssociation", ResourceArn={"Fn::Sub": stage_arn}, WebACLArn=attribute("Acl", "Arn")
        ),
    }


def test_an_api_may_be_private_with_a_policy_and_a_firewall(emulator: RunningEmulator, stacks: Stacks) -> None:
    api, firewall = emulator.client("apigateway"), emulator.client("wafv2")
    outputs = {"Api": output(ref("Api")), "Acl": output(attribute("Acl", "Arn"))}
    made = stacks.deploy("private", firewalled_api(kind="PRIVATE", VpcEndpointIds=["vpce-1"]), Outputs=outputs)
    described = api.get_rest_api(restApiId=made["Api"])
    assert described["endpointConfiguration"] == {"types": ["PRIVATE"], "vpcEndpointIds": ["vpce-1"]}
    assert "10.0.0.0/8" in described["policy"]
    assert described["apiKeySource"] == "AUTHORIZER"
    stage = f"arn:aws:apigateway:{REGION}::/restapis/{made['Api']}/stages/api"
    assert firewall.get_web_acl_for_resource(ResourceArn=stage)["WebACL"]["ARN"] == made["Acl"]

    template = firewalled_api(kind="REGIONAL")
    del template["Api"]["Properties"]["ApiKeySourceType"], template["Api"]["Properties"]["Policy"]
    del template["Association"]
    stacks.deploy("private", template, Outputs=outputs)
    described = api.get_rest_api(restApiId=made["Api"])
    assert (described["endpointConfiguration"], described["apiKeySource"]) == ({"types": ["REGIONAL"]}, "HEADER")
    assert not described.get("policy")
    with pytest.raises(ClientError, match="WAFNonexistentItemException"):
        firewall.get_web_acl_for_resource(ResourceArn=stage)
    stacks.delete("private")
    assert firewall.list_web_acls(Scope="REGIONAL")["WebACLs"] == []
