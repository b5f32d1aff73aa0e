"""Seconds per synth: ``make benchmark``, or ``python benchmarks/synth.py [--runs N]``.

Times whole processes, the interpreter's start included, for a bare CDK app and for 1, 10 and 50 deployments, with and
without the CDK's validation of templates. The variants take turns, so that a slow moment of the machine hits all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

APP = Path(__file__).resolve().with_name("synth_app.py")
SIZES = (0, 1, 10, 50)


def synth(count: int, *, validation: bool) -> tuple[float, int]:
    """Synthesise once; returns seconds and the number of resources."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["CDK_VALIDATION"] = "true" if validation else "false"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, str(APP), folder, str(count)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"synth of {count} deployments failed:\n{done.stderr[-2000:]}")
        templates = [json.loads(path.read_text()) for path in Path(folder).glob("*.template.json")]
    return seconds, sum(len(template.get("Resources", {})) for template in templates)


def main() -> None:
    """Time all variants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    synth(1, validation=True)  # writes bytecode and fills the jsii package cache
    seconds: dict[tuple[int, bool], list[float]] = {(n, v): [] for n in SIZES for v in (True, False)}
    resources: dict[int, int] = {}
    for _ in range(runs):
        for (count, validation), taken in seconds.items():
            took, resources[count] = synth(count, validation=validation)
            taken.append(took)
    print(
        f"Python {platform.python_version()}, aws-cdk-lib {version('aws-cdk-lib')}, {os.cpu_count()} CPUs, "
        f"median of {runs} runs (min to max), seconds"
    )
    print(f"{'application':<18}{'resources':>10}  {'validation on':>22}  {'validation off':>22}")
    for count in SIZES:
        cells = [
            f"{statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f})"
            for s in (seconds[count, True], seconds[count, False])
        ]
        name = f"{count} deployment{'s' if count > 1 else ''}" if count else "bare CDK app"
        print(f"{name:<18}{resources[count]:>10}  {cells[0]:>22}  {cells[1]:>22}")


if __name__ == "__main__":
    main()
