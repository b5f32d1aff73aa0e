"""The text of serving.properties, read back the way Java reads it."""

from __future__ import annotations

import re

import pytest

from modelzone.engines import render_properties
from modelzone.engines.serving_properties import ServingProperties

PLAIN = {"engine": "MPI", "option.model_id": "/opt/ml/model", "option.max_rolling_batch_size": "32"}


def java(text: str) -> dict[str, str]:
    """`java.util.Properties.load`, for files without comments and continued lines."""

    def plain(raw: str) -> str:
        raw = re.sub(r"\\u([0-9a-f]{4})", lambda m: f"\\x{{{m[1]}}}", raw)
        letters = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
        units = bytearray()
        for hexadecimal, escaped, literal in re.findall(r"\\x\{([0-9a-f]{4})\}|\\(.)|(.)", raw, re.DOTALL):
            if hexadecimal:
                units += bytes.fromhex(hexadecimal)
            else:
                units += (letters.get(escaped, escaped) if escaped else literal).encode("utf-16-be")
        return units.decode("utf-16-be")

    found = {}
    for line in text.split("\n")[:-1]:
        match = re.fullmatch(r"((?:\\.|[^=: \\])+)[ ]*[=:][ ]*(.*)", line)
        assert match, line
        found[plain(match[1])] = plain(match[2])
    return found


def test_plain_lines_are_written_as_they_are() -> None:
    text = "engine=MPI\noption.model_id=/opt/ml/model\noption.max_rolling_batch_size=32\n"
    assert render_properties(PLAIN) == text
    assert java(text) == PLAIN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('{"model": "a=b", "n": 5}', '{"model": "a=b", "n": 5}'),
        ("two words ", "two words "),
        ("  leading", "\\  leading"),
        ("C:\\models", "C:\\\\models"),
        ("one\ntwo\tthree\r\f", "one\\ntwo\\tthree\\r\\f"),
        ("Đà Nẵng", "\\u0110\\u00e0 N\\u1eb5ng"),
        ("😀", "\\ud83d\\ude00"),
        ("#1 !", "#1 !"),
        ("", ""),
    ],
)
def test_values_survive(value: str, text: str) -> None:
    rendered = render_properties({"option.key": value})
    assert rendered == f"option.key={text}\n"
    assert java(rendered) == {"option.key": value}


@pytest.mark.parametrize("key", ["option.a b", "option.a=b", "option.a:b", "#option", "!option", "option.ü"])
def test_keys_survive(key: str) -> None:
    assert java(render_properties({key: "x"})) == {key: "x"}


def test_a_value_cannot_add_a_line() -> None:
    rendered = render_properties({"option.task": "x\noption.trust_remote_code=true"})
    assert rendered.count("\n") == 1


def test_lines_of_the_typed_model() -> None:
    properties = ServingProperties(
        engine="Python",
        rolling_batch="vllm",
        tensor_parallel_degree=4,
        max_rolling_batch_size=32,
        model_loading_timeout=1800,
        dtype="bf16",
        backend={"max_model_len": 4096, "enable_lora": True},
        options={"job_queue_size": 100, "load_format": "safetensors", "trust_remote_code": False},
    )
    assert properties.as_dict() == {
        "job_queue_size": "100",
        "option.load_format": "safetensors",
        "option.trust_remote_code": "false",
        "engine": "Python",
        "option.model_id": "/opt/ml/model",
        "option.rolling_batch": "vllm",
        "option.tensor_parallel_degree": "4",
        "option.max_rolling_batch_size": "32",
        "option.dtype": "bf16",
        "option.model_loading_timeout": "1800",
        "option.max_model_len": "4096",
        "option.enable_lora": "true",
    }
