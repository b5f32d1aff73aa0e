"""The routes and answers of TGI 2.1.1, without a process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelzone.local.model_server.app import create_app
from modelzone.local.model_server.bodies import ChatMessage
from modelzone.local.model_server.chat import render_chat
from modelzone.local.model_server.errors import TemplateFailed
from modelzone.local.model_server.export import export
from modelzone.local.model_server.settings import read_settings

PROMPT = "[INST] What is deep learning? [/INST]"
ANSWER = (
    " Deep learning is a part of machine learning that trains neural networks with many layers. "
    "The layers learn useful features from data by themselves, step by step.</s>"
)
ENVIRONMENT = {"HF_MODEL_ID": "/opt/ml/model", "MAX_BATCH_SIZE": "1", "MAX_INPUT_TOKENS": "200"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    export(model="a/b", batch_size=1, sequence_length=256, auto_cast_type="fp16", num_cores=8, output=folder)
    return folder


@pytest.fixture(scope="module")
def client(artifact: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings=read_settings(ENVIRONMENT, artifact), folder=artifact)) as client:
        yield client


def events(text: str) -> list[Any]:
    """Parse a stream, strictly as TGI 2.1.1 writes it: `data:` without a space, a blank line, no `[DONE]`."""
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data:{") for line in lines)
    return [json.loads(line.removeprefix("data:")) for line in lines]


def parameters(**given: Any) -> dict[str, Any]:
    return {"inputs": PROMPT, "parameters": given}


def test_generate_answers_with_an_object(client: TestClient) -> None:
    answer = client.post("/generate", json=parameters(details=True))
    assert answer.status_code == 200
    body = answer.json()
    assert body["generated_text"] == ANSWER
    details = body["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert (details["finish_reason"], details["seed"], details["prefill"]) == ("eos_token", None, [])
    assert len(details["tokens"]) == details["generated_tokens"]
    assert "".join(token["text"] for token in details["tokens"]) == ANSWER
    assert all(list(token) == ["id", "text", "logprob", "special"] for token in details["tokens"])
    assert all(-1 < token["logprob"] < 0 for token in details["tokens"])
    assert [token["special"] for token in details["tokens"]].count(True) == 1
    assert answer.headers["x-generated-tokens"] == str(details["generated_tokens"])
    assert int(answer.headers["x-prompt-tokens"]) > 5
    assert answer.headers["x-compute-characters"] == str(len(PROMPT))


def test_without_details_there_is_the_text_only(client: TestClient) -> None:
    assert client.post("/generate", json=parameters()).json() == {"generated_text": ANSWER}


@pytest.mark.parametrize("route", ["/", "/invocations"])
def test_the_compatible_routes_answer_with_a_list_and_the_full_text(client: TestClient, route: str) -> None:
    assert client.post(route, json=parameters()).json() == [{"generated_text": PROMPT + ANSWER}]
    assert client.post(route, json=parameters(return_full_text=False)).json() == [{"generated_text": ANSWER}]


def test_generate_stream_sends_every_token(client: TestClient) -> None:
    answer = client.post("/generate_stream", json=parameters(details=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *first, last = events(answer.text)
    assert [event["index"] for event in first] == list(range(1, len(first) + 1))
    assert all(list(event) == ["index", "token", "generated_text", "details"] for event in [*first, last])
    assert all(event["generated_text"] is None and event["details"] is None for event in first)
    assert "".join(event["token"]["text"] for event in first) + last["token"]["text"] == ANSWER
    assert last["generated_text"] == ANSWER
    assert last["token"]["special"]
    assert last["details"] == {"finish_reason": "eos_token", "generated_tokens": len(first) + 1, "seed": None}


def test_invocations_streams_when_the_body_says_so(client: TestClient) -> None:
    body = {**parameters(max_new_tokens=3), "stream": True}
    got = events(client.post("/invocations", json=body).text)
    assert len(got) == 3
    text = got[-1]["generated_text"]
    assert text.startswith(f"{PROMPT} De")
    assert (PROMPT + ANSWER).startswith(text)
    assert got[-1]["details"] is None
    # /generate knows no `stream`.
    assert "generated_text" in client.post("/generate", json=body).json()


def test_the_seed_of_a_sampled_answer_is_told_and_repeats_it(client: TestClient) -> None:
    given = {"do_sample": True, "temperature": 8.0, "max_new_tokens": 20, "details": True}
    first = client.post("/generate", json=parameters(**given)).json()
    again = client.post("/generate", json=parameters(**given, seed=first["details"]["seed"])).json()
    assert again["generated_text"] == first["generated_text"]


def test_best_of_answers_are_ordered_by_their_mean_log_probability(client: TestClient) -> None:
    given = {"do_sample": True, "temperature": 5.0, "best_of": 2, "max_new_tokens": 8, "details": True}
    details = client.post("/generate", json=parameters(**given)).json()["details"]
    (other,) = details["best_of_sequences"]
    assert "generated_text" in other

    def mean(sequence: dict[str, Any]) -> float:
        logprobs: list[float] = [token["logprob"] for token in sequence["tokens"]]
        return sum(logprobs) / len(logprobs)

    assert mean(details) >= mean(other)
    assert details["seed"] != other["seed"]


def test_best_of_takes_a_place_for_each_answer(artifact: Path) -> None:
    settings = read_settings({**ENVIRONMENT, "MAX_CONCURRENT_REQUESTS": "1"}, artifact)
    with TestClient(create_app(settings=settings, folder=artifact)) as client:
        refused = client.post("/generate", json=parameters(do_sample=True, best_of=2))
        assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
        assert client.post("/generate", json=parameters()).status_code == 200


def test_top_tokens_come_with_details_and_events(client: TestClient) -> None:
    body = parameters(top_n_tokens=2, max_new_tokens=3, details=True)
    top = client.post("/generate", json=body).json()["details"]["top_tokens"]
    assert [len(tokens) for tokens in top] == [2, 2, 2]
    assert all(len(event["top_tokens"]) == 2 for event in events(client.post("/generate_stream", json=body).text))


def test_an_invalid_request_is_a_422(client: TestClient) -> None:
    answer = client.post("/generate", json=parameters(max_new_tokens=300))
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "validation"
    assert "must be <= 256" in answer.json()["error"]


def test_in_a_stream_an_invalid_request_is_an_event(client: TestClient) -> None:
    answer = client.post("/generate_stream", json=parameters(temperature=0.0))
    assert answer.status_code == 200
    assert events(answer.text) == [
        {"error": "Input validation error: `temperature` must be strictly positive", "error_type": "validation"}
    ]


def test_a_body_of_the_wrong_form_is_answered_in_plain_text(client: TestClient) -> None:
    answer = client.post("/invocations", json={"messages": []})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "text/plain; charset=utf-8")
    assert answer.text == "Failed to deserialize the JSON body into the target type: missing field `inputs`"
    assert client.post("/generate", content="{", headers={"content-type": "application/json"}).status_code == 400
    assert client.post("/generate", content="{}").status_code == 415


def test_a_failing_model_is_a_424_and_tells_no_more_than_the_kind(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise FloatingPointError("secret")

    monkeypatch.setattr("modelzone.local.model_server.mixtral.Mixtral.forward", fail)
    with TestClient(create_app(settings=read_settings(ENVIRONMENT, artifact), folder=artifact)) as client:
        answer = client.post("/generate", json=parameters())
        assert answer.status_code == 424
        failure = {"error": "Request failed during generation: FloatingPointError", "error_type": "generation"}
        assert answer.json() == failure
        assert events(client.post("/generate_stream", json=parameters()).text) == [failure]
        assert client.get("/ping").status_code == 200
        assert 'tgi_request_failure{err="generation"} 2' in client.get("/metrics").text
    assert PROMPT not in caplog.text


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tgi", "messages": [{"role": "user", "content": "What is deep learning?"}], **more}


def test_a_chat_is_answered_as_openai_does(client: TestClient) -> None:
    body = client.post("/v1/chat/completions", json=chat(temperature=0)).json()
    assert (body["object"], body["id"], body["model"]) == ("chat.completion", "", "/opt/ml/model")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": ANSWER}
    assert (choice["finish_reason"], choice["logprobs"]) == ("eos_token", None)
    assert body["usage"]["prompt_tokens"] == 0
    assert body["usage"]["completion_tokens"] == body["usage"]["total_tokens"] > 10


def test_a_chat_streams_chunks(client: TestClient) -> None:
    got = events(client.post("/v1/chat/completions", json=chat(temperature=0, stream=True, logprobs=True)).text)
    choices = [event["choices"][0] for event in got]
    assert {event["object"] for event in got} == {"chat.completion.chunk"}
    assert "".join(choice["delta"]["content"] for choice in choices) == ANSWER.removesuffix("</s>")
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["eos_token"]
    assert all(choice["logprobs"]["content"][0]["logprob"] < 0 for choice in choices)


def test_a_chat_has_the_limits_of_generate(client: TestClient) -> None:
    answer = client.post("/v1/chat/completions", json=chat(max_tokens=1000))
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")


def test_tools_are_refused(client: TestClient) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    answer = client.post("/v1/chat/completions", json=chat(tools=[tool], tool_choice="f"))
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        (["system", "user"], "Conversation roles must alternate user/assistant/user/assistant/..."),
        (["user", "user"], "Conversation roles must alternate user/assistant/user/assistant/..."),
        (["user", "system"], "Only user and assistant roles are supported!"),
    ],
)
def test_roles_that_the_template_does_not_know_are_refused(client: TestClient, roles: list[str], problem: str) -> None:
    messages = [{"role": role, "content": "x"} for role in roles]
    answer = client.post("/v1/chat/completions", json={"model": "tgi", "messages": messages})
    assert answer.status_code == 422
    wanted = {"error": f"Template error: syntax error: {problem} (in <string>:1)", "error_type": "template_error"}
    assert answer.json() == wanted


def test_the_template_is_mixtrals() -> None:
    messages = [ChatMessage("user", "a"), ChatMessage("assistant", "b"), ChatMessage("user", "c")]
    rendered = render_chat(messages, bos_token="<s>", eos_token="</s>")
    assert rendered == "<s>[INST] a [/INST]b</s>[INST] c [/INST]"
    with pytest.raises(TemplateFailed):
        render_chat(messages[1:], bos_token="<s>", eos_token="</s>")


def test_with_the_messages_api_invocations_is_chat_only(artifact: Path) -> None:
    settings = read_settings({**ENVIRONMENT, "MESSAGES_API_ENABLED": "true"}, artifact)
    with TestClient(create_app(settings=settings, folder=artifact)) as client:
        answer = client.post("/invocations", json=chat(temperature=0)).json()
        assert answer["choices"][0]["message"]["content"] == ANSWER
        assert client.post("/invocations", json=parameters()).status_code == 422
        assert client.post("/generate", json=parameters()).status_code == 200


@pytest.mark.parametrize("route", ["/", "/health", "/ping"])
def test_health_is_an_empty_200(client: TestClient, route: str) -> None:
    answer = client.get(route)
    assert (answer.status_code, answer.content) == (200, b"")


def test_info_names_the_limits_and_what_this_is(client: TestClient) -> None:
    info = client.get("/info").json()
    assert (info["version"], info["docker_label"]) == ("2.1.1", "modelzone-cpu-stand-in")
    assert (info["max_input_tokens"], info["max_total_tokens"], info["max_batch_size"]) == (200, 256, 1)


def test_tokenize_lists_the_tokens(client: TestClient) -> None:
    tokens = client.post("/tokenize", json={"inputs": "Hi 🚀"}).json()
    assert tokens[0] == {"id": 1, "text": "", "start": 0, "stop": 0}
    assert tokens[-1]["text"] == "🚀"
    assert tokens[-1]["stop"] == 7


def test_metrics_count(artifact: Path) -> None:
    with TestClient(create_app(settings=read_settings(ENVIRONMENT, artifact), folder=artifact)) as client:
        tokens = client.post("/generate", json=parameters(details=True)).json()["details"]["generated_tokens"]
        client.post("/generate_stream", json=parameters(max_new_tokens=2))
        client.post("/generate", json=parameters(top_k=0))
        lines = client.get("/metrics").text.splitlines()
    for line in (
        "tgi_request_count 3",
        "tgi_request_success 2",
        'tgi_request_failure{err="validation"} 1',
        "tgi_queue_size 0",
        "tgi_batch_current_size 0",
        f"tgi_request_generated_tokens_sum {tokens + 2}.0",
        'tgi_request_generated_tokens_bucket{le="+Inf"} 2',
        "tgi_request_duration_count 2",
    ):
        assert line in lines


@pytest.mark.parametrize(("method", "route", "status"), [("GET", "/v1/models", 404), ("GET", "/generate", 405)])
def test_other_routes_do_not_exist(client: TestClient, method: str, route: str, status: int) -> None:
    assert client.request(method, route).status_code == status
