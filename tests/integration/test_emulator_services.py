"""Operations that a compile pipeline calls, each asked once of the embedded AWS with the plain SDK."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from integration.test_emulator_support import IMAGE, RunningEmulator, running_emulator

from compile_job.transfer import Fetch, Upload, checksum_of, fetch_files, upload_files
from modelzone.local.host.images import image_digest

BUCKET = "models"
MIB = 1024**2


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("services")) as running:
        running.client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def faults(emulator: RunningEmulator) -> Iterator[Any]:
    file = emulator.state_dir / "faults.json"
    yield lambda **given: file.write_text(json.dumps(given))
    file.unlink(missing_ok=True)


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_s3_tells_the_checksum_of_a_whole_object(emulator: RunningEmulator) -> None:
    s3, data = emulator.client("s3"), b"weights" * 1000
    s3.put_object(Bucket=BUCKET, Key="one", Body=data, ChecksumAlgorithm="SHA256", Metadata={"sha256": "of the file"})
    head = s3.head_object(Bucket=BUCKET, Key="one", ChecksumMode="ENABLED")
    assert (head["ChecksumSHA256"], head["Metadata"]) == (digest(data), {"sha256": "of the file"})
    assert "ChecksumSHA256" not in s3.head_object(Bucket=BUCKET, Key="one")
    assert s3.get_object(Bucket=BUCKET, Key="one", Range="bytes=7-13")["Body"].read() == b"weights"


def test_s3_tells_the_composite_checksum_of_a_multipart_upload(emulator: RunningEmulator, tmp_path: Any) -> None:
    s3, parts = emulator.client("s3"), [b"a" * 5 * MIB, b"b" * 5 * MIB, b"c" * 10]
    file = tmp_path / "weights"
    file.write_bytes(b"".join(parts))
    s3.upload_file(
        str(file),
        BUCKET,
        "many",
        ExtraArgs={"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": "x"}},
        Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB),
    )
    head = s3.head_object(Bucket=BUCKET, Key="many", ChecksumMode="ENABLED")
    of_parts = b"".join(hashlib.sha256(part).digest() for part in parts)
    assert head["ChecksumSHA256"] == f"{digest(of_parts)}-3"
    assert head["ContentLength"] == 10 * MIB + 10
    assert head["Metadata"] == {"sha256": "x"}


def test_s3_tells_the_crc32_of_a_multipart_upload_and_of_its_parts(emulator: RunningEmulator) -> None:
    s3, parts = emulator.client("s3"), [b"a" * 5 * MIB, b"b" * 10]
    sums = [zlib.crc32(part).to_bytes(4, "big") for part in parts]
    begun = {"Bucket": BUCKET, "Key": "summed"}
    upload = s3.create_multipart_upload(**begun, ChecksumAlgorithm="CRC32")["UploadId"]
    told = []
    for number, (part, crc) in enumerate(zip(parts, sums, strict=True), 1):
        checksum = base64.b64encode(crc).decode()
        sent = s3.upload_part(**begun, UploadId=upload, PartNumber=number, Body=part, ChecksumCRC32=checksum)
        told.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumCRC32": checksum})
    done = s3.complete_multipart_upload(**begun, UploadId=upload, MultipartUpload={"Parts": told})
    whole = base64.b64encode(zlib.crc32(b"".join(sums)).to_bytes(4, "big")).decode() + "-2"
    head = s3.head_object(**begun, ChecksumMode="ENABLED")
    assert (done["ChecksumCRC32"], head["ChecksumCRC32"]) == (whole, whole)
    for number, (part, listed) in enumerate(zip(parts, told, strict=True), 1):
        answer = s3.get_object(**begun, PartNumber=number, ChecksumMode="ENABLED")
        assert (answer["ChecksumCRC32"], answer["PartsCount"]) == (listed["ChecksumCRC32"], 2)
        assert answer["Body"].read() == part


def test_large_files_go_to_s3_and_back(emulator: RunningEmulator, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(40 * MIB))
    s3, stop = emulator.client("s3"), threading.Event()
    (stored,) = upload_files(s3, BUCKET, [Upload(tmp_path / "a", "large")], stop=stop)
    assert stored.s3_checksum == checksum_of(s3.head_object(Bucket=BUCKET, Key="large", ChecksumMode="ENABLED"))
    assert stored.s3_checksum.startswith("CRC32:")
    for hashed in (False, True):
        item = Fetch("large", tmp_path / f"b-{hashed}", stored.size, stored.sha256)
        fetch_files(s3, BUCKET, [item], stop=stop, hashed=hashed)
        assert item.path.read_bytes() == (tmp_path / "a").read_bytes()


def test_s3_refuses_a_part_that_is_not_what_its_checksum_says(emulator: RunningEmulator) -> None:
    s3 = emulator.client("s3")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="bad", ChecksumAlgorithm="SHA256")["UploadId"]
    with pytest.raises(ClientError) as refused:
        s3.upload_part(
            Bucket=BUCKET, Key="bad", UploadId=upload, PartNumber=1, Body=b"this", ChecksumSHA256=digest(b"that")
        )
    assert "Digest" in code_of(refused)
    (listed,) = s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert listed["Key"] == "bad"
    s3.abort_multipart_upload(Bucket=BUCKET, Key="bad", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_s3_refuses_artifacts_when_the_key_is_denied(emulator: RunningEmulator, faults: Any) -> None:
    s3 = emulator.client("s3")
    faults(kms="denied")
    with pytest.raises(ClientError, match="kms:GenerateDataKey") as refused:
        s3.put_object(Bucket=BUCKET, Key="compiled/model/key/part", Body=b"x")
    assert code_of(refused) == "AccessDenied"
    s3.put_object(Bucket=BUCKET, Key="weights/model/part", Body=b"x")
    faults()
    s3.put_object(Bucket=BUCKET, Key="compiled/model/key/part", Body=b"x")


def test_parameters_have_versions_history_and_paths(emulator: RunningEmulator) -> None:
    ssm = emulator.client("ssm")
    for name, value in (("a", "1"), ("b/c", "2")):
        ssm.put_parameter(Name=f"/modelzone/dev/artifacts/{name}", Value=value, Type="String")
    for number in range(12):
        ssm.put_parameter(Name="/modelzone/dev/progress", Value=str(number), Type="String", Overwrite=True)
    pages = ssm.get_paginator("get_parameters_by_path").paginate(Path="/modelzone/dev", Recursive=True)
    found = {row["Name"]: row["Value"] for page in pages for row in page["Parameters"]}
    assert found == {
        "/modelzone/dev/artifacts/a": "1",
        "/modelzone/dev/artifacts/b/c": "2",
        "/modelzone/dev/progress": "11",
    }
    flat = ssm.get_parameters_by_path(Path="/modelzone/dev")["Parameters"]
    assert [row["Name"] for row in flat] == ["/modelzone/dev/progress"]
    pages = ssm.get_paginator("get_parameter_history").paginate(Name="/modelzone/dev/progress")
    assert [row["Version"] for page in pages for row in page["Parameters"]] == list(range(1, 13))
    with pytest.raises(ClientError) as refused:
        ssm.put_parameter(Name="/modelzone/dev/progress", Value="x", Type="String")
    assert code_of(refused) == "ParameterAlreadyExists"
    with pytest.raises(ClientError, match="maximum parameter value of 4096 characters"):
        ssm.put_parameter(Name="/modelzone/dev/long", Value="x" * 4097, Type="String")
    assert ssm.delete_parameters(Names=["/modelzone/dev/progress"])["DeletedParameters"]


def test_metrics_are_kept(emulator: RunningEmulator) -> None:
    cloudwatch = emulator.client("cloudwatch")
    dimensions = [{"Name": "Environment", "Value": "dev"}, {"Name": "Deployment", "Value": "mixtral"}]
    cloudwatch.put_metric_data(
        Namespace="Modelzone/Compile",
        MetricData=[{"MetricName": "StepSeconds", "Dimensions": dimensions, "Value": 12.5, "Unit": "Seconds"}],
    )
    (metric,) = cloudwatch.list_metrics(Namespace="Modelzone/Compile")["Metrics"]
    assert metric["MetricName"] == "StepSeconds"
    now = datetime.now(UTC)
    found = cloudwatch.get_metric_statistics(
        Namespace="Modelzone/Compile",
        MetricName="StepSeconds",
        Dimensions=dimensions,
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=3600,
        Statistics=["Sum"],
    )
    assert [point["Sum"] for point in found["Datapoints"]] == [12.5]


def test_logs_are_found_by_their_prefix(emulator: RunningEmulator) -> None:
    logs = emulator.client("logs")
    logs.create_log_group(logGroupName="compile")
    logs.create_log_stream(logGroupName="compile", logStreamName="command/host/stdout")
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": f"line {number}"} for number in range(3)]
    logs.put_log_events(logGroupName="compile", logStreamName="command/host/stdout", logEvents=events)
    found = logs.filter_log_events(logGroupName="compile", logStreamNamePrefix="command/", filterPattern="")
    assert [event["message"] for event in found["events"]] == ["line 0", "line 1", "line 2"]
    page = logs.get_log_events(logGroupName="compile", logStreamName="command/host/stdout", startFromHead=True)
    again = logs.get_log_events(
        logGroupName="compile", logStreamName="command/host/stdout", nextToken=page["nextForwardToken"]
    )
    assert again["events"] == []


def test_a_secret_is_read(emulator: RunningEmulator) -> None:
    secrets = emulator.client("secretsmanager")
    arn = secrets.create_secret(Name="hub", SecretString="hf_planted")["ARN"]
    assert secrets.get_secret_value(SecretId=arn)["SecretString"] == "hf_planted"


def test_images_of_awss_registries_have_digests(emulator: RunningEmulator) -> None:
    ecr = emulator.client("ecr")
    name, _, tag = IMAGE.partition("/")[2].partition(":")
    wanted = {"registryId": "763104351884", "repositoryName": name}
    (details,) = ecr.describe_images(**wanted, imageIds=[{"imageTag": tag}])["imageDetails"]
    assert (details["imageDigest"], details["imageTags"]) == (image_digest(IMAGE), [tag])
    (image,) = ecr.batch_get_image(**wanted, imageIds=[{"imageDigest": details["imageDigest"]}])["images"]
    assert image["imageId"]["imageTag"] == tag
    with pytest.raises(ClientError) as refused:
        ecr.describe_images(**wanted, imageIds=[{"imageTag": "latest"}])
    assert code_of(refused) == "ImageNotFoundException"
    (failure,) = ecr.batch_get_image(**wanted, imageIds=[{"imageTag": "latest"}])["failures"]
    assert failure["failureCode"] == "ImageNotFound"
    with pytest.raises(ClientError) as refused:
        ecr.describe_images(registryId="763104351884", repositoryName="made-up")
    assert code_of(refused) == "RepositoryNotFoundException"
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    assert base64.b64decode(token).startswith(b"AWS:")
