"""Makes the compiled artifact of a deployment with the real compile job and the model server's export stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from modelzone.errors import ModelzoneError
from modelzone.planning import DeploymentPlan

__all__ = ["publish_artifact"]

_EXPORT_MODULE = "modelzone.local.model_server.export"
_OPTIMUM_EXPORT = ("optimum-cli", "export", "neuron")


def publish_artifact(
    plan: DeploymentPlan, *, bucket: str, root: Path, folder: Path, environment: Mapping[str, str], log: Path
) -> str:
    """Run ``compile_job`` as a process on this machine; it is done at once when the artifact is there already.

    The export is the only part that is stood in for: the flags are those of the plan's ``optimum-cli`` command, the
    weights those of the small Mixtral.

    Returns
    -------
    The S3 URI of the artifact.

    """
    command = plan.compile.export_command
    if command[: len(_OPTIMUM_EXPORT)] != _OPTIMUM_EXPORT:
        raise ModelzoneError(f"deployment {plan.name}: the embedded AWS has no stand-in for the export {command[0]}")
    weights = folder / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    job = {
        "facts": plan.facts.as_dict(),
        "bucket": bucket,
        "prefix": plan.artifact_prefix,
        "image": "none",
        "runner": "process",
        "weights": {"source": "directory", "path": str(weights)},
        "devices": 0,
        "export_command": [sys.executable, "-m", _EXPORT_MODULE, *command[len(_OPTIMUM_EXPORT) :]],
        "work_dir": str(folder / "work"),
        "min_free_gib": 0,
        "region": plan.region,
    }
    path = folder / f"{plan.name}.json"
    path.write_text(json.dumps(job, indent=2), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "compile_job", "--job", str(path)],
        cwd=root,
        env={**environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise ModelzoneError(f"compiling {plan.name} failed; {log} ends with:\n{tail}")
    return f"s3://{bucket}/{plan.artifact_prefix}"
