"""The model server's NumPy Mixtral against transformers' own, on the shipped weights in 32 bits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelzone.local.model_server.bodies import ChatMessage
from modelzone.local.model_server.chat import render_chat
from modelzone.local.model_server.export import SHIPPED_MODEL
from modelzone.local.model_server.mixtral import Mixtral
from modelzone.local.model_server.tokenizer import TextTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
PROMPTS = [
    "[INST] What is deep learning? [/INST]",
    "[INST] You are a helpful assistant.\n\nWhat is Modelzone? [/INST]",
    "[INST] Hello [/INST] Hello!</s> [INST] What is Mixtral? [/INST]",
    "Nothing that was ever trained on: 你好 🚀 ~~~ 12345",
    "word " * 150,
]


@pytest.fixture(scope="module")
def reference() -> Any:
    return transformers.MixtralForCausalLM.from_pretrained(SHIPPED_MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model() -> Mixtral:
    return Mixtral.load(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(SHIPPED_MODEL)


def test_every_weight_of_the_checkpoint_is_used(reference: Any) -> None:
    config = json.loads((SHIPPED_MODEL / "config.json").read_text())
    assert type(reference).__name__ == config["architectures"][0]
    _, report = transformers.MixtralForCausalLM.from_pretrained(SHIPPED_MODEL, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prefill_logits_are_equal(reference: Any, model: Mixtral, tokenizer: TextTokenizer, prompt: str) -> None:
    ids = tokenizer.encode(prompt)
    with torch.no_grad():
        wanted = reference(torch.tensor([ids])).logits[0].numpy()
    logits = model.forward(ids, model.new_cache(len(ids)), all_positions=True)
    np.testing.assert_allclose(logits, wanted, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("prompt", PROMPTS[:4])
def test_incremental_decode_logits_are_equal(
    reference: Any, model: Mixtral, tokenizer: TextTokenizer, prompt: str
) -> None:
    ids = tokenizer.encode(prompt)
    cache = model.new_cache(len(ids) + 24)
    logits = model.forward(ids, cache)
    with torch.no_grad():
        output = reference(torch.tensor([ids]), use_cache=True)
        for _ in range(24):
            np.testing.assert_allclose(logits, output.logits[0, -1].numpy(), atol=TOLERANCE, rtol=TOLERANCE)
            # The second best token leaves what the model knows by heart.
            token = int(np.argsort(-logits)[1])
            logits = model.forward([token], cache)
            output = reference(torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)


def test_greedy_answers_are_equal(reference: Any, model: Mixtral, tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(PROMPTS[0])
    wanted = reference.generate(torch.tensor([ids]), max_new_tokens=60, do_sample=False)[0, len(ids) :].tolist()
    cache = model.new_cache(len(ids) + 60)
    logits = model.forward(ids, cache)
    made: list[int] = []
    while len(made) < len(wanted):
        made.append(int(np.argmax(logits)))
        logits = model.forward(made[-1:], cache)
    assert made == wanted
    assert made[-1] == tokenizer.eos


def test_the_tokenizer_is_the_one_transformers_reads(tokenizer: TextTokenizer) -> None:
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(SHIPPED_MODEL)
    for prompt in PROMPTS:
        assert tokenizer.encode(prompt) == reference(prompt)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(prompt)) == reference.decode(reference(prompt)["input_ids"])


def test_the_chat_template_is_rendered_as_transformers_does() -> None:
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(SHIPPED_MODEL)
    messages = [("user", "What is TGI?"), ("assistant", "A server."), ("user", "And vLLM?")]
    wanted = reference.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], tokenize=False
    )
    rendered = render_chat([ChatMessage(*message) for message in messages], bos_token="<s>", eos_token="</s>")
    assert rendered == wanted
