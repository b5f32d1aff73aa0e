"""What the official OpenAI client makes of failures: of SageMaker, of engines, of streams, and of its own making."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.gateway.engines import Said
from tests.gateway.scripts import Cut, Failure, no_capacity, throttled
from tests.gateway.stack import Gateway, running_gateway

ACCOUNT = "123456789012"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


def failure(status: int, code: str, detail: Mapping[str, Any]) -> Failure:
    return Failure(status=status, code=code, detail=detail)


@pytest.mark.parametrize(
    ("planned", "expected", "waits"),
    [
        (throttled(), openai.RateLimitError, True),
        (no_capacity(), openai.InternalServerError, True),
        (failure(429, "ModelNotReadyException", {"Message": "loading"}), openai.InternalServerError, True),
        (
            failure(400, "ValidationError", {"message": f"Endpoint x of account {ACCOUNT} not found."}),
            openai.NotFoundError,
            False,
        ),
        (failure(400, "ValidationError", {"message": "bad"}), openai.BadRequestError, False),
        (failure(503, "ServiceUnavailable", {"Message": "busy"}), openai.InternalServerError, None),
        (failure(500, "InternalFailure", {"Message": "oh"}), openai.InternalServerError, None),
        (failure(530, "InternalDependencyException", {"Message": "oh"}), openai.InternalServerError, None),
        (
            failure(424, "ModelError", {"OriginalStatusCode": 500, "OriginalMessage": "<html>"}),
            openai.InternalServerError,
            None,
        ),
        (
            failure(424, "ModelError", {"OriginalStatusCode": 429, "OriginalMessage": "{}"}),
            openai.RateLimitError,
            True,
        ),
    ],
    ids=lambda value: value.code if isinstance(value, Failure) else None,
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_sagemaker(
    gateway: Gateway,
    client: openai.OpenAI,
    planned: Failure,
    expected: type[openai.APIStatusError],
    waits: bool | None,
    stream: bool,
) -> None:
    gateway.script("gpu").failures = [planned]

    with pytest.raises(expected) as caught:
        client.chat.completions.create(model="gpu", messages=HELLO, stream=stream)

    retry_after = caught.value.response.headers.get("retry-after")
    if waits is not None:
        assert (retry_after is not None) == waits
    # Above 120 seconds the client does not retry at all.
    assert retry_after is None or 0 < int(retry_after) <= 120
    assert ACCOUNT not in caught.value.message
    assert set(caught.value.body or ()) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
def test_refusal_of_the_engine_is_an_http_error(gateway: Gateway, client: openai.OpenAI, stream: bool) -> None:
    words = "Input validation error: `inputs` must have less than 1023 tokens. Given: 2000"
    refusal = {"error": words, "error_type": "validation"}
    if stream:
        # TGI answers 200 and says it in the first event.
        gateway.script("gpu").parts = [b"data:" + json.dumps(refusal).encode() + b"\n\n"]
    else:
        detail = {"OriginalStatusCode": 422, "OriginalMessage": json.dumps(refusal)}
        gateway.script("gpu").failures = [failure(424, "ModelError", detail)]

    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model="gpu", messages=HELLO, stream=stream)

    assert words in caught.value.message


def read_until_it_fails(client: openai.OpenAI, model: str) -> tuple[list[str], openai.APIError]:
    got: list[str] = []

    def read() -> None:
        for chunk in client.chat.completions.create(model=model, messages=HELLO, stream=True):
            got.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)

    with pytest.raises(openai.APIError) as caught:
        read()
    return got, caught.value


@pytest.mark.parametrize("how", ["reset", "close", "end", "exception"])
@pytest.mark.parametrize("model", ["gpu", "vllm", "rolling", "async-vllm", "json", "lorax"])
def test_a_stream_that_breaks_off_is_an_error_and_never_an_end(
    gateway: Gateway, client: openai.OpenAI, model: str, how: Any
) -> None:
    script = gateway.script(model)
    script.said = Said(tokens=("a", "b", "c", "d"))
    script.pace = 0.05
    # vLLM's first chunk of a chat has the role and no text.
    script.cut = Cut(after=3 if model in {"vllm", "async-vllm"} else 2, how=how)

    started = time.monotonic()
    got, error = read_until_it_fails(client, model)

    assert got == ["a", "b"]
    assert not isinstance(error, openai.APIConnectionError), "the client must be told, not cut off"
    assert ACCOUNT not in str(error)
    assert time.monotonic() - started < 2


def test_an_error_event_of_the_engine_reaches_the_client(gateway: Gateway, client: openai.OpenAI) -> None:
    token = {"index": 1, "token": {"id": 7, "text": "a", "logprob": -0.5, "special": False}, "generated_text": None}
    parts = [{**token, "details": None}, {"error": "Request failed", "error_type": "generation"}]
    gateway.script("gpu").parts = [b"data:" + json.dumps(part).encode() + b"\n\n" for part in parts]

    got, error = read_until_it_fails(client, "gpu")

    assert got == ["a"]
    assert "Request failed" in str(error)


def test_garbage_of_the_engine_is_the_gateways_error(gateway: Gateway, client: openai.OpenAI) -> None:
    gateway.script("gpu").answer = b"<html>secret</html>"

    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="gpu", messages=HELLO)

    assert caught.value.status_code == 502
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("planned", [throttled(), failure(429, "ModelNotReadyException", {"Message": "loading"})])
def test_the_client_waits_as_told_and_asks_again(gateway: Gateway, client: openai.OpenAI, planned: Failure) -> None:
    script = gateway.script("gpu")
    script.failures = [planned]
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="gpu", messages=HELLO)
    promised = int(caught.value.response.headers["retry-after"])
    waited: list[float] = []
    script.failures = [planned]

    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=1) as patient:
        patient._sleep_for_retry = lambda **given: waited.append(  # type: ignore[method-assign]
            patient._calculate_retry_timeout(
                given["max_retries"] - given["retries_taken"], given["options"], given["response"].headers
            )
        )
        answer = patient.chat.completions.create(model="gpu", messages=HELLO)

    assert answer.choices[0].message.content == "Good day"
    assert waited == [promised]
    assert len(gateway.seen) == 3, "the proxy itself must not repeat a paid generation"


def test_the_client_really_waits(gateway: Gateway) -> None:
    gateway.script("gpu").failures = [throttled()]

    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=1) as client:
        started = time.monotonic()
        client.chat.completions.create(model="gpu", messages=HELLO)

    assert time.monotonic() - started >= 0.9, "Retry-After was not honoured"


def test_a_client_that_gives_up_ends_the_request(gateway: Gateway) -> None:
    script = gateway.script("gpu")
    script.first_delay = 5.0
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=0.5)
    with client, pytest.raises(openai.APITimeoutError):
        list(client.chat.completions.create(model="gpu", messages=HELLO, stream=True))

    deadline = time.monotonic() + 3
    while not gateway.aws.dropped and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gateway.aws.dropped == [0], "the endpoint still generates for a client that is gone"


def test_a_missing_key_and_a_wrong_one_are_refused(gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="mz_wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()

    assert caught.value.code == "invalid_api_key"


def test_a_request_without_identity_is_refused_by_the_proxy_itself(gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=f"{gateway.proxy.url}/v1", api_key=gateway.key, max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="gpu", messages=HELLO)

    assert gateway.seen == []


def test_nothing_that_a_prompt_says_is_logged(gateway: Gateway, client: openai.OpenAI) -> None:
    secret = "MARKER-of-a-secret-prompt"
    gateway.script("gpu").failures = [
        failure(424, "ModelError", {"OriginalStatusCode": 400, "OriginalMessage": f"bad input: {secret}"})
    ]

    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model="gpu", messages=[{"role": "user", "content": secret}])
    client.chat.completions.create(model="gpu", messages=[{"role": "user", "content": secret}])

    logged = gateway.proxy.logged()
    assert '"deployment"' in logged
    assert secret not in logged
    assert gateway.key not in logged


@pytest.fixture(scope="module")
def patient_running() -> Iterator[Gateway]:
    with running_gateway(wait_seconds=1, hedge_after_seconds=0.4) as gateway:
        yield gateway


@pytest.fixture
def patient(patient_running: Gateway) -> Iterator[Gateway]:
    """A gateway that waits for capacity, and asks a second time when the first takes long."""
    patient_running.reset()
    yield patient_running
    patient_running.check()


@pytest.mark.parametrize("stream", [False, True])
def test_a_gateway_that_waits_answers_when_capacity_comes(patient: Gateway, stream: bool) -> None:
    patient.script("gpu").capacity_at = time.monotonic() + 0.5

    with openai.OpenAI(base_url=f"{patient.url}/v1", api_key=patient.key, max_retries=0) as client:
        started = time.monotonic()
        if stream:
            chunks = client.chat.completions.create(model="gpu", messages=HELLO, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            text = client.chat.completions.create(model="gpu", messages=HELLO).choices[0].message.content or ""

    assert text == "Good day"
    # The proxy asks again at the end of its second, because its usual pause is longer.
    assert 0.5 < time.monotonic() - started < 10
    assert len(patient.seen) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_endpoint_is_asked_once_more_and_the_first_answer_wins(patient: Gateway, stream: bool) -> None:
    script = patient.script("gpu")
    script.delays = [10.0]

    with openai.OpenAI(base_url=f"{patient.url}/v1", api_key=patient.key, max_retries=0) as client:
        started = time.monotonic()
        if stream:
            chunks = client.chat.completions.create(model="gpu", messages=HELLO, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            text = client.chat.completions.create(model="gpu", messages=HELLO).choices[0].message.content or ""

    assert text == "Good day"
    assert 0.3 < time.monotonic() - started < 5
    assert len(patient.seen) == 2
    assert patient.seen[0].raw == patient.seen[1].raw


def test_registry_and_cache_that_fail_are_not_the_clients_trouble(patient: Gateway) -> None:
    """Not with the gateway of the other tests, which for a while would ask neither again."""
    broken = [failure(500, "InternalServerError", {"message": "no"}) for _ in range(50)]
    with openai.OpenAI(base_url=f"{patient.url}/v1", api_key=patient.key, max_retries=0) as client:
        client.models.list()
        patient.aws.failures |= {"ssm": list(broken), "dynamodb": list(broken)}

        answer = client.chat.completions.create(model="kept", messages=HELLO, temperature=0)

    assert answer.choices[0].message.content == "Good day"
