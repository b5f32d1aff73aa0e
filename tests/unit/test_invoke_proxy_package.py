"""What is shipped: pins, launcher, import budget."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).resolve().parents[2] / "lambda" / "invoke_proxy"
# Only the downloads of tokenizers use it: a test below runs it without.
NOT_SHIPPED = "huggingface-hub"
PYTHON_OF_THE_FUNCTION = {"python_version": "3.13", "python_full_version": "3.13.0", "platform_system": "Linux"}


def pins() -> dict[str, str]:
    lines = (PACKAGE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): number for name, _, number in found}


def test_pins_are_the_versions_that_the_tests_run_with() -> None:
    assert pins() == {name: version(name) for name in pins()}


def test_pins_are_complete() -> None:
    """Everything that uvicorn, its faster parser and starlette need on the function's Python, and nothing else."""
    needed: set[str] = set()
    waiting = ["starlette", "uvicorn", "httptools", "tokenizers"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in needed or name == NOT_SHIPPED:
            continue
        needed.add(name)
        for text in requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or marker.evaluate({**PYTHON_OF_THE_FUNCTION, "extra": ""}):
                waiting.append(requirement.name)

    assert set(pins()) == needed


def run_python(program: str) -> str:
    """Run a program that sees the function's package."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_tokenizers_work_without_what_is_not_shipped() -> None:
    program = """
import sys
sys.modules["huggingface_hub"] = None
from tokenizers import Tokenizer, models
written = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str()
print(Tokenizer.from_buffer(written.encode()).encode("a").ids)
"""
    assert run_python(program).strip() == "[0]"


def test_nothing_slow_is_imported_before_it_is_needed() -> None:
    """An SDK is 0.4 s of a cold start; tokenizers, patterns of the log and the API's description are used seldom."""
    slow = (
        "boto3",
        "botocore",
        "httpx",
        "jinja2",
        "pydantic",
        "tokenizers",
        "uvicorn",
        "invoke_proxy.openapi",
        "invoke_proxy.redaction",
    )
    program = f"import sys, invoke_proxy.app; print([name for name in {slow} if name in sys.modules])"

    assert run_python(program).strip() == "[]"


def test_nothing_is_called_by_the_import() -> None:
    """No address, no credentials, no region: the app must exist all the same."""
    program = """
import os
for name in list(os.environ):
    if name.startswith(("AWS_", "MODELZONE_")):
        del os.environ[name]
import invoke_proxy.app
from starlette.applications import Starlette
print(isinstance(invoke_proxy.app.app, Starlette))
"""
    assert run_python(program).strip() == "True"


def test_import_budget() -> None:
    """Measured: 0.19 s of CPU on a busy machine of two cores, 0.12 s of it Starlette's; the ceiling leaves room."""
    program = "import time; start = time.process_time(); import invoke_proxy.app; print(time.process_time() - start)"

    assert min(float(run_python(program)) for _ in range(3)) < 0.6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


VARIABLES = {
    "MODELZONE_REGISTRY_PATH": "/modelzone/test/deployments",
    "MODELZONE_GATEWAY_PATH": "/modelzone/test/gateway",
}


@pytest.fixture
def asset(tmp_path: Path) -> Path:
    """The function's folder as it is shipped: launcher beside the package."""
    (tmp_path / "invoke_proxy").symlink_to(PACKAGE)
    launcher = tmp_path / "run.sh"
    launcher.write_bytes((PACKAGE / "run.sh").read_bytes())
    launcher.chmod(0o755)
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "python3").symlink_to(sys.executable)
    return tmp_path


def start(asset: Path, **variables: str) -> subprocess.Popen[str]:
    packages = str(Path(sys.executable).parents[1] / "lib" / f"python3.{sys.version_info.minor}" / "site-packages")
    environment = {"PATH": f"{asset}/bin:/usr/bin:/bin", "PYTHONPATH": packages, **variables}
    return subprocess.Popen(
        [str(asset / "run.sh")], env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_launcher_serves_without_any_aws(asset: Path) -> None:
    assert os.access(PACKAGE / "run.sh", os.X_OK)
    port = free_port()
    child = start(asset, **VARIABLES, AWS_LWA_PORT=str(port))
    try:
        deadline = time.monotonic() + 20
        status = 0
        while not status:
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline, "the launcher did not serve"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health?secret=1", timeout=5) as answer:
                    status = answer.status
            except urllib.error.URLError:
                time.sleep(0.05)
        assert status == 200
    finally:
        child.terminate()
        output, _ = child.communicate(timeout=10)
    assert "secret" not in output
    assert child.returncode in (0, -15)


@pytest.mark.parametrize("missing", VARIABLES)
def test_launcher_names_a_missing_variable(asset: Path, missing: str) -> None:
    child = start(asset, **{name: value for name, value in VARIABLES.items() if name != missing})
    output, _ = child.communicate(timeout=10)

    assert child.returncode != 0
    assert re.search(rf"{missing}.*set it to the SSM path", output)
