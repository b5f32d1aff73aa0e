"""What an export must have written: every layout, and every value that can be wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from unit.compile_job_host import FACTS, safetensors

from compile_job.errors import StepError
from compile_job.layouts import LAYOUTS, Ordered, neuron_config_file, neuron_config_key, tensorrt_llm_repo
from compile_job.layouts.safetensors import check_whole
from compile_job.steps.verify import verify_artifact

DEGREE = 2
ORDERED = Ordered({**FACTS, "tensor_parallel_degree": str(DEGREE)})
ON_THIS_MACHINE = Ordered(ORDERED.facts, stand_in_allowed=True)


def dump(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(safetensors(b"1234") if path.suffix == ".safetensors" else b"{}")


def key_config(folder: Path, **changes: Any) -> None:
    neuron = {
        "task": "text-generation",
        "batch_size": 1,
        "num_cores": DEGREE,
        "auto_cast_type": "fp16",
        "sequence_length": 1024,
        "compiler_type": "neuronx-cc",
        "compiler_version": "2.15.128",
        "checkpoint_id": None,
        **changes,
    }
    dump(folder / "config.json", {"model_type": "mixtral", "neuron": neuron})


def make_key(folder: Path) -> Path:
    """What optimum-neuron 0.0.25 writes."""
    checkpoint = folder / "checkpoint"
    touch(folder / "compiled" / "graph.neff", folder / "tokenizer.json", checkpoint / "config.json")
    touch(checkpoint / "model-1.safetensors", checkpoint / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    dump(checkpoint / "model.safetensors.index.json", index)
    key_config(folder)
    return folder


def file_config(folder: Path, **changes: Any) -> None:
    config = {
        "batch_size": 1,
        "sequence_length": 1024,
        "tp_degree": DEGREE,
        "torch_dtype": "float16",
        "optimum_neuron_version": "0.3.0",
        "neuronxcc_version": "2.19.8089",
        **changes,
    }
    dump(folder / "neuron_config.json", config)


def make_file(folder: Path) -> Path:
    """What optimum-neuron 0.3.0 writes."""
    touch(*(folder / name for name in ("config.json", "model.pt", "tokenizer.json")))
    touch(*(shard(folder, rank) for rank in range(DEGREE)))
    file_config(folder)
    return folder


def shard(folder: Path, rank: int) -> Path:
    return folder / "checkpoint" / "weights" / f"tp{rank}_sharded_checkpoint.safetensors"


def triton_config(folder: Path, **changes: Any) -> None:
    build = {
        "precision": "float16",
        "tensor_parallel": DEGREE,
        "max_batch_size": 1,
        "max_input_len": 1000,
        "max_output_len": 24,
        **changes,
    }
    dump(folder / "tensorrt_llm" / "1" / "config.json", {"builder_config": build, "plugin_config": {}})


def make_triton(folder: Path) -> Path:
    """What the partition script of LMI 0.26.0 writes."""
    model = folder / "tensorrt_llm"
    touch(*(model / "1" / f"trt_llm_model_float16_tp{DEGREE}_rank{rank}.engine" for rank in range(DEGREE)))
    touch(model / "config.pbtxt", model / "tokenizer_config.json", model / "config.json")
    triton_config(folder)
    return folder


def llm_config(folder: Path, version: str = "0.21.0", **changes: Any) -> None:
    build = {"max_batch_size": 1, "max_seq_len": 1024, "max_input_len": 1000, **changes}
    model = {"dtype": "float16", "mapping": {"tp_size": DEGREE}}
    dump(folder / "config.json", {"version": version, "pretrained_config": model, "build_config": build})


def make_llm(folder: Path) -> Path:
    """What the partition script of LMI 0.33.0 writes."""
    touch(*(folder / f"rank{rank}.engine" for rank in range(DEGREE)), folder / "tokenizer.json")
    llm_config(folder)
    return folder


def traced(folder: Path, **changes: Any) -> None:
    modules = {
        "image": {"file": "image.pt", "inputs": [[1, 3, 224, 224]]},
        "text": {"file": "text.pt", "inputs": [[1, 77]]},
        **changes,
    }
    dump(folder / "traced.json", {"compiler": "neuronx-cc 2.21", "modules": modules})


def make_traced(folder: Path) -> Path:
    touch(folder / "image.pt", folder / "text.pt")
    traced(folder)
    return folder


def make_optimum(folder: Path) -> Path:
    """What optimum-cli writes for CLIP."""
    touch(folder / "model.neuron")
    key_config(folder, task="feature-extraction", static_text_batch_size=1)
    return folder


KEY, FILE, TRT, TRACED = "neuron-config-key", "neuron-config-file", "tensorrt-llm-repo", "traced-modules"


@pytest.mark.parametrize(
    ("layout", "make", "compiler", "graphs"),
    [
        (KEY, make_key, "neuronx-cc 2.15.128", 1),
        (FILE, make_file, "neuronx-cc 2.19.8089", 1),
        (TRT, make_triton, "tensorrt-llm", DEGREE),
        (TRT, make_llm, "tensorrt-llm 0.21.0", DEGREE),
        (TRACED, make_traced, "neuronx-cc 2.21", 2),
        (TRACED, make_optimum, "neuronx-cc 2.15.128", 1),
    ],
)
def test_artifact_as_ordered(tmp_path: Path, layout: str, make: Any, compiler: str, graphs: int) -> None:
    found = verify_artifact(ORDERED, make(tmp_path), layout=layout)

    assert (found.compiler, found.graphs) == (compiler, graphs)


WRONG: list[tuple[str, Any, Any, dict[str, Any], str]] = [
    (KEY, make_key, key_config, {"batch_size": 4}, "neuron.batch_size is 4, the job orders batch_size 1"),
    (KEY, make_key, key_config, {"sequence_length": 8}, "neuron.sequence_length is 8, the job orders sequence_length"),
    (KEY, make_key, key_config, {"num_cores": 8}, "neuron.num_cores is 8, the job orders tensor_parallel_degree 2"),
    (KEY, make_key, key_config, {"auto_cast_type": "bf16"}, "neuron.auto_cast_type is 'bf16', the job orders dtype"),
    (KEY, make_key, key_config, {"task": "fill-mask"}, "neuron.task is 'fill-mask'"),
    (KEY, make_key, key_config, {"compiler_type": "cpu-stand-in"}, "would not run on Neuron devices"),
    (KEY, make_key, key_config, {"compiler_type": None}, "neuron.compiler_type is None, expected 'neuronx-cc'"),
    (FILE, make_file, file_config, {"batch_size": 4}, "neuron_config.json: batch_size is 4, the job orders batch_size"),
    (FILE, make_file, file_config, {"sequence_length": 8}, "sequence_length is 8, the job orders sequence_length 1024"),
    (FILE, make_file, file_config, {"tp_degree": 8}, "tp_degree is 8, the job orders tensor_parallel_degree 2"),
    (FILE, make_file, file_config, {"torch_dtype": "float32"}, "torch_dtype is 'float32', the job orders dtype 'fp16'"),
    (FILE, make_file, file_config, {"neuronxcc_version": None}, "neuronxcc_version is None"),
    (FILE, make_file, file_config, {"neuronxcc_version": "cpu-stand-in 1"}, "would not run on Neuron devices"),
    (TRT, make_triton, triton_config, {"max_batch_size": 4}, "max_batch_size is 4, the job orders batch_size 1"),
    (TRT, make_triton, triton_config, {"tensor_parallel": 1}, "tensor_parallel is 1, the job orders tensor_parallel_"),
    (
        TRT,
        make_triton,
        triton_config,
        {"max_output_len": 0},
        "max_seq_len is 1000, the job orders sequence_length 1024",
    ),
    (TRT, make_triton, triton_config, {"precision": "bfloat16"}, "dtype is 'bfloat16', the job orders dtype 'fp16'"),
    (TRT, make_llm, llm_config, {"max_seq_len": 2048}, "max_seq_len is 2048, the job orders sequence_length 1024"),
    (TRT, make_llm, llm_config, {"version": "cpu-stand-in"}, "would not run on a GPU"),
    (
        TRACED,
        make_traced,
        traced,
        {"image": {"file": "image.pt", "inputs": [[4, 3]]}},
        "'image' is 4, the job orders",
    ),
    (TRACED, make_traced, traced, {"image": {"file": "no.pt", "inputs": [[1]]}}, "has the file 'no.pt', which is not"),
    (
        TRACED,
        make_traced,
        traced,
        {"image": {"file": "image.pt", "inputs": []}},
        "has inputs [], expected a list",
    ),
    (TRACED, make_traced, traced, {"image": {"file": "../x", "inputs": []}}, "'../x' is no path inside"),
    (
        TRACED,
        make_optimum,
        key_config,
        {"text_batch_size": 4},
        "neuron.text_batch_size is 4, the job orders batch_size",
    ),
]


@pytest.mark.parametrize(("layout", "make", "write", "changes", "words"), WRONG, ids=[item[-1] for item in WRONG])
def test_artifact_that_was_not_ordered(
    tmp_path: Path, layout: str, make: Any, write: Any, changes: dict[str, Any], words: str
) -> None:
    write(make(tmp_path), **changes)

    with pytest.raises(StepError, match=re.escape(words)):
        verify_artifact(ORDERED, tmp_path, layout=layout)


MISSING: list[tuple[str, Any, str, str]] = [
    (KEY, make_key, "config.json", "the export did not finish"),
    (KEY, make_key, "compiled/graph.neff", "nothing was compiled"),
    (KEY, make_key, "tokenizer.json", "could not load the model's tokenizer"),
    (KEY, make_key, "checkpoint", "the endpoint would need the hub for its weights"),
    (KEY, make_key, "checkpoint/config.json", "has no config.json"),
    (KEY, make_key, "checkpoint/model-2.safetensors", "is incomplete, model-2.safetensors missing"),
    (FILE, make_file, "neuron_config.json", "the export did not finish"),
    (FILE, make_file, "model.pt", "has no model.pt"),
    (FILE, make_file, "checkpoint", "the endpoint would need the hub for its weights"),
    (FILE, make_file, f"checkpoint/weights/tp{DEGREE - 1}_sharded_checkpoint.safetensors", "has 1 shards of the wei"),
    (TRT, make_triton, "tensorrt_llm/config.pbtxt", "the endpoint would compile again"),
    (TRT, make_triton, "tensorrt_llm/tokenizer_config.json", "has 0 files tokenizer_config.json"),
    (TRT, make_triton, "tensorrt_llm/1/config.json", "the export did not finish"),
    (TRT, make_triton, f"tensorrt_llm/1/trt_llm_model_float16_tp{DEGREE}_rank0.engine", "for the ranks 1, the job"),
    (TRT, make_triton, "tensorrt_llm", "has no *.engine: nothing was compiled"),
    (TRT, make_llm, "tokenizer.json", "has no tokenizer"),
    (TRT, make_llm, "rank1.engine", "for the ranks 0, the job orders tensor_parallel_degree 2"),
    (TRACED, make_traced, "traced.json", "the export did not finish"),
    (TRACED, make_traced, "text.pt", "module 'text' has the file 'text.pt', which is not there"),
]


@pytest.mark.parametrize(("layout", "make", "missing", "words"), MISSING)
def test_artifact_that_is_not_whole(tmp_path: Path, layout: str, make: Any, missing: str, words: str) -> None:
    path = make(tmp_path) / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

    with pytest.raises(StepError, match=re.escape(words)):
        verify_artifact(ORDERED, tmp_path, layout=layout)


def test_shard_too_many(tmp_path: Path) -> None:
    touch(shard(make_file(tmp_path), DEGREE))

    with pytest.raises(StepError, match="has 3 shards of the weights, the job orders tensor_parallel_degree 2"):
        verify_artifact(ORDERED, tmp_path, layout=FILE)


def test_model_that_was_not_exported(tmp_path: Path) -> None:
    (make_key(tmp_path) / "config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(StepError, match="no key 'neuron'"):
        verify_artifact(ORDERED, tmp_path, layout=KEY)


def test_stand_in_is_for_stores_on_this_machine_only(tmp_path: Path) -> None:
    key_config(make_key(tmp_path / "key"), compiler_type="cpu-stand-in", compiler_version="1")
    file_config(make_file(tmp_path / "file"), neuronxcc_version="cpu-stand-in 1")
    llm_config(make_llm(tmp_path / "llm"), version="cpu-stand-in 1")

    found = [
        neuron_config_key.verify(ON_THIS_MACHINE, tmp_path / "key"),
        neuron_config_file.verify(ON_THIS_MACHINE, tmp_path / "file"),
        tensorrt_llm_repo.verify(ON_THIS_MACHINE, tmp_path / "llm"),
    ]

    assert {item.compiler for item in found} == {"cpu-stand-in 1"}


def test_every_layout_has_its_check() -> None:
    assert set(LAYOUTS) == {KEY, FILE, TRT, TRACED}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (safetensors(b"1234")[:-1], "and should have"),
        (safetensors(b"1234") + b"x", "and should have"),
        (b"", "its header cannot be read"),
        (b"\xff" * 100, "its header cannot be read"),
        (safetensors(b"1234")[:20], "its header cannot be read"),
        (b"\x02\0\0\0\0\0\0\0[]", "its header cannot be read"),
    ],
)
def test_file_of_weights_that_was_cut_off(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(StepError, match=words):
        check_whole(path)


def test_whole_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(b""))
    check_whole(path)
    header = b'{"__metadata__": {"format": "pt"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    check_whole(path)
