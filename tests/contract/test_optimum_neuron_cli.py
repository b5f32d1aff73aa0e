"""The export command against optimum-neuron 0.0.25 itself: its argument parser and the artifact that it writes."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compile_job.steps import verify
from modelzone.planning import DeploymentPlan, plan_environment

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.0.25"
PARSER = "optimum/commands/export/neuronx.py"


@pytest.fixture(scope="module")
def wheel() -> Iterator[zipfile.ZipFile]:
    """The wheel alone: it is 0.4 MB, its dependencies are gigabytes."""
    folder = ROOT / ".build" / "wheels"
    path = folder / f"optimum_neuron-{VERSION}-py3-none-any.whl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        done = subprocess.run(
            [*command, f"optimum-neuron=={VERSION}"], check=False, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            pytest.skip(f"optimum-neuron=={VERSION} cannot be downloaded: {lines[-1]}")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def parser(wheel: zipfile.ZipFile) -> argparse.ArgumentParser:
    """The real parser. What its module imports from the rest of optimum is stubbed: only help texts need it."""

    loaders = {"_TRANSFORMERS_TASKS_TO_MODEL_LOADERS": {}, "_DIFFUSERS_TASKS_TO_MODEL_LOADERS": {}}
    stubs: dict[str, dict[str, object]] = {
        "optimum": {},
        "optimum.exporters": {"TasksManager": types.SimpleNamespace(**loaders)},
        "optimum.utils": {"is_diffusers_available": lambda: False},
        "optimum.commands": {},
        "optimum.commands.base": {
            "BaseOptimumCLICommand": object,
            "CommandInfo": lambda **_: None,
        },
        "optimum.commands.export": {},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, values in stubs.items():
            module = types.ModuleType(name)
            module.__path__ = []
            vars(module).update(values)
            patch.setitem(sys.modules, name, module)
        module = types.ModuleType("optimum.commands.export.neuronx")
        module.__package__ = "optimum.commands.export"
        exec(compile(wheel.read(PARSER), PARSER, "exec"), vars(module))  # noqa: S102 - the published file, pinned
    parser = argparse.ArgumentParser(prog="optimum-cli export neuron", exit_on_error=False)
    vars(module)["parse_args_neuronx"](parser)
    return parser


ENVIRONMENTS = sorted(path.stem for path in (ROOT / "environments").glob("*.yaml"))


def plans(environment: str) -> list[DeploymentPlan]:
    found = [plan for plan in plan_environment(ROOT, environment).deployments if plan.facts.engine == "tgi-neuronx"]
    assert found
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_planned_export_is_understood(parser: argparse.ArgumentParser, environment: str) -> None:
    for plan in plans(environment):
        check_understood(parser, plan)


def check_understood(parser: argparse.ArgumentParser, plan: DeploymentPlan) -> None:
    program, export, engine, *arguments = plan.compile.export_command
    assert (program, export, engine) == ("optimum-cli", "export", "neuron")
    words = [word.replace("{model}", "/modelzone/weights").replace("{output}", "/out") for word in arguments]

    found = parser.parse_args(words)

    facts = plan.facts
    assert facts.engine_version == VERSION
    assert found.model == "/modelzone/weights"
    assert found.output == Path("/out")
    assert str(found.batch_size) == facts.batch_size
    assert str(found.sequence_length) == facts.sequence_length
    assert str(found.num_cores) == facts.tensor_parallel_degree
    assert found.auto_cast_type == facts.dtype
    # From a folder the task cannot be inferred (optimum 1.22 raises).
    assert found.task == "text-generation"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_words_survive_the_shell_that_the_command_starts(wheel: zipfile.ZipFile, environment: str) -> None:
    """It joins its own arguments with spaces and runs them through a shell."""
    source = wheel.read(PARSER).decode()
    assert '" ".join(sys.argv[3:])' in source
    assert "shell=True" in source

    for plan in plans(environment):
        for word in plan.compile.export_command:
            assert not set(word) & set(" \t\n;&|<>$`\\\"'*?()[]#~!"), word


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "m", "--tensor_parallel_size", "8", "out"],
        ["--model", "m", "--torch_dtype", "float16", "out"],
        ["--model", "m", "--revision", "main", "out"],
        ["--model", "m", "--auto_cast_type", "fp32", "out"],
        ["--model", "m", "--batch_size", "one", "out"],
        ["--model", "m"],
    ],
)
def test_flags_of_other_versions_are_refused(
    parser: argparse.ArgumentParser, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the tests above would prove nothing."""
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parser.parse_args(arguments)
    capsys.readouterr()


def decoder_module(wheel: zipfile.ZipFile) -> ast.Module:
    return ast.parse(wheel.read("optimum/neuron/modeling_decoder.py"))


def test_artifact_has_the_keys_that_are_verified(wheel: zipfile.ZipFile) -> None:
    (written,) = (
        node.value
        for node in ast.walk(decoder_module(wheel))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and node.targets[0].attr == "neuron"
        and isinstance(node.value, ast.Dict)
    )
    values = {
        key.value: value.value if isinstance(value, ast.Constant) else None
        for key, value in zip(written.keys, written.values, strict=True)
        if isinstance(key, ast.Constant)
    }

    assert {*verify.NUMBERS, "auto_cast_type", "task", "compiler_version"} <= set(values)
    assert values["compiler_type"] == verify.COMPILER


def test_artifact_has_the_folders_that_are_verified(wheel: zipfile.ZipFile) -> None:
    constants = {
        node.targets[0].id: node.value.value
        for node in ast.walk(decoder_module(wheel))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }

    assert (constants["CHECKPOINT_DIR"], constants["COMPILED_DIR"]) == ("checkpoint", "compiled")


def test_planned_architectures_can_be_exported(wheel: zipfile.ZipFile) -> None:
    tree = ast.parse(wheel.read("optimum/exporters/neuron/model_configs.py"))
    known = {
        decorator.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and any(
            isinstance(argument, ast.Constant) and argument.value == "text-generation" for argument in decorator.args
        )
        and isinstance(decorator.args[0], ast.Constant)
    }

    assert {"mixtral", "mistral", "llama"} <= known
    assert "phi3" not in known
