"""The gateway's templates against what the models' own Jinja templates give.

`data/chat_templates.json` holds generated conversations and the texts that the models' templates made of them,
rendered as transformers does (`trim_blocks`, `lstrip_blocks`, a generation prompt) without the begin-of-sequence token
at the very start, which is the tokenizer's.

A conversation that is to be continued is rendered by transformers up to the end of its last message's text
(`continue_final_message`). All these templates write a message without a look at the later ones, so that is the
recorded text up to the end of that message, wherever an assistant's message stands in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from invoke_proxy.chat_templates import Message, render, template_names

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "chat_templates.json").read_text(encoding="utf-8")
)
CASES = [(name, case) for name, recorded in RECORDED.items() for case in recorded["cases"]]


# What each template writes after an assistant's text.
ENDS = {
    "chatml": "<|im_end|>\n<|im_start|>",
    "llama-2-chat": " </s><s>[INST] ",
    "llama-3-instruct": "<|eot_id|><|start_header_id|>",
    "mistral-instruct": "</s> [INST] ",
    "zephyr": "</s>\n<|",
}
STRIPPING = {"llama-2-chat", "llama-3-instruct"}
CONTINUED = [
    (name, case, index)
    for name, case in CASES
    for index, (role, _) in enumerate(case["messages"][:-1])
    if role == "assistant"
]


def messages_of(case: dict[str, Any]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in case["messages"]]


def recorded(name: str, case: dict[str, Any]) -> str:
    text: str = case["text"]
    # Mistral's writes a space after the begin-of-sequence token; here the tokenizer adds both.
    return text.removeprefix(" ") if name == "mistral-instruct" else text


def test_every_template_is_recorded() -> None:
    assert set(RECORDED) == template_names() == set(ENDS)
    assert all(len(recorded["cases"]) >= 16 for recorded in RECORDED.values())
    assert {name for name, _, _ in CONTINUED} == template_names()


@pytest.mark.parametrize(("name", "case"), CASES)
def test_equals_the_model_s_own_template(name: str, case: dict[str, Any]) -> None:
    assert render(name, messages_of(case)) == recorded(name, case)


@pytest.mark.parametrize(("name", "case", "index"), CONTINUED)
def test_a_continued_message_stays_open_where_its_text_ends(name: str, case: dict[str, Any], index: int) -> None:
    messages = messages_of(case)[: index + 1]
    content = messages[-1].content
    written, kept = content, ""
    if name in STRIPPING:
        # The model's own template drops the space at the end. Ours keeps it: it may begin the model's next word.
        written = content.strip()
        kept = content[len(content.rstrip()) :]
    ours = render(name, messages, continue_final=True)
    theirs = recorded(name, case)

    assert ours.endswith(written + kept)
    open_text = ours[: len(ours) - len(kept)]
    assert theirs[: len(open_text)] == open_text
    assert theirs[len(open_text) :].startswith(ENDS[name])


def test_stand_in_s_tokenizer_gives_the_same_turns() -> None:
    """The template of Mixtral-8x7B-Instruct-v0.1 as it was first published: with a space less before every message."""
    jinja2 = pytest.importorskip("jinja2")
    root = Path(__file__).resolve().parents[2]
    file = root / "modelzone" / "local" / "model_server" / "tiny_mixtral" / "tokenizer_config.json"
    first: str = json.loads(file.read_text(encoding="utf-8"))["chat_template"]
    assert (first.count("{{ '[INST] '"), first.count("{{ message['content'] + eos_token")) == (1, 1)
    spaced = first.replace("{{ '[INST] '", "{{ ' [INST] '").replace("{{ message[", "{{ ' ' + message[")
    for case in RECORDED["mistral-instruct"]["cases"]:
        if case["messages"][0][0] == "system":
            continue
        messages = [{"role": role, "content": content} for role, content in case["messages"]]
        theirs = jinja2.Template(spaced).render(messages=messages, bos_token="", eos_token="</s>")

        assert theirs == case["text"]
        assert render("mistral-instruct", messages_of(case)) == theirs.removeprefix(" ")
