"""An account for the tests of compilations: real boto3 clients over a bucket, parameters and hosts in memory."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from botocore.awsrequest import AWSResponse
from botocore.response import StreamingBody
from unit.test_doctor_support import Account, error

from modelzone.artifacts import artifact_key, artifact_prefix, weights_prefix
from modelzone.planning import DeploymentPlan, plan_environment

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "models"
OTHER = "models-of-prod"
MACHINE = "arn:aws:states:us-east-1:111122223333:stateMachine:modelzone-dev-compile"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
OLD = NOW - timedelta(days=30)


@cache
def mixtral() -> DeploymentPlan:
    """The plan of the first deployment of the environment dev."""
    return plan_environment(ROOT, "dev").deployments[0]


def facts(**changed: str) -> dict[str, str]:
    return {**mixtral().facts.as_dict(), **changed}


def order(**changed: Any) -> dict[str, Any]:
    """What the compile stack of dev orders for mixtral."""
    plan = mixtral()
    return {
        "format": 1,
        "environment": "dev",
        "deployment": "mixtral",
        "facts": facts(),
        "job": {
            "bucket": BUCKET,
            "image": plan.compile.image_uri,
            "layout": plan.compile.layout,
            "weights": {"source": "hub", "token_secret_arn": ""},
        },
        "hosts": [
            {
                "instance_type": host.instance_type,
                "devices": host.devices,
                "tensor_parallel_degrees": list(host.tensor_parallel_degrees),
            }
            for host in plan.compile.hosts
        ],
        "mirror_host": {"instance_type": "inf2.xlarge"},
        "launch_template": {"id": "lt-0123456789abcdef0", "version": "3"},
        "purchase": "on-demand",
        "max_hours": 6,
        **changed,
    }


@dataclass
class S3Object:
    body: bytes
    changed: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)
    checksum: str = ""
    algorithm: str = "SHA256"


@dataclass
class Run:
    """One execution."""

    name: str
    status: str = "RUNNING"
    started: datetime = NOW
    stopped: datetime | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] | None = None
    error: str = ""
    cause: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def arn(self) -> str:
        return f"{MACHINE.replace(':stateMachine:', ':execution:')}:{self.name}"

    def enter(self, state: str, after: float) -> Run:
        """The machine enters a state so many seconds after its start."""
        when = self.started + timedelta(seconds=after)
        number = len(self.events) + 1
        self.events.append(
            {"id": number, "type": "TaskStateEntered", "timestamp": when, "stateEnteredEventDetails": {"name": state}}
        )
        return self

    def leave(self, state: str, output: Mapping[str, Any], after: float = 0) -> Run:
        number = len(self.events) + 1
        details = {"name": state, "output": json.dumps(output)}
        when = NOW + timedelta(seconds=after)
        self.events.append(
            {"id": number, "type": "TaskStateExited", "timestamp": when, "stateExitedEventDetails": details}
        )
        return self

    def fail(self, message: str, *, error: str = "CapacityError", after: float = 0) -> Run:
        """A try of the step fails."""
        details = {"error": error, "cause": json.dumps({"errorMessage": message, "errorType": error})}
        when = NOW + timedelta(seconds=after)
        number = len(self.events) + 1
        self.events.append({"id": number, "type": "TaskFailed", "timestamp": when, "taskFailedEventDetails": details})
        return self


class World(Account):
    """Everything of an account that compiling concerns. `broken` operations answer with this error code."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, S3Object] = {}
        self.buckets: dict[str, dict[str, S3Object]] = {BUCKET: self.objects}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.parameters: dict[str, list[str]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.runs: list[Run] = []
        self.hosts: list[dict[str, Any]] = []
        self.stacks: dict[str, dict[str, str]] = {
            "modelzone-dev-compile": {
                "StateMachineArn": MACHINE,
                "LogGroupName": "logs",
                "SubnetIds": "subnet-a,subnet-b",
            },
            "modelzone-dev-model-store": {"ModelBucketName": BUCKET},
            "modelzone-prod-model-store": {"ModelBucketName": OTHER},
        }
        self.streams: dict[str, list[tuple[int, str]]] = {}
        self.no_capacity: set[tuple[str, str]] = set()
        self.started: list[Mapping[str, Any]] = []
        self.broken: dict[str, str] = {}
        self.ticks = 0
        self.parameters["/modelzone/dev/compile/orders/mixtral"] = [json.dumps(order())]

    # What tests put in.

    def put(self, key: str, body: bytes, *, changed: datetime = OLD, checksum: str = "") -> None:
        metadata = {"sha256": hashlib.sha256(body).hexdigest()}
        self.objects[key] = S3Object(body, changed, metadata, checksum)

    def artifact(
        self, *, files: Mapping[str, bytes] | None = None, changed: datetime = OLD, manifest: bool = True, **of: str
    ) -> str:
        """Publish an artifact; returns its key."""
        wanted = facts(**of)
        prefix = artifact_prefix(wanted)
        listed = []
        for path, body in (files or {"config.json": b"{}", "compiled/a.neff": b"neff"}).items():
            digest = hashlib.sha256(body)
            checksum = base64.b64encode(digest.digest()).decode()
            self.put(prefix + path, body, changed=changed, checksum=checksum)
            listed.append({"path": path, "size": len(body), "sha256": digest.hexdigest(), "s3_checksum": checksum})
        if manifest:
            document = {
                "format": 1,
                "facts": wanted,
                "key": artifact_key(wanted),
                "created": "2026-10-22T12:00:00Z",
                "objects": listed,
                "producer": {"tool": "compile_job", "image_digest": "sha256:1"},
            }
            self.put(prefix + "manifest.json", json.dumps(document).encode(), changed=changed)
        return artifact_key(wanted)

    def mirror(self, files: Mapping[str, bytes] | None = None, *, listed: bool = True) -> str:
        """Mirror the weights of mixtral; returns their prefix."""
        prefix = weights_prefix(facts()["model_id"], facts()["model_revision"])
        rows = []
        for path, body in (files or {"config.json": b"{}", "model.safetensors": b"weights"}).items():
            self.put(prefix + path, body)
            digest = hashlib.sha256(body).hexdigest()
            rows.append({"path": path, "size": len(body), "sha256": digest, "s3_checksum": ""})
        document = {"format": 1, "kind": "weights", "objects": rows if listed else []}
        self.put(f"{prefix}manifest.json", json.dumps(document).encode())
        return prefix

    def uri(self, **of: str) -> str:
        return f"s3://{BUCKET}/{artifact_prefix(facts(**of))}"

    def deploy(self, environment: str, name: str, *artifacts: str) -> None:
        """A deployment's entry with its versions, oldest first."""
        self.parameters[f"/modelzone/{environment}/deployments/{name}"] = [
            json.dumps({"deployment": name, "artifact": artifact}) for artifact in artifacts
        ]

    def host(self, number: int = 1, *, state: str = "running", **tags: str) -> dict[str, Any]:
        named = {"environment": "dev", "role": "compile-host", "until": "2026-11-21T20:00:00Z", **tags}
        host = {
            "InstanceId": f"i-{number:017x}",
            "InstanceType": "inf2.24xlarge",
            "Placement": {"AvailabilityZone": "us-east-1a"},
            "State": {"Name": state},
            "LaunchTime": NOW,
            "Tags": [{"Key": f"modelzone:{key}", "Value": value} for key, value in named.items()],
        }
        self.hosts.append(host)
        return host

    # What AWS answers.

    def answer(self, name: str, params: Mapping[str, Any]) -> Any:
        self.asked.append((name, params))
        found = dict(self._answer(name, params))
        # An execution has a status of its own.
        status = found.pop("status") if "Error" in found else 200
        return AWSResponse("http://nowhere", status, {}, None), {"ResponseMetadata": {}, **found}

    def _answer(self, name: str, params: Mapping[str, Any]) -> Any:
        service, _, operation = name.partition(".")
        if code := self.broken.get(operation):
            return error(code, "no", 403)
        method = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operation).lower()
        return getattr(self, f"{service}_{method}")(params)

    def asked_for(self, operation: str) -> list[Mapping[str, Any]]:
        return [params for name, params in self.asked if name.endswith(f".{operation}")]

    def cloudformation_describe_stacks(self, params: Mapping[str, Any]) -> Any:
        outputs = self.stacks.get(params["StackName"])
        if outputs is None:
            return error("ValidationError", f"Stack with id {params['StackName']} does not exist")
        rows = [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()]
        return {"Stacks": [{"StackName": params["StackName"], "Outputs": rows}]}

    def cloudformation_list_stack_resources(self, _: Mapping[str, Any]) -> Any:
        row = {
            "LogicalResourceId": "PipelineStepsLogsBBA7C66A",
            "PhysicalResourceId": "steps",
            "ResourceType": "AWS::Logs::LogGroup",
            "LastUpdatedTimestamp": NOW,
            "ResourceStatus": "CREATE_COMPLETE",
        }
        return {"StackResourceSummaries": [row]}

    def s3_list_objects_v2(self, params: Mapping[str, Any]) -> Any:
        rows = [
            {"Key": key, "Size": len(item.body), "LastModified": item.changed}
            for key, item in sorted(self._in(params).items())
            if key.startswith(params["Prefix"])
        ]
        return {"Contents": rows, "IsTruncated": False}

    def s3_get_object(self, params: Mapping[str, Any]) -> Any:
        item = self._in(params).get(params["Key"])
        if item is None:
            return error("NoSuchKey", "no such key", 404)
        return {"Body": StreamingBody(io.BytesIO(item.body), len(item.body)), "ContentLength": len(item.body)}

    def s3_head_object(self, params: Mapping[str, Any]) -> Any:
        item = self._in(params).get(params["Key"])
        if item is None:
            return error("404", "Not Found", 404)
        found = {"ContentLength": len(item.body), "Metadata": dict(item.metadata)}
        return {**found, f"Checksum{item.algorithm}": item.checksum} if item.checksum else found

    def s3_delete_object(self, params: Mapping[str, Any]) -> Any:
        self._in(params).pop(params["Key"], None)
        return {}

    def s3_put_object(self, params: Mapping[str, Any]) -> Any:
        body = getattr(params["Body"], "getvalue", lambda: params["Body"])()
        self._in(params)[params["Key"]] = S3Object(body, NOW, params.get("Metadata", {}), sha256_text(body))
        return {}

    def s3_copy_object(self, params: Mapping[str, Any]) -> Any:
        assert params["MetadataDirective"] == "REPLACE"
        assert params["ChecksumAlgorithm"] == "SHA256"
        body = self._source(params).body
        self._in(params)[params["Key"]] = S3Object(body, NOW, params["Metadata"], sha256_text(body))
        return {"CopyObjectResult": {"ETag": "x"}}

    def s3_create_multipart_upload(self, params: Mapping[str, Any]) -> Any:
        name = f"upload-{len(self.uploads)}"
        self.uploads[name] = {**params, "parts": {}, "done": ""}
        return {"UploadId": name}

    def s3_upload_part_copy(self, params: Mapping[str, Any]) -> Any:
        first, last = map(int, params["CopySourceRange"].removeprefix("bytes=").split("-"))
        body = self._source(params).body
        assert last < len(body)
        part = body[first : last + 1]
        self.uploads[params["UploadId"]]["parts"][params["PartNumber"]] = part
        return {"CopyPartResult": {"ETag": f"etag-{params['PartNumber']}", "ChecksumCRC32": crc32_text(part)}}

    def s3_complete_multipart_upload(self, params: Mapping[str, Any]) -> Any:
        upload = self.uploads[params["UploadId"]]
        listed = [(row["PartNumber"], row["ChecksumCRC32"]) for row in params["MultipartUpload"]["Parts"]]
        assert listed == [(number, crc32_text(part)) for number, part in sorted(upload["parts"].items())]
        body = b"".join(part for _, part in sorted(upload["parts"].items()))
        upload["done"] = "completed"
        checksum = f"{crc32_text(body)}-{len(listed)}"
        self._in(params)[params["Key"]] = S3Object(body, NOW, upload["Metadata"], checksum, upload["ChecksumAlgorithm"])
        return {}

    def s3_abort_multipart_upload(self, params: Mapping[str, Any]) -> Any:
        self.uploads[params["UploadId"]]["done"] = "aborted"
        return {}

    def _in(self, params: Mapping[str, Any]) -> dict[str, S3Object]:
        return self.buckets.setdefault(params["Bucket"], {})

    def _source(self, params: Mapping[str, Any]) -> S3Object:
        source = params["CopySource"]
        bucket, key = source.split("/", 1) if isinstance(source, str) else (source["Bucket"], source["Key"])
        return self.buckets[bucket][unquote(key)]

    def s3_delete_objects(self, params: Mapping[str, Any]) -> Any:
        for row in params["Delete"]["Objects"]:
            self._in(params).pop(row["Key"], None)
        return {}

    def ssm_get_parameter(self, params: Mapping[str, Any]) -> Any:
        values = self.parameters.get(params["Name"])
        return {"Parameter": {"Value": values[-1]}} if values else error("ParameterNotFound")

    def ssm_get_parameters_by_path(self, params: Mapping[str, Any]) -> Any:
        rows = [
            {"Name": name, "Value": values[-1]}
            for name, values in sorted(self.parameters.items())
            if name.startswith(params["Path"])
        ]
        return {"Parameters": rows}

    def ssm_get_parameter_history(self, params: Mapping[str, Any]) -> Any:
        values = self.parameters.get(params["Name"], [])
        return {"Parameters": [{"Version": number, "Value": value} for number, value in enumerate(values, 1)]}

    def ssm_delete_parameters(self, params: Mapping[str, Any]) -> Any:
        for name in params["Names"]:
            self.parameters.pop(name, None)
        return {"DeletedParameters": params["Names"]}

    def sagemaker_list_models(self, _: Mapping[str, Any]) -> Any:
        return {"Models": [{"ModelName": name} for name in self.models]}

    def sagemaker_describe_model(self, params: Mapping[str, Any]) -> Any:
        return {"ModelName": params["ModelName"], **self.models[params["ModelName"]]}

    def stepfunctions_list_executions(self, params: Mapping[str, Any]) -> Any:
        wanted = params.get("statusFilter")
        rows = [
            {"executionArn": run.arn, "name": run.name, "status": run.status, "startDate": run.started}
            for run in reversed(self.runs)
            if wanted in {None, run.status}
        ]
        return {"executions": rows}

    def stepfunctions_describe_execution(self, params: Mapping[str, Any]) -> Any:
        run = self._run(params["executionArn"])
        if run is None:
            return error("ExecutionDoesNotExist", f"Execution Does Not Exist: {params['executionArn']}")
        self.on_look(run)
        found = {
            "executionArn": run.arn,
            "name": run.name,
            "status": run.status,
            "startDate": run.started,
            "stopDate": run.stopped,
            "input": json.dumps(run.given),
            "output": None if run.output is None else json.dumps(run.output),
            "error": run.error,
            "cause": run.cause,
        }
        return {name: value for name, value in found.items() if value is not None}

    def stepfunctions_start_execution(self, params: Mapping[str, Any]) -> Any:
        if any(run.name == params["name"] for run in self.runs):
            return error("ExecutionAlreadyExists", "it is there")
        run = Run(params["name"], given=json.loads(params["input"]))
        self.runs.append(run)
        return {"executionArn": run.arn, "startDate": run.started}

    def stepfunctions_stop_execution(self, params: Mapping[str, Any]) -> Any:
        run = self._run(params["executionArn"])
        assert run is not None
        run.status, run.error, run.cause, run.stopped = "ABORTED", params["error"], params["cause"], NOW
        return {"stopDate": NOW}

    def stepfunctions_get_execution_history(self, params: Mapping[str, Any]) -> Any:
        run = self._run(params["executionArn"])
        assert run is not None
        newest = sorted(run.events, key=lambda event: -event["id"])
        if not params.get("reverseOrder"):
            newest.reverse()
        if not params.get("includeExecutionData", True):
            newest = [_without_data(event) for event in newest]
        start = int(params.get("nextToken", 0))
        page = newest[start : start + 3]
        more = {"nextToken": str(start + 3)} if start + 3 < len(newest) else {}
        return {"events": page, **more}

    def ec2_describe_instances(self, params: Mapping[str, Any]) -> Any:
        self.ticks += 1
        found = [host for host in self.hosts if all(_matches(host, row) for row in params.get("Filters", ()))]
        return {"Reservations": [{"Instances": [host]} for host in found]}

    def ec2_run_instances(self, params: Mapping[str, Any]) -> Any:
        self.started.append(params)
        if (params["InstanceType"], params["SubnetId"]) in self.no_capacity:
            return error("InsufficientInstanceCapacity", "none left")
        host = self.host(len(self.hosts) + 1, state="pending")
        host["InstanceType"] = params["InstanceType"]
        host["Tags"] = params["TagSpecifications"][0]["Tags"]
        return {"Instances": [host]}

    def ec2_terminate_instances(self, params: Mapping[str, Any]) -> Any:
        for host in self.hosts:
            if host["InstanceId"] in params["InstanceIds"]:
                host["State"] = {"Name": "shutting-down"}
        return {}

    def logs_describe_log_streams(self, params: Mapping[str, Any]) -> Any:
        names = [name for name in sorted(self.streams) if name.startswith(params["logStreamNamePrefix"])]
        return {"logStreams": [{"logStreamName": name} for name in names]}

    def logs_filter_log_events(self, params: Mapping[str, Any]) -> Any:
        wanted = params["filterPattern"].strip('"')
        found = [
            {"timestamp": when, "message": text}
            for name, lines in self.streams.items()
            if name.startswith(f"{params['logGroupName']}/")
            for when, text in lines
            if wanted in text
        ]
        return {"events": found}

    def logs_get_log_events(self, params: Mapping[str, Any]) -> Any:
        lines = self.streams[params["logStreamName"]]
        start = int(params.get("nextToken", "0"))
        events = [{"timestamp": when, "message": text} for when, text in lines[start : start + 2]]
        return {"events": events, "nextForwardToken": str(start + len(events))}

    def on_look(self, run: Run) -> None:
        """Called whenever an execution is described; tests let time go on here."""

    def _run(self, arn: str) -> Run | None:
        return next((run for run in self.runs if run.arn == arn), None)


def sha256_text(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def crc32_text(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def _without_data(event: Mapping[str, Any]) -> dict[str, Any]:
    """As AWS answers without execution data: no outputs."""
    found = dict(event)
    if "stateExitedEventDetails" in found:
        found["stateExitedEventDetails"] = {"name": found["stateExitedEventDetails"]["name"]}
    return found


def _matches(host: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    tags = {f"tag:{tag['Key']}": tag["Value"] for tag in host["Tags"]}
    return tags.get(row["Name"]) in row["Values"]


def event_lines(*events: Mapping[str, Any]) -> Iterable[str]:
    return [json.dumps(event) for event in events]
