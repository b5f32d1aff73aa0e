"""What each dialect asks of its engine: names, defaults, greedy decoding, and refusals by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from unit.dialect_streams.cases import deployment, generation

from invoke_proxy.dialects import DIALECTS
from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Generation
from modelzone.engines import ENGINES

SPEAKERS = {
    "tgi-generate": ("tgi-neuronx", "0.0.25"),
    "lmi-json": ("lmi-neuronx", "0.26.0"),
    "lmi-rolling-batch": ("lmi-neuronx", "0.30.0"),
    "lmi-async-vllm": ("lmi-vllm", "0.38.0"),
    "lmi-async-trtllm": ("lmi-trtllm", "0.33.0"),
    "vllm-openai": ("vllm-neuronx", "0.4.5"),
    "lorax": ("lorax", "0.12.1"),
}
BACKENDS = ["lmi-vllm", "lmi-dist", "lmi-deepspeed", "lmi-trtllm"]
TALK = ({"role": "user", "content": "Hi"},)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
# Asked for alone, each of these must arrive or be refused.
ASKED: dict[str, Any] = {
    "top_k": 7,
    "min_p": 0.1,
    "repetition_penalty": 1.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.25,
    "logit_bias": {"17": -100.0},
    "stop": ("END",),
    "seed": 42,
    "logprobs": True,
    "top_logprobs": 2,
    "tools": (TOOL,),
    "response_format": {"type": "json_object"},
    "adapters": ("acme/lora",),
    "continue_final": True,
}
FEATURE_OF = {
    "frequency_penalty": {"penalties", "frequency_penalty"},
    "presence_penalty": {"penalties"},
    "response_format": {"json"},
    "continue_final": {"continue"},
}


def body(dialect: str, engine: str | None = None, version: str = "0.26.0", **values: Any) -> dict[str, Any]:
    where = deployment(*((engine, version) if engine else SPEAKERS[dialect]), dialect=dialect)
    return DIALECTS[dialect].body(generation(**values), where)


def jsonlines(engine: str, **values: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = body("lmi-jsonlines", engine, **values)["parameters"]
    return parameters


def everyone() -> list[tuple[str, str, str]]:
    return [
        (engine.name, version.version, version.dialect)
        for engine in ENGINES.values()
        for version in engine.versions.values()
        if version.dialect in DIALECTS
    ]


def refusal(dialect: str, **values: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        body(dialect, **values)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("name", sorted(ASKED))
@pytest.mark.parametrize(("engine", "version", "dialect"), everyone())
def test_features_are_kept_and_the_rest_is_refused_by_name(engine: str, version: str, dialect: str, name: str) -> None:
    """What a version's features promise reaches the engine; what its dialect has no word for is refused."""
    features = ENGINES[engine].versions[version].features
    promised = bool(FEATURE_OF.get(name, {name}) & features)
    chat = name in {"tools", "continue_final"}
    values: dict[str, Any] = {name: ASKED[name], **({"messages": TALK} if chat else {})}
    if name == "top_logprobs":
        values["logprobs"] = True
    where = deployment(engine, version, dialect=dialect)
    plain = generation(**({"messages": TALK} if chat else {}))
    if name == "stop" and not promised:
        # The gateway cuts the answer itself: no reason to refuse, nothing to send.
        assert DIALECTS[dialect].body(generation(**values), where) == DIALECTS[dialect].body(plain, where)
        return
    refused, asked = None, None
    try:
        asked = DIALECTS[dialect].body(generation(**values), where)
    except ApiError as error:
        refused = error

    if refused is not None:
        assert not promised
        assert (refused.status, refused.code) == (400, "unsupported_parameter")
        assert refused.param in {name, "messages", "logprobs"}
        assert engine in refused.message
    else:
        # Engines that always report log probabilities need no word for them.
        assert name == "logprobs" or asked != DIALECTS[dialect].body(plain, where)


@pytest.mark.parametrize("extra", ["typical_p", "watermark", "truncate", "best_of", "unheard_of"])
@pytest.mark.parametrize(("engine", "version", "dialect"), everyone())
def test_only_tgi_takes_its_other_parameters(engine: str, version: str, dialect: str, extra: str) -> None:
    where = deployment(engine, version, dialect=dialect)
    asked = generation(extra={extra: 2 if extra in {"truncate", "best_of"} else 0.5})
    taken = {"tgi-neuronx": {"truncate"}, "lorax": {"typical_p", "truncate", "watermark", "best_of"}}
    if extra in taken.get(engine, ()):
        assert extra in DIALECTS[dialect].body(asked, where)["parameters"]
        return
    with pytest.raises(ApiError) as caught:
        DIALECTS[dialect].body(asked, where)
    assert (caught.value.status, caught.value.param) == (400, extra)


def test_each_field_of_a_request_is_looked_at() -> None:
    """A field that is new in `Generation` needs a place in the dialects and in these tests."""
    others = {"stream", "prompt", "messages", "max_tokens", "max_tokens_param", "temperature", "top_p", "extra"}
    assert {field.name for field in fields(Generation)} == others | set(ASKED) | {"tool_choice", "parallel_tool_calls"}


NEUTRAL: dict[str, Any] = {
    "top_k": 0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "min_p": 0.0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "extra": {"watermark": False, "best_of": None},
}


@pytest.mark.parametrize(("engine", "version", "dialect"), everyone())
def test_asking_for_nothing_is_never_refused(engine: str, version: str, dialect: str) -> None:
    where = deployment(engine, version, dialect=dialect)
    assert DIALECTS[dialect].body(generation(**NEUTRAL), where)


@pytest.mark.parametrize(("engine", "version", "dialect"), everyone())
def test_room(engine: str, version: str, dialect: str) -> None:
    where = deployment(engine, version, dialect=dialect)
    most = 324 if (engine, version) == ("lmi-trtllm", "0.26.0") else 1023
    assert DIALECTS[dialect].body(generation(max_tokens=most), where)
    with pytest.raises(ApiError) as caught:
        DIALECTS[dialect].body(generation(max_tokens=most + 1, max_tokens_param="max_completion_tokens"), where)
    assert (caught.value.status, caught.value.param) == (400, "max_completion_tokens")
    assert str(most) in caught.value.message
    assert str(most + 1) in caught.value.message


@pytest.mark.parametrize(
    ("engine", "version", "dialect", "expected"),
    [
        ("lmi-vllm", "0.26.0", "lmi-jsonlines", 1023),
        ("lmi-dist", "0.26.0", "lmi-jsonlines", 324),
        ("lmi-deepspeed", "0.26.0", "lmi-jsonlines", 324),
        ("lmi-trtllm", "0.26.0", "lmi-jsonlines", 324),
        ("lmi-neuronx", "0.26.0", "lmi-json", 1023),
        ("lmi-neuronx", "0.30.0", "lmi-rolling-batch", 1023),
    ],
)
def test_without_a_limit_rolling_batches_are_given_one(engine: str, version: str, dialect: str, expected: int) -> None:
    """Their own defaults are 16, 30 or 128 tokens."""
    assert body(dialect, engine, version)["parameters"]["max_new_tokens"] == expected
    assert body(dialect, engine, version, max_tokens=5)["parameters"]["max_new_tokens"] == 5


def test_without_a_limit_openai_s_engines_fill_the_context() -> None:
    # null and absent differ: absent is 16 tokens for a completion.
    for dialect in ("vllm-openai", "lmi-async-vllm"):
        assert body(dialect)["max_tokens"] is None
        assert "max_tokens" not in body(dialect, messages=TALK)
        assert body(dialect, messages=TALK, max_tokens=9)["max_tokens"] == 9
    assert body("lmi-async-trtllm")["max_tokens"] == 324
    assert body("lmi-async-trtllm", messages=TALK)["max_tokens"] == 324


@pytest.mark.parametrize(
    ("values", "greedy"),
    [({}, False), ({"temperature": 0.0}, True), ({"top_p": 0.0}, True), ({"temperature": 0.5, "top_p": 0.5}, False)],
)
def test_greedy(values: dict[str, Any], greedy: bool) -> None:
    assert body("tgi-generate", **values)["parameters"]["do_sample"] is not greedy
    assert body("lorax", **values)["parameters"]["do_sample"] is not greedy
    for dialect in ("lmi-json", "lmi-rolling-batch"):
        assert body(dialect, **values)["parameters"]["do_sample"] is not greedy
    for engine in ("lmi-dist", "lmi-deepspeed"):
        assert jsonlines(engine, **values)["do_sample"] is not greedy
    assert (jsonlines("lmi-vllm", **values).get("temperature") == 0) is greedy
    assert (jsonlines("lmi-trtllm", **values).get("top_k") == 1) is greedy
    assert (body("vllm-openai", **values).get("temperature") == 0) is greedy
    assert (body("lmi-async-vllm", **values).get("temperature") == 0) is greedy
    assert (body("lmi-async-trtllm", **values).get("top_k") == 1) is greedy


@pytest.mark.parametrize(("engine", "version", "dialect"), everyone())
def test_greedy_is_not_undone_by_other_limits(engine: str, version: str, dialect: str) -> None:
    """TGI and its kin sample as soon as temperature, top_k or top_p is there, whatever do_sample says."""
    where = deployment(engine, version, dialect=dialect)
    asked = DIALECTS[dialect].body(generation(temperature=0.0, top_k=5, top_p=0.5, max_tokens=9), where)
    parameters = asked.get("parameters", asked)
    assert "top_p" not in parameters
    assert parameters.get("top_k") in {None, 1}
    assert parameters.get("temperature") in {None, 0}


def test_sampling_parameters_arrive() -> None:
    values: dict[str, Any] = {"temperature": 1, "top_p": 0.5, "top_k": 3}
    for name, asked in {
        "tgi": body("tgi-generate", **values)["parameters"],
        "lorax": body("lorax", **values)["parameters"],
        "json": body("lmi-json", **values)["parameters"],
        "vllm": jsonlines("lmi-vllm", **values),
        "dist": jsonlines("lmi-dist", **values),
        "trt": jsonlines("lmi-trtllm", **values),
        "openai": body("vllm-openai", **values),
    }.items():
        assert {key: asked[key] for key in values} == values, name


@pytest.mark.parametrize("dialect", ["lmi-json", "lmi-rolling-batch"])
def test_sampling_without_a_limit_does_not_stop_the_neuron_backend(dialect: str) -> None:
    """It asserts that something limits what is sampled from; a failed assertion drops the whole batch."""
    parameters = body(dialect, temperature=1, top_p=1)["parameters"]
    assert parameters["top_k"] > 200_000
    assert "top_k" not in body(dialect, temperature=1, top_p=0.9)["parameters"]
    assert "top_k" not in body(dialect, temperature=0.5)["parameters"]
    # Its own default temperature is one of these limits.
    assert "top_k" not in body(dialect)["parameters"]


@pytest.mark.parametrize("dialect", ["lmi-json", "lmi-rolling-batch"])
def test_numbers_that_transformers_wants_as_fractions(dialect: str) -> None:
    parameters = body(dialect, temperature=2, top_p=1, repetition_penalty=2)["parameters"]
    assert [type(parameters[name]) for name in ("temperature", "top_p", "repetition_penalty")] == [float] * 3


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("repetition_penalty", 2.5, 2.0),
        ("repetition_penalty", -1.0, 0.5),
        ("frequency_penalty", 2.5, -2.0),
        ("presence_penalty", -2.5, 2.0),
        ("temperature", -0.5, 0.1),
        ("top_p", 1.5, 1.0),
        ("top_p", -0.5, 0.1),
        ("min_p", 1.5, 1.0),
        ("top_k", -2, -1),
        ("max_tokens", 0, 1),
    ],
)
def test_ranges_of_vllm_0_2_7(name: str, bad: float, good: float) -> None:
    """A value that it refuses drops the whole batch."""
    with pytest.raises(ApiError) as caught:
        jsonlines("lmi-vllm", **{name: bad})
    assert (caught.value.status, caught.value.param) == (400, name)
    assert f"{bad:g}" in caught.value.message
    assert jsonlines("lmi-vllm", **{name: good})


@pytest.mark.parametrize("engine", BACKENDS)
def test_jsonlines_has_no_switch_for_streams(engine: str) -> None:
    for stream in (False, True):
        asked = body("lmi-jsonlines", engine, stream=stream)
        assert set(asked) == {"inputs", "parameters"}
        assert asked["inputs"] == "Hi"
        # Without it there is no finish reason.
        assert asked["parameters"]["details"] is True


def test_vllm_0_2_7_gets_only_what_its_sampling_parameters_have() -> None:
    """One more would drop the whole batch; details and max_new_tokens are taken out and renamed before."""
    known = {"presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "top_k", "min_p"}
    everything = {name: ASKED[name] for name in (*known - {"temperature", "top_p"}, "stop", "logprobs")}
    asked = jsonlines("lmi-vllm", **everything, temperature=0.5, top_p=0.5, max_tokens=3)
    assert set(asked) == known | {"stop", "details", "max_new_tokens"}


def test_stop_sequences_have_two_names() -> None:
    assert jsonlines("lmi-vllm", stop=("a", "b"))["stop"] == ["a", "b"]
    assert jsonlines("lmi-dist", stop=("a",))["stop_sequences"] == ["a"]
    assert body("tgi-generate", stop=("a",))["parameters"]["stop"] == ["a"]
    assert body("vllm-openai", stop=("a",))["stop"] == ["a"]


@pytest.mark.parametrize("dialect", ["vllm-openai", "lmi-async-vllm"])
def test_vllm_does_not_hold_text_back_for_stop_sequences(dialect: str) -> None:
    """What may begin a sequence that is left out comes later than its tokens; what is left in comes at once."""
    assert body(dialect, stop=("a",))["include_stop_str_in_output"] is True
    assert "include_stop_str_in_output" not in body(dialect)
    # Its requests refuse fields that they do not know.
    assert "include_stop_str_in_output" not in body("lmi-async-trtllm", stop=("a",))


def test_tgi_on_neuron_is_told_what_no_limit_is() -> None:
    """Left out, top_k is 50 or the model's own; where that is 0 the server fails."""

    def top_k(version: str, **values: Any) -> int | None:
        asked: dict[str, Any] = body("tgi-generate", "tgi-neuronx", version, **values)["parameters"]
        found: int | None = asked.get("top_k")
        return found

    for version in ("0.0.25", "0.0.28"):
        assert (top_k(version) or 0) > 200_000
        assert top_k(version, top_k=500) == 500
    # On the device 256 are the most that can be sampled from; more would fail the batch.
    assert top_k("3.3.6") == top_k("3.3.6", temperature=0.5, top_p=1.0) == top_k("3.3.6", top_k=256) == 256
    with pytest.raises(ApiError) as caught:
        top_k("3.3.6", top_k=257)
    assert (caught.value.status, caught.value.param) == (400, "top_k")
    for version in ("0.0.25", "3.3.6"):
        assert top_k(version, top_p=0.9) is None
        assert top_k(version, temperature=0) is None
        assert top_k(version, top_k=7) == 7


def test_lorax_takes_its_own_parameters() -> None:
    own = {"adapter_source": "hub", "api_token": "hf_secret", "ignore_eos_token": True}
    merged = {"merged_adapters": {"ids": ["a", "b"], "weights": [0.25, 0.75]}}
    asked = body("lorax", extra={**own, **merged})["parameters"]
    assert {name: asked[name] for name in (*own, *merged)} == {**own, **merged}
    for name in (*own, *merged):
        assert refusal("tgi-generate", extra={name: "x"}).param == name


@pytest.mark.parametrize("dialect", ["tgi-generate", "lorax"])
def test_tgi_and_lorax_take_four_stop_sequences(dialect: str) -> None:
    assert body(dialect, stop=tuple("abcd"))
    assert refusal(dialect, stop=tuple("abcde")).param == "stop"


@pytest.mark.parametrize(("seed", "unsigned", "signed"), [(5, 5, 5), (-1, 2**64 - 1, -1), (2**63, 2**63, -(2**63))])
def test_seeds_keep_their_own_place(seed: int, unsigned: int, signed: int) -> None:
    assert body("tgi-generate", seed=seed)["parameters"]["seed"] == unsigned
    assert body("lorax", seed=seed)["parameters"]["seed"] == unsigned
    assert jsonlines("lmi-dist", seed=seed)["seed"] == unsigned
    assert body("vllm-openai", seed=seed)["seed"] == signed


def test_a_stream_is_asked_for_with_its_usage() -> None:
    for dialect in ("vllm-openai", "lmi-async-vllm", "lmi-async-trtllm"):
        asked = body(dialect, stream=True)
        assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})
        # vLLM refuses the options without the stream.
        assert "stream_options" not in body(dialect)
    assert body("lmi-rolling-batch", stream=True)["stream"] is True
    assert body("tgi-generate", stream=True)["stream"] is True


def test_chats_and_completions() -> None:
    asked = body("vllm-openai", messages=TALK, logprobs=True, top_logprobs=2, continue_final=True)
    assert asked["messages"] == list(TALK)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
    assert (asked["add_generation_prompt"], asked["continue_final_message"]) == (False, True)
    assert "prompt" not in asked

    asked = body("vllm-openai", logprobs=True)
    assert (asked["prompt"], asked["logprobs"]) == ("Hi", 0)
    assert "messages" not in asked
    assert refusal("vllm-openai", logprobs=True, top_logprobs=21).param == "top_logprobs"


def test_tools() -> None:
    asked = body("vllm-openai", messages=TALK, tools=(TOOL,), tool_choice="required", parallel_tool_calls=False)
    assert (asked["tools"], asked["tool_choice"], asked["parallel_tool_calls"]) == ([TOOL], "required", False)
    # vLLM's own default would be "none".
    assert body("vllm-openai", messages=TALK, tools=(TOOL,))["tool_choice"] == "auto"
    assert refusal("vllm-openai", tools=(TOOL,)).param == "tools"


def test_json_mode() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    asked = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    assert body("vllm-openai", messages=TALK, response_format=asked)["response_format"] == asked
    assert body("lmi-async-vllm", response_format=asked)["response_format"] == asked
    # LoRAX has the schema beside the type.
    assert body("lorax", response_format=asked)["parameters"]["response_format"] == {
        "type": "json_schema",
        "schema": schema,
    }
    assert body("lorax", response_format={"type": "json_object"})["parameters"]["response_format"] == {
        "type": "json_object"
    }
    assert refusal("lorax", response_format={"type": "json_schema"}).param == "response_format"


def test_adapters() -> None:
    assert body("lorax", adapters=("a",))["parameters"]["adapter_id"] == "a"
    merged = body("lorax", adapters=("a", "b"))["parameters"]
    assert merged["merged_adapters"] == {"ids": ["a", "b"], "weights": [0.5, 0.5]}
    # The server refuses both.
    assert "adapter_id" not in merged
    assert body("vllm-openai", adapters=("a",))["model"] == "a"
    assert body("lmi-async-vllm", adapters=("a",))["adapters"] == "a"
    for dialect in ("vllm-openai", "lmi-async-vllm"):
        assert refusal(dialect, adapters=("a", "b")).param == "adapters"


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty"])
@pytest.mark.parametrize("dialect", ["lorax", "tgi-generate"])
def test_ranges_of_tgi(dialect: str, name: str) -> None:
    where = deployment("tgi", "3.3.6") if dialect == "tgi-generate" else deployment("lorax", "0.12.1")
    for value in (-2.5, 2.5):
        if name == "repetition_penalty" and value > 0:
            continue
        with pytest.raises(ApiError) as caught:
            DIALECTS[dialect].body(generation(**{name: value}), where)
        assert caught.value.param == name


def test_messages_need_a_template_where_the_engine_has_none() -> None:
    for dialect in ("tgi-generate", "lorax", "lmi-json", "lmi-rolling-batch"):
        error = refusal(dialect, messages=TALK)
        assert (error.param, error.code) == ("messages", "unsupported_parameter")


def test_an_engine_that_does_not_speak_the_dialect_is_named() -> None:
    with pytest.raises(ApiError) as caught:
        jsonlines("tgi-neuronx")
    assert "tgi-neuronx" in caught.value.message


@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - {"vllm-openai", "lmi-async-vllm"}))
def test_embeddings_are_refused_where_there_are_none(dialect: str) -> None:
    for ask in (
        lambda: DIALECTS[dialect].embeddings_body(("a",), dimensions=None),
        lambda: DIALECTS[dialect].embeddings(b"[[1.0]]"),
    ):
        with pytest.raises(ApiError) as caught:
            ask()
        assert (caught.value.status, caught.value.param) == (400, "model")


def test_embeddings_are_asked_for() -> None:
    vllm, lmi = DIALECTS["vllm-openai"], DIALECTS["lmi-async-vllm"]
    assert vllm.embeddings_body(("a", "b"), dimensions=8) == {
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 8,
    }
    assert "dimensions" not in vllm.embeddings_body(("a",), dimensions=None)
    assert lmi.embeddings_body(("a",), dimensions=None) == {"inputs": ["a"]}
    with pytest.raises(ApiError) as caught:
        lmi.embeddings_body(("a",), dimensions=8)
    assert caught.value.param == "dimensions"
