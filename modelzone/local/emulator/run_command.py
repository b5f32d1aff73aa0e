"""Run Command of Systems Manager: documents' scripts run as processes on emulated hosts, as the agent runs them.

A command on a host that ends stays ``InProgress``, since nobody is left to report; Systems Manager gives it up as
``TimedOut`` (``ExecutionTimedOut``) when delivery and execution timeouts are over. While the agent is lost, nothing is
reported either, but the script runs on, and what became of it is reported when the agent is back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from ministack.core.responses import get_account_id, get_region
from ministack.services import ec2

from modelzone.local.emulator import seams
from modelzone.local.emulator.bridge import HandlerResponse, client
from modelzone.local.emulator.command_log import CommandLog
from modelzone.local.emulator.hosts import EmulatedHost, Hosts
from modelzone.local.emulator.settings import EmulatorSettings
from modelzone.local.emulator.ssm_documents import BUILT_IN, DocumentRefused, Script, render

__all__ = ["AGENT_SECONDS", "OPERATIONS", "RunCommand"]

AGENT_SECONDS = 0.5
"""How long after its launch a host's agent is online."""

OPERATIONS = frozenset(
    {
        "SendCommand",
        "CancelCommand",
        "GetCommandInvocation",
        "ListCommands",
        "ListCommandInvocations",
        "DescribeInstanceInformation",
    }
)
"""What is answered here; everything else of SSM is MiniStack's or moto's."""

_PLUGIN = "aws:runShellScript"
_PLUGIN_FOLDER = "aws-runShellScript"
_MAX_STDOUT, _MAX_STDERR, _MAX_LISTED = 24_000, 8_000, 2_500
_DELIVERY_TIMEOUT_S = 3600
_POLL_S = 0.05
_CANCEL_GRACE_S = 10.0
_STOPPED_STATUS = 137
_FINAL = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})

logger = logging.getLogger("modelzone.emulator.run_command")


@dataclass(kw_only=True)
class _Invocation:
    """A command on one host, as Systems Manager knows it."""

    instance_id: str
    scripts: tuple[Script, ...]
    status: str = "Pending"
    details: str = "Pending"
    response_code: int = -1
    started: float | None = None
    ended: float | None = None
    stdout: str = ""
    stderr: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def settle(self, status: str, *, details: str = "", response_code: int = -1) -> None:
        """Record how it ended."""
        self.status, self.details, self.response_code = status, details or status, response_code
        self.ended = time.time()


@dataclass(kw_only=True)
class _Command:
    """A command and where it runs."""

    command_id: str
    account: str
    region: str
    request: Mapping[str, Any]
    requested: float
    delivery_timeout_s: float
    invocations: dict[str, _Invocation]

    def refresh(self) -> None:
        """Give up what nobody has reported in time."""
        now = time.time()
        for invocation in self.invocations.values():
            limit = self.delivery_timeout_s + sum(script.timeout_s for script in invocation.scripts)
            if invocation.status in {"InProgress", "Cancelling"} and now > self.requested + limit:
                invocation.settle("TimedOut", details="ExecutionTimedOut")

    @property
    def status(self) -> tuple[str, str]:
        """Status and details of the whole."""
        states = [invocation.status for invocation in self.invocations.values()]
        for status in ("InProgress", "Cancelling", "Pending", "Failed", "TimedOut", "Cancelled"):
            if status in states:
                of_it = [i.details for i in self.invocations.values() if i.status == status]
                return status, of_it[0]
        return "Success", "Success"


class RunCommand:
    """Answers the operations of `OPERATIONS`."""

    def __init__(self, *, settings: EmulatorSettings, hosts: Hosts) -> None:
        self._settings, self._hosts = settings, hosts
        self._commands: dict[str, _Command] = {}

    async def __call__(self, operation: str, body: bytes) -> HandlerResponse:
        """Answer an operation."""
        request = json.loads(body or b"{}")
        operations: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "SendCommand": self._send,
            "CancelCommand": self._cancel,
            "GetCommandInvocation": self._get_invocation,
            "ListCommands": self._list_commands,
            "ListCommandInvocations": self._list_invocations,
            "DescribeInstanceInformation": self._describe_information,
        }
        try:
            answer = await asyncio.to_thread(operations[operation], request)
        except DocumentRefused as refused:
            kind = {"__type": refused.code, "message": str(refused), "Message": str(refused)}
            return 400, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(kind).encode()
        return 200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()

    # Agents -----------------------------------------------------------------------------------------------------------

    def _ping(self, host: EmulatedHost) -> str | None:
        """The agent's PingStatus, None while Systems Manager does not know the host."""
        fault = self._hosts.faults().agent
        if not host.running or fault == "never" or time.time() < host.launched + AGENT_SECONDS:
            return None
        return "ConnectionLost" if fault == "lost" else "Online"

    def _describe_information(self, request: dict[str, Any]) -> dict[str, Any]:
        wanted = _filters(request)
        rows = []
        for host in self._hosts.all():
            launch, ping = host.launch, self._ping(host)
            if ping is None or (launch.account, launch.region) != (get_account_id(), get_region()):
                continue
            record = seams.attribute(ec2, "_instances").get(launch.instance_id) or {}
            row = {
                "InstanceId": launch.instance_id,
                "PingStatus": ping,
                "LastPingDateTime": time.time(),
                "AgentVersion": "3.3.2299.0",
                "IsLatestVersion": True,
                "PlatformType": "Linux",
                "PlatformName": "Ubuntu",
                "PlatformVersion": "22.04",
                "ResourceType": "EC2Instance",
                "IPAddress": record.get("PrivateIpAddress", ""),
                "ComputerName": record.get("PrivateDnsName", ""),
                "SourceId": launch.instance_id,
                "SourceType": "AWS::EC2::Instance",
            }
            tags = {tag["Key"]: tag["Value"] for tag in seams.attribute(ec2, "_tags").get(launch.instance_id, [])}
            searched = {"InstanceIds": launch.instance_id, **row, **{f"tag:{key}": tags[key] for key in tags}}
            if all(str(searched.get(name)) in values for name, values in wanted.items()):
                rows.append(row)
        return {"InstanceInformationList": rows}

    # Commands ---------------------------------------------------------------------------------------------------------

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        name = str(request.get("DocumentName") or "").rpartition("document/")[2]
        content = self._content(name, request.get("DocumentVersion") or "$DEFAULT")
        targets = self._targets(request)
        hosts = {host.launch.instance_id: host for host in self._hosts.all()}
        reachable = {instance_id for instance_id in targets if (host := hosts.get(instance_id)) and self._ping(host)}
        if not targets or set(targets) - reachable:
            raise DocumentRefused(
                "InvalidInstanceId",
                f"Instances [[{', '.join(sorted(set(targets) - reachable))}]] not in a valid state for account "
                f"{get_account_id()}",
            )
        parameters = request.get("Parameters") or {}
        command = _Command(
            command_id=str(uuid.uuid4()),
            account=get_account_id(),
            region=get_region(),
            request={**request, "DocumentName": name},
            requested=time.time(),
            delivery_timeout_s=float(request.get("TimeoutSeconds") or _DELIVERY_TIMEOUT_S),
            invocations={},
        )
        for instance_id in targets:
            host = hosts[instance_id]
            render(name, content, parameters)  # what the service checks, before it knows of any host
            local = {
                key: [host.localize_encoded(value) for value in _listed(values)] for key, values in parameters.items()
            }
            scripts = tuple(
                Script(name=script.name, text=host.localize(script.text), timeout_s=script.timeout_s)
                for script in render(name, _without_limits(content), local)
            )
            command.invocations[instance_id] = _Invocation(instance_id=instance_id, scripts=scripts)
        self._commands[command.command_id] = command
        answer = {"Command": self._described(command)}
        for instance_id, invocation in command.invocations.items():
            threading.Thread(
                target=self._run,
                args=(command, invocation, hosts[instance_id]),
                name=f"command-{command.command_id[:8]}",
                daemon=True,
            ).start()
        return answer

    @staticmethod
    def _content(name: str, version: str) -> Mapping[str, Any]:
        if name in BUILT_IN:
            return BUILT_IN[name]
        try:
            # moto takes the default version when none is named, and does not know the word for it
            which = {} if version == "$DEFAULT" else {"DocumentVersion": version}
            answer = client("ssm").get_document(Name=name, **which)
        except ClientError as error:
            raise DocumentRefused("InvalidDocument", f"Document with name {name} does not exist.") from error
        content = answer["Content"]
        parsed: Mapping[str, Any] = json.loads(content) if isinstance(content, str) else content
        return parsed

    def _targets(self, request: Mapping[str, Any]) -> list[str]:
        found = list(request.get("InstanceIds") or [])
        for target in request.get("Targets") or []:
            key, values = target["Key"], target["Values"]
            if key.lower() == "instanceids":
                found += values
            elif key.startswith("tag:"):
                tags = seams.attribute(ec2, "_tags")
                found += [
                    host.launch.instance_id
                    for host in self._hosts.all()
                    if self._ping(host)
                    and any(
                        tag["Key"] == key[4:] and tag["Value"] in values
                        for tag in tags.get(host.launch.instance_id, [])
                    )
                ]
        return list(dict.fromkeys(found))

    def _cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        command = self._find(request.get("CommandId"))
        if command is None:
            raise DocumentRefused("InvalidCommandId", f"Command {request.get('CommandId')} does not exist")
        for instance_id in request.get("InstanceIds") or list(command.invocations):
            invocation = command.invocations.get(instance_id)
            if invocation is not None and invocation.status not in _FINAL:
                invocation.status = invocation.details = "Cancelling"
                invocation.cancelled.set()
        return {}

    def _find(self, command_id: object) -> _Command | None:
        command = self._commands.get(str(command_id))
        if command is None or (command.account, command.region) != (get_account_id(), get_region()):
            return None
        command.refresh()
        return command

    def _mine(self, request: Mapping[str, Any]) -> list[_Command]:
        found = [
            command
            for command_id in self._commands
            if (command := self._find(command_id)) is not None
            and request.get("CommandId") in {None, "", command_id}
            and request.get("InstanceId") in {None, "", *command.invocations}
        ]
        return sorted(found, key=lambda command: -command.requested)

    def _get_invocation(self, request: dict[str, Any]) -> dict[str, Any]:
        command = self._find(request.get("CommandId"))
        invocation = command.invocations.get(str(request.get("InstanceId"))) if command else None
        if command is None or invocation is None:
            # Given both ids, AWS says nothing of which is unknown.
            raise DocumentRefused("InvocationDoesNotExist", "")
        return {
            "CommandId": command.command_id,
            "InstanceId": invocation.instance_id,
            "Comment": command.request.get("Comment", ""),
            "DocumentName": command.request["DocumentName"],
            "DocumentVersion": command.request.get("DocumentVersion", "$DEFAULT"),
            "PluginName": invocation.scripts[0].name if invocation.scripts else _PLUGIN,
            "ResponseCode": invocation.response_code,
            "ExecutionStartDateTime": _iso(invocation.started),
            "ExecutionElapsedTime": _elapsed(invocation),
            "ExecutionEndDateTime": _iso(invocation.ended) if invocation.started else "",
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "StandardOutputContent": invocation.stdout[:_MAX_STDOUT],
            "StandardOutputUrl": "",
            "StandardErrorContent": invocation.stderr[:_MAX_STDERR],
            "StandardErrorUrl": "",
            "CloudWatchOutputConfig": command.request.get("CloudWatchOutputConfig")
            or {"CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": False},
        }

    def _list_commands(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"Commands": [self._described(command) for command in self._mine(request)]}

    def _list_invocations(self, request: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for command in self._mine(request):
            for invocation in command.invocations.values():
                if request.get("InstanceId") not in {None, "", invocation.instance_id}:
                    continue
                plugins = [
                    {
                        "Name": _PLUGIN,
                        "Status": invocation.status,
                        "StatusDetails": invocation.details,
                        "ResponseCode": invocation.response_code,
                        "Output": (invocation.stdout + invocation.stderr)[:_MAX_LISTED],
                    }
                ]
                rows.append(
                    {
                        "CommandId": command.command_id,
                        "InstanceId": invocation.instance_id,
                        "Comment": command.request.get("Comment", ""),
                        "DocumentName": command.request["DocumentName"],
                        "RequestedDateTime": command.requested,
                        "Status": invocation.status,
                        "StatusDetails": invocation.details,
                        "CommandPlugins": plugins if request.get("Details") else [],
                    }
                )
        return {"CommandInvocations": rows}

    def _described(self, command: _Command) -> dict[str, Any]:
        status, details = command.status
        ended = [invocation for invocation in command.invocations.values() if invocation.status in _FINAL]
        return {
            "CommandId": command.command_id,
            "DocumentName": command.request["DocumentName"],
            "DocumentVersion": command.request.get("DocumentVersion", "$DEFAULT"),
            "Comment": command.request.get("Comment", ""),
            "Parameters": command.request.get("Parameters") or {},
            "InstanceIds": list(command.invocations),
            "Targets": command.request.get("Targets") or [],
            "RequestedDateTime": command.requested,
            "ExpiresAfter": command.requested + command.delivery_timeout_s,
            "Status": status,
            "StatusDetails": details,
            "MaxConcurrency": command.request.get("MaxConcurrency", "50"),
            "MaxErrors": command.request.get("MaxErrors", "0"),
            "TargetCount": len(command.invocations),
            "CompletedCount": len(ended),
            "ErrorCount": sum(invocation.status != "Success" for invocation in ended),
            "TimeoutSeconds": int(command.delivery_timeout_s),
            "CloudWatchOutputConfig": command.request.get("CloudWatchOutputConfig") or {},
        }

    # On the host ------------------------------------------------------------------------------------------------------

    def _reachable(self, host: EmulatedHost) -> bool:
        return host.running and self._hosts.faults().agent != "lost"

    def _run(self, command: _Command, invocation: _Invocation, host: EmulatedHost) -> None:
        """Deliver, run and report one invocation, on a thread of its own."""
        try:
            if not self._deliver(command, invocation, host):
                return
            outcome = ("Success", "Success", 0)
            folder = host.folder / "var/lib/amazon/ssm" / command.command_id
            for script in invocation.scripts:
                outcome = self._run_script(command, invocation, host, script, folder / script.name)
                if outcome[0] != "Success":
                    break
            while host.running and not self._reachable(host):
                time.sleep(_POLL_S)
            if host.running:  # nobody reports from a host that has ended
                self._read_output(invocation, folder)
                status, details, code = outcome
                invocation.settle(status, details=details, response_code=code)
        except RuntimeError as error:  # the host or the emulator ended meanwhile
            logger.info("command %s on %s: %s", command.command_id, host.launch.instance_id, error)

    def _deliver(self, command: _Command, invocation: _Invocation, host: EmulatedHost) -> bool:
        while not self._reachable(host):
            if invocation.cancelled.is_set():
                invocation.settle("Cancelled")
                return False
            if not host.running:
                invocation.settle("Failed", details="Undeliverable")
                return False
            if time.time() > command.requested + command.delivery_timeout_s:
                invocation.settle("TimedOut", details="DeliveryTimedOut")
                return False
            time.sleep(_POLL_S)
        invocation.started = time.time()
        if not invocation.cancelled.is_set():
            invocation.status = invocation.details = "InProgress"
        return True

    def _run_script(
        self, command: _Command, invocation: _Invocation, host: EmulatedHost, script: Script, folder: Path
    ) -> tuple[str, str, int]:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "_script.sh"
        file.write_text(script.text, encoding="utf-8")
        file.chmod(0o700)
        # The agent hands the file to sh; its first line may name another shell.
        runner = [str(file)] if script.text.startswith("#!") else ["sh", str(file)]
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            process = self._hosts.spawn(
                host,
                runner,
                name=f"{host.launch.instance_id}/{command.command_id[:8]}",
                environment={},
                stdout=stdout,
                stderr=stderr,
            )
        log = self._log(command, invocation, folder)
        deadline = time.monotonic() + script.timeout_s
        status = details = "Success"
        last_sent = 0.0
        while (code := process.poll()) is None:
            if invocation.cancelled.is_set() or time.monotonic() > deadline:
                timed_out = not invocation.cancelled.is_set()
                status, details = ("TimedOut", "ExecutionTimedOut") if timed_out else ("Cancelled", "Cancelled")
                _stop(process)
                code = _STOPPED_STATUS
                break
            if log is not None and time.monotonic() - last_sent > log.interval_s and self._reachable(host):
                log.send()
                self._read_output(invocation, folder.parent)
                last_sent = time.monotonic()
            time.sleep(_POLL_S)
        if log is not None and host.running:
            log.send(last=True)
        code = code if code >= 0 else 128 - code
        if status == "Success" and code:
            status = details = "Failed"
        return status, details, code

    def _log(self, command: _Command, invocation: _Invocation, folder: Path) -> CommandLog | None:
        wanted = command.request.get("CloudWatchOutputConfig") or {}
        if not wanted.get("CloudWatchOutputEnabled"):
            return None
        group = wanted.get("CloudWatchLogGroupName") or f"/aws/ssm/{command.request['DocumentName']}"
        prefix = f"{command.command_id}/{invocation.instance_id}/{_PLUGIN_FOLDER}"
        return CommandLog(
            settings=self._settings,
            account=command.account,
            region=command.region,
            group=group,
            streams={folder / name: f"{prefix}/{name}" for name in ("stdout", "stderr")},
        )

    @staticmethod
    def _read_output(invocation: _Invocation, folder: Path) -> None:
        for name, limit in (("stdout", _MAX_STDOUT), ("stderr", _MAX_STDERR)):
            text = ""
            for script in invocation.scripts:
                with suppress(FileNotFoundError), (folder / script.name / name).open("rb") as file:
                    text += file.read(limit * 4).decode(errors="replace")
            setattr(invocation, name, text[:limit])


def _stop(process: subprocess.Popen[Any]) -> None:
    """End a script's process group: asked first, killed when it does not go."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_CANCEL_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _listed(values: str | Sequence[str]) -> Sequence[str]:
    return [values] if isinstance(values, str) else values


def _without_limits(content: Mapping[str, Any]) -> dict[str, Any]:
    """A document whose parameters may be longer: a localized job is longer than the one that was checked."""
    parameters = {
        name: {key: value for key, value in rules.items() if key not in {"maxChars", "minChars"}}
        for name, rules in (content.get("parameters") or {}).items()
    }
    return {**content, "parameters": parameters}


def _filters(request: Mapping[str, Any]) -> dict[str, list[str]]:
    named = {row["Key"]: list(row["Values"]) for row in request.get("Filters") or []}
    older = {row["key"]: list(row["valueSet"]) for row in request.get("InstanceInformationFilterList") or []}
    return {**named, **older}


def _iso(moment: float | None) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else ""


def _elapsed(invocation: _Invocation) -> str:
    if invocation.started is None:
        return ""
    return f"PT{(invocation.ended or time.time()) - invocation.started:.3f}S"
