"""Get a snapshot of the weights: the artifact holds them only if the export starts from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from compile_job.errors import StepError
from compile_job.job import HubWeights
from compile_job.signatures import remedy

from .container import Container

if TYPE_CHECKING:
    from boto3.session import Session

__all__ = ["check_snapshot", "hub_snapshot"]

_PROGRAM = Path(__file__).resolve().parents[1] / "container"
_CODE_TARGET = "/modelzone/code"
_WEIGHTS_TARGET = "/modelzone/weights"
_TOKEN_PREFIXES = ("hf_", "api_")


def hub_snapshot(weights: HubWeights, *, image: str, name: str, folder: Path, session: Session) -> dict[str, object]:
    """Download the pinned revision with the serving image's own hub client, once.

    Raises
    ------
    StepError
        With the remedy when it is known.
    """
    marker = folder.with_name(folder.name + ".json")
    done = _read_marker(marker)
    if done.get("model_id") == weights.model_id and done.get("requested") == weights.revision and folder.is_dir():
        return {"revision": done["revision"], "downloaded": False}
    token = _read_token(session, weights.token_secret_arn) if weights.token_secret_arn else ""
    folder.mkdir(parents=True, exist_ok=True)
    container = Container(image=image, name=name, mounts=((_PROGRAM, _CODE_TARGET), (folder, _WEIGHTS_TARGET)))
    finished = container.run(
        [
            "python3",
            f"{_CODE_TARGET}/hub_snapshot.py",
            f"--repository={weights.model_id}",
            f"--revision={weights.revision}",
            f"--output={_WEIGHTS_TARGET}",
        ],
        secret=token,
    )
    if finished.status:
        why = remedy(finished.tail) or finished.last_line
        message = f"download of {weights.model_id} at {weights.revision} failed: {why}"
        raise StepError(message)
    check_snapshot(folder)
    revision = finished.last_line
    marker.write_text(
        json.dumps({"model_id": weights.model_id, "requested": weights.revision, "revision": revision}),
        encoding="utf-8",
    )
    return {"revision": revision, "downloaded": True}


def check_snapshot(folder: Path) -> None:
    """Check that a folder is a whole model: configuration, tokenizer and every file of weights.

    Raises
    ------
    StepError
        Naming what is missing.
    """
    if not folder.is_dir():
        message = f"{folder} is no folder: name the folder of the weights in weights.path"
        raise StepError(message)
    if not (folder / "config.json").is_file():
        message = f"{folder} has no config.json: it is not a snapshot of a model"
        raise StepError(message)
    if not (folder / "tokenizer.json").is_file():
        message = f"{folder} has no tokenizer.json, without which the server cannot count a prompt's tokens"
        raise StepError(message)
    missing = _missing_weights(folder)
    if missing:
        message = f"{folder} is incomplete, {', '.join(missing[:3])} missing: delete the folder and run again"
        raise StepError(message)


def _missing_weights(folder: Path) -> list[str]:
    """Return the files that the index of the weights names and the folder lacks."""
    for kind in ("safetensors", "bin"):
        stem = "model" if kind == "safetensors" else "pytorch_model"
        index = folder / f"{stem}.{kind}.index.json"
        if index.is_file():
            names = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
            return sorted(name for name in names if not (folder / name).is_file())
        if (folder / f"{stem}.{kind}").is_file():
            return []
    return ["model.safetensors"]


def _read_token(session: Session, secret_arn: str) -> str:
    token = session.client("secretsmanager").get_secret_value(SecretId=secret_arn).get("SecretString", "").strip()
    if not token.startswith(_TOKEN_PREFIXES):
        message = (
            f"the secret {secret_arn} holds no token of the hub (they begin with hf_): store one with "
            "aws secretsmanager put-secret-value"
        )
        raise StepError(message)
    return token


def _read_marker(marker: Path) -> dict[str, str]:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
