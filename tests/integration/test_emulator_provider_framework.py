"""CDK's framework for custom resources that take long: its own Node functions and its waiting state machine."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_
from aws_cdk import custom_resources
from integration.test_emulator_support import RunningEmulator, Stacks, running_emulator

ASSETS = "cdk-hnb659fds-assets-000000000000-us-east-1"

CODE = """
import time

def on_event(event, context):
    properties = event["ResourceProperties"]
    if event["RequestType"] == "Delete":
        return {"PhysicalResourceId": event["PhysicalResourceId"]}
    return {"PhysicalResourceId": f"{time.time() + float(properties['Seconds'])} {properties['Name']}"}

def is_complete(event, context):
    if event["RequestType"] == "Delete":
        return {"IsComplete": True}
    if event["ResourceProperties"].get("Fail") == "true":
        raise RuntimeError("the compile failed: step 'export' failed: out of memory")
    until = float(event["PhysicalResourceId"].split()[0])
    return {"IsComplete": time.time() > until, **({"Data": {"Artifact": "s3://b/c/"}} if time.time() > until else {})}
"""


class Waiting(cdk.Stack):
    def __init__(self, scope: cdk.App, name: str, code: Path, **properties: Any) -> None:
        super().__init__(
            scope,
            name,
            synthesizer=cdk.DefaultStackSynthesizer(generate_bootstrap_version_rule=False),
            env=cdk.Environment(account="000000000000", region="us-east-1"),
        )
        on_event, is_complete = (
            lambda_.Function(
                self,
                part,
                runtime=lambda_.Runtime.PYTHON_3_13,
                handler=f"code.{part}",
                code=lambda_.Code.from_asset(str(code)),
                timeout=cdk.Duration.seconds(30),
            )
            for part in ("on_event", "is_complete")
        )
        provider = custom_resources.Provider(
            self,
            "Provider",
            on_event_handler=on_event,
            is_complete_handler=is_complete,
            query_interval=cdk.Duration.seconds(20),
            total_timeout=cdk.Duration.minutes(55),
        )
        resource = cdk.CustomResource(
            self,
            "Compilation",
            service_token=provider.service_token,
            resource_type="Custom::ArtifactCompilation",
            properties={"Name": "window 1 of 2", "Seconds": "2", **properties},
        )
        cdk.CfnOutput(self, "Id", value=resource.ref)
        cdk.CfnOutput(self, "Artifact", value=resource.get_att_string("Artifact"))


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("assembly")
    code = folder / "code"
    code.mkdir()
    (code / "code.py").write_text(CODE)
    app = cdk.App(outdir=str(folder / "cdk.out"))
    Waiting(app, "works", code)
    Waiting(app, "fails", code, Fail="true")
    app.synth()
    return {name: folder / "cdk.out" / f"{name}.template.json" for name in ("works", "fails")}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, templates: dict[str, Path]) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("framework")) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket=ASSETS)
        for template in templates.values():
            assets = json.loads(template.with_name(f"{template.name.split('.')[0]}.assets.json").read_text())
            for asset in assets["files"].values():
                source = template.parent / asset["source"]["path"]
                if asset["source"]["packaging"] == "zip":
                    (destination,) = asset["destinations"].values()
                    s3.put_object(Bucket=ASSETS, Key=destination["objectKey"], Body=zipped(source))
        yield running


def zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def deploy(emulator: RunningEmulator, template: Path, name: str) -> str:
    emulator.client("cloudformation").create_stack(
        StackName=name, TemplateBody=template.read_text(), Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    return Stacks(emulator).settled(name, seconds=90)


def test_a_resource_that_takes_long_is_waited_for(emulator: RunningEmulator, templates: dict[str, Path]) -> None:
    stacks, began = Stacks(emulator), time.monotonic()
    assert deploy(emulator, templates["works"], "works") == "CREATE_COMPLETE", stacks.failures("works")
    assert time.monotonic() - began > 2
    outputs = stacks.outputs("works")
    assert outputs["Id"].endswith("window 1 of 2")
    assert outputs["Artifact"] == "s3://b/c/"
    stacks.delete("works")


def test_a_failure_fails_the_stack_with_its_message(emulator: RunningEmulator, templates: dict[str, Path]) -> None:
    assert deploy(emulator, templates["fails"], "fails") == "ROLLBACK_COMPLETE"
    assert any("step 'export' failed: out of memory" in reason for reason in Stacks(emulator).failures("fails"))
