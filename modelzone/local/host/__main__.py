"""``python -m modelzone.local.host TOOL [ARGUMENT ...]``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from modelzone.local.host.faults import Faults


def main() -> int:
    """Run one of the tools and return its exit status."""
    tool, *arguments = sys.argv[1:]
    run: Callable[[list[str]], int]
    Faults.of_host().pause()
    # Each tool is a process of its own, so only its own module is loaded.
    match tool:
        case "docker":
            from modelzone.local.host import docker  # noqa: PLC0415

            run = docker.main
        case "optimum-cli":
            from modelzone.local.host import optimum_cli  # noqa: PLC0415

            run = optimum_cli.main
        case "trt_llm_partition.py":
            from modelzone.local.host import trt_llm_partition  # noqa: PLC0415

            run = trt_llm_partition.main
        case "neuron-ls" | "nvidia-smi" | "shutdown" | "systemctl":
            from modelzone.local.host.machine import TOOLS  # noqa: PLC0415

            run = TOOLS[tool]
        case _:
            sys.stderr.write(f"modelzone.local.host: there is no stand-in for {tool!r}\n")
            return 127
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
