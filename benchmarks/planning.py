"""Time the planner: ``python benchmarks/planning.py``. Prints milliseconds, best and median of several runs.

Nothing here needs AWS or a network. Goals: import below 150 ms, one deployment below 5 ms, a full search below 200 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modelzone.planning import plan_deployment, plan_environment, search  # noqa: E402
from modelzone.settings import load_environment, load_profile, profile_names  # noqa: E402

_IMPORT = "import time; t = time.perf_counter(); import modelzone.planning; print((time.perf_counter() - t) * 1000)"
_RUNS = 15


def timed(action: Callable[[], object]) -> list[float]:
    """Milliseconds of each run, after one that warms the caches."""
    action()
    runs = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        action()
        runs.append((time.perf_counter() - started) * 1000)
    return runs


def show(what: str, runs: list[float]) -> None:
    """One line of the table."""
    print(f"{what:<58} {min(runs):>8.1f} {statistics.median(runs):>8.1f}")


def main() -> None:
    """Print the table."""
    print(f"{'milliseconds':<58} {'best':>8} {'median':>8}")
    command = [sys.executable, "-c", _IMPORT]
    imports = [
        float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        for _ in range(_RUNS)
    ]
    show("import modelzone.planning", imports)
    environment, profile = load_environment(ROOT, "dev"), load_profile(ROOT, "mixtral-8x7b-instruct")
    show("plan one deployment", timed(lambda: plan_deployment(environment, "mixtral", profile, source="benchmark")))
    show("read and plan environment dev", timed(lambda: plan_environment(ROOT, "dev")))
    for name in profile_names(ROOT):
        found = load_profile(ROOT, name)
        full = partial(search, found.model, found.serving, region="us-east-1")
        show(f"full search, {name} ({len(full())} ways found)", timed(full))


if __name__ == "__main__":
    main()
