"""Counting tokens with a deployment's own tokenizer."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from invoke_proxy.registry import Deployment
from invoke_proxy.tokens import MAX_TOKENIZER_BYTES, TokenCounter

TINY = Path(__file__).resolve().parents[2] / "modelzone/local/model_server/tiny_mixtral/tokenizer.json"


def sentencepiece_like() -> Tokenizer:
    """Words with a low line for a space, bytes by number, and a begin-of-sequence token, as Mixtral's."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "▁": 4, "▁hi": 5, "hi": 6, "▁Grüße": 7, "!": 8}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=16, pad_token="<unk>")
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT-2's and Llama 3's: each byte a visible character."""
    vocabulary = {"h": 0, "i": 1, "Ġ": 2, "Ċ": 3, "hi": 4, "Ġhi": 5, "Ã¼": 6, "Ã": 7, "¼": 8}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "i"), ("Ġ", "hi"), ("Ã", "¼")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return tokenizer


class Store:
    """S3, from memory."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = objects
        self.reads: list[tuple[str, str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def get_object(self, bucket: str, key: str, *, limit: int) -> bytes:
        self.reads.append((bucket, key, limit))
        await self.gate.wait()
        return self.objects[key]


def deployment(tokenizer: str = "s3://models/llama") -> Deployment:
    return Deployment(
        deployment="mixtral",
        model_id="acme/model",
        endpoint_name="endpoint",
        engine="tgi-neuronx",
        engine_version="0.0.25",
        dialect="tgi-generate",
        chat_template="",
        max_input_tokens=10,
        max_total_tokens=20,
        registered=1,
        tokenizer=tokenizer,
    )


@pytest.fixture
def store() -> Store:
    return Store(
        llama=sentencepiece_like().to_str().encode(),
        gpt=byte_level().to_str().encode(),
        broken=b"{}",
        tiny=TINY.read_bytes(),
    )


GPT = deployment("s3://models/gpt")


async def test_a_prompt_is_counted_whole_with_its_begin_of_sequence(store: Store) -> None:
    counter = TokenCounter(store)

    assert await counter.count(deployment(), "hi hi Grüße hi") == 5, "neither truncated nor padded"
    assert await counter.count(deployment(), "") == 1
    assert store.reads == [("models", "llama", MAX_TOKENIZER_BYTES)]


async def test_the_embedded_model_s_tokenizer(store: Store) -> None:
    counter, tiny = TokenCounter(store), deployment("s3://models/tiny")
    text = "A text, 42 — and é."
    own = Tokenizer.from_file(str(TINY)).encode(text)

    assert await counter.count(tiny, text) == len(own.ids)
    tokens = await counter.tokenize(tiny, text)
    assert tokens is not None
    assert [token["id"] for token in tokens] == own.ids
    assert [text.encode()[token["start"] : token["stop"]].decode() for token in tokens] == [
        token["text"] for token in tokens
    ]


@pytest.mark.parametrize(
    ("address", "text", "number"),
    [
        ("s3://models/llama", " hi", 5),
        ("s3://models/llama", "hi", 6),
        ("s3://models/llama", "\n", 3),
        ("s3://models/llama", "</s>", 2),
        ("s3://models/llama", " ", 4),
        ("s3://models/llama", "nothing", None),
        ("s3://models/llama", "ü", None),
        ("s3://models/gpt", " hi", 5),
        ("s3://models/gpt", "hi", 4),
        ("s3://models/gpt", "\n", 3),
        ("s3://models/gpt", "ü", 6),
        ("s3://models/gpt", "nothing", None),
    ],
)
async def test_a_token_s_id_by_its_text(store: Store, address: str, text: str, number: int | None) -> None:
    assert await TokenCounter(store).id_of(deployment(address), text) == number


async def test_positions_are_bytes_as_tgi_s(store: Store) -> None:
    tokens = await TokenCounter(store).tokenize(deployment(), "Grüße hi")

    assert tokens == [
        {"id": 1, "text": "", "start": 0, "stop": 0},
        {"id": 7, "text": "Grüße", "start": 0, "stop": 7},
        {"id": 5, "text": " hi", "start": 7, "stop": 10},
    ]


async def test_a_long_text_is_counted_beside_the_event_loop(store: Store) -> None:
    counter = TokenCounter(store)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    await counter.count(GPT, "hi")
    beating = asyncio.create_task(beat())
    assert await counter.count(GPT, "hi" * 200_000) == 200_000
    beating.cancel()
    assert beats > 3


async def test_requests_at_the_same_time_load_once(store: Store) -> None:
    counter = TokenCounter(store)

    assert await asyncio.gather(*(counter.count(deployment(), "hi") for _ in range(5))) == [2] * 5
    assert len(store.reads) == 1


async def test_a_deployment_without_a_tokenizer_is_unknown(store: Store) -> None:
    counter, without = TokenCounter(store), deployment("")

    assert await counter.count(without, "hi") is None
    assert await counter.id_of(without, "hi") is None
    assert await counter.tokenize(without, "hi") is None
    assert store.reads == []


@pytest.mark.parametrize("address", ["s3://models/missing", "s3://models/broken", "s3://models", "https://x/y"])
async def test_a_failure_is_unknown_logged_once_and_tried_again_later(
    store: Store, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    now = 1000.0
    counter = TokenCounter(store, retry=300, clock=lambda: now)
    with caplog.at_level(logging.WARNING, logger="invoke_proxy"):
        for _ in range(3):
            assert await counter.count(deployment(address), "hi") is None
            now += 99
    assert [record.message for record in caplog.records] == ["tokenizer not loaded"]
    now += 300
    store.objects["missing"] = store.objects["broken"] = store.objects["llama"]
    expected = 2 if address.startswith("s3://models/") else None
    assert await counter.count(deployment(address), "hi") == expected


async def test_without_the_library_counts_are_unknown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    assert await TokenCounter(store).count(deployment(), "hi") is None


async def test_a_request_waits_for_loading_no_longer_than_it_is_worth(store: Store) -> None:
    counter = TokenCounter(store, wait=0.01)
    store.gate.clear()
    assert await counter.count(deployment(), "hi") is None
    store.gate.set()
    await asyncio.sleep(0)

    patient = TokenCounter(store)
    assert await patient.count(deployment(), "hi") == 2
    for _ in range(500):
        if await counter.count(deployment(), "hi") is not None:
            break
    assert await counter.count(deployment(), "hi") == 2
    assert len(store.reads) == 2, "the load that was not waited for is the one in use"


async def test_a_client_that_leaves_does_not_end_the_load(store: Store) -> None:
    counter = TokenCounter(store)
    store.gate.clear()
    first = asyncio.create_task(counter.count(deployment(), "hi"))
    await asyncio.sleep(0)
    first.cancel()
    store.gate.set()

    assert await counter.count(deployment(), "hi") == 2
    assert first.cancelled()
    assert len(store.reads) == 1


async def test_only_so_many_tokenizers_are_kept(store: Store) -> None:
    counter = TokenCounter(store)
    for number in range(9):
        store.objects[f"t{number}"] = store.objects["llama"]
        await counter.count(deployment(f"s3://models/t{number}"), "hi")
    await counter.count(deployment("s3://models/t8"), "hi")
    assert len(store.reads) == 9
    assert await counter.count(deployment("s3://models/t0"), "hi") == 2
    assert len(store.reads) == 10


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    program = "import sys, invoke_proxy.tokens, invoke_proxy.cache; print({'tokenizers', 'zlib'} & sys.modules.keys())"
    environment = {**os.environ, "PYTHONPATH": str(TINY.parents[4] / "lambda")}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert answer.stdout == "set()\n"
