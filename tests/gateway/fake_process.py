"""The fake AWS in a process of its own, for benchmarks: what it costs is not the proxy's."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.gateway.world import DEPLOYMENTS, endpoint_of, parameters

__all__ = ["running_fake"]

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def running_fake(folder: Path, *, dialects: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve the deployments of `world`, and endpoints of more `dialects`; yield the URL.

    `folder` takes the file that says so.
    """
    known = {endpoint_of(item.name): item.dialect for item in DEPLOYMENTS}
    file = folder / "world.json"
    file.write_text(json.dumps({"parameters": parameters(), "dialects": {**known, **(dialects or {})}}))
    command = [sys.executable, "-m", "tests.gateway.fake_aws", "--world", str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
