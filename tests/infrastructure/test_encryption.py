"""What is encrypted, what is kept, and that no secret is in a template."""

from __future__ import annotations

import json
import re

from infrastructure.support import Zone, text

from authorizer.meters import meter_key

SECRET_SHAPES = re.compile(r"hf_[A-Za-z0-9]{10,}|AKIA[0-9A-Z]{16}|-----BEGIN|sk-[A-Za-z0-9]{20,}")


def test_log_groups_are_encrypted_and_expire(zone: Zone) -> None:
    groups = list(zone.resources("AWS::Logs::LogGroup"))
    days = zone.plan.environment.log_retention_days
    assert groups
    for group in groups:
        assert "LogsKey" in text(group.properties["KmsKeyId"]), group.logical_id
        assert group.properties["RetentionInDays"] == days


def test_every_function_writes_to_a_log_group_of_ours(zone: Zone) -> None:
    for function in zone.resources("AWS::Lambda::Function"):
        if not function.logical_id.startswith("CustomS3AutoDeleteObjects"):  # the CDK's own
            assert "LogGroup" in function.properties["LoggingConfig"]


def test_keys_rotate(zone: Zone) -> None:
    keys = list(zone.resources("AWS::KMS::Key"))
    assert len(keys) == (2 if zone.plan.environment.model_store is None else 1)
    assert all(key.properties["EnableKeyRotation"] for key in keys)


def test_models_are_encrypted_with_the_stores_key(zone: Zone) -> None:
    if zone.plan.environment.model_store is not None:
        for config in zone.resources("AWS::SageMaker::EndpointConfig"):
            assert text(config.properties["KmsKeyId"]) == "<modelzone-dev-model-store:KeyArn>"
        return
    (key,) = zone.resources("AWS::KMS::Key", stack="ModelStoreStack")
    buckets = {r.logical_id: r.properties for r in zone.resources("AWS::S3::Bucket")}
    (models,) = [p for p in buckets.values() if "VersioningConfiguration" in p]
    (rule,) = models["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["KMSMasterKeyID"] == {"Fn::GetAtt": [key.logical_id, "Arn"]}
    assert rule["BucketKeyEnabled"] is True
    (secret,) = zone.resources("AWS::SecretsManager::Secret")
    assert secret.properties["KmsKeyId"] == {"Fn::GetAtt": [key.logical_id, "Arn"]}
    for config in zone.resources("AWS::SageMaker::EndpointConfig"):
        assert key.logical_id in text(config.properties["KmsKeyId"])


def test_the_access_log_bucket_uses_the_encryption_that_s3_can_deliver_to(zone: Zone) -> None:
    if zone.plan.environment.model_store is not None:
        assert not list(zone.resources("AWS::S3::Bucket"))
        return
    (logs,) = [r for r in zone.resources("AWS::S3::Bucket") if "VersioningConfiguration" not in r.properties]
    (rule,) = logs.properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (models,) = [r for r in zone.resources("AWS::S3::Bucket") if "LoggingConfiguration" in r.properties]
    assert models.properties["LoggingConfiguration"]["DestinationBucketName"] == {"Ref": logs.logical_id}


def test_lifecycle_rules_clean_up(zone: Zone) -> None:
    for bucket in zone.resources("AWS::S3::Bucket"):
        rules = bucket.properties["LifecycleConfiguration"]["Rules"]
        assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)
        if "VersioningConfiguration" in bucket.properties:
            assert any("NoncurrentVersionExpiration" in rule for rule in rules)
            # Current objects are models: they never expire. What the compiler keeps for the next time does.
            expiring = {rule.get("Prefix"): rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule}
            assert expiring == {"cache/": 30}
            (abort,) = [rule["AbortIncompleteMultipartUpload"] for rule in rules if len(rule) == 3]
            assert abort == {"DaysAfterInitiation": 2}


def test_compile_hosts_have_encrypted_disks(zone: Zone) -> None:
    (template,) = zone.resources("AWS::EC2::LaunchTemplate")
    for mapping in template.properties["LaunchTemplateData"]["BlockDeviceMappings"]:
        assert mapping["Ebs"]["Encrypted"] is True
        assert mapping["Ebs"]["DeleteOnTermination"] is True
        key = text(mapping["Ebs"]["KmsKeyId"])
        if zone.plan.environment.model_store is None:
            assert zone.one("AWS::KMS::Key", stack="ModelStoreStack").logical_id in key
        else:
            assert key == "<modelzone-dev-model-store:KeyArn>"


def test_tables_are_encrypted_recoverable_and_forget(zone: Zone) -> None:
    tables = list(zone.resources("AWS::DynamoDB::Table"))
    assert len(tables) == (zone.plan.environment.access.method == "keys") + zone.plan.caches_answers
    for table in tables:
        encryption = table.properties["SSESpecification"]
        assert (encryption["SSEEnabled"], encryption["SSEType"]) == (True, "KMS")
        assert "LogsKey" in text(encryption["KMSMasterKeyId"])
        assert table.properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert "TableName" not in table.properties
        (key,) = table.properties["KeySchema"]
        forgets = {"key_id": "purge", "cache_key": "expires"}[key["AttributeName"]]
        assert table.properties["TimeToLiveSpecification"] == {"AttributeName": forgets, "Enabled": True}


def test_the_hub_token_is_a_generated_placeholder(zone: Zone) -> None:
    secrets = list(zone.resources("AWS::SecretsManager::Secret"))
    assert len(secrets) == (zone.plan.environment.model_store is None)
    for secret in secrets:
        assert "SecretString" not in secret.properties
        assert "GenerateSecretString" in secret.properties


def test_no_secret_is_in_a_template(zone: Zone) -> None:
    for name, template in zone.templates.items():
        body = json.dumps(template)
        assert not SECRET_SHAPES.search(body), name
        assert "resolve:secretsmanager" not in body, name
    # What counts a tenant's requests, see test_gateway_access.py: it opens nothing.
    meters = {meter_key(zone.name, tenant) for tenant in zone.plan.environment.access.tenants}
    assert {key.properties["Value"] for key in zone.resources("AWS::ApiGateway::ApiKey")} <= meters
    for function in zone.resources("AWS::Lambda::Function"):
        variables = function.properties.get("Environment", {}).get("Variables", {})
        assert not [name for name in variables if re.search("TOKEN|SECRET|PASSWORD|API_KEY", name)]
    for model in zone.resources("AWS::SageMaker::Model"):
        assert not [name for name in model.properties["PrimaryContainer"]["Environment"] if "TOKEN" in name.split("_")]


def test_data_outlives_production_stacks_and_goes_with_development_ones(dev: Zone, prod: Zone) -> None:
    kinds = (
        "AWS::KMS::Key",
        "AWS::S3::Bucket",
        "AWS::SecretsManager::Secret",
        "AWS::Logs::LogGroup",
        "AWS::DynamoDB::Table",
    )
    for zone, policy in ((dev, "Delete"), (prod, "RetainExceptOnCreate")):
        for kind in kinds:
            resources = list(zone.resources(kind))
            assert resources
            assert {r.body["DeletionPolicy"] for r in resources} == {policy}, kind
    assert list(dev.resources("Custom::S3AutoDeleteObjects"))
    assert not list(prod.resources("Custom::S3AutoDeleteObjects"))
