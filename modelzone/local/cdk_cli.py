"""Runs the real CDK CLI against the embedded AWS."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelzone.errors import ModelzoneError
from modelzone.local.progress import Progress

__all__ = ["CdkCli"]


class CdkCli:
    """The pinned ``cdk`` of this checkout.

    Parameters
    ----------
    root
        The checkout: the folder of ``cdk.json``.
    assembly
        Where `synth` writes and the other commands read.
    environment
        Process environment with credentials and endpoint.
    log
        Takes the output of commands that are not shown.
    """

    def __init__(self, *, root: Path, assembly: Path, environment: Mapping[str, str], log: Path) -> None:
        self._root, self._assembly, self._environment, self._log = root, assembly, dict(environment), log
        self._program = root / "node_modules" / ".bin" / "cdk"
        if not self._program.exists():
            raise ModelzoneError(f"{self._program} is missing; run: python3 tools/bootstrap.py local")

    def bootstrap(self, account: str, region: str) -> None:
        """Create the CDK's own stack (asset bucket, roles)."""
        # From an empty folder: in the checkout the CLI would synthesise the whole application first.
        empty = self._assembly.parent / "empty"
        empty.mkdir(parents=True, exist_ok=True)
        self._run(["bootstrap", f"aws://{account}/{region}"], folder=empty, show=False)

    def synth(self, context: Mapping[str, str]) -> None:
        """Write the cloud assembly."""
        pairs = [argument for key, value in context.items() for argument in ("-c", f"{key}={value}")]
        self._run(["synth", "--quiet", "--output", str(self._assembly), *pairs], show=False)

    def deploy(
        self, stacks: Sequence[str], *, parameters: Mapping[str, str] | None = None
    ) -> dict[str, dict[str, str]]:
        """Deploy stacks with what they depend on; returns the outputs by CloudFormation stack name."""
        outputs = self._assembly.parent / "outputs.json"
        outputs.unlink(missing_ok=True)
        pairs = [
            argument for key, value in (parameters or {}).items() for argument in ("--parameters", f"{key}={value}")
        ]
        self._run(
            [
                "deploy",
                *stacks,
                *("--app", str(self._assembly)),
                *("--outputs-file", str(outputs)),
                *("--require-approval", "never"),
                *("--concurrency", "4"),
                *("--progress", "events"),
                *pairs,
            ],
            show=True,
        )
        return json.loads(outputs.read_text(encoding="utf-8")) if outputs.exists() else {}

    def diff(self) -> str:
        """What a deploy would change; the CLI's own words."""
        return self._run(["diff", "--app", str(self._assembly)], show=False)

    def destroy(self) -> None:
        """Delete all stacks."""
        self._run(["destroy", "--all", "--force", "--app", str(self._assembly)], show=True)

    def _run(self, arguments: Sequence[str], *, show: bool, folder: Path | None = None) -> str:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [str(self._program), *arguments, "--no-notices", "--no-color"]
        lines: list[str] = []
        progress = Progress()
        with (
            self._log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                cwd=folder or self._root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            log.write(f"$ cdk {' '.join(arguments)}\n")
            assert process.stdout is not None  # noqa: S101 - for type checkers: it is a pipe
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                if show:
                    progress.feed(line)
            progress.close()
        if process.returncode:
            tail = "" if show else "\n" + "".join(lines[-25:]).rstrip()
            raise ModelzoneError(f"cdk {arguments[0]} failed (exit status {process.returncode}).{tail}")
        return "".join(lines)
