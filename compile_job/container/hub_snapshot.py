"""Download a snapshot of a model from the Hugging Face Hub; runs inside the serving container.

The token comes on standard input, so that it stands in no command line, environment or file. Prints the resolved
revision as its last line.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

__all__ = ["choose_patterns", "main"]

_CONFIGURATION = ["*.json", "*.model", "*.txt", "*.jinja"]
# A second copy of the weights, in the format of the model's authors.
_DUPLICATES = ["consolidated*", "original/*", "*.onnx", "onnx/*", "*.gguf"]


def choose_patterns(files: list[str]) -> tuple[list[str], list[str]]:
    """Return what to download and what to leave: one copy of the weights, safetensors if there are any."""
    safe = any(name.endswith(".safetensors") and not name.startswith("consolidated") for name in files)
    return [*_CONFIGURATION, "*.safetensors" if safe else "*.bin"], _DUPLICATES


def main(arguments: list[str] | None = None) -> int:
    """Download and return the exit status."""
    parser = argparse.ArgumentParser(prog="hub_snapshot")
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    token = sys.stdin.read().strip() or None

    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - only the container has it

    info = HfApi(token=token).model_info(options.repository, revision=options.revision)
    allow, ignore = choose_patterns([item.rfilename for item in info.siblings or []])
    snapshot_download(
        options.repository,
        revision=info.sha,
        local_dir=str(options.output),
        allow_patterns=allow,
        ignore_patterns=ignore,
        token=token if token else False,
    )
    # The export copies the whole folder into the artifact; the hub's notes do not belong there.
    shutil.rmtree(options.output / ".cache", ignore_errors=True)
    shutil.rmtree(options.output / ".huggingface", ignore_errors=True)
    sys.stdout.write(f"{info.sha}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
