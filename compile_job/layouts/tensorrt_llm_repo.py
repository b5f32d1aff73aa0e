"""What LMI's ``trt_llm_partition.py`` writes.

0.26.0 (TensorRT-LLM 0.7.1) writes Triton's repository: ``<model>/config.pbtxt``, ``<model>/1/config.json`` and
``<model>/1/…_rank<N>.engine``, with one ``tokenizer_config.json``; DJL Serving looks for just that before it takes a
folder for compiled. 0.33.0 saves TensorRT-LLM's own folder: ``config.json`` and ``rank<N>.engine``. Read from the
projects' sources and documentation; nothing was compiled here: NOT VERIFIED on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compile_job.errors import StepError

from .comparing import STAND_IN, Found, Ordered, equal, read_json

__all__ = ["verify"]

_RANK = re.compile(r"rank(\d+)\.engine$")
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def verify(ordered: Ordered, folder: Path) -> Found:
    """Check an artifact."""
    engines = sorted(folder.rglob("*.engine"))
    if not engines:
        message = f"{folder} has no *.engine: nothing was compiled"
        raise StepError(message)
    if len({path.parent for path in engines}) > 1:
        message = f"{folder} has engines in several folders, expected one model: empty the folder and export again"
        raise StepError(message)
    where = engines[0].parent
    degree = ordered.number("tensor_parallel_degree")
    ranks = sorted(int(match[1]) for path in engines if (match := _RANK.search(path.name)))
    if ranks != list(range(degree)):
        message = (
            f"{where} has engines for the ranks {', '.join(map(str, ranks)) or 'none'}, the job orders "
            f"tensor_parallel_degree {degree}: correct export_command"
        )
        raise StepError(message)
    if empty := [path for path in engines if not path.stat().st_size]:
        message = f"{empty[0]} is empty: the export did not finish"
        raise StepError(message)
    if where != folder:
        _check_triton(folder, where)
    elif not any(folder.glob("tokenizer*")):
        message = f"{folder} has no tokenizer: the export did not finish"
        raise StepError(message)
    return Found(compiler=_compare(ordered, where / "config.json"), graphs=len(engines))


def _check_triton(folder: Path, engines: Path) -> None:
    """What DJL Serving asks of a folder before it serves it without compiling anew."""
    if engines.parent.parent != folder or not (engines.parent / "config.pbtxt").is_file():
        message = f"{folder} has no <model>/config.pbtxt beside {engines}: the endpoint would compile again"
        raise StepError(message)
    tokenizers = list(folder.rglob("tokenizer_config.json"))
    if len(tokenizers) != 1:
        message = f"{folder} has {len(tokenizers)} files tokenizer_config.json, DJL Serving expects 1: export again"
        raise StepError(message)


def _compare(ordered: Ordered, path: Path) -> str:
    config = read_json(path)
    first = isinstance(config.get("builder_config"), dict)
    build: Mapping[str, Any] = config.get("builder_config" if first else "build_config") or {}
    if not isinstance(build, dict) or not build:
        message = f"{path} has neither builder_config nor build_config: it is no configuration of an engine"
        raise StepError(message)
    model: Mapping[str, Any] = build if first else config.get("pretrained_config") or {}
    degree = build.get("tensor_parallel") if first else (model.get("mapping") or {}).get("tp_size")
    dtype = model.get("precision" if first else "dtype")
    length = build.get("max_seq_len")
    if length is None and "max_input_len" in build:
        length = build["max_input_len"] + build.get("max_output_len", 0)
    name = path.name
    equal(name, "tensor_parallel", degree, ordered.number("tensor_parallel_degree"), "tensor_parallel_degree")
    equal(name, "max_batch_size", build.get("max_batch_size"), ordered.number("batch_size"), "batch_size")
    equal(name, "max_seq_len", length, ordered.number("sequence_length"), "sequence_length")
    if dtype != _TORCH_NAMES.get(ordered.facts["dtype"], ordered.facts["dtype"]):
        equal(name, "dtype", dtype, ordered.facts["dtype"], "dtype")
    # 0.7.1 writes no version; the image's digest in the manifest says which it was.
    version = str(config.get("version") or "")
    if version.startswith(STAND_IN):
        if not ordered.stand_in_allowed:
            message = f"{path}: version is {version!r}: the artifact would not run on a GPU"
            raise StepError(message)
        return version
    return f"tensorrt-llm {version}".strip()
