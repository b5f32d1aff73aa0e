"""Whatever happens, the command line says one message, exits with a documented status, and shows no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from modelzone.cli.exits import ExitCode
from modelzone.cli.frame import Frame
from modelzone.cli.output import write, write_json
from modelzone.errors import ModelzoneError, SettingsError

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the details of faults are written."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def application(action: Any) -> typer.Typer:
    app = typer.Typer(cls=Frame, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command()
    def go(as_json: bool = typer.Option(False, "--json")) -> None:
        action()

    @app.command()
    def other() -> None:
        write("other")

    return app


def fail(error: BaseException) -> Any:
    def action() -> None:
        raise error

    return action


REFUSED = SettingsError(source="x.yaml", key="a.b", problem="is wrong", fix="mend it")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ModelzoneError("no such thing"), ExitCode.REFUSED, "error: no such thing"),
        (REFUSED, ExitCode.REFUSED, "error: x.yaml: a.b: is wrong\n  fix: mend it"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "error: No such file or directory: a.txt"),
        (typer.BadParameter("not so"), ExitCode.USAGE, "error: not so (see: modelzone go --help)"),
        (typer.Exit(1), ExitCode.REFUSED, ""),
        (typer.Abort(), ExitCode.REFUSED, "error: aborted"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, ""),
        (BrokenPipeError(32, "Broken pipe"), ExitCode.CLOSED, ""),
        (OSError(28, "No space left on device"), 1, "error: the output could not be written: No space left on device"),
        (ModelzoneError("red \x1b[31mname"), ExitCode.REFUSED, "error: red \\x1b[31mname"),
    ],
)
def test_each_outcome_has_its_message_and_status(error: BaseException, code: int, says: str) -> None:
    done = RUNNER.invoke(application(fail(error)), ["go"])
    assert done.exit_code == code
    assert done.stderr.strip().endswith(says)
    assert bool(done.stderr) == bool(says)
    assert done.stdout == ""


def test_an_unexpected_exception_is_one_line_and_a_file(faults: Path) -> None:
    done = RUNNER.invoke(application(fail(KeyError("lost\nvalue"))), ["go"])
    assert done.exit_code == ExitCode.FAULT
    (log,) = faults.iterdir()
    assert done.stderr == f"error: modelzone failed: KeyError: 'lost\\nvalue' (details: {log})\n"
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_an_unexpected_exception_without_a_place_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    done = RUNNER.invoke(application(fail(ValueError("x"))), ["go"])
    assert (done.exit_code, done.stderr) == (ExitCode.FAULT, "error: modelzone failed: ValueError: x\n")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModelzoneError("no"), {"kind": "refused", "message": "no"}),
        (
            REFUSED,
            {
                "kind": "refused",
                "message": str(REFUSED),
                "source": "x.yaml",
                "key": "a.b",
                "problem": "is wrong",
                "fix": "mend it",
            },
        ),
    ],
)
def test_errors_are_json_too(error: Exception, expected: dict[str, str]) -> None:
    done = RUNNER.invoke(application(fail(error)), ["go", "--json"])
    assert json.loads(done.stdout) == {"error": expected}
    assert done.stderr.startswith("error: ")


def test_wrong_usage_is_json_too() -> None:
    done = RUNNER.invoke(application(fail(KeyError())), ["go", "--json", "--nothing"])
    assert done.exit_code == ExitCode.USAGE
    assert json.loads(done.stdout)["error"]["kind"] == "usage"


def test_json_after_two_dashes_is_no_option() -> None:
    done = RUNNER.invoke(application(fail(KeyError())), ["go", "--", "--json"])
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")


def test_json_has_no_infinity() -> None:
    done = RUNNER.invoke(application(lambda: write_json({"x": float("inf")})), ["go"])
    assert (done.exit_code, done.stdout) == (ExitCode.FAULT, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["goo"], "No such command 'goo'. Did you mean 'go'? (see: modelzone --help)"),
        (["go", "--jsn"], "No such option: --jsn (Possible options: --json) (see: modelzone go --help)"),
        (["go", "extra"], "Got unexpected extra argument(s) (extra) (see: modelzone go --help)"),
    ],
)
def test_what_is_misspelled_has_a_suggestion(arguments: list[str], says: str) -> None:
    done = RUNNER.invoke(application(fail(KeyError())), arguments)
    assert (done.exit_code, done.stderr) == (ExitCode.USAGE, f"error: {says}\n")


PROGRAM = """
import sys, time, typer
import modelzone.cli.app
from modelzone.cli import main
from modelzone.cli.frame import Frame

app = typer.Typer(cls=Frame, rich_markup_mode=None)
app.command("other")(lambda: None)

@app.command()
def go():
    {action}

modelzone.cli.app.app = app
sys.argv = ["modelzone", "go"]
sys.exit(main())
"""


def program(action: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(action=action)]


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        program("[sys.stdout.write('x' * 100) for _ in range(10_000)]"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == ExitCode.CLOSED


def test_a_short_output_that_nobody_reads() -> None:
    read, writing = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "modelzone", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, timeout=30, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (ExitCode.CLOSED, b"")


def test_a_full_disk_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "modelzone", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=30, check=False)
    assert done.returncode == ExitCode.REFUSED
    assert done.stderr == b"error: the output could not be written: No space left on device\n"


def test_closed_streams_do_no_harm() -> None:
    command = f"exec {sys.executable} -m modelzone --help >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=ROOT, timeout=30, check=False).returncode == ExitCode.DONE


def test_control_c_is_quiet() -> None:
    with subprocess.Popen(
        program("print('ready', flush=True); time.sleep(60)"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        # A shell starts background jobs, and so a whole test run, with the signal ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (ExitCode.INTERRUPTED, b"")


def test_characters_that_the_terminal_lacks_are_written_differently() -> None:
    done = subprocess.run(
        program("print('café')"),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"caf\\xe9\n")


def test_every_status_is_in_the_help_and_in_the_documentation() -> None:
    from modelzone.cli.app import app  # noqa: PLC0415

    shown = RUNNER.invoke(app, ["--help"]).stdout
    documented = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"{code.value:>3}  {code.meaning}" in shown
        assert f"| {code.value} | {code.meaning} |" in documented
