from __future__ import annotations

import pytest

from invoke_proxy.chat_templates import Message, render
from invoke_proxy.errors import ApiError

OFFICIAL_TEMPLATE = """
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + "</s>" }}
    {%- endif %}
{%- endfor %}
"""


def conversation(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


def test_system_message_is_folded_into_the_first_user_message() -> None:
    text = render("mistral-instruct", conversation(("system", "Be brief."), ("user", "Hi")))

    assert text == "[INST] Be brief.\n\nHi [/INST]"


def test_turns_end_with_the_end_of_sequence_token() -> None:
    text = render("mistral-instruct", conversation(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")))

    assert text == "[INST] Hi [/INST] Hello</s> [INST] Bye [/INST]"


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "a")],
        [("system", "s"), ("user", "a")],
        [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    ],
)
def test_equals_the_model_s_own_template(turns: list[tuple[str, str]]) -> None:
    """The text of the template in the model's tokenizer_config.json (without its begin-of-sequence token)."""
    jinja2 = pytest.importorskip("jinja2")
    official = jinja2.Template(OFFICIAL_TEMPLATE.replace("\n\n", "\\n\\n")).render(
        messages=[{"role": role, "content": content} for role, content in turns]
    )

    # The leading space there follows the begin-of-sequence token; here the tokenizer adds both.
    assert render("mistral-instruct", conversation(*turns)) == official.removeprefix(" ")


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
def test_wrong_order_names_the_message(turns: list[tuple[str, str]], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        render("mistral-instruct", conversation(*turns))

    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in caught.value.message
