"""``optimum-cli export neuron`` in a container: the export stand-in, in the version that the image holds."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from modelzone.engines import ENGINES
from modelzone.local.host.docker import DEVICES_VARIABLE, IMAGE_VARIABLE
from modelzone.local.host.faults import Faults
from modelzone.local.model_server import export
from modelzone.resources import read_data

__all__ = ["main", "optimum_version"]

_EXPORT = ["export", "neuron"]
# Which one this image holds is not known; the flags are the same from 0.3.0 to 0.4.5.
_UNKNOWN_VERSION = "0.3.0"
_SLOW_SECONDS = 60
_CACHE_VARIABLE = "NEURON_COMPILE_CACHE_URL"
_KILLED = 137


def optimum_version(image: str) -> str | None:
    """The version of optimum-neuron in an image of the project's table, None for one without it."""
    name = image.rpartition("/")[2]
    for engine, versions in read_data("modelzone.engines", "images.json")["engines"].items():
        for version, row in versions.items():
            if row["image"] == name and engine in ENGINES:
                components = ENGINES[engine].versions[version].components
                if "optimum-neuron" in components:
                    return str(components["optimum-neuron"])
                if "neuronx" in name and name.startswith("huggingface"):
                    return _UNKNOWN_VERSION
    return None


def main(arguments: list[str]) -> int:
    """Export, or fail as the faults say."""
    version = optimum_version(os.environ.get(IMAGE_VARIABLE, ""))
    if version is None:
        sys.stderr.write(f"optimum-cli: the image {os.environ.get(IMAGE_VARIABLE)!r} has no optimum-neuron\n")
        return 127
    if arguments[:2] != _EXPORT:
        sys.stderr.write(
            "usage: optimum-cli\nOptimum CLI tool: error: argument {export}: invalid choice: "
            f"{' '.join(arguments[:2])!r} (the stand-in has 'export neuron')\n"
        )
        return 2
    device = int(os.environ.get(DEVICES_VARIABLE, "0")) > 0
    options = export.export_parser(version, device=device).parse_args(arguments[2:])
    fault = Faults.of_host().export
    if fault:
        # What a real one leaves behind when it fails halfway.
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "config.json.tmp").write_text("{", encoding="utf-8")
    match fault:
        case "oom":
            sys.stderr.write(
                "[ERROR] [neuronx-cc] [F137] neuronx-cc was forcibly killed - This most commonly occurs due to "
                "insufficient system memory. Using a smaller data type, dimensions, batch size, or a larger instance "
                "type may help.\n"
            )
            return _KILLED
        case "disk-full":
            sys.stderr.write(f"OSError: [Errno 28] No space left on device: '{options.output}/model.pt'\n")
            return 1
        case "fail":
            sys.stderr.write("subprocess.CalledProcessError: neuronx-cc failed with 70\n")
            return 1
        case "slow":
            for second in range(_SLOW_SECONDS):
                sys.stdout.write(f"Compiler status: {second} of {_SLOW_SECONDS}\n")
                sys.stdout.flush()
                time.sleep(1)
    if fault:
        (options.output / "config.json.tmp").unlink(missing_ok=True)
    _compile(version, " ".join(arguments))
    return export.main(arguments[2:], version=version, device=device)


def _compile(version: str, command: str) -> None:
    """Leave a graph in the compiler's cache, or find it there, as neuronx-cc does."""
    folder = os.environ.get(_CACHE_VARIABLE)
    if not folder:
        return
    digest = hashlib.sha256(f"{version} {command}".encode()).hexdigest()[:20]
    module = Path(folder) / "neuronxcc-cpu-stand-in" / f"MODULE_{digest}+stand-in"
    if (module / "model.done").exists():
        sys.stdout.write(f"INFO ||NEURON_CC_WRAPPER||: Using a cached neff at {module}/model.neff\n")
        return
    module.mkdir(parents=True, exist_ok=True)
    (module / "model.neff").write_text("not a compiled graph\n", encoding="utf-8")
    (module / "model.done").touch()
    sys.stdout.write(
        "INFO ||NEURON_CC_WRAPPER||: Call compiler with cmd: neuronx-cc (stand-in)\n\nCompiler status PASS\n"
    )
