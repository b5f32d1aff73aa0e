"""The main job: from nothing to a streamed answer through the deployed API."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from modelzone.client import Client, Conversation, Turn
from modelzone.errors import ModelzoneError
from modelzone.keys import Keys
from modelzone.local.cdk_cli import CdkCli
from modelzone.local.processes import MemoryWatch, aws_environment, running_emulator, start_emulator
from modelzone.local.weights import mirror_weights
from modelzone.local.workspace import ACCOUNT, EmulatorState, Workspace
from modelzone.planning import EnvironmentPlan, plan_environment

__all__ = ["Embedded", "MainJob", "run_main_job"]

_MIB_IN_GIB = 1024
# Whose key is made, where the environment has it.
_TENANT = "default"


@dataclass(frozen=True)
class Embedded:
    """A running embedded AWS with an environment deployed on it."""

    workspace: Workspace
    plan: EnvironmentPlan
    state: EmulatorState

    @property
    def region(self) -> str:
        """The environment's region."""
        return self.plan.environment.region

    def client(self, service: str) -> Any:
        """A boto3 client of the emulator."""
        # Any service by name: the stubs' overloads take literals only.
        create: Any = boto3.client
        return create(
            service,
            endpoint_url=self.state.url,
            region_name=self.region,
            aws_access_key_id=ACCOUNT,
            aws_secret_access_key="embedded",  # noqa: S106 - the emulator takes any
        )

    @property
    def takes_keys(self) -> bool:
        """Whether this project's keys open the gateway."""
        return self.plan.environment.access.method == "keys"

    def set_faults(self, faults: Mapping[str, Any]) -> None:
        """Let things go wrong from now on, until others or none are set; `modelzone.local.host.faults` has them."""
        file = self.workspace.folder / "faults.json"
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(dict(faults)), encoding="utf-8")
        draft.replace(file)

    def stack_name(self, suffix: str) -> str:
        """CloudFormation's name of one of the environment's stacks."""
        return f"modelzone-{self.plan.environment.name}-{suffix}"

    def outputs(self, suffix: str) -> dict[str, str]:
        """Outputs of a stack.

        Raises
        ------
        ModelzoneError
            The stack does not exist.
        """
        name = self.stack_name(suffix)
        formation = self.client("cloudformation")
        try:
            stack = formation.describe_stacks(StackName=name)["Stacks"][0]
        except formation.exceptions.ClientError as error:
            raise ModelzoneError(f"stack {name}: {error}; run: make local") from None
        return {row["OutputKey"]: row["OutputValue"] for row in stack.get("Outputs", [])}

    @cached_property
    def base_url(self) -> str:
        """The OpenAI base URL of the deployed API.

        The stack's output points at amazonaws.com; the emulator serves the same API under a path of its own.
        """
        gateway = self.outputs("gateway")
        return f"{self.state.url}/_aws/execute-api/{gateway['ApiId']}/{gateway['StageName']}/v1"

    @cached_property
    def api_key(self) -> str:
        """The token of a key of this environment: the one that an earlier run made, or a new one.

        Raises
        ------
        ModelzoneError
            The environment's gateway takes no keys, or is not deployed.
        """
        access = self.plan.environment.access
        if not self.takes_keys:
            raise ModelzoneError(
                f"environment {self.plan.environment.name} has access.method {access.method}: its gateway takes no "
                "keys\n  fix: name an environment with access.method: keys"
            )
        table = self.outputs("gateway").get("KeysTableName")
        if table is None:
            raise ModelzoneError(f"stack {self.stack_name('gateway')} has no output KeysTableName; run: make local")
        keys = Keys(self.client("dynamodb"), table, tenants=access.tenants)
        kept = self._read_token()
        key = keys.check(kept) if kept else None
        # An emulator that was started anew knows none of the keys that an earlier one had.
        if kept and key is not None and key.works(keys.now) and key.tenant in access.tenants:
            return kept
        tenant = _TENANT if _TENANT in access.tenants else next(iter(access.tenants))
        _, token = keys.create(tenant, label="make local")
        self._keep_token(token.text)
        return token.text

    @property
    def _token_file(self) -> Path:
        return self.workspace.folder / f"api-key-{self.plan.environment.name}"

    def _read_token(self) -> str:
        try:
            return self._token_file.read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def _keep_token(self, token: str) -> None:
        self.workspace.folder.mkdir(parents=True, exist_ok=True)
        draft = self._token_file.with_suffix(".tmp")
        draft.unlink(missing_ok=True)
        # Its owner's alone from the first byte on.
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(token)
        draft.replace(self._token_file)


class MainJob:
    """The steps of ``make local``, each of which finds and keeps what an earlier run has done."""

    def __init__(self, workspace: Workspace, *, environment: str) -> None:
        self._workspace = workspace
        self._environment = environment
        self.plan = plan_environment(workspace.root, environment)

    def start(self) -> Embedded:
        """Have an emulator running."""
        state = running_emulator(self._workspace)
        if state is None:
            state = start_emulator(self._workspace)
            _say(f"emulator started on port {state.port}")
        else:
            _say(f"emulator already runs on port {state.port}")
        return Embedded(self._workspace, self.plan, state)

    def cdk(self, embedded: Embedded) -> CdkCli:
        """The CDK CLI, pointed at the emulator."""
        return self._cdk(aws_environment(region=embedded.region, endpoint_url=embedded.state.url), log="cdk.log")

    def synth(self) -> None:
        """Write the cloud assembly. It needs no AWS, so there is none in its environment."""
        environment = aws_environment(region=self.plan.environment.region, endpoint_url=None)
        self._cdk(environment, log="cdk-synth.log").synth({"environment": self._environment})

    def prepare(self) -> tuple[Embedded, CdkCli]:
        """Start, bootstrap the account and synthesise the application, at the same time where that is possible."""
        with ThreadPoolExecutor(1) as pool:
            synth = pool.submit(self.synth)
            embedded = self.start()
            cdk = self.cdk(embedded)
            cdk.bootstrap(ACCOUNT, embedded.region)
            synth.result()
        return embedded, cdk

    def _cdk(self, environment: Mapping[str, str], *, log: str) -> CdkCli:
        return CdkCli(
            root=self._workspace.root,
            assembly=self._workspace.assembly,
            environment=environment,
            log=self._workspace.logs / log,
        )

    def deploy(self, embedded: Embedded, cdk: CdkCli) -> None:
        """Deploy what deployments need, store a token of the hub, then deploy them, which compiles their models."""
        # The gateway comes now because it can be deployed beside the others; the deployments depend on it anyway.
        cdk.deploy(["CompileStack", "GatewayStack"])
        self.store_token(embedded)
        for plan in self.plan.deployments:
            if plan.compile.weights_source == "s3":
                bucket = embedded.outputs("model-store")["ModelBucketName"]
                _say(
                    f"weights of {plan.name}: {mirror_weights(embedded.client('s3'), bucket=bucket, facts=plan.facts)}"
                )
        cdk.deploy([plan.stack_id for plan in self.plan.deployments])
        for plan in self.plan.deployments:
            _say(describe_compilation(embedded, plan.name))

    def store_token(self, embedded: Embedded, token: str | None = None) -> None:
        """As an operator does before gated models are compiled; the stand-in for the hub takes any token."""
        if not any(plan.model.gated for plan in self.plan.deployments):
            return
        embedded.client("secretsmanager").put_secret_value(
            SecretId=embedded.outputs("model-store")["HubTokenSecretArn"],
            SecretString=token or f"hf_{secrets.token_hex(16)}",
        )


def describe_compilation(embedded: Embedded, deployment: str) -> str:
    """How the artifact that a deployment serves came about, in one line."""
    uri = embedded.outputs(f"deployment-{deployment}")["ArtifactUri"]
    states = embedded.client("stepfunctions")
    machine = embedded.outputs("compile")["StateMachineArn"]
    key = uri.rstrip("/").rpartition("/")[2]
    for execution in states.list_executions(stateMachineArn=machine, statusFilter="SUCCEEDED")["executions"]:
        if f"-{key}-" in execution["name"]:
            output = json.loads(states.describe_execution(executionArn=execution["executionArn"])["output"])
            if host := output.get("host"):
                where = f"on an {host['instance_type']} ({host['purchase']}), which is terminated"
                return f"{deployment}: {uri} compiled in {output['seconds']:.1f} s {where}; {execution['name']}"
    return f"{deployment}: {uri} was there"


def ask(embedded: Embedded, *, prompt: str, model: str) -> Turn:
    """Send one streamed chat request through the deployed API and show the answer as it comes.

    Raises
    ------
    ModelzoneError
        The API refuses, or the answer breaks off.
    """
    _say(f"POST {embedded.base_url}/chat/completions  model={model}")
    _write(f"\n  you    {prompt}\n  model  ")
    notes: list[str] = []
    with Client(embedded.base_url, embedded.api_key, sleep=_wait) as client:
        turn = Conversation(client, model=model, note=notes.append).ask(prompt, on_text=_write)
    _write("\n\n")
    for note in notes:
        _say(note)
    if turn.stopped:
        raise KeyboardInterrupt
    if not turn.pieces:
        raise ModelzoneError(f"{model} answered nothing; its logs: {embedded.workspace.logs}")
    _say(
        f"streamed in {turn.pieces} pieces, the first after {(turn.first_seconds or 0) * 1000:.0f} ms, "
        f"all after {turn.total_seconds * 1000:.0f} ms, finish_reason {turn.answer.finish_reason}"
    )
    return turn


def run_main_job(workspace: Workspace, *, environment: str, prompt: str) -> None:
    """Run ``make local``: start, deploy, ask, and say where things are.

    Raises
    ------
    ModelzoneError
        A step failed.
    """
    started = time.monotonic()
    with workspace.lock(), MemoryWatch(workspace) as memory:
        job = MainJob(workspace, environment=environment)
        with _step("embedded AWS, cdk bootstrap and synth"):
            embedded, cdk = job.prepare()
        with _step("cdk deploy"):
            job.deploy(embedded, cdk)
        if embedded.takes_keys:
            for plan in job.plan.deployments:
                ask(embedded, prompt=prompt, model=plan.name)
    _say(f"done in {time.monotonic() - started:.0f} s, peak memory {memory.peak_mib / _MIB_IN_GIB:.2f} GiB")
    describe(embedded)


def describe(embedded: Embedded) -> None:
    """Print where things are, with lines to paste for OpenAI's clients."""
    rows = [("OpenAI base URL", embedded.base_url)]
    if embedded.takes_keys:
        key = embedded.api_key
        rows += [
            ("API key", key),
            ("OpenAI clients", f"export OPENAI_BASE_URL={embedded.base_url}"),
            ("", f"export OPENAI_API_KEY={key}"),
        ]
    rows += [
        (f"endpoint of {plan.name}", embedded.outputs(f"deployment-{plan.name}")["EndpointName"])
        for plan in embedded.plan.deployments
    ]
    rows += [
        (
            "AWS endpoint",
            f"AWS_ENDPOINT_URL={embedded.state.url} AWS_ACCESS_KEY_ID={ACCOUNT} AWS_SECRET_ACCESS_KEY=any",
        ),
        ("logs", str(embedded.workspace.logs)),
        ("ask again", f'{Path(sys.executable).parent / "modelzone"} local chat "your question"'),
        ("stop", "make local-down"),
    ]
    width = max(len(name) for name, _ in rows)
    _write("".join(f"  {name:<{width}}  {value}\n" for name, value in rows))


@contextmanager
def _step(name: str) -> Iterator[None]:
    _say(f"{name} …")
    started = time.monotonic()
    yield
    _say(f"{name}: {time.monotonic() - started:.1f} s")


def _wait(seconds: float) -> None:
    _say(f"the API asks to wait {seconds:.0f} s")
    time.sleep(seconds)


def _say(text: str) -> None:
    _write(f"[local] {text}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
