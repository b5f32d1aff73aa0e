"""Compile hosts: how they start, how they end, and that a job cannot smuggle a command in."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from infrastructure.support import Zone, text


def _document(zone: Zone) -> dict[str, Any]:
    content: dict[str, Any] = zone.one("AWS::SSM::Document").properties["Content"]
    return content


def _script(zone: Zone) -> str:
    (step,) = _document(zone)["mainSteps"]
    return "\n".join(text(line) for line in step["inputs"]["runCommand"])


def _job(zone: Zone, deployment: str) -> dict[str, Any]:
    """The job inside a deployment's command, with names in the place of references."""
    value = zone.templates["CompileStack"]["Outputs"][f"Compile{deployment}"]["Value"]
    ((encoded,),) = [[p["Fn::Base64"] for p in value["Fn::Join"][1] if isinstance(p, dict) and "Fn::Base64" in p]]
    job: dict[str, Any] = json.loads(text(encoded))
    return job


def test_hosts_need_imdsv2_and_containers_cannot_reach_their_role(zone: Zone) -> None:
    (template,) = zone.resources("AWS::EC2::LaunchTemplate")
    data = template.properties["LaunchTemplateData"]
    assert data["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


def test_hosts_end_themselves(zone: Zone) -> None:
    (template,) = zone.resources("AWS::EC2::LaunchTemplate")
    data = template.properties["LaunchTemplateData"]
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    user_data = data["UserData"]["Fn::Base64"]
    # A timer from boot, which a reboot does not forget.
    hours = int(re.search(r"^OnBootSec=(\d+)h$", user_data, flags=re.MULTILINE)[1])  # type: ignore[index]
    assert "systemctl enable --now modelzone-lifetime.timer" in user_data
    (step,) = _document(zone)["mainSteps"]
    assert int(step["inputs"]["timeoutSeconds"]) < hours * 3600 <= 12 * 3600


def test_hosts_start_from_the_image_of_the_plan_with_room_for_the_model(zone: Zone) -> None:
    (template,) = zone.resources("AWS::EC2::LaunchTemplate")
    data = template.properties["LaunchTemplateData"]
    plans = [deployment.compile for deployment in zone.plan.deployments]
    assert data["ImageId"] == f"resolve:ssm:{plans[0].ami_parameter}"
    (disk,) = data["BlockDeviceMappings"]
    assert disk["Ebs"]["VolumeType"] == "gp3"
    assert disk["Ebs"]["VolumeSize"] == max(plan.root_volume_gib for plan in plans)
    assert all(disk["Ebs"]["VolumeSize"] > plan.min_free_gib for plan in plans)
    # A template without a type and a network interface: both are given when a host is started.
    assert not set(data) & {"InstanceType", "NetworkInterfaces"}


def test_start_commands_name_type_subnet_and_newest_template(two: Zone) -> None:
    outputs = two.templates["CompileStack"]["Outputs"]
    for name, kind in (("Mixtral", "inf2.24xlarge"), ("MixtralLong", "inf2.48xlarge")):
        words = shlex.split(text(outputs[f"Start{name}"]["Value"]))
        assert words[:3] == ["aws", "ec2", "run-instances"]
        assert words[words.index("--instance-type") + 1] == kind
        assert words[words.index("--launch-template") + 1].endswith(".LatestVersionNumber>")
        assert "--key-name" not in words


def test_jobs_are_what_the_compile_job_reads(zone: Zone, tmp_path: Path) -> None:
    """With the job's own reader: every deployment's facts, prefix, image and export command."""
    from compile_job.job import read_job  # noqa: PLC0415

    for deployment in zone.plan.deployments:
        if not deployment.can_fetch_weights:
            continue
        path = tmp_path / f"{deployment.name}.json"
        path.write_text(json.dumps(_job(zone, deployment.camel_name)), encoding="utf-8")
        job = read_job(path)
        assert job.facts == deployment.facts.as_dict()
        assert job.prefix == deployment.artifact_prefix
        assert job.image == deployment.compile.image_uri
        assert job.devices == deployment.compile.devices
        assert job.min_memory_gib == deployment.compile.min_memory_gib > 0
        assert job.export_command == deployment.compile.export_command
        assert job.region == zone.plan.environment.region


def test_jobs_name_the_secret_and_never_hold_it(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        if not deployment.can_fetch_weights:
            continue
        token = _job(zone, deployment.camel_name)["weights"]["token_secret_arn"]
        assert "HubToken" in token


def test_job_parameters_accept_base64_of_a_job_only(dev: Zone) -> None:
    parameter = _document(dev)["parameters"]["Job"]
    pattern = parameter["allowedPattern"]
    good = base64.b64encode(json.dumps(_job(dev, "Mixtral")).encode()).decode()
    assert re.fullmatch(pattern, good)
    assert parameter["minChars"] < len(good) < parameter["maxChars"]
    for bad in ("'; rm -rf / #", "$(reboot)", "`id`", good + "\n", good + "';reboot;'", "{{ ssm:x }}", ""):
        assert not re.fullmatch(pattern, bad), bad
    assert pattern.startswith("^")
    assert pattern.endswith("$")


def test_patterns_compile_in_the_agents_language(dev: Zone) -> None:
    """The agent is written in Go, whose regular expressions refuse repeat counts above 1000."""
    for parameter in _document(dev)["parameters"].values():
        counts = re.findall(r"\{(\d+)(?:,(\d*))?\}", parameter.get("allowedPattern", ""))
        assert all(int(number) <= 1000 for pair in counts for number in pair if number)


def test_parameters_reach_the_shell_in_single_quotes_only(dev: Zone) -> None:
    document, script = _document(dev), _script(dev)
    used = re.findall(r".\{\{ (\w+) \}\}.", script)
    assert set(used) == set(document["parameters"]) == {"Job", "KeepHost"}
    assert script.count("{{") == script.count("'{{ ") == script.count(" }}'")
    assert document["parameters"]["KeepHost"]["allowedValues"] == ["no", "yes"]


@pytest.mark.parametrize(("keep", "code"), [("no", 0), ("yes", 0), ("no", 3)])
def test_the_script_runs_the_job_and_ends_the_host(dev: Zone, tmp_path: Path, keep: str, code: int) -> None:
    """The document's script for real, with stand-ins for the commands of the host."""
    bin_folder, work = tmp_path / "bin", tmp_path / "work"
    bin_folder.mkdir()
    job = base64.b64encode(b'{"a job": "of any kind"}').decode()
    tools = {
        "aws": 'echo "aws $*" >> "$LOG"; : > "$5"',
        "python3": 'echo "python3 $*" >> "$LOG"\n[ "$2" != compile_job ] || { cat job.json >> "$LOG"; exit $CODE; }',
        "docker": "exit 0",
        "shutdown": 'echo "shutdown $*" >> "$LOG"',
    }
    for name, body in tools.items():
        tool = bin_folder / name
        tool.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        tool.chmod(0o755)
    script = _script(dev).replace("{{ Job }}", job).replace("{{ KeepHost }}", keep)
    script = script.replace("/var/lib/modelzone/compile", str(work))
    done = subprocess.run(
        ["bash", "-c", script],
        env={
            "PATH": f"{bin_folder}:/usr/bin:/bin",
            "LOG": str(tmp_path / "log"),
            "CODE": str(code),
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert done.returncode == code, done.stderr
    assert log.index("aws s3 cp") < log.index("zipfile") < log.index("python3 -m compile_job --job job.json")
    assert '{"a job": "of any kind"}' in log
    assert ("shutdown -P +3" in log) == (keep == "no")


def test_the_code_is_packed_without_caches(dev: Zone) -> None:
    assets = json.loads((dev.folder / "CompileStack.assets.json").read_text(encoding="utf-8"))["files"]
    (folder,) = [dev.folder / a["source"]["path"] for a in assets.values() if a["source"]["packaging"] == "zip"]
    assert (folder / "compile_job" / "__main__.py").is_file()
    assert not list(folder.rglob("__pycache__"))
