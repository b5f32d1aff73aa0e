"""Reading logs: forms they come in, values, blocks, garbage."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelzone.doctor.log import Diagnosis, Finding, diagnose, diagnose_file, diagnose_stream
from modelzone.doctor.reading import ReadingError
from modelzone.errors import ModelzoneError

OOM = "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
PING = "The primary container for production variant AllTraffic did not pass the ping health check."
SLOTS = (
    "Cannot prefill 3 new request(s) with only 1 empty slots. Please align max_batch_size with the static batch size: 1"
)


def only(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.findings
    return finding


def stream(raw: bytes) -> Diagnosis:
    return diagnose_stream(io.BytesIO(raw))


def test_places_and_counts() -> None:
    finding = only(diagnose(["a", OOM, "b", OOM, "c", OOM + OOM, "d"]))
    assert (finding.count, finding.first_line, finding.last_line) == (3, 2, 6)


def test_places_hold_across_blocks() -> None:
    filler = b"nothing to see here, request served\n"
    raw = filler * 100_000 + OOM.encode() + b"\n" + filler * 60_000 + OOM.encode() + b"\n" + filler * 3
    diagnosis = stream(raw)
    finding = only(diagnosis)
    assert (finding.count, finding.first_line, finding.last_line) == (2, 100_001, 160_002)
    assert (diagnosis.lines, diagnosis.bytes) == (160_005, len(raw))


@pytest.mark.parametrize("before", range(1_048_576 - 120, 1_048_576 + 20, 7))
def test_a_message_at_the_edge_of_a_block_is_found_once(before: int) -> None:
    finding = only(stream(b"." * before + b"\n" + OOM.encode() + b"\n" + b"." * 9_000))
    assert (finding.count, finding.first_line) == (1, 2)


@pytest.mark.parametrize(
    ("line", "name", "values", "said"),
    [
        (SLOTS, "tgi-empty-slots", {"requests": "3", "slots": "1", "compiled": "1"}, "3 requests came for 1 slots"),
        (
            "[XCG815]  Estimated peak HBM usage (22.839451) exceeds 16GB. Neff won't be able to load on chip",
            "neuron-hbm-exceeded",
            {"needed_gb": "22.839451", "available_gb": "16"},
            "It needs 22.839451 GB of 16 GB",
        ),
        (
            "Pretrained model is compiled with neuronx-cc(2.16) newer than current compiler (2.15), which may cause",
            "neuron-newer-compiler",
            {"compiled": "2.16", "installed": "2.15"},
            "of neuronx-cc 2.16, the container has 2.15",
        ),
        (
            (
                "Template validation error: Parameter BatchSize failed to satisfy constraint: must be empty (as "
                "planned: 4) or a whole number from 1 to 256"
            ),
            "parameter-constraint",
            {"parameter": "BatchSize", "planned": "4"},
            "BatchSize may be empty (as planned, 4)",
        ),
        (
            "The specified number of cores (8) exceeds the number of cores available (2).",
            "neuron-too-few-cores",
            {"needed": "8", "available": "2"},
            "8 cores are needed and 2 are there",
        ),
        (
            "`inputs` tokens + `max_new_tokens` must be <= 1024. Given: 130 `inputs` tokens and 1000 `max_new_tokens`",
            "tgi-too-many-tokens",
            {"limit": "1024", "inputs": "130", "asked": "1000"},
            "at most 894 tokens",
        ),
        (
            (
                "The account-level service limit 'ml.g5.12xlarge for endpoint usage' is 2 Instances, with current "
                "utilization of 2 Instances and a request delta of 1 Instances."
            ),
            "sagemaker-quota",
            {"quota": "ml.g5.12xlarge for endpoint usage", "limit": "2", "used": "2", "delta": "1"},
            "ask for at least 3",
        ),
    ],
)
def test_the_remedy_has_the_numbers_of_the_message(line: str, name: str, values: dict[str, str], said: str) -> None:
    finding = only(diagnose(line.split("\n")))
    assert finding.id == name
    assert finding.values == values
    assert said in finding.remedy


def test_a_later_line_with_more_to_say_is_the_one_quoted() -> None:
    finding = only(diagnose(["x new request(s) with only few", SLOTS]))
    assert finding.count == 2
    assert finding.values["requests"] == "3"
    assert "Cannot prefill 3" in finding.excerpt


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-02T09:15:00.123000+00:00 AllTraffic/i-0abc12345678 " + OOM,
        json.dumps({"timestamp": 1, "message": OOM + "\n"}),
        '            "message": ' + json.dumps(f"\x1b[31m{OOM}\x1b[0m") + ",",
        "\x1b[1m\x1b[31mERROR\x1b[0m torch.cuda.\x1b[1mOutOfMemory\x1b[0mError: " + OOM.partition(": ")[2],
        f"{{'msg': '{OOM}'}}\r",
    ],
    ids=["aws logs tail", "json lines", "json export with colours", "colours", "carriage return"],
)
def test_forms_in_which_logs_come(line: str) -> None:
    finding = only(diagnose([line]))
    assert finding.values == {"asked": "2.00", "unit": "GiB"}
    assert "\x1b" not in finding.excerpt


def test_quotes_escaped_by_json_are_quotes() -> None:
    text = 'error gathering device information while adding custom device "/dev/neuron3": no such file or directory'
    finding = only(diagnose([json.dumps({"log": text})]))
    assert finding.values == {"device": "/dev/neuron3"}


def test_a_wrapped_message_counts_once_where_it_starts() -> None:
    wrapped = [
        "x",
        "ValueError: The model's max seq len (8192) is larger than the",
        "maximum number of tokens that can",
        "be stored in KV cache (4096). Try",
        "y",
    ]
    finding = only(diagnose(wrapped))
    assert (finding.id, finding.count, finding.first_line) == ("vllm-kv-cache-too-small", 1, 2)
    assert finding.values == {"asked": "8192", "possible": "4096"}


def test_two_halves_far_apart_are_no_message() -> None:
    assert diagnose(["Bfloat16", *["-"] * 20, "is only supported on GPUs"]).findings == ()
    far = ["No bucket named x", *["-"] * 20, "is it bootstrapped?"]
    assert diagnose(far).findings == ()
    assert only(diagnose([far[0], far[-1]])).id == "cdk-not-bootstrapped"


def test_excerpts_are_short_whatever_the_line() -> None:
    finding = only(stream(b"x" * 3_000_000 + OOM.encode() + b"y" * 3_000_000))
    assert len(finding.excerpt) <= 302
    assert "CUDA out of memory" in finding.excerpt
    assert (finding.first_line, finding.count) == (1, 1)


def test_gzip_and_utf_16_are_read() -> None:
    text = f"a\n{OOM}\nb\n"
    for raw in (gzip.compress(text.encode()), text.encode("utf-16"), text.encode("utf-16-be").join([b"\xfe\xff", b""])):
        diagnosis = stream(raw)
        assert only(diagnosis).first_line == 2
        assert (diagnosis.lines, diagnosis.unread) == (3, "")


def test_a_compressed_file_that_is_cut_off_says_so_and_keeps_what_was_read() -> None:
    lines = b"".join(b"line %d\n" % number for number in range(200_000))
    cut = gzip.compress(OOM.encode() + b"\n" + lines)[:-2000]
    diagnosis = stream(cut)
    assert [finding.id for finding in diagnosis.findings] == ["cuda-out-of-memory"]
    assert "unpacking stopped" in diagnosis.unread


def test_an_input_error_on_the_way_is_said() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read(2)

    assert diagnose_stream(Broken(b"abcd")).unread == "reading stopped: Input/output error"


def test_a_file_that_is_not_there_is_an_error_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(ModelzoneError, match=r"nothing\.log: cannot be read: No such file"):
        diagnose_file(tmp_path / "nothing.log")
    with pytest.raises(ModelzoneError, match="cannot be read"):
        diagnose_file(tmp_path)


def test_standard_input_that_is_closed_is_an_error_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ModelzoneError, match="standard input is closed"):
        diagnose_file("-")


@pytest.mark.parametrize(
    ("half", "spaces"), [("not found in", 1), ("VolumeSizeInGB 1 supported", 1), ("VolumeSizeInGB 1 supported", 400)]
)
def test_a_line_that_repeats_half_a_message_is_compared_with_each_text_once(
    half: str, spaces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took minutes when every repetition was compared."""
    from modelzone.doctor import log  # noqa: PLC0415

    compared: list[tuple[Any, Any]] = []
    match: Callable[[Any, Any], Any] = log._match_on_line

    def counted(text: Any, around: Any) -> Any:
        compared.append((text, around))
        return match(text, around)

    monkeypatch.setattr(log, "_match_on_line", counted)
    raw = (half + " " * spaces).encode()
    stream(raw * (500_000 // len(raw)))
    assert compared
    assert len(compared) == len({(id(text), id(around)) for text, around in compared})
    assert len({id(around) for _, around in compared}) <= 500_000 / 4096 + 1


def test_a_message_among_repeated_halves_is_found() -> None:
    halves = b"not found in " * 50_000
    assert only(stream(halves + OOM.encode() + b" " + halves)).values == {"asked": "2.00", "unit": "GiB"}


def test_nothing_found_says_where_to_look_next() -> None:
    diagnosis = diagnose([])
    assert (diagnosis.findings, diagnosis.lines, diagnosis.bytes) == ((), 0, 0)
    assert any("describe-endpoint" in step for step in diagnosis.next_steps)
    json.dumps(diagnosis.as_dict())


@given(st.binary(max_size=3000))
@settings(max_examples=150, deadline=None)
def test_garbage_never_crashes_it(raw: bytes) -> None:
    assert stream(raw).bytes >= 0
    assert only(stream(b"\x00\xff" + raw.replace(b"\n", b" ") + b"\n" + OOM.encode())).id == "cuda-out-of-memory"


_PIECES = st.sampled_from(
    [
        OOM,
        PING,
        SLOTS,
        "\n",
        "\x1b[31m",
        "\x1b]8;;",
        '{"message": "',
        '\\u001b[0m\\n\\"',
        "ROLLBACK_",
        " not ",
        "\r",
        "é",
        "x" * 700,
    ]
)


@given(st.lists(_PIECES, max_size=40), st.integers(1, 4000))
@settings(max_examples=80, deadline=None)
def test_blocks_and_lines_give_the_same_diagnosis(pieces: list[str], size: int) -> None:
    raw = "".join(pieces).encode()

    class Short(io.BytesIO):
        def read(self, wanted: int | None = -1) -> bytes:
            return super().read(min(size, wanted) if wanted and wanted > 0 else size)

    whole, short = stream(raw), diagnose_stream(Short(raw))
    assert {f.id for f in whole.findings} == {f.id for f in short.findings}
    assert whole.lines == short.lines


def test_memory_does_not_grow_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelzone.doctor import log  # noqa: PLC0415

    largest = 0
    look: Callable[[log._Scan, int], None] = log._Scan._look_through

    def measured(scan: log._Scan, end: int) -> None:
        nonlocal largest
        largest = max(largest, len(scan._buffer))
        look(scan, end)

    monkeypatch.setattr(log._Scan, "_look_through", measured)
    stream(b"x" * 12_000_000)
    stream(b"a line\n" * 2_000_000)
    assert 0 < largest < 3_000_000


def test_reading_errors_have_words() -> None:
    assert str(ReadingError("reading stopped: x")) == "reading stopped: x"
