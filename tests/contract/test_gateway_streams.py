"""Many streams at once, and upstream connections that are killed: the benchmark, small."""

from __future__ import annotations

import json

import pytest

from benchmarks import gateway_streams
from tests.gateway import world
from tests.gateway.fake_aws import FakeAws, serving
from tests.gateway.raw_client import Connection, NumberedReader, post
from tests.gateway.scripts import numbered_prompt


def test_no_token_is_lost_and_every_kill_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    status = gateway_streams.main(["--streams", "40", "--tokens", "50", "--kills", "16", "--pace", "0.03"])

    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "2000 tokens came" in printed
    assert printed.rstrip().endswith("holds")


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ([0, 1, 2], None),
        ([0, 2], "token 2 came where 1 was due"),
        ([0, 1, 1, 2], "token 1 came where 2 was due"),
        ([1, 0], "token 1 came where 0 was due"),
    ],
)
def test_what_counts_as_disorder(numbers: list[int], problem: str | None) -> None:
    assert gateway_streams._disorder(numbers) == problem


def test_tokens_are_found_wherever_the_bytes_are_cut() -> None:
    text = b'data: {"a":" 0@0000000000000000007;"}\n\ndata: {"a":" 1@0000000000000000008;"}\n\n'
    text += b'{"generated_text":" 0@0000000000000000000; 1@0000000000000000000;"}'
    for size in (1, 3, 17, len(text)):
        reader = NumberedReader()
        for start in range(0, len(text), size):
            reader(text[start : start + size])
        assert reader.numbers == [0, 1]
        assert reader.sent == [7e-9, 8e-9]


async def test_the_fake_counts_in_a_model_servers_place() -> None:
    aws, reader = FakeAws(), NumberedReader()
    world.fill(aws)
    body = {"inputs": numbered_prompt(tokens=5, pace=0.001), "parameters": {"details": True}, "stream": True}

    with serving(aws) as url:
        connection = await Connection.open(url)
        answer = await connection.ask(post("/invocations", json.dumps(body).encode(), {}), on_data=reader)
        connection.close()

    assert answer.complete
    assert answer.body.startswith(b'data:{"index":1')
    assert reader.numbers == [0, 1, 2, 3, 4]
    assert max(reader.delays) < 5
