"""Record the options of ``optimum-cli export neuron`` for the export stand-in.

``python tools/record_optimum_options.py``; the parsers are the real ones, run from optimum-neuron's wheels. Writes
``modelzone/local/model_server/data/optimum_neuron_options.json``.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "modelzone" / "local" / "model_server" / "data" / "optimum_neuron_options.json"

WHEELS = ROOT / ".build" / "wheels"
VERSIONS = ("0.0.25", "0.0.28", "0.3.0", "0.4.4", "0.4.5")
PARSER = "optimum/commands/export/neuronx.py"

_KINDS = {
    "_StoreAction": "store",
    "_StoreTrueAction": "store_true",
    "_StoreFalseAction": "store_false",
    "_StoreConstAction": "store_const",
}


def recorded(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """One object for each option or position of a parser, in its order."""
    rows = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to look
        kind = type(action).__name__
        if kind == "_HelpAction":
            continue
        row: dict[str, Any] = {"dest": action.dest, "action": _KINDS[kind]}
        if action.option_strings:
            row |= {"flags": list(action.option_strings), "required": action.required}
        if action.nargs not in {None, 0}:
            row["nargs"] = action.nargs
        if action.type is not None:
            row["type"] = getattr(action.type, "__name__", "str")
        if action.choices is not None:
            row["choices"] = list(action.choices)
        if _KINDS[kind] == "store_const":
            row["const"] = action.const
        if action.default is not None and action.default is not argparse.SUPPRESS:
            row["default"] = action.default if isinstance(action.default, bool | int | float) else str(action.default)
        rows.append(row)
    return rows


def wheel(version: str) -> zipfile.ZipFile:
    """A wheel of optimum-neuron, downloaded once and without what it depends on."""
    path = WHEELS / f"optimum_neuron-{version}-py3-none-any.whl"
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(WHEELS)]
        subprocess.run([*command, f"optimum-neuron=={version}"], check=True)
    return zipfile.ZipFile(path)


def _stubs(archive: zipfile.ZipFile) -> dict[str, dict[str, object]]:
    """What the parser's module imports: help texts, and whether there is a device (none: the stricter case)."""
    tasks = types.SimpleNamespace(_TRANSFORMERS_TASKS_TO_MODEL_LOADERS={}, _DIFFUSERS_TASKS_TO_MODEL_LOADERS={})
    known: tuple[str, ...] = ()
    instance = "optimum/neuron/utils/instance.py"
    if instance in archive.namelist():
        for node in ast.parse(archive.read(instance)).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SUPPORTED_INSTANCE_TYPES":
                known = ast.literal_eval(node.value)
    return {
        "optimum": {},
        "optimum.exporters": {"TasksManager": tasks},
        "optimum.exporters.tasks": {"TasksManager": tasks},
        "optimum.utils": {"is_diffusers_available": lambda: False},
        "optimum.commands": {},
        "optimum.commands.base": {"BaseOptimumCLICommand": object, "CommandInfo": lambda **_: None},
        "optimum.commands.export": {},
        "optimum.neuron": {},
        "optimum.neuron.utils": {},
        "optimum.neuron.utils.system": {"get_neuron_major": lambda: -1},
        "optimum.neuron.utils.instance": {
            "SUPPORTED_INSTANCE_TYPES": known,
            "normalize_instance_type": lambda name: name,
        },
    }


def real_parser(version: str) -> argparse.ArgumentParser:
    """The parser of a version, run from its wheel."""
    with wheel(version) as archive:
        source, stubs = archive.read(PARSER).decode(), _stubs(archive)
    kept = {name: sys.modules.get(name) for name in stubs}
    try:
        for name, values in stubs.items():
            stub = types.ModuleType(name)
            stub.__path__ = []
            vars(stub).update(values)
            sys.modules[name] = stub
        module = types.ModuleType("optimum.commands.export.neuronx")
        module.__package__ = "optimum.commands.export"
        exec(compile(source, PARSER, "exec"), vars(module))  # noqa: S102 - the published file, pinned
    finally:
        for name, before in kept.items():
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before
    parser = argparse.ArgumentParser(prog="optimum-cli export neuron", exit_on_error=False)
    vars(module)["parse_args_neuronx"](parser)
    return parser


def main() -> int:
    """Write the record."""
    record = {
        "source": "optimum/commands/export/neuronx.py of the wheels on PyPI, without a Neuron device",
        "versions": {version: recorded(real_parser(version)) for version in VERSIONS},
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
