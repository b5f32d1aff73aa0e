"""Streams of all dialects: what they say, however the bytes are cut, broken or mutilated."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.dialect_streams.cases import (
    COMPLETE,
    FAILED,
    FOLDER,
    TEXT,
    calls_of,
    cut,
    finish_of,
    merged,
    outcome,
    parser_for,
    read,
    recorded,
    text_of,
    tokens_of,
)

from invoke_proxy.dialects import DIALECTS
from invoke_proxy.dialects.json_lines import MAX_LINE_BYTES
from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Alternative, Finish, Heartbeat, StreamEvent, ToolCall

ALL = sorted({**COMPLETE, **FAILED})
FUZZ = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])

FINISHES = {
    "tgi-generate.neuron-2.1.1.sse": Finish(reason="stop", engine_reason="eos_token", completion_tokens=9),
    "tgi-generate.3.3.6.sse": Finish(reason="stop", engine_reason="eos_token", completion_tokens=9, prompt_tokens=11),
    "lorax.sse": Finish(reason="stop", engine_reason="eos_token", completion_tokens=9, prompt_tokens=11),
    "lmi-jsonlines.lmi-dist.jsonl": Finish(reason="stop", engine_reason="eos_token"),
    "lmi-jsonlines.lmi-vllm.jsonl": Finish(reason="length", engine_reason="length"),
    "lmi-json.json": Finish(reason="stop", engine_reason="eos_token", completion_tokens=9),
    "lmi-rolling-batch.jsonl": Finish(reason="stop", engine_reason="eos_token", completion_tokens=9),
    "lmi-async-vllm.chat.jsonl": Finish(reason="stop", engine_reason="stop", completion_tokens=9, prompt_tokens=11),
    "lmi-async-vllm.inputs.jsonl": Finish(
        reason="length", engine_reason="length", completion_tokens=8, prompt_tokens=11, seed=7
    ),
    "lmi-async-trtllm.chat.jsonl": Finish(reason="stop", engine_reason="stop", completion_tokens=8, prompt_tokens=11),
    "lmi-async-trtllm.inputs.jsonl": Finish(
        reason="length", engine_reason="length", completion_tokens=8, prompt_tokens=11, seed=7
    ),
    "vllm-openai.chat.sse": Finish(reason="stop", engine_reason="stop", completion_tokens=9, prompt_tokens=11),
    "vllm-openai.completion.sse": Finish(
        reason="length", engine_reason="length", completion_tokens=8, prompt_tokens=11
    ),
    "vllm-openai.tools.sse": Finish(
        reason="tool_calls", engine_reason="tool_calls", completion_tokens=9, prompt_tokens=11
    ),
}


def test_each_file_is_read_by_a_test() -> None:
    streams = {path.name for path in FOLDER.iterdir() if path.suffix in {".sse", ".jsonl"}}
    assert streams | {"lmi-json.json", "lmi-json.error.json"} == set(ALL)
    assert set(COMPLETE.values()) == set(DIALECTS)


@pytest.mark.parametrize("name", sorted(COMPLETE))
def test_what_a_stream_says(name: str) -> None:
    events = read(parser_for(name), [recorded(name)])

    expected = {"lmi-jsonlines.lmi-vllm.jsonl": "Hallo ü!", "vllm-openai.tools.sse": ""}.get(name, TEXT)
    assert text_of(events) == expected
    assert finish_of(events) == FINISHES[name]
    # What a reader gets of the tokens is what it gets of the text.
    tokens = [token for token in tokens_of(events) if not token.special]
    if tokens:
        assert "".join(token.text for token in tokens) == expected


@pytest.mark.parametrize("name", sorted(set(COMPLETE) - {"lmi-json.json"}))
def test_text_comes_with_the_bytes(name: str) -> None:
    """Nothing waits for a later token: each event of the engine is handed on when its last byte is there."""
    payload = recorded(name)
    parser = parser_for(name)
    first = payload.index(b"\n\n" if name.endswith(".sse") else b"\n") + 2
    early = [*parser.feed(payload[:first])]
    whole = read(parser_for(name), [payload])

    assert early == whole[: len(early)]
    half = read_until(name, payload, len(payload) // 2)
    assert whole[: len(half)] == half
    assert len(half) > len(whole) // 4


def read_until(name: str, payload: bytes, end: int) -> list[object]:
    parser = parser_for(name)
    return [*parser.feed(payload[:end])]


def test_one_document_is_read_as_it_comes() -> None:
    parser = parser_for("lmi-json.json")
    came = [
        text_of([*parser.feed(part.encode())])
        for part in ('{"generated_text": "', "Gr", "ü", '\\"', "{", "a", "\\", "n")
    ]

    # A brace may begin an error and an escape wants its second half: they wait for the next bytes.
    assert came == ["", "Gr", "ü", '"', "", "{a", "", "\n"]


@pytest.mark.parametrize("name", ALL)
def test_byte_by_byte(name: str) -> None:
    payload = recorded(name)

    whole, error = outcome(parser_for(name), [payload])
    events, other = outcome(parser_for(name), [payload[at : at + 1] for at in range(len(payload))])

    assert merged(events) == merged(whole)
    assert (error is None) == (name in COMPLETE)
    assert vars(other) == vars(error) if error and other else other is error


@pytest.mark.parametrize("name", ALL)
@FUZZ
@given(places=st.lists(st.integers(min_value=0), max_size=12))
def test_any_cut_gives_the_same_events(name: str, places: list[int]) -> None:
    payload = recorded(name)

    events, error = outcome(parser_for(name), cut(payload, places))

    expected, _ = outcome(parser_for(name), [payload])
    assert merged(events) == merged(expected)
    assert (error is None) == (name in COMPLETE)


@pytest.mark.parametrize("name", sorted(COMPLETE))
@FUZZ
@given(end=st.integers(min_value=0), places=st.lists(st.integers(min_value=0), max_size=4))
def test_truncation_is_an_error_and_nothing_is_made_up(name: str, end: int, places: list[int]) -> None:
    payload = recorded(name)
    part = payload[: end % len(payload)]

    events, error = outcome(parser_for(name), cut(part, places))

    whole = read(parser_for(name), [payload])
    assert text_of(whole).startswith(text_of(events))
    if error is None:
        # Only the usage, a line end or `[DONE]` is missing.
        assert finish_of(events).reason == FINISHES[name].reason
        assert text_of(events) == text_of(whole)
    else:
        assert (error.status, error.code) == (502, "incomplete_answer")
        assert not any(isinstance(event, Finish) for event in events)


@pytest.mark.parametrize("name", ALL)
@FUZZ
@given(data=st.data())
def test_mutations_give_events_or_an_api_error(name: str, data: st.DataObject) -> None:
    payload = bytearray(recorded(name))
    for _ in range(data.draw(st.integers(min_value=1, max_value=6))):
        at = data.draw(st.integers(min_value=0, max_value=max(0, len(payload) - 1)))
        kind = data.draw(st.sampled_from(["byte", "delete", "repeat", "word"]))
        if kind == "byte":
            payload[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif kind == "delete":
            del payload[at : at + data.draw(st.integers(min_value=1, max_value=40))]
        elif kind == "repeat":
            payload[at:at] = payload[at : at + data.draw(st.integers(min_value=1, max_value=200))]
        else:
            words = [b"null", b"[]", b"{}", b"-1", b'"x"', b"true", b"NaN", b"1e999", b"\\ud83d", b"\n\n", b"data: "]
            payload[at:at] = data.draw(st.sampled_from(words))

    events, error = outcome(parser_for(name), cut(bytes(payload), data.draw(st.lists(st.integers(0), max_size=5))))

    check_order(events, error)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@FUZZ
@given(chunks=st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)), max_size=8))
def test_garbage_is_an_api_error(name: str, chunks: list[bytes]) -> None:
    events, error = outcome(DIALECTS[name].parser(), chunks)

    assert error is not None
    assert error.status >= 400
    check_order(events, error)


WORDS = [
    "token",
    "text",
    "id",
    "logprob",
    "log_prob",
    "special",
    "top_tokens",
    "generated_text",
    "details",
    "error",
    "choices",
    "delta",
    "content",
    "logprobs",
    "finish_reason",
    "usage",
    "tool_calls",
    "function",
    "code",
    "tokens",
    "message",
    "index",
    "prompt_tokens",
    "completion_tokens",
    "generated_tokens",
    "top_logprobs",
    "prefill",
]
KEYS = st.sampled_from(WORDS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@FUZZ
@given(documents=st.lists(st.dictionaries(KEYS, VALUES, max_size=5), min_size=1, max_size=4))
def test_objects_of_other_shapes(name: str, documents: list[dict[str, object]]) -> None:
    lines = [json.dumps(document) for document in documents]
    for payload in ("\n".join(lines), "".join(f"data: {line}\n\n" for line in lines), lines[0]):
        check_order(*outcome(DIALECTS[name].parser(), [payload.encode()]))
        try:
            answer = DIALECTS[name].answer(payload.encode())
        except ApiError:
            continue
        assert isinstance(answer.text, str)


def check_order(events: Sequence[StreamEvent], error: ApiError | None) -> None:
    ends = [place for place, event in enumerate(events) if isinstance(event, Finish)]
    assert ends == ([] if error is not None else [len(events) - 1])
    for event in events:
        # Everything that reaches clients can be written.
        assert json.dumps(asdict(event), ensure_ascii=False, allow_nan=False).encode()
        if not isinstance(event, Heartbeat | Finish):
            assert text_of([event]).encode() is not None


@pytest.mark.parametrize("name", sorted(COMPLETE))
def test_nothing_comes_after_the_finish(name: str) -> None:
    parser = parser_for(name)
    read(parser, [recorded(name)])

    assert [*parser.feed(recorded(name)), *parser.end()] == []


@pytest.mark.parametrize("name", sorted(set(COMPLETE) - {"lmi-json.json"}))
def test_what_follows_the_finish_is_dropped(name: str) -> None:
    trailing = recorded(name) + b'data: {"error": "x"}\n\n{"error": "x"}\n\xff\xff'

    assert read(parser_for(name), [trailing]) == read(parser_for(name), [recorded(name)])


def test_a_document_with_something_behind_it_is_no_answer() -> None:
    _, error = outcome(parser_for("lmi-json.json"), [recorded("lmi-json.json"), b"{}"])

    assert error is not None
    assert error.code == "incomplete_answer"


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("tgi-generate.error.sse", 424, "Request failed during generation: Server error: out of memory"),
        ("lmi-jsonlines.error.jsonl", 424, "CUDA out of memory"),
        ("lmi-json.error.json", 424, "CUDA out of memory"),
        ("lmi-rolling-batch.error.jsonl", 424, "exception occurred during rolling batch inference"),
        ("lmi-async-vllm.error.jsonl", 502, "EngineCore encountered an issue."),
        ("lmi-async-vllm.failed.jsonl", 424, "list index out of range"),
        (
            "vllm-openai.error.sse",
            502,
            "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        ),
    ],
)
def test_failures_in_the_middle(name: str, status: int, words: str) -> None:
    events, error = outcome(parser_for(name), [recorded(name)])

    assert error is not None
    assert (error.status, error.message) == (status, words)
    # What came before is handed on; a brace that begins the error is not.
    assert TEXT.startswith(text_of(events)) or text_of(events) == "Hallo"
    if name != "lmi-async-vllm.failed.jsonl":
        assert text_of(events)


def test_special_tokens_are_no_text() -> None:
    for name in ("tgi-generate.neuron-2.1.1.sse", "tgi-generate.3.3.6.sse", "lorax.sse"):
        tokens = tokens_of(read(parser_for(name), [recorded(name)]))
        assert [token.text for token in tokens if token.special] == ["</s>"]
        assert tokens[-1].special
    for name in ("vllm-openai.chat.sse", "lmi-async-vllm.chat.jsonl"):
        tokens = tokens_of(read(parser_for(name), [recorded(name)]))
        assert (tokens[-1].text, tokens[-1].special) == ("</s>", True)
        assert not any(token.special for token in tokens[:-1])
    # The limit was reached: the last token is one like the others.
    assert not tokens_of(read(parser_for("vllm-openai.completion.sse"), [recorded("vllm-openai.completion.sse")]))[
        -1
    ].special


@pytest.mark.parametrize("name", ["vllm-openai.chat.sse", "vllm-openai.completion.sse", "tgi-generate.3.3.6.sse"])
def test_log_probabilities_and_alternatives(name: str) -> None:
    first = tokens_of(read(parser_for(name), [recorded(name)]))[0]

    assert first.logprob == -0.25
    assert [(other.text, other.logprob) for other in first.alternatives] == [
        (" Grüße", -0.25),
        (" Ü", -1.5 if name.startswith("tgi") else -7.5),
    ]
    if name.startswith("tgi"):
        assert first.alternatives[1] == Alternative(text=" Ü", logprob=-1.5, id=9)


def test_fields_that_are_left_out_were_zero_or_empty() -> None:
    events = read(parser_for("lmi-jsonlines.lmi-dist.jsonl"), [recorded("lmi-jsonlines.lmi-dist.jsonl")])
    tokens = tokens_of(events)

    assert (tokens[0].id, tokens[0].logprob) == (28107, 0.0)
    assert (tokens[3].id, tokens[3].text, tokens[3].logprob) == (0, ",", -0.75)
    assert (tokens[-1].text, tokens[-1].special) == ("", True)
    # A step without anything for this request is a sign of life and no token.
    assert sum(isinstance(event, Heartbeat) for event in events) == 1
    assert len(tokens) == 9


def test_backends_without_log_probabilities_report_none() -> None:
    for name in ("lmi-json.json", "lmi-async-trtllm.chat.jsonl", "lmi-async-trtllm.inputs.jsonl"):
        assert all(token.logprob is None for token in tokens_of(read(parser_for(name), [recorded(name)])))


def test_tool_calls() -> None:
    calls = calls_of(read(parser_for("vllm-openai.tools.sse"), [recorded("vllm-openai.tools.sse")]))

    assert calls == [
        ToolCall(index=0, id="chatcmpl-tool-1f", name="weather"),
        ToolCall(index=0, arguments='{"city": '),
        ToolCall(index=0, arguments='"Köln"'),
        ToolCall(index=0, arguments="}"),
        ToolCall(index=1, id="chatcmpl-tool-2f", name="time", arguments="{}"),
    ]


def test_comments_and_reasoning_are_signs_of_life() -> None:
    assert Heartbeat() in read(parser_for("tgi-generate.neuron-2.1.1.sse"), [recorded("tgi-generate.neuron-2.1.1.sse")])
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}, "finish_reason": None}]}
    assert [*DIALECTS["lmi-async-vllm"].parser().feed(json.dumps(thought).encode() + b"\n")] == [Heartbeat()]
    assert [*DIALECTS["vllm-openai"].parser().feed(b": ping\n\n")] == [Heartbeat()]


def openai_line(finish: str | None = None, content: str = "a") -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice]}).encode()


def test_the_usage_may_be_missing() -> None:
    for name, payload in {
        "lmi-async-vllm": openai_line("length") + b"\n",
        "vllm-openai": b"data: " + openai_line("length") + b"\n\n",
    }.items():
        for more in (b"", b"data: [DONE]\n\n" if name == "vllm-openai" else b"\n\n"):
            finish = finish_of(read(DIALECTS[name].parser(), [payload, more]))
            assert finish == Finish(reason="length", engine_reason="length")


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_request_that_the_engine_gave_up(reason: str) -> None:
    tgi = {"token": {"id": 1, "text": "a", "log_prob": -1}, "generated_text": "a", "details": {"finish_reason": reason}}
    for name, payload in {
        "lmi-async-vllm": openai_line(reason) + b"\n",
        "vllm-openai": b"data: " + openai_line(reason) + b"\n\n",
        "lmi-jsonlines": json.dumps(tgi).encode() + b"\n",
        "lmi-rolling-batch": json.dumps(tgi).encode() + b"\n",
    }.items():
        _, error = outcome(DIALECTS[name].parser(), [payload])
        assert error is not None
        assert error.status == 424


@pytest.mark.parametrize("details", [{"finish_reason": None}, None, {}])
def test_an_end_without_a_reason_is_a_stop(details: object) -> None:
    last = {"token": {"id": 1, "text": "a"}, "generated_text": "a", "details": details}
    for name in ("lmi-jsonlines", "lmi-rolling-batch", "lmi-async-vllm"):
        finish = finish_of(read(DIALECTS[name].parser(), [json.dumps(last).encode()]))
        assert (finish.reason, finish.engine_reason) == ("stop", None)


def test_done_without_an_end_is_incomplete() -> None:
    _, error = outcome(DIALECTS["vllm-openai"].parser(), [b"data: " + openai_line() + b"\n\ndata: [DONE]\n\n"])

    assert error is not None
    assert error.code == "incomplete_answer"


def test_half_a_pair_is_no_text_that_cannot_be_written() -> None:
    payload = rb'{"choices": [{"index": 0, "delta": {"content": "a\ud83d b\ud83d\ude00 \\ud83d"}}]}'
    assert text_of([*DIALECTS["lmi-async-vllm"].parser().feed(payload + b"\n")]) == "a\ufffd b😀 \\ud83d"
    document = rb'{"generated_text": "a\ud83d b\ud83d\ude00 \\ud83d"}'
    for step in (1, 3, 100):
        chunks = [document[at : at + step] for at in range(0, len(document), step)]
        assert text_of(read(DIALECTS["lmi-json"].parser(), chunks)) == "a\ufffd b😀 \\ud83d"


@pytest.mark.parametrize(("word", "value"), [("NaN", None), ("-Infinity", None), ("-0.5", -0.5), ("0", 0)])
def test_log_probabilities_that_are_no_numbers(word: str, value: float | None) -> None:
    payload = f'{{"token": {{"id": 3, "text": "a", "log_prob": {word}}}}}\n'
    for name in ("lmi-jsonlines", "lmi-rolling-batch"):
        assert tokens_of([*DIALECTS[name].parser().feed(payload.encode())])[0].logprob == value


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_memory_is_bounded(name: str) -> None:
    """A line, an event or a document that never ends is given up."""
    parser = DIALECTS[name].parser()
    head = b'{"generated_text": "x", "details": {"a": "' if name == "lmi-json" else b'data: {"a": "'
    chunk = b"x" * (1 << 20)

    _, error = outcome(parser, [head, *[chunk] * (MAX_LINE_BYTES // len(chunk) + 2)])

    assert error is not None
    assert error.code == "engine_answer_not_understood"


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_time_is_linear_in_the_bytes(name: str) -> None:
    """A long line in small pieces: twice the bytes must not take four times as long."""

    def seconds(size: int) -> float:
        parser = DIALECTS[name].parser()
        head = b'{"generated_text": "' if name == "lmi-json" else b'data: {"a": "'
        payload = head + b"x" * size
        start = time.process_time()
        for at in range(0, len(payload), 16):
            for _ in parser.feed(payload[at : at + 16]):
                pass
        return time.process_time() - start

    seconds(20_000)
    once = min(seconds(200_000) for _ in range(2))
    assert seconds(800_000) < 10 * once + 0.2


def test_deep_nesting_is_an_error() -> None:
    deep = b"[" * 200_000
    for name in DIALECTS:
        for payload in (deep, b'{"token": ' + deep, b"data: " + deep, b'{"generated_text": "", "details": ' + deep):
            _, error = outcome(DIALECTS[name].parser(), [payload + b"\n\n"])
            assert error is not None
            with pytest.raises(ApiError):
                DIALECTS[name].answer(payload)
