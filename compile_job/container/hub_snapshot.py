"""List and fetch the files of a model on the Hugging Face Hub; runs inside the serving container.

``hub_snapshot.py list --repository R --revision V`` prints one line of JSON: the commit, and of each file that a server
needs its path, its size, its Git blob's id and, for large files, its SHA-256.

``hub_snapshot.py fetch --repository R --revision V --output FOLDER --file F …`` gets files one after another and prints
one line of JSON for each that is whole, so that the host can go on with it.

The token comes on standard input, so that it stands in no command line, environment or file. The images have
huggingface_hub from 0.23 to 1.x: only what all of them have is used.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["choose", "main"]

_CONFIGURATION = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
# One format of the weights, the first that is there.
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
# Further copies of the weights, in the format of the model's authors or of other runtimes.
_DUPLICATES = ("consolidated*", "original/*", "*.onnx", "onnx/*", "openvino/*", "*.gguf", "training_args.bin")


def choose(files: list[str]) -> list[str]:
    """Return what to download: configuration, tokenizer, and one copy of the weights."""
    wanted = [name for name in files if not _matches(name, _DUPLICATES)]
    weights = next((kind for kind in _WEIGHTS if any(_matches(name, (kind,)) for name in wanted)), "")
    return [name for name in wanted if _matches(name, (*_CONFIGURATION, weights))]


def main(arguments: list[str] | None = None) -> int:
    """Do one of the two and return the exit status."""
    parser = argparse.ArgumentParser(prog="hub_snapshot")
    parser.add_argument("mode", choices=["list", "fetch"])
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--file", action="append", default=[])
    options = parser.parse_args(arguments)
    # False instead of None: no token that the image may have lying about.
    token: Any = sys.stdin.read().strip() or False
    try:
        if options.mode == "list":
            _list(options.repository, options.revision, token)
        else:
            _fetch(options.repository, options.revision, options.output, options.file, token)
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _list(repository: str, revision: str, token: Any) -> None:
    from huggingface_hub import HfApi  # noqa: PLC0415 - only the container has it

    info = HfApi(token=token).model_info(repository, revision=revision, files_metadata=True)
    siblings = {item.rfilename: item for item in info.siblings or []}
    files = [
        {
            "path": name,
            "size": siblings[name].size,
            "sha256": _sha256(getattr(siblings[name], "lfs", None)),
            "blob_id": getattr(siblings[name], "blob_id", None) or "",
        }
        for name in choose(sorted(siblings))
    ]
    _print({"commit": info.sha, "files": files})


def _fetch(repository: str, revision: str, output: Path, files: list[str], token: Any) -> None:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only the container has it

    for name in files:
        # Keeps what is half there beside it, and goes on with that.
        hf_hub_download(repository, name, revision=revision, local_dir=str(output), token=token)
        _print({"fetched": name})


def _sha256(lfs: Any) -> str:
    """Return the SHA-256 of a large file; old versions have a dictionary there, new ones an object, or both."""
    if isinstance(lfs, dict):
        return str(lfs.get("sha256") or "")
    return str(getattr(lfs, "sha256", "") or "")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
