"""Stand-in for `optimum-cli export neuron` of optimum-neuron 0.0.25 on a machine without Neuron devices.

`python -m modelzone.local.model_server.export --model MODEL_DIR_OR_ID --batch_size 1 --sequence_length 1024
--auto_cast_type fp16 --num_cores 8 OUTPUT_DIR` takes the same arguments and writes the same layout: `config.json` with
the `neuron` key, the tokenizer, `compiled/` and `checkpoint/`. Nothing is compiled, and whatever the model is called,
the weights are those of the small Mixtral that the model server ships with; the artifact says so (`compiler_type`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from modelzone.errors import ModelzoneError
from modelzone.local.model_server.settings import CHECKPOINT, COMPILED

__all__ = ["COMPILER_TYPE", "SHIPPED_MODEL", "export"]

SHIPPED_MODEL = Path(__file__).with_name("tiny_mixtral")
COMPILER_TYPE = "cpu-stand-in"
_COMPILER_VERSION = "1"
_MARKER = """This is not a compiled graph. modelzone.local.model_server.export made the artifact for the embedded AWS:
a small model of the Mixtral architecture that runs on the CPU stands in for the model that was asked for.
"""


def export(
    *, model: str, batch_size: int, sequence_length: int, auto_cast_type: str, num_cores: int, output: Path
) -> None:
    """Write the artifact.

    Parameters
    ----------
    model
        Folder of a snapshot, or an id of the hub. As in optimum-neuron, `checkpoint_id` keeps an id and is null for a
        folder. Unlike there, the weights are written for both, since there is no hub to fetch them from later.
    sequence_length
        Tokens of prompt and answer together.
    num_cores
        Tensor parallel degree; recorded only.
    """
    config: dict[str, Any] = json.loads((SHIPPED_MODEL / "config.json").read_text(encoding="utf-8"))
    longest = config["max_position_embeddings"]
    if sequence_length > longest:
        raise ModelzoneError(
            f"--sequence_length {sequence_length}: the stand-in model has {longest} positions at most."
        )
    if output.exists() and not output.is_dir():
        raise ModelzoneError(f"{output} is a file; name a folder for the artifact.")
    is_folder = Path(model).is_dir()
    if not is_folder and (model.count("/") != 1 or model.startswith((".", "/"))):
        raise ModelzoneError(
            f"--model {model}: neither an existing folder nor an id of the hub such as mistralai/Mixtral-8x7B-v0.1."
        )
    config["neuron"] = {
        "task": "text-generation",
        "batch_size": batch_size,
        "num_cores": num_cores,
        "auto_cast_type": auto_cast_type,
        "sequence_length": sequence_length,
        "compiler_type": COMPILER_TYPE,
        "compiler_version": _COMPILER_VERSION,
        "checkpoint_id": None if is_folder else model,
        "checkpoint_revision": None,
    }
    output.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SHIPPED_MODEL, output / CHECKPOINT, dirs_exist_ok=True)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHIPPED_MODEL / name, output / name)
    compiled = output / COMPILED
    compiled.mkdir(exist_ok=True)
    (compiled / f"{COMPILER_TYPE}.neff").write_text(_MARKER, encoding="utf-8")
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and export; return the exit status."""
    parser = argparse.ArgumentParser(prog="export neuron", allow_abbrev=False, description="Stand-in for optimum-cli")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--task", choices=["text-generation"], default="text-generation")
    parser.add_argument("--batch_size", type=_positive_number, default=1)
    parser.add_argument("--sequence_length", type=_positive_number, required=True)
    parser.add_argument("--auto_cast_type", choices=["bf16", "fp16", "tf32"], default="bf16")
    parser.add_argument("--num_cores", type=_positive_number, required=True)
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    try:
        export(
            model=options.model,
            batch_size=options.batch_size,
            sequence_length=options.sequence_length,
            auto_cast_type=options.auto_cast_type,
            num_cores=options.num_cores,
            output=options.output,
        )
    except ModelzoneError as error:
        print(error, file=sys.stderr)  # noqa: T201 (a command's message)
        return 1
    return 0


def _positive_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
