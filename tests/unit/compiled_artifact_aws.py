"""AWS as the functions of `compiled_artifact` see it, in memory, with failures that can be planted."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from compiled_artifact.context import Settings
from compiled_artifact.facts import artifact_key, artifact_prefix, weights_prefix
from compiled_artifact.steps import perform

BUCKET = "models-bucket"
FACTS = {
    "engine": "tgi-neuronx",
    "engine_version": "0.0.25",
    "model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "model_revision": "main",
    "instance_family": "inf2",
    "tensor_parallel_degree": "8",
    "batch_size": "1",
    "sequence_length": "1024",
    "dtype": "fp16",
}
KEY = artifact_key(FACTS)
PREFIX = artifact_prefix(FACTS)
DIGEST = "sha256:" + "ab" * 32
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.1.2-neuronx"
OBJECTS = {"config.json": b"{}", "compiled/a.neff": b"neff", "checkpoint/model.safetensors": b"weights"}
START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
NAME = f"mixtral-{KEY}-20261121100000"
MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:compile"
EXECUTION = {"id": f"{MACHINE.replace('stateMachine', 'execution')}:{NAME}", "name": NAME, "start": START.isoformat()}
SETTINGS = Settings(
    environment="dev",
    bucket=BUCKET,
    orders_path="/modelzone/dev/compile/orders",
    artifacts_path="/modelzone/dev/artifacts",
    progress_path="/modelzone/dev/compile/progress",
    document="CompileDocument",
    log_group="/modelzone/dev/compile",
    subnets=("subnet-a", "subnet-b"),
    topic_arn="arn:aws:sns:us-east-1:123456789012:compile",
    own_log_group="/aws/lambda/steps",
)


def client_error(code: str, message: str = "no", operation: str = "Operation") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def order(**overrides: Any) -> dict[str, Any]:
    job = {
        "bucket": BUCKET,
        "image": IMAGE,
        "accelerator": "neuron",
        "layout": "neuron-config-key",
        "weights": {"source": "hub", "token_secret_arn": ""},
        "export_command": ["optimum-cli", "export", "neuron", "--model", "{model}", "{output}"],
        "properties": {},
        "work_dir": "/var/lib/modelzone/compile",
        "min_free_gib": 300,
        "min_memory_gib": 100,
        "region": "us-east-1",
        **overrides.pop("job", {}),
    }
    return {
        "format": 1,
        "environment": "dev",
        "deployment": "mixtral",
        "facts": FACTS,
        "job": job,
        "hosts": [
            {"instance_type": "inf2.24xlarge", "devices": 6},
            {"instance_type": "inf2.48xlarge", "devices": 12},
        ],
        "mirror_host": {"instance_type": "inf2.xlarge"},
        "launch_template": {"id": "lt-1", "version": "3"},
        "purchase": "on-demand",
        "max_hours": 6,
        **overrides,
    }


@cache
def _input_of(service: str, operation: str) -> Any:
    model = botocore.session.get_session().get_service_model(service)
    names = {xform_name(name): name for name in model.operation_names}
    return model.operation_model(names[operation]).input_shape


class Service:
    """Knows what to refuse: by operation an error, once or (with `always`) each time. Counts what was called.

    What it is asked is held against the SDK's own description of the service.
    """

    service = ""

    def __init__(self) -> None:
        self.planted: dict[str, list[Exception]] = {}
        self.always: dict[str, Exception] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def called(self, operation: str) -> list[dict[str, Any]]:
        return [given for name, given in self.calls if name == operation]

    def _enter(self, operation: str, given: dict[str, Any]) -> None:
        self.calls.append((operation, given))
        asked = {name: value for name, value in given.items() if name != "PaginationConfig"}
        report = ParamValidator().validate(asked, _input_of(self.service, operation))
        assert not report.has_errors(), report.generate_report()
        error = self.always.get(operation)
        if error is None and self.planted.get(operation):
            error = self.planted[operation].pop(0)
        if error is not None:
            if isinstance(error, ClientError):
                error.operation_name = "".join(part.capitalize() for part in operation.split("_"))
            raise error


class FakeS3(Service):
    service = "s3"

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, dict[str, Any]] = {}

    def put(self, key: str, data: bytes, **more: Any) -> None:
        metadata = {"sha256": hashlib.sha256(data).hexdigest()}
        self.objects[key] = {"Body": data, "Metadata": metadata, "ChecksumSHA256": f"sum-{key}", **more}

    def get_object(self, **given: Any) -> dict[str, Any]:
        self._enter("get_object", given)
        if given["Key"] not in self.objects:
            raise client_error("NoSuchKey", operation="GetObject")
        data = self.objects[given["Key"]]["Body"]
        return {"ContentLength": len(data), "Body": io.BytesIO(data)}

    def head_object(self, **given: Any) -> dict[str, Any]:
        self._enter("head_object", given)
        if given["Key"] not in self.objects:
            raise client_error("404", operation="HeadObject")
        found = dict(self.objects[given["Key"]])
        if given.get("ChecksumMode") != "ENABLED":
            del found["ChecksumSHA256"]
        return {"ContentLength": len(found.pop("Body")), **found}

    def delete_object(self, **given: Any) -> None:
        self._enter("delete_object", given)
        self.objects.pop(given["Key"], None)

    def delete_objects(self, **given: Any) -> dict[str, Any]:
        self._enter("delete_objects", given)
        for item in given["Delete"]["Objects"]:
            self.objects.pop(item["Key"], None)
        return {}

    def get_paginator(self, operation: str) -> Any:
        def paginate(**given: Any) -> Iterator[dict[str, Any]]:
            self._enter(operation, given)
            rows = [{"Key": key} for key in sorted(self.objects) if key.startswith(given["Prefix"])]
            yield from ({"Contents": [row]} for row in rows)

        return SimpleNamespace(paginate=paginate)


class FakeEc2(Service):
    """`refusals` are codes by (instance type, subnet); None stands for any. `on_start` is called after each start."""

    service = "ec2"

    def __init__(self) -> None:
        super().__init__()
        self.instances: dict[str, dict[str, Any]] = {}
        self.refusals: dict[tuple[str | None, str | None], str] = {}
        self.spot_refusals: dict[tuple[str | None, str | None], str] = {}
        self.on_start: Callable[[], None] = lambda: None
        self.clock: Callable[[], datetime] = lambda: START
        self.hidden: set[str] = set()
        self._tokens: dict[str, str] = {}

    def run_instances(self, **given: Any) -> dict[str, Any]:
        self._enter("run_instances", given)
        kind, subnet = given["InstanceType"], given["SubnetId"]
        spot = "InstanceMarketOptions" in given
        refusals = {**self.refusals, **(self.spot_refusals if spot else {})}
        for pair in ((kind, subnet), (kind, None), (None, subnet), (None, None)):
            if pair in refusals:
                raise client_error(refusals[pair], "refused", "RunInstances")
        token = given["ClientToken"]
        if token not in self._tokens:
            name = f"i-{len(self.instances):04d}"
            self._tokens[token] = name
            self.instances[name] = {
                "InstanceId": name,
                "InstanceType": kind,
                "SubnetId": subnet,
                "LaunchTime": self.clock(),
                "State": {"Name": "pending"},
                "Tags": given["TagSpecifications"][0]["Tags"],
                **({"InstanceLifecycle": "spot"} if spot else {}),
            }
        self.on_start()
        return {"Instances": [self.instances[self._tokens[token]]]}

    def describe_instances(self, **given: Any) -> dict[str, Any]:
        self._enter("describe_instances", given)
        (name,) = given["InstanceIds"]
        if name not in self.instances:
            raise client_error("InvalidInstanceID.NotFound", operation="DescribeInstances")
        return {"Reservations": [{"Instances": [self.instances[name]]}]}

    def get_paginator(self, operation: str) -> Any:
        def paginate(**given: Any) -> Iterator[dict[str, Any]]:
            self._enter(operation, given)
            for name, instance in self.instances.items():
                if name not in self.hidden and all(self._matches(instance, one) for one in given["Filters"]):
                    yield {"Reservations": [{"Instances": [instance]}]}

        return SimpleNamespace(paginate=paginate)

    def terminate_instances(self, **given: Any) -> None:
        self._enter("terminate_instances", given)
        for name in given["InstanceIds"]:
            if name not in self.instances:
                raise client_error("InvalidInstanceID.NotFound", operation="TerminateInstances")
            self.end(name, "Client.UserInitiatedShutdown")

    def describe_subnets(self, **given: Any) -> dict[str, Any]:
        self._enter("describe_subnets", given)
        rows = [{"SubnetId": name, "AvailabilityZone": f"us-east-1{name[-1]}"} for name in given["SubnetIds"]]
        return {"Subnets": rows}

    def add(self, name: str, *, tags: Mapping[str, str], age: timedelta = timedelta(), state: str = "running") -> None:
        self.instances[name] = {
            "InstanceId": name,
            "InstanceType": "inf2.24xlarge",
            "SubnetId": "subnet-a",
            "LaunchTime": self.clock() - age,
            "State": {"Name": state},
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }

    def end(self, name: str, code: str = "Server.SpotInstanceTermination", state: str = "terminated") -> None:
        reason = {"Code": code, "Message": f"{code}: it ended"}
        self.instances[name] |= {"State": {"Name": state}, "StateReason": reason}

    @property
    def live(self) -> list[str]:
        return [name for name, one in self.instances.items() if one["State"]["Name"] in {"pending", "running"}]

    @staticmethod
    def _matches(instance: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        if wanted["Name"] == "instance-state-name":
            return instance["State"]["Name"] in wanted["Values"]
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        return tags.get(wanted["Name"].removeprefix("tag:")) in wanted["Values"]


class FakeSsm(Service):
    service = "ssm"

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[str, str] = {}
        self.pings: dict[str, str] = {}
        self.commands: list[dict[str, Any]] = []
        self.invocation: dict[str, Any] | None = None

    def get_parameter(self, **given: Any) -> dict[str, Any]:
        self._enter("get_parameter", given)
        if given["Name"] not in self.parameters:
            raise client_error("ParameterNotFound", operation="GetParameter")
        return {"Parameter": {"Value": self.parameters[given["Name"]]}}

    def put_parameter(self, **given: Any) -> None:
        self._enter("put_parameter", given)
        assert given["Overwrite"] is True
        self.parameters[given["Name"]] = given["Value"]

    def delete_parameter(self, **given: Any) -> None:
        self._enter("delete_parameter", given)
        if self.parameters.pop(given["Name"], None) is None:
            raise client_error("ParameterNotFound", operation="DeleteParameter")

    def get_paginator(self, operation: str) -> Any:
        def paginate(**given: Any) -> Iterator[dict[str, Any]]:
            self._enter(operation, given)
            assert given["Recursive"] is True
            for name, value in list(self.parameters.items()):
                if name.startswith(given["Path"] + "/"):
                    yield {"Parameters": [{"Name": name, "Value": value}]}

        return SimpleNamespace(paginate=paginate)

    def describe_instance_information(self, **given: Any) -> dict[str, Any]:
        self._enter("describe_instance_information", given)
        (name,) = given["Filters"][0]["Values"]
        known = [{"InstanceId": name, "PingStatus": self.pings[name]}] if name in self.pings else []
        return {"InstanceInformationList": known}

    def list_commands(self, **given: Any) -> dict[str, Any]:
        self._enter("list_commands", given)
        return {"Commands": [one for one in self.commands if given["InstanceId"] in one["InstanceIds"]]}

    def send_command(self, **given: Any) -> dict[str, Any]:
        self._enter("send_command", given)
        command = {**given, "CommandId": f"{len(self.commands):08d}-0000-4000-8000-000000000000"}
        self.commands.append(command)
        return {"Command": command}

    def get_command_invocation(self, **given: Any) -> dict[str, Any]:
        self._enter("get_command_invocation", given)
        if self.invocation is None:
            raise client_error("InvocationDoesNotExist", operation="GetCommandInvocation")
        return self.invocation


class FakeEcr(Service):
    service = "ecr"

    def __init__(self) -> None:
        super().__init__()
        self.answer: dict[str, Any] = {"images": [{"imageId": {"imageDigest": DIGEST}}], "failures": []}

    def batch_get_image(self, **given: Any) -> dict[str, Any]:
        self._enter("batch_get_image", given)
        return self.answer


class FakeStepFunctions(Service):
    service = "stepfunctions"

    def __init__(self) -> None:
        super().__init__()
        self.executions: dict[str, dict[str, Any]] = {}

    def add(self, name: str, status: str = "RUNNING", *, started: datetime = START, **more: Any) -> str:
        arn = f"{MACHINE.replace('stateMachine', 'execution')}:{name}"
        self.executions[arn] = {
            "executionArn": arn,
            "name": name,
            "status": status,
            "startDate": started,
            "input": json.dumps({"deployment": "mixtral"}),
            **more,
        }
        return arn

    def start_execution(self, **given: Any) -> dict[str, Any]:
        self._enter("start_execution", given)
        return {"executionArn": self.add(given["name"], input=given["input"])}

    def describe_execution(self, **given: Any) -> dict[str, Any]:
        self._enter("describe_execution", given)
        if given["executionArn"] not in self.executions:
            raise client_error("ExecutionDoesNotExist", operation="DescribeExecution")
        return self.executions[given["executionArn"]]

    def stop_execution(self, **given: Any) -> None:
        self._enter("stop_execution", given)
        self.executions[given["executionArn"]]["status"] = "ABORTED"

    def list_executions(self, **given: Any) -> dict[str, Any]:
        """One a page."""
        self._enter("list_executions", given)
        rows = sorted(self.executions.values(), key=lambda row: row["startDate"], reverse=True)
        rows = [row for row in rows if given.get("statusFilter") in {None, row["status"]}]
        at = int(given.get("nextToken", 0))
        more = {"nextToken": str(at + 1)} if at + 1 < len(rows) else {}
        return {"executions": rows[at : at + 1], **more}


class FakeSageMaker(Service):
    """`models` are descriptions by name."""

    service = "sagemaker"

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, Any]] = {}
        self.vanished: set[str] = set()

    def get_paginator(self, operation: str) -> Any:
        def paginate(**given: Any) -> Iterator[dict[str, Any]]:
            self._enter(operation, given)
            yield from ({"Models": [{"ModelName": name}]} for name in [*self.vanished, *self.models])

        return SimpleNamespace(paginate=paginate)

    def describe_model(self, **given: Any) -> dict[str, Any]:
        self._enter("describe_model", given)
        if given["ModelName"] not in self.models:
            raise client_error("ValidationException", "Could not find model", "DescribeModel")
        return self.models[given["ModelName"]]


class FakeCloudFormation(Service):
    service = "cloudformation"

    def __init__(self) -> None:
        super().__init__()
        self.status = "DELETE_IN_PROGRESS"

    def describe_stacks(self, **given: Any) -> dict[str, Any]:
        self._enter("describe_stacks", given)
        return {"Stacks": [{"StackStatus": self.status}]}


class Recorder(Service):
    """A service of which nothing is asked but that it takes what it is given."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def __getattr__(self, operation: str) -> Any:
        def call(**given: Any) -> dict[str, Any]:
            self._enter(operation, given)
            return {}

        return call


class FakeAws:
    """Stands for `compiled_artifact.aws.Clients`."""

    def __init__(self) -> None:
        self.s3, self.ec2, self.ssm, self.registry = FakeS3(), FakeEc2(), FakeSsm(), FakeEcr()
        self.ec2_once, self.ssm_once = self.ec2, self.ssm
        self.sagemaker, self.cloudformation = FakeSageMaker(), FakeCloudFormation()
        self.stepfunctions = FakeStepFunctions()
        self.sns, self.cloudwatch, self.events = Recorder("sns"), Recorder("cloudwatch"), Recorder("events")
        self.regions: list[str] = []

    def ecr(self, region: str) -> FakeEcr:
        self.regions.append(region)
        return self.registry

    def metrics(self) -> list[tuple[str, float, str]]:
        """Name, value and step of each metric."""
        found = []
        for given in self.cloudwatch.called("put_metric_data"):
            assert given["Namespace"] == "Modelzone/Compile"
            for one in given["MetricData"]:
                dimensions = {item["Name"]: item["Value"] for item in one["Dimensions"]}
                assert dimensions["Environment"] == "dev"
                found.append((one["MetricName"], one["Value"], dimensions.get("Step", "")))
        return found

    def told(self) -> list[tuple[str, str]]:
        """Step and status of each event."""
        found = []
        for given in self.events.called("put_events"):
            for entry in given["Entries"]:
                assert (entry["Source"], entry["DetailType"]) == ("modelzone.compile", "Compile Step")
                detail = json.loads(entry["Detail"])
                found.append((detail["step"], detail["status"]))
        return found

    def notices(self) -> list[dict[str, str]]:
        return self.sns.called("publish")


class Machine:
    """Does one step after another as the state machine would, with a clock that can be moved."""

    def __init__(self, settings: Settings = SETTINGS, **ordered: Any) -> None:
        self.aws = FakeAws()
        self.settings = settings
        self.now = START
        self.aws.ec2.clock = lambda: self.now
        self.aws.ssm.parameters[f"{settings.orders_path}/mixtral"] = json.dumps(order(**ordered))
        self.state: dict[str, Any] = {"deployment": "mixtral"}
        self.execution: dict[str, str] = dict(EXECUTION)
        self.aws.stepfunctions.add(NAME)
        self.seconds_left = 300.0

    def step(self, name: str, **state: Any) -> dict[str, Any]:
        self.state = self.event({"step": name, "execution": self.execution, "state": {**self.state, **state}})
        return self.state

    def steps(self, *names: str) -> dict[str, Any]:
        for name in names:
            self.step(name)
        return self.state

    def event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        # As JSON, since that is how the state travels.
        result = perform(
            json.loads(json.dumps(event)),
            settings=self.settings,
            clients=self.aws,  # type: ignore[arg-type]
            now=lambda: self.now,
            sleep=self.pass_time,
            seconds_left=lambda: self.seconds_left,
        )
        return json.loads(json.dumps(result))

    def pass_time(self, seconds: float = 0, **more: float) -> None:
        self.now += timedelta(seconds=seconds, **more)

    def online(self) -> None:
        """A host with an agent."""
        self.steps("look", "start-host")
        self.aws.ec2.instances[self.host]["State"]["Name"] = "running"
        self.aws.ssm.pings[self.host] = "Online"
        self.step("wait-for-agent")

    def running(self, status: str = "InProgress", **invocation: Any) -> None:
        """A command that runs on it."""
        self.online()
        self.step("run")
        self.invocation(status, **invocation)

    def invocation(self, status: str, **more: Any) -> None:
        self.aws.ssm.invocation = {"Status": status, "StatusDetails": status, **more}

    def progress(self, **more: Any) -> None:
        value = {"key": KEY, "step": "export", "state": "running", "steps": {}, "updated": self.now.isoformat(), **more}
        self.aws.ssm.parameters[f"{self.settings.progress_path}/{KEY}"] = json.dumps(value)

    @property
    def host(self) -> str:
        return str(self.state["host"]["instance_id"])


def manifest(**overrides: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "facts": FACTS,
        "key": KEY,
        "created": "2026-11-21T10:40:00Z",
        "objects": [
            {
                "path": path,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "s3_checksum": f"sum-{PREFIX}{path}",
            }
            for path, data in OBJECTS.items()
        ],
        "producer": {"tool": "compile_job", "image": IMAGE, "image_digest": DIGEST},
        **overrides,
    }


def publish(s3: FakeS3, **overrides: Any) -> str:
    """Put a complete artifact there; returns the manifest's SHA-256."""
    for path, data in OBJECTS.items():
        s3.put(PREFIX + path, data)
    raw = json.dumps(manifest(**overrides)).encode()
    s3.put(PREFIX + "manifest.json", raw)
    return hashlib.sha256(raw).hexdigest()


def publish_weights(s3: FakeS3) -> None:
    prefix = weights_prefix(FACTS)
    data = b"weights"
    s3.put(prefix + "model.safetensors", data)
    rows = [{"path": "model.safetensors", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    s3.put(prefix + "manifest.json", json.dumps({"format": 1, "kind": "weights", "objects": rows}).encode())
