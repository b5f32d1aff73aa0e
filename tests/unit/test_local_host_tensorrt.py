"""The stand-in of LMI's compile script: its arguments and layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile_job.layouts import LAYOUTS, Ordered
from modelzone.local.host import trt_llm_partition
from modelzone.local.host.docker import IMAGE_VARIABLE
from modelzone.local.model_server.export import SHIPPED_MODEL

FACTS = {"tensor_parallel_degree": "2", "batch_size": "4", "sequence_length": "1024", "dtype": "fp16"}
PROPERTIES = """engine=MPI
# a comment
option.dtype=DTYPE
option.max_rolling_batch_size=4
option.max_input_len=512
option.max_output_len=512
option.max_seq_len=1024
"""


@pytest.mark.parametrize(
    ("image", "dtype", "more"),
    [
        ("r/djl-inference:0.26.0-tensorrtllm0.7.1-cu122", "fp16", []),
        ("r/djl-inference:0.33.0-tensorrtllm0.21.0-cu128", "float16", ["--pipeline_parallel_degree", "1"]),
    ],
)
def test_the_layout_is_what_the_job_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, dtype: str, more: list[str]
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, image)
    (tmp_path / "serving.properties").write_text(PROPERTIES.replace("DTYPE", dtype))
    arguments = ["--properties_dir", str(tmp_path), "--trt_llm_model_repo", str(tmp_path / "out")]
    arguments += ["--tensor_parallel_degree", "2", *more, "--model_path", str(SHIPPED_MODEL)]
    assert trt_llm_partition.main(arguments) == 0
    found = LAYOUTS["tensorrt-llm-repo"](Ordered(FACTS, stand_in_allowed=True), tmp_path / "out")
    assert found.graphs == 2


def test_an_image_without_the_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "r/huggingface-pytorch-tgi-inference:2.1.2")
    assert trt_llm_partition.main([]) == 2
    assert "has none" in capsys.readouterr().err
