"""The Hugging Face Hub, asked with the serving image's own client."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile_job.errors import StepError
from compile_job.job import Weights
from compile_job.masking import remember
from compile_job.processes import Finished
from compile_job.signatures import remedy
from compile_job.snapshot import File, check_path

from .container import Container

if TYPE_CHECKING:
    from boto3.session import Session

__all__ = ["Hub"]

_PROGRAM = Path(__file__).resolve().parents[1] / "container"
_CODE_TARGET = "/modelzone/code"
_WEIGHTS_TARGET = "/modelzone/weights"
_TOKEN_PREFIXES = ("hf_", "api_")
_VARIABLES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Hub:
    """One model there.

    Attributes
    ----------
    name
        Of the container, so that a run that was killed leaves nothing that the next one does not find.
    """

    weights: Weights
    image: str
    name: str
    session: Session
    check: Callable[[], None]

    def list(self) -> tuple[str, list[File]]:
        """Return the commit behind the revision, and the files to have.

        Raises
        ------
        StepError
            With the remedy when it is known.
        """
        answers: list[dict[str, Any]] = []
        finished = self._run("list", [], (), _taker(answers, "commit"), self.check)
        if finished.status or not answers:
            raise StepError(self._failed("listing", finished))
        files = [
            File(check_path(item["path"]), int(item["size"]), item["sha256"] or "", item["blob_id"] or "")
            for item in answers[-1]["files"]
        ]
        return str(answers[-1]["commit"]), files

    def fetch(
        self,
        commit: str,
        files: Sequence[File],
        folder: Path,
        on_file: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        """Download files into a folder; `on_file` is told each path as soon as it is whole, in another thread.

        `check` is called meanwhile; the download ends when it raises.

        Raises
        ------
        StepError
            With the remedy when it is known.
        """
        folder.mkdir(parents=True, exist_ok=True)

        def take(line: str) -> bool:
            found = _answer(line, "fetched")
            if found is not None:
                on_file(str(found["fetched"]))
            return found is not None

        words = [f"--output={_WEIGHTS_TARGET}", *(f"--file={file.path}" for file in files)]
        finished = self._run("fetch", words, ((folder, _WEIGHTS_TARGET),), take, check, revision=commit)
        if finished.status:
            raise StepError(self._failed("download", finished))

    def _run(
        self,
        mode: str,
        words: Sequence[str],
        mounts: Sequence[tuple[Path, str]],
        on_line: Callable[[str], bool],
        check: Callable[[], None],
        *,
        revision: str = "",
    ) -> Finished:
        container = Container(
            image=self.image,
            name=self.name,
            mounts=((_PROGRAM, _CODE_TARGET), *mounts),
            variables=_VARIABLES,
            check=check,
        )
        command = [
            "python3",
            f"{_CODE_TARGET}/hub_snapshot.py",
            mode,
            f"--repository={self.weights.model_id}",
            f"--revision={revision or self.weights.revision}",
            *words,
        ]
        return container.run(command, secret=self._token(), on_line=on_line)

    def _failed(self, what: str, finished: Finished) -> str:
        why = remedy(finished.tail) or finished.last_line
        return f"{what} of {self.weights.model_id} at {self.weights.revision} failed: {why}"

    def _token(self) -> str:
        arn = self.weights.token_secret_arn
        if not arn:
            return ""
        client = self.session.client("secretsmanager")
        token = client.get_secret_value(SecretId=arn).get("SecretString", "").strip()
        remember(token)
        if not token.startswith(_TOKEN_PREFIXES):
            message = (
                f"the secret {arn} holds no token of the hub (they begin with hf_): store one with "
                "aws secretsmanager put-secret-value"
            )
            raise StepError(message)
        return token


def _taker(answers: list[dict[str, Any]], key: str) -> Callable[[str], bool]:
    def take(line: str) -> bool:
        found = _answer(line, key)
        if found is not None:
            answers.append(found)
        return found is not None

    return take


def _answer(line: str, key: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and key in found else None
