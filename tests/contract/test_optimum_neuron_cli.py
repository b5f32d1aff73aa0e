"""Export commands against optimum-neuron itself: the parsers in its wheels, and the artifact that it writes."""

from __future__ import annotations

import argparse
import ast
import sys
import types
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract.wheels import names_in_wheel, read_wheel
from unit.engine_cases import clip, decoder, exported, serving

from compile_job.steps import verify
from modelzone.architectures.reading import MODEL_TYPES
from modelzone.engines import ENGINES
from modelzone.engines.optimum_neuron import DECODER_TYPES, STATIC_BATCH_TYPES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "optimum-neuron"
PARSER = "optimum/commands/export/neuronx.py"
EXPORT = "optimum/exporters/neuron/__main__.py"
WHEELS = sorted(DECODER_TYPES)
# Engine, version, and the optimum-neuron inside. What clip-neuronx's image has is not known: all that can be.
BUILT = [
    ("tgi-neuronx", "0.0.25", "0.0.25"),
    ("tgi-neuronx", "0.0.28", "0.0.28"),
    ("tgi-neuronx", "3.3.6", "0.3.0"),
    ("vllm-neuronx", "0.4.4", "0.4.4"),
    ("vllm-neuronx", "0.4.5", "0.4.5"),
    ("clip-neuronx", "2.8.0", "0.3.0"),
    ("clip-neuronx", "2.8.0", "0.4.4"),
    ("clip-neuronx", "2.8.0", "0.4.5"),
]


@cache
def source(version: str, name: str) -> str:
    return read_wheel(PACKAGE, version, name)


def stubs(version: str) -> dict[str, dict[str, object]]:
    """What the parser's module imports from the rest of optimum: help texts, and whether there is a device."""
    loaders = {"_TRANSFORMERS_TASKS_TO_MODEL_LOADERS": {}, "_DIFFUSERS_TASKS_TO_MODEL_LOADERS": {}}
    tasks = {"TasksManager": types.SimpleNamespace(**loaders)}
    found: dict[str, dict[str, object]] = {
        "optimum": {},
        "optimum.exporters": tasks,
        "optimum.exporters.tasks": tasks,
        "optimum.utils": {"is_diffusers_available": lambda: False},
        "optimum.commands": {},
        "optimum.commands.base": {"BaseOptimumCLICommand": object, "CommandInfo": lambda **_: None},
        "optimum.commands.export": {},
        "optimum.neuron": {},
        "optimum.neuron.utils": {},
        # No device: the stricter case, in which 0.4.x wants --instance_type.
        "optimum.neuron.utils.system": {"get_neuron_major": lambda: -1},
        "optimum.neuron.utils.instance": {},
    }
    if version.startswith("0.4."):
        instance = source(version, "optimum/neuron/utils/instance.py")
        (types_,) = (
            ast.literal_eval(node.value)
            for node in ast.parse(instance).body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SUPPORTED_INSTANCE_TYPES"
        )
        found["optimum.neuron.utils.instance"] = {
            "SUPPORTED_INSTANCE_TYPES": types_,
            "normalize_instance_type": lambda name: name,
        }
    return found


@cache
def parser(version: str) -> argparse.ArgumentParser:
    """The real parser."""
    with pytest.MonkeyPatch.context() as patch:
        for name, values in stubs(version).items():
            module = types.ModuleType(name)
            module.__path__ = []
            vars(module).update(values)
            patch.setitem(sys.modules, name, module)
        module = types.ModuleType("optimum.commands.export.neuronx")
        module.__package__ = "optimum.commands.export"
        exec(compile(source(version, PARSER), PARSER, "exec"), vars(module))  # noqa: S102 - the published file, pinned
    found = argparse.ArgumentParser(prog="optimum-cli export neuron", exit_on_error=False)
    vars(module)["parse_args_neuronx"](found)
    return found


def understood(version: str, command: tuple[str, ...] | None) -> argparse.Namespace:
    assert command is not None
    assert command[:3] == ("optimum-cli", "export", "neuron")
    words = [word.replace("{model}", "/modelzone/weights").replace("{output}", "/out") for word in command[3:]]
    found = parser(version).parse_args(words)
    assert found.model == "/modelzone/weights"
    assert found.output == Path("/out")
    return found


def cases() -> Iterator[dict[str, Any]]:
    """Degrees, shapes and dtypes, and what the shipped profiles say."""
    for degree, batch, length, dtype in product((1, 8, 24, 32), (1, 4), (1024, 32768), ("fp16", "bf16")):
        yield {
            "tensor_parallel_degree": degree,
            "batch_size": batch,
            "sequence_length": length,
            "max_input_tokens": length // 2,
            "dtype": dtype,
        }
    names = ("instance_type", "tensor_parallel_degree", "batch_size", "sequence_length", "max_input_tokens", "dtype")
    for path in sorted((ROOT / "models").glob("*.yaml")):
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))["serving"]
        yield {name: profile[name] for name in names}


@pytest.mark.parametrize(("engine", "version", "wheel"), BUILT)
def test_every_export_is_understood(engine: str, version: str, wheel: str) -> None:
    later = wheel.startswith("0.4.")
    for case in cases():
        given = serving(engine, version, **case)
        if engine == "clip-neuronx":
            command = exported(engine, version, clip(), given)
            assert command is not None
            # On the compile host there is a device, and with one 0.4.x does not ask for the type.
            found = understood(wheel, (*command[:-1], "--instance_type", "inf2", "{output}") if later else command)
            assert (found.text_batch_size, found.image_batch_size) == (given.batch_size, given.batch_size)
            assert (found.sequence_length, found.width, found.height, found.num_channels) == (77, 224, 224, 3)
            assert (found.auto_cast, found.auto_cast_type) == ("matmul", given.dtype)
            continue
        found = understood(wheel, exported(engine, version, decoder(), given))
        # From a folder the task cannot be inferred (optimum 1.22 raises).
        assert found.task == "text-generation"
        assert (found.batch_size, found.sequence_length) == (given.batch_size, given.sequence_length)
        if later:
            assert found.tensor_parallel_size == given.tensor_parallel_degree
            assert found.torch_dtype == {"fp16": "float16", "bf16": "bfloat16"}[given.dtype]
            assert found.instance_type == given.instance_type.split(".")[1]
        else:
            assert found.num_cores == given.tensor_parallel_degree
            assert found.auto_cast_type == given.dtype


def test_every_engine_that_calls_optimum_is_tested() -> None:
    calling = {
        (engine.name, version.version)
        for engine in ENGINES.values()
        for version in engine.versions.values()
        if (
            engine.export_command(
                version.version,
                clip() if "clip" in version.model_types else decoder(),
                serving(engine.name, version.version),
            )
            or ("",)
        )[0]
        == "optimum-cli"
    }
    assert calling == {(engine, version) for engine, version, _ in BUILT}


@pytest.mark.parametrize("wheel", WHEELS)
def test_words_survive_the_shell_that_the_command_starts(wheel: str) -> None:
    """It joins its own arguments with spaces and runs them through a shell."""
    assert '" ".join(sys.argv[3:])' in source(wheel, PARSER)
    assert "shell=True" in source(wheel, PARSER)
    for engine, version, inside in BUILT:
        if inside == wheel:
            model = clip() if engine == "clip-neuronx" else decoder()
            for word in exported(engine, version, model, serving(engine, version)) or ():
                assert not set(word) & set(" \t\n;&|<>$`\\\"'*?()[]#~!"), word


WRONG = [
    ["--model", "m", "--revision", "main", "out"],
    ["--model", "m", "--auto_cast_type", "fp32", "out"],
    ["--model", "m", "--batch_size", "one", "out"],
    ["--model", "m", "--tp_degree", "8", "out"],
    ["--model", "m"],
]


@pytest.mark.parametrize(
    ("wheel", "arguments"),
    [
        *product(WHEELS, WRONG),
        ("0.0.25", ["--model", "m", "--tensor_parallel_size", "8", "out"]),
        ("0.0.25", ["--model", "m", "--torch_dtype", "float16", "out"]),
        ("0.0.28", ["--model", "m", "--instance_type", "inf2", "out"]),
        ("0.3.0", ["--model", "m", "--torch_dtype", "fp16", "out"]),
        ("0.4.5", ["--model", "m", "--instance_type", "inf3", "out"]),
        ("0.4.5", ["--model", "m", "--tensor_parallel_size", "8", "out"]),
    ],
)
def test_wrong_flags_are_refused(wheel: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the tests above would prove nothing."""
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parser(wheel).parse_args(arguments)
    capsys.readouterr()


def constants(node: ast.AST) -> list[object]:
    return [item.value for item in ast.walk(node) if isinstance(item, ast.Constant)]


def registered_decoders(wheel: str) -> set[object]:
    """``model_type`` values that the wheel registers for text-generation."""
    old = wheel.startswith("0.0.")
    decorators = {"register_in_tasks_manager"} if old else {"register_neuron_model_for_inference"}
    folder = "optimum/exporters/neuron/model_configs" if old else "optimum/neuron/models/inference/auto_models.py"
    found: set[object] = set()
    for name in names_in_wheel(PACKAGE, wheel):
        if not (name.startswith(folder) and name.endswith(".py")):
            continue
        for node in ast.walk(ast.parse(source(wheel, name))):
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") in decorators:
                    kind, *tasks = constants(decorator)
                    if "text-generation" in tasks:
                        found.add(kind)
    return found


@pytest.mark.parametrize("wheel", WHEELS)
def test_model_types_are_what_the_wheel_registers(wheel: str) -> None:
    registered = registered_decoders(wheel)
    assert len(registered) >= 6
    assert registered & MODEL_TYPES == DECODER_TYPES[wheel]


def test_mistral_was_dropped() -> None:
    assert "mistral" in registered_decoders("0.0.28")
    assert "mistral" not in registered_decoders("0.3.0")


def class_flags(wheel: str, name: str) -> dict[str, object]:
    """``CONTINUOUS_BATCHING`` by model type, as the older export configurations have it."""
    flags = {}
    for node in ast.walk(ast.parse(source(wheel, name))):
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(decorator, ast.Call) and "text-generation" in constants(decorator):
                flags[str(constants(decorator)[0])] = any(
                    isinstance(item, ast.Assign)
                    and getattr(item.targets[0], "id", "") == "CONTINUOUS_BATCHING"
                    and constants(item) == [True]
                    for item in node.body
                )
    return flags


@pytest.mark.parametrize(
    ("wheel", "name"),
    [
        ("0.0.25", "optimum/exporters/neuron/model_configs.py"),
        ("0.0.28", "optimum/exporters/neuron/model_configs/decoder_configs.py"),
    ],
)
def test_types_without_continuous_batching(wheel: str, name: str) -> None:
    assert {kind for kind, continuous in class_flags(wheel, name).items() if not continuous} == STATIC_BATCH_TYPES[
        wheel
    ]


@pytest.mark.parametrize("wheel", ["0.3.0", "0.4.4", "0.4.5"])
def test_later_types_without_continuous_batching(wheel: str) -> None:
    """Classes that build their own configuration and say nothing of continuous batching; the others inherit Llama's."""
    silent = set()
    for kind in DECODER_TYPES[wheel]:
        name = kind.removesuffix("_text")
        tree = ast.parse(source(wheel, f"optimum/neuron/models/inference/{name}/modeling_{name}.py"))
        decoders = [c for c in tree.body if isinstance(c, ast.ClassDef) and c.name.endswith("ForCausalLM")]
        for node in (item for found in decoders for item in found.body):
            if isinstance(node, ast.FunctionDef) and node.name == "_get_neuron_config":
                calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
                if "continuous_batching" not in {keyword.arg for call in calls for keyword in call.keywords}:
                    silent.add(kind)
    assert silent == STATIC_BATCH_TYPES[wheel]


def popped(wheel: str, function: str) -> set[object]:
    """Arguments that the way to the decoder drops."""
    (node,) = (
        node
        for node in ast.walk(ast.parse(source(wheel, EXPORT)))
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    return {
        call.args[0].value
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "pop"
        and isinstance(call.args[0], ast.Constant)
    }


def test_flags_that_are_accepted_and_dropped_are_not_used() -> None:
    assert "tensor_parallel_size" in popped("0.3.0", "maybe_export_from_neuron_model_class")
    assert not {"num_cores", "auto_cast_type"} & popped("0.3.0", "maybe_export_from_neuron_model_class")
    for wheel in ("0.4.4", "0.4.5"):
        dropped = popped(wheel, "maybe_export_from_neuron_model_class")
        assert "auto_cast_type" in dropped
        assert "tensor_parallel_size" not in dropped
    # The decoders of 0.0.28 read --num_cores.
    assert "num_cores=args.num_cores" in source("0.0.28", EXPORT)


def decoder_module() -> ast.Module:
    return ast.parse(source("0.0.25", "optimum/neuron/modeling_decoder.py"))


def test_artifact_has_the_keys_that_are_verified() -> None:
    (written,) = (
        node.value
        for node in ast.walk(decoder_module())
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


def test_artifact_has_the_folders_that_are_verified() -> None:
    found = {
        node.targets[0].id: node.value.value
        for node in ast.walk(decoder_module())
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }

    assert (found["CHECKPOINT_DIR"], found["COMPILED_DIR"]) == ("checkpoint", "compiled")


@pytest.mark.parametrize("wheel", ["0.4.4", "0.4.5"])
def test_what_the_vllm_container_is_told_are_arguments_of_serve(wheel: str) -> None:
    """``SM_ON_<ARGUMENT>`` becomes ``--<argument>``."""
    known = set(constants(ast.parse(source(wheel, "optimum/commands/neuron/serve.py"))))
    told = ENGINES["vllm-neuronx"].container_environment(wheel, decoder(), serving("vllm-neuronx", wheel))
    assert {f"--{name.removeprefix('SM_ON_').lower()}" for name in told} <= known
    assert {"--batch_size", "--sequence_length", "--tensor_parallel_size", "--allow_non_cached_model"} <= known
