from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from invoke_proxy.chat_templates import Message, render, template_names
from invoke_proxy.errors import ApiError
from modelzone.settings.model_profile import Model

STRICT = ["llama-2-chat", "mistral-instruct"]
FREE = ["chatml", "llama-3-instruct", "zephyr"]


def conversation(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


def test_model_profiles_name_the_gateway_s_templates() -> None:
    (literal, _) = get_args(get_type_hints(Model)["chat_template"])

    assert set(get_args(literal)) == template_names()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("mistral-instruct", "[INST] Be brief.\n\nHi [/INST] Hello</s> [INST] Bye [/INST]"),
        (
            "llama-2-chat",
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Bye [/INST]",
        ),
        (
            "llama-3-instruct",
            (
                "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
        (
            "chatml",
            (
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
            ),
        ),
        (
            "zephyr",
            "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nBye</s>\n<|assistant|>\n",
        ),
    ],
)
def test_a_conversation_in_every_template(template: str, expected: str) -> None:
    turns = conversation(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))

    assert render(template, turns) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("mistral-instruct", "[INST] Hi [/INST] Well, "),
        ("llama-2-chat", "[INST] Hi [/INST] Well, "),
        (
            "llama-3-instruct",
            (
                "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nWell, "
            ),
        ),
        ("chatml", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell, "),
        ("zephyr", "<|user|>\nHi</s>\n<|assistant|>\nWell, "),
    ],
)
def test_a_begun_answer_stays_open(template: str, expected: str) -> None:
    turns = conversation(("user", "Hi"), ("assistant", "Well, "))

    assert render(template, turns, continue_final=True) == expected


@pytest.mark.parametrize("template", STRICT)
@pytest.mark.parametrize(
    ("turns", "param"),
    [
        ([("assistant", "x")], "messages[0].role"),
        ([("user", "a"), ("user", "b")], "messages[1].role"),
        ([("user", "a"), ("system", "b")], "messages[1].role"),
        ([("system", "a"), ("system", "b"), ("user", "c")], "messages[1].role"),
        ([("system", "a"), ("assistant", "b")], "messages[1].role"),
        ([("user", "a"), ("assistant", "b")], "messages[1].role"),
        ([("system", "a")], "messages[0].role"),
    ],
)
def test_wrong_order_names_the_message(template: str, turns: list[tuple[str, str]], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        render(template, conversation(*turns))

    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


@pytest.mark.parametrize("template", FREE)
def test_other_models_take_any_order(template: str) -> None:
    text = render(template, conversation(("user", "one"), ("user", "two"), ("system", "three"), ("assistant", "four")))

    assert [text.index(word) for word in ("one", "two", "three", "four")] == sorted(
        text.index(word) for word in ("one", "two", "three", "four")
    )


@pytest.mark.parametrize("template", [*STRICT, *FREE])
def test_only_the_assistant_s_message_can_be_continued(template: str) -> None:
    with pytest.raises(ApiError) as caught:
        render(template, conversation(("user", "a")), continue_final=True)

    assert caught.value.param == "messages[0].role"
