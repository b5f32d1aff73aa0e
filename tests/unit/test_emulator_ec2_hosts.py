"""RunInstances: a request put together with its launch template."""

from __future__ import annotations

from modelzone.local.emulator.ec2_hosts import merged


def test_the_requests_values_come_first_and_tags_are_merged() -> None:
    template = {
        "ImageId": "ami-1",
        "InstanceType": "inf2.xlarge",
        "SecurityGroupIds": ["sg-1"],
        "IamInstanceProfile": {"Arn": "arn:profile"},
        "UserData": "dGVtcGxhdGU=",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "540"}}],
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "1"}]}
        ],
    }
    parameters = {
        "InstanceType": ["inf2.24xlarge"],
        "SubnetId": ["subnet-1"],
        "InstanceMarketOptions.MarketType": ["spot"],
        "TagSpecification.1.ResourceType": ["instance"],
        "TagSpecification.1.Tag.1.Key": ["b"],
        "TagSpecification.1.Tag.1.Value": ["2"],
    }
    found = merged(parameters, template, {"id": "lt-1", "version": "1"})
    assert (found.image_id, found.instance_type, found.subnet_id) == ("ami-1", "inf2.24xlarge", "subnet-1")
    assert (found.security_groups, found.profile) == (("sg-1",), {"Arn": "arn:profile"})
    assert (found.disk_gib, found.spot, found.shutdown_terminates) == (540, True, True)
    assert found.tags == {"instance": {"a": "1", "b": "2"}}
    assert found.user_data == "dGVtcGxhdGU="


def test_without_a_template() -> None:
    found = merged({"ImageId": ["ami-1"], "SecurityGroupId.2": ["sg-2"], "SecurityGroupId.1": ["sg-1"]}, {}, {})
    assert (found.image_id, found.security_groups, found.spot) == ("ami-1", ("sg-1", "sg-2"), False)
    assert (found.disk_gib, found.shutdown_terminates) == (8, False)
