"""Megabytes per second of ``modelzone doctor log``: ``python benchmarks/doctor_log.py [--megabytes N]``.

Four logs are made: the healthy servers' of the tests, repeated; the same with one failure in a hundred lines; one in
which every line is a failure; and a single line that begins a message over and over and never ends it.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modelzone.doctor.log import diagnose_file

LOGS = Path(__file__).resolve().parents[1] / "tests" / "unit" / "doctor_logs"
FAILURE = b"torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 21.99 GiB\n"
HALF = b"VolumeSizeInGB 1 supported "


def write(path: Path, lines: list[bytes], size: int) -> None:
    """Repeat lines until a file has about this many bytes."""
    block = b"".join(lines)
    with path.open("wb") as file:
        for _ in range(max(1, size // len(block))):
            file.write(block)


def main() -> None:
    """Time all three and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    size = parser.parse_args().megabytes * 1_000_000
    healthy = [
        line for log in sorted(LOGS.glob("healthy_*.log")) for line in log.read_bytes().splitlines(keepends=True)
    ]
    some = [line for number in range(1000) for line in (healthy[number % len(healthy)],) if number % 100] + [
        FAILURE
    ] * 10
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs")
    print(f"{'log':<34}{'MB':>6}{'lines':>12}{'found':>9}{'seconds':>9}{'MB/s':>7}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        write(path, healthy, 1_000_000)
        diagnose_file(path)  # compiles the expressions
        for name, lines, wanted in (
            ("healthy", healthy, size),
            ("one line in a hundred fails", some, size // 4),
            ("every line fails", [FAILURE], size // 100),
            ("half a message, on one line", [HALF], size // 100),
        ):
            write(path, lines, wanted)
            started = time.perf_counter()
            diagnosis = diagnose_file(path)
            seconds = time.perf_counter() - started
            found = sum(finding.count for finding in diagnosis.findings)
            megabytes = diagnosis.bytes / 1e6
            row = f"{name:<34}{megabytes:>6.0f}{diagnosis.lines:>12,}{found:>9,}{seconds:>9.1f}"
            print(f"{row}{megabytes / seconds:>7.1f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
