"""Compile hosts: how they start, how they end, and that a job cannot smuggle a command in."""

from __future__ import annotations

import base64
import fcntl
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from infrastructure.support import CONTEXT, Zone, expected_order, one_order, text

from compiled_artifact.orders import CompileOrder
from modelzone.errors import ModelzoneError
from modelzone.planning import plan_environment
from modelzone.planning.plan import CompileHostChoice

GPU_AMI = "/aws/service/deeplearning/ami/x86_64/oss-nvidia-driver-gpu-pytorch-2.7-ubuntu-22.04/latest/ami-id"


def _document(zone: Zone) -> dict[str, Any]:
    content: dict[str, Any] = zone.one("AWS::SSM::Document").properties["Content"]
    return content


def _script(zone: Zone) -> str:
    (step,) = _document(zone)["mainSteps"]
    return "\n".join(text(line) for line in step["inputs"]["runCommand"])


def _template_data(zone: Zone) -> list[dict[str, Any]]:
    return [resource.properties["LaunchTemplateData"] for resource in zone.resources("AWS::EC2::LaunchTemplate")]


def _with_gpu_deployment(plan: Any, **changes: Any) -> Any:
    """A plan with a second deployment that is compiled on g6; no stack serves it yet."""
    (first,) = plan.deployments
    compile_plan = replace(
        first.compile,
        hosts=(CompileHostChoice(instance_type="g6.12xlarge", devices=4, tensor_parallel_degrees=(1, 2, 4)),),
        mirror_instance_type="g6.xlarge",
        accelerator="nvidia",
        layout="tensorrt-llm-repo",
        ami_parameter=GPU_AMI,
        root_volume_gib=777,
        image_uri="763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-tensorrtllm1.0.0-cu128",
        image_repository="djl-inference",
        export_command=("python", "/opt/djl/partition/run_partition.py", "--properties-dir", "{properties}"),
        properties={"option.tensor_parallel_degree": "{tensor_parallel_degree}", **changes.pop("properties", {})},
    )
    second = replace(first, name="mistral-trt", compile=replace(compile_plan, **changes))
    return replace(plan, deployments=(first, second))


@pytest.fixture(scope="module")
def gpu(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Zone:
    plan = _with_gpu_deployment(plan_environment(root, "dev"))
    folder = tmp_path_factory.mktemp("gpu")
    _synthesise_compile_stack(plan, folder)
    return Zone("dev", plan, folder)


def _synthesise_compile_stack(plan: Any, folder: Path) -> None:
    from aws_cdk import App  # noqa: PLC0415

    from stacks.compile import CompileStack  # noqa: PLC0415
    from stacks.model_store import ModelStoreStack  # noqa: PLC0415
    from stacks.network import NetworkStack  # noqa: PLC0415

    app = App(context=CONTEXT, outdir=str(folder), analytics_reporting=False)
    network = NetworkStack(app, "NetworkStack", plan=plan)
    store = ModelStoreStack(app, "ModelStoreStack", plan=plan, logs=network.logs)
    CompileStack(app, "CompileStack", plan=plan, logs=network.logs, network=network.network, store=store.store)
    app.synth()


def test_hosts_need_imdsv2_and_containers_cannot_reach_their_role(zone: Zone) -> None:
    for data in _template_data(zone):
        assert data["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


def test_hosts_end_themselves(zone: Zone) -> None:
    longest = zone.plan.environment.compile.max_hours
    for data in _template_data(zone):
        assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
        user_data = data["UserData"]["Fn::Base64"]
        assert user_data.startswith("#!/bin/bash\n")
        # A timer from boot, which a reboot does not forget.
        hours = int(re.search(r"^OnBootSec=(\d+)h$", user_data, flags=re.MULTILINE)[1])  # type: ignore[index]
        assert hours == longest + 1
        assert "systemctl enable --now modelzone-lifetime.timer" in user_data
    (step,) = _document(zone)["mainSteps"]
    assert int(step["inputs"]["timeoutSeconds"]) == longest * 3600


def test_hosts_start_from_the_image_of_the_plan_with_room_for_the_model(zone: Zone) -> None:
    (data,) = _template_data(zone)
    plans = [deployment.compile for deployment in zone.plan.deployments]
    assert data["ImageId"] == f"resolve:ssm:{plans[0].ami_parameter}"
    (disk,) = data["BlockDeviceMappings"]
    assert disk["Ebs"]["VolumeType"] == "gp3"
    assert disk["Ebs"]["VolumeSize"] == max(plan.root_volume_gib for plan in plans)
    assert all(disk["Ebs"]["VolumeSize"] > plan.min_free_gib for plan in plans)
    # A template without a type and a network interface: both are given when a host is started.
    assert not set(data) & {"InstanceType", "NetworkInterfaces"}


def test_hosts_and_their_volumes_are_tagged_by_the_template_already(zone: Zone) -> None:
    for data in _template_data(zone):
        kinds = {
            spec["ResourceType"]: {tag["Key"]: tag["Value"] for tag in spec["Tags"]}
            for spec in data["TagSpecifications"]
        }
        assert set(kinds) == {"instance", "volume"}
        for tags in kinds.values():
            assert tags["modelzone:environment"] == zone.name
            # These are given when a host is started: they say what it is for and until when.
            assert not set(tags) & {"modelzone:role", "modelzone:execution", "modelzone:until"}


def test_each_kind_of_host_has_a_launch_template(gpu: Zone) -> None:
    by_image = {data["ImageId"]: data for data in _template_data(gpu)}
    assert len(by_image) == 2
    assert by_image[f"resolve:ssm:{GPU_AMI}"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 777
    outputs = gpu.templates["CompileStack"]["Outputs"]
    labels = {label: outputs[f"LaunchTemplateId{label}"]["Value"]["Ref"] for label in ("Inf2", "G6")}
    assert len(set(labels.values())) == 2
    for name, label in (("mixtral", "Inf2"), ("mistral-trt", "G6")):
        value = json.dumps(one_order(gpu, name).properties["Value"])
        assert f'{{"Ref": "{labels[label]}"}}' in value
        assert f'["{labels[label]}", "LatestVersionNumber"]' in value


def test_two_images_of_one_family_have_two_launch_templates(root: Path, tmp_path: Path) -> None:
    plan = plan_environment(root, "dev")
    (first,) = plan.deployments
    other = replace(
        first, name="other", compile=replace(first.compile, ami_parameter="/aws/service/neuron/other/image")
    )
    _synthesise_compile_stack(replace(plan, deployments=(first, other)), tmp_path)
    zone = Zone("dev", plan, tmp_path)
    assert {data["ImageId"] for data in _template_data(zone)} == {
        f"resolve:ssm:{first.compile.ami_parameter}",
        "resolve:ssm:/aws/service/neuron/other/image",
    }
    labels = [o for o in zone.templates["CompileStack"]["Outputs"] if o.startswith("LaunchTemplateId")]
    assert "LaunchTemplateIdInf2AwsServiceNeuronOtherImage" in labels
    assert len(labels) == 2


def test_gpu_jobs_are_ordered_like_others(gpu: Zone) -> None:
    order = CompileOrder.parse(expected_order(gpu, "mistral-trt"))
    assert [(host.instance_type, host.devices) for host in order.hosts] == [("g6.12xlarge", 4)]
    assert order.job["accelerator"] == "nvidia"
    assert order.job["layout"] == "tensorrt-llm-repo"
    assert order.job["properties"] == {"option.tensor_parallel_degree": "{tensor_parallel_degree}"}
    (statement,) = [
        statement
        for resource, statement in gpu.statements()
        if statement.get("Sid") == "PullServingImages" and resource.stack == "CompileStack"
    ]
    assert {text(arn).rsplit(":", 1)[-1] for arn in statement["Resource"]} == {
        "repository/djl-inference",
        "repository/huggingface-pytorch-tgi-inference",
    }


def test_orders_are_what_the_first_step_reads(zone: Zone) -> None:
    """With the function's own reader."""
    for deployment in zone.plan.deployments:
        order = CompileOrder.parse(expected_order(zone, deployment.name))
        assert order.environment == zone.name
        assert order.facts == deployment.facts.as_dict()
        assert [host.instance_type for host in order.hosts] == [h.instance_type for h in deployment.compile.hosts]
        assert order.mirror.instance_type == deployment.compile.mirror_instance_type
        assert order.purchase == zone.plan.environment.compile.purchase
        assert order.max_hours == zone.plan.environment.compile.max_hours
        assert order.launch_template.startswith("<HostLaunchTemplate")
        assert order.launch_template_version.endswith(".LatestVersionNumber>")


def test_orders_become_jobs_that_the_compile_job_reads(zone: Zone, tmp_path: Path) -> None:
    """With the function's own way of making a job of an order, and the job's own reader."""
    from compile_job.job import read_job  # noqa: PLC0415

    for deployment in zone.plan.deployments:
        order = CompileOrder.parse(expected_order(zone, deployment.name))
        job = order.render({}, weights_only=False, progress_path=zone.plan.progress_path)
        job["devices"] = order.hosts[0].devices
        path = tmp_path / f"{deployment.name}.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        read = read_job(path)
        assert read.prefix == deployment.artifact_prefix
        assert read.image == deployment.compile.image_uri
        assert read.min_memory_gib == deployment.compile.min_memory_gib > 0
        assert read.export_command == deployment.compile.export_command
        assert read.region == zone.plan.environment.region
        assert read.weights.source == ("hub" if zone.plan.environment.network.egress == "nat" else "s3")
        assert "HubToken" in read.weights.token_secret_arn
        assert read.progress_parameter.startswith(f"/modelzone/{zone.name}/compile/progress/")


def test_orders_fit_into_a_parameter(zone: Zone) -> None:
    for deployment in zone.plan.deployments:
        order = one_order(zone, deployment.name)
        assert order.properties["Type"] == "String"
        assert "Tier" not in order.properties
        assert len(json.dumps(expected_order(zone, deployment.name))) < 4096 - 800  # for the values of references


def test_an_order_that_is_too_long_is_refused_with_its_length(root: Path, tmp_path: Path) -> None:
    plan = _with_gpu_deployment(plan_environment(root, "dev"), properties={"option.note": "x" * 4000})
    with pytest.raises(
        ModelzoneError, match=r"deployment mistral-trt: .* about \d{4} characters.*4096\n  fix: shorten"
    ):
        _synthesise_compile_stack(plan, tmp_path)


def test_start_commands_name_execution_and_deployment(two: Zone) -> None:
    outputs = two.templates["CompileStack"]["Outputs"]
    (machine,) = [r.logical_id for r in two.resources("AWS::StepFunctions::StateMachine") if "Pipeline" in r.logical_id]
    for deployment in two.plan.deployments:
        command = text(outputs[f"Compile{deployment.camel_name}"]["Value"])
        key = deployment.artifact_prefix.split("/")[-2]
        assert command == (
            "aws stepfunctions start-execution --region us-west-2 "
            f"--state-machine-arn <{machine}> "
            f'--name "{deployment.name}-{key}-$(date -u +%Y%m%d%H%M%S)" '
            f"""--input '{{"deployment": "{deployment.name}"}}'"""
        )


def test_job_parameters_accept_base64_of_a_job_only(dev: Zone) -> None:
    parameter = _document(dev)["parameters"]["Job"]
    pattern = parameter["allowedPattern"]
    order = CompileOrder.parse(expected_order(dev, "mixtral"))
    job = order.render({}, weights_only=False, progress_path=dev.plan.progress_path)
    good = base64.b64encode(json.dumps(job).encode()).decode()
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


def test_parameters_reach_the_shell_in_single_quotes_only(zone: Zone) -> None:
    document, script = _document(zone), _script(zone)
    used = re.findall(r".\{\{ (\w+) \}\}.", script)
    assert set(used) == set(document["parameters"]) == {"Job"}
    assert script.count("{{") == script.count("'{{ ") == script.count(" }}'")


RunScript = Callable[..., tuple[subprocess.CompletedProcess[str], str]]


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Runs the document's script for real, with stand-ins for the commands of the host."""
    bin_folder, work = tmp_path / "bin", tmp_path / "work"
    bin_folder.mkdir()
    log = tmp_path / "log"
    log.touch()
    job = base64.b64encode(b'{"a job": "of any kind"}').decode()
    tools = {
        "aws": 'echo "aws $*" >> "$LOG"; : > "$5"',
        "python3": 'echo "python3 $*" >> "$LOG"\n'
        '[ "$2" != compile_job ] || { echo "path=$PYTHONPATH" >> "$LOG"; cat "$4" >> "$LOG"; exit $CODE; }',
        "docker": "exit 0",
        "shutdown": 'echo "shutdown $*" >> "$LOG"; exit ${SHUTDOWN_CODE:-0}',
        **{name: f'echo "{name} $*" >> "$LOG"' for name in ("curl", "install", "apt-get", "chmod")},
        "systemctl": 'echo "systemctl $*" >> "$LOG"; exit ${TIMER_CODE:-0}',
        "systemd-run": 'echo "systemd-run $*" >> "$LOG"; exit ${RUN_CODE:-0}',
        "gpg": 'echo "${FINGERPRINT:-fpr:::::::::9DC858229FC7DD38854AE2D88D81803C0EBFCD88:}"',
    }

    def run(
        zone: Zone, *, code: int = 0, missing: tuple[str, ...] = (), **environment: str
    ) -> tuple[subprocess.CompletedProcess[str], str]:
        for name, body in tools.items():
            if name not in missing:
                tool = bin_folder / name
                tool.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
                tool.chmod(0o755)
        # Nothing else of this machine: it may have the tool that the host lacks.
        for name in ("bash", "mkdir", "mktemp", "base64", "cat", "flock", "grep", "true"):
            (bin_folder / name).symlink_to(Path("/usr/bin") / name)
        script = _script(zone).replace("{{ Job }}", job)
        script = script.replace("/var/lib/modelzone/compile", str(work)).replace("/etc/apt", str(tmp_path))
        (tmp_path / "sources.list.d").mkdir()
        done = subprocess.run(
            ["/usr/bin/bash", "-c", script],
            env={
                "PATH": str(bin_folder),
                "LOG": str(log),
                "CODE": str(code),
                "TMPDIR": str(tmp_path),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done, log.read_text(encoding="utf-8")

    return run


def test_a_command_that_meets_a_job_at_work_does_not_end_its_host(
    dev: Zone, run_script: RunScript, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "compile_job.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, log = run_script(dev, code=1)
    assert done.returncode == 1
    assert "shutdown" not in log


@pytest.mark.parametrize("code", [0, 3, 75])
def test_the_script_runs_the_job_and_ends_the_host(dev: Zone, run_script: RunScript, code: int) -> None:
    done, log = run_script(dev, code=code)
    assert done.returncode == code, done.stderr
    assert log.index("aws s3 cp") < log.index("zipfile") < log.index("python3 -m compile_job --job ")
    assert '{"a job": "of any kind"}' in log
    (unpacked,) = re.findall(r"^python3 -m zipfile -e \S+ (\S+)$", log, flags=re.MULTILINE)
    assert f"path={unpacked}\n" in log, "the package's own boto3"
    assert "shutdown -P +3" in log
    assert "apt-get" not in log
    assert "pip" not in log


def test_the_script_reads_its_code_from_the_region_of_the_stack(dev: Zone, run_script: RunScript) -> None:
    _, log = run_script(dev)
    (copied,) = re.findall(r"^aws s3 cp .*$", log, flags=re.MULTILINE)
    assert copied.endswith(" --region us-east-1")


def test_a_host_without_a_timer_gets_one_before_anything_else(dev: Zone, run_script: RunScript) -> None:
    done, log = run_script(dev, TIMER_CODE="3")
    assert done.returncode == 0, done.stderr
    hours = dev.plan.environment.compile.max_hours + 1
    assert log.startswith(
        "systemctl is-active --quiet modelzone-lifetime.timer\n"
        f"systemd-run --quiet --on-active={hours}h systemctl poweroff\n"
    )
    assert f"OnBootSec={hours}h\n" in _template_data(dev)[0]["UserData"]["Fn::Base64"]


def test_a_host_with_its_timer_gets_no_other(dev: Zone, run_script: RunScript) -> None:
    _, log = run_script(dev)
    assert "systemctl is-active" in log
    assert "systemd-run" not in log


def test_no_job_runs_on_a_host_that_nothing_would_end(dev: Zone, run_script: RunScript) -> None:
    done, log = run_script(dev, TIMER_CODE="3", RUN_CODE="1")
    assert done.returncode == 1
    assert "compile_job" not in log
    assert "shutdown" in log


def test_a_shutdown_that_fails_does_not_hide_how_the_job_ended(dev: Zone, run_script: RunScript) -> None:
    done, _ = run_script(dev, code=3, SHUTDOWN_CODE="1")
    assert done.returncode == 3


def test_a_missing_docker_is_installed_from_its_signed_repository(dev: Zone, run_script: RunScript) -> None:
    done, log = run_script(dev, missing=("docker",))
    assert done.returncode == 0, done.stderr
    assert log.index("https://download.docker.com/linux/ubuntu/gpg") < log.index("apt-get update")
    assert log.index("apt-get install") < log.index("python3 -m compile_job")
    assert "http://" not in _script(dev), "hosts may send HTTPS only"


def test_a_key_that_is_not_dockers_ends_it(dev: Zone, run_script: RunScript) -> None:
    done, log = run_script(dev, missing=("docker",), FINGERPRINT="fpr:::::::::0000:")
    assert done.returncode == 1
    assert "apt-get" not in log
    assert "shutdown" in log


def test_a_missing_docker_without_egress_is_said(prod: Zone, run_script: RunScript) -> None:
    done, log = run_script(prod, missing=("docker",))
    assert done.returncode == 1
    assert "no docker" in done.stderr
    assert "egress: none" in done.stderr
    assert "compile_job" not in log
    assert "shutdown" in log
    assert "download.docker.com" not in _script(prod)


@pytest.mark.parametrize("tool", ["aws", "python3"])
def test_a_tool_that_the_ami_lacks_is_named(dev: Zone, run_script: RunScript, tool: str) -> None:
    done, log = run_script(dev, missing=(tool,))
    assert done.returncode == 1
    assert f"no {tool}; choose another AMI parameter" in done.stderr
    assert "shutdown" in log


def test_the_code_is_packed_with_its_packages_and_without_caches(dev: Zone) -> None:
    assets = json.loads((dev.folder / "CompileStack.assets.json").read_text(encoding="utf-8"))["files"]
    folders = [dev.folder / a["source"]["path"] for a in assets.values() if a["source"]["packaging"] == "zip"]
    (job,) = [folder for folder in folders if (folder / "compile_job" / "__main__.py").is_file()]
    assert (job / "boto3" / "__init__.py").is_file()
    assert not list(job.rglob("__pycache__"))
    (functions,) = [folder for folder in folders if (folder / "compiled_artifact").is_dir()]
    assert (functions / "compiled_artifact" / "__init__.py").is_file()


def test_debugging_hosts_can_be_reached_through_session_manager(zone: Zone) -> None:
    """An operator starts one from the same template: its role has the agent's channels, its network the endpoints."""
    (agent,) = [s for _, s in zone.statements() if s.get("Sid") == "SystemsManagerAgent"]
    assert {"ssmmessages:CreateDataChannel", "ssmmessages:OpenDataChannel", "ssm:UpdateInstanceInformation"} <= set(
        agent["Action"]
    )
    assert agent.get("Condition") is None
    for data in _template_data(zone):
        assert "KeyName" not in data
        assert data["IamInstanceProfile"]
