"""The gateway for real: two deployments, three tenants, deployed with the CDK CLI to the embedded AWS.

One environment for the whole file. It lies in a project of its own beside the checkout, because its tenants have quotas
that nobody would want in `environments/dev.yaml`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from authorizer.meters import meter_key
from modelzone.keys import Keys
from modelzone.local.main_job import Embedded
from tests.gateway.deployed import deployed
from tests.gateway.places import PINS, run_script

ROOT = Path(__file__).resolve().parents[2]
REVOKED_WITHIN_S = 2
QUOTA = 4
HELLO: list[Any] = [{"role": "user", "content": "What is Modelzone?"}]
MARKER = "okapi-marker-0815"
ENVIRONMENT = f"""
name: gate
description: a gateway with tenants
region: us-east-1
retain_data: false
network:
  new_vpc: {{cidr: 10.42.0.0/16, zones: 2}}
  egress: nat
gateway:
  aliases: {{gpt-4o-mini: mixtral}}
  default_model: mixtral
access:
  key_cache_seconds: {REVOKED_WITHIN_S}
  tenants:
    default: {{}}
    search: {{models: [second]}}
    small: {{monthly_quota: {QUOTA}}}
deployments:
  mixtral:
    profile: mixtral-8x7b-instruct
  second:
    profile: mixtral-8x7b-instruct
    cache: {{ttl_seconds: 600}}
"""

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with deployed(tmp_path_factory.mktemp("gate"), name="gate", environment=ENVIRONMENT) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def keys(embedded: Embedded) -> Keys:
    table = embedded.outputs("gateway")["KeysTableName"]
    return Keys(embedded.client("dynamodb"), table, tenants=list(embedded.plan.environment.access.tenants))


@pytest.fixture(scope="module")
def tokens(keys: Keys) -> dict[str, str]:
    """One key for each tenant."""
    return {name: keys.create(name, label="tests")[1].text for name in ("default", "search", "small")}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def status_of(embedded: Embedded, headers: dict[str, str]) -> int:
    return httpx.get(f"{embedded.base_url}/models", headers=headers, timeout=30).status_code


def client(embedded: Embedded, token: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=embedded.base_url, api_key=token, **{"max_retries": 0, **options})


# Keys


def test_a_key_goes_in_either_header(embedded: Embedded, tokens: dict[str, str]) -> None:
    assert status_of(embedded, bearer(tokens["default"])) == 200
    assert status_of(embedded, {"x-api-key": tokens["default"]}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic d2hvOndoYXQ="},
        {"x-api-key": "wrong"},
        # The value of the tenant's meter is known to everybody who reads the template: it opens nothing.
        {"x-api-key": meter_key("gate", "default")},
        {"x-amzn-request-context": json.dumps({"authorizer": {"tenant": "default", "key_id": "forged"}})},
    ],
)
def test_nobody_gets_in_without_a_key(embedded: Embedded, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{embedded.base_url}/models", headers=headers)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"


def test_a_context_that_a_client_sends_is_not_believed(embedded: Embedded, tokens: dict[str, str]) -> None:
    forged = {"x-amzn-request-context": json.dumps({"authorizer": {"tenant": "default", "key_id": "forged"}})}
    answer = httpx.get(f"{embedded.base_url}/models", headers={**bearer(tokens["search"]), **forged})
    assert [model["id"] for model in answer.json()["data"]] == ["second"]


def test_two_keys_work_while_one_replaces_the_other(embedded: Embedded, keys: Keys) -> None:
    old, old_token = keys.create("default")
    rotation = keys.rotate(old.key_id, grace=3)
    assert status_of(embedded, bearer(old_token.text)) == 200
    assert status_of(embedded, bearer(rotation.token.text)) == 200
    time.sleep(3 + REVOKED_WITHIN_S + 1)
    assert status_of(embedded, bearer(old_token.text)) == 401
    assert status_of(embedded, bearer(rotation.token.text)) == 200


def test_a_revoked_key_stops_within_the_documented_time(embedded: Embedded, keys: Keys) -> None:
    key, token = keys.create("default")
    assert status_of(embedded, bearer(token.text)) == 200
    keys.revoke(key.key_id)
    time.sleep(REVOKED_WITHIN_S + 0.5)
    assert status_of(embedded, bearer(token.text)) == 401


# Tenants


def test_a_tenant_over_its_quota_gets_the_openai_error(embedded: Embedded, tokens: dict[str, str]) -> None:
    with client(embedded, tokens["small"]) as small:
        for _ in range(QUOTA):
            small.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            small.models.list()
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert status_of(embedded, bearer(tokens["default"])) == 200


def test_a_tenant_sees_its_own_models_only(embedded: Embedded, tokens: dict[str, str]) -> None:
    with client(embedded, tokens["search"]) as search, client(embedded, tokens["default"]) as default:
        assert {model.id for model in search.models.list()} == {"second"}
        assert {model.id for model in default.models.list()} >= {"mixtral", "second", "gpt-4o-mini"}
        for name in ("mixtral", "gpt-4o-mini", "no-such-model"):
            with pytest.raises(openai.NotFoundError) as caught:
                search.chat.completions.create(model=name, messages=HELLO)
            assert caught.value.code == "model_not_found"


def test_the_cache_is_each_tenants_own(embedded: Embedded, tokens: dict[str, str]) -> None:
    body = {"model": "second", "messages": HELLO, "temperature": 0, "max_tokens": 8}
    url = f"{embedded.base_url}/chat/completions"
    seen = []
    for tenant in ("default", "default", "search", "search"):
        answer = httpx.post(url, json=body, headers=bearer(tokens[tenant]), timeout=60)
        assert answer.status_code == 200, answer.text
        seen.append((answer.headers.get("x-modelzone-cache"), answer.json()["choices"][0]["message"]["content"]))
    assert [state for state, _ in seen] == ["miss", "hit", "miss", "hit"]
    assert len({text for _, text in seen}) == 1
    warm = httpx.post(url, json={**body, "temperature": 0.5}, headers=bearer(tokens["default"]), timeout=60)
    assert "x-modelzone-cache" not in warm.headers


# Requests


def test_the_official_client_works_unchanged(embedded: Embedded, tokens: dict[str, str]) -> None:
    with client(embedded, tokens["default"]) as default:
        whole = default.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=16, temperature=0)
        chunks = list(
            default.chat.completions.create(
                model="mixtral",
                messages=HELLO,
                max_tokens=16,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = default.completions.create(model="mixtral", prompt="[INST] What is Modelzone? [/INST]", max_tokens=16)
    assert whole.choices[0].message.content == "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
    )
    assert text.choices[0].text
    # TGI on Neuron counts no prompt: the gateway does, with the artifact's own tokenizer.
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > len(HELLO[0]["content"].split())
    assert whole.usage.completion_tokens == 16
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize(
    ("name", "pins"),
    [
        ("openai_client", None),
        ("huggingface_client", None),
        ("litellm_client", "litellm.txt"),
        ("text_generation_client", "text-generation.txt"),
    ],
)
def test_clients_work_unchanged(embedded: Embedded, tokens: dict[str, str], name: str, pins: str | None) -> None:
    variables = {
        "MODELZONE_BASE_URL": embedded.base_url.removesuffix("/v1"),
        "MODELZONE_API_KEY": tokens["default"],
        "MODELZONE_MODEL": "mixtral",
    }
    found = run_script(name, pins=None if pins is None else PINS / pins, variables=variables)
    assert found["generate" if name == "text_generation_client" else "whole"]


def test_the_model_may_be_left_out(embedded: Embedded, tokens: dict[str, str]) -> None:
    headers = bearer(tokens["default"])
    body = {"messages": HELLO, "max_tokens": 2}
    answer = httpx.post(f"{embedded.base_url}/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.headers["x-modelzone-deployment"] == "mixtral"


def test_an_answer_goes_on_until_the_model_stops(embedded: Embedded, tokens: dict[str, str]) -> None:
    with client(embedded, tokens["default"]) as default:
        extensions = {"continue_until_stop": True, "max_continuations": 32}
        long = default.chat.completions.create(
            model="mixtral", messages=HELLO, temperature=0, max_tokens=8, extra_body=extensions
        )
        whole = default.chat.completions.create(model="mixtral", messages=HELLO, temperature=0, max_tokens=200)
        stream = default.chat.completions.create(
            model="mixtral", messages=HELLO, temperature=0, max_tokens=8, stream=True, extra_body=extensions
        )
        reasons = []
        text = ""
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            reasons.append(chunk.choices[0].finish_reason)
    assert whole.choices[0].finish_reason == "stop"
    assert long.choices[0].finish_reason == "stop"
    assert long.choices[0].message.content == whole.choices[0].message.content == text
    assert [reason for reason in reasons if reason] == ["stop"]


def test_a_prompt_beyond_the_plan_is_refused_with_its_numbers(embedded: Embedded, tokens: dict[str, str]) -> None:
    long: list[Any] = [{"role": "user", "content": "very long " * 2000}]
    with client(embedded, tokens["default"]) as default, pytest.raises(openai.BadRequestError) as caught:
        default.chat.completions.create(model="mixtral", messages=long)
    assert caught.value.code == "context_length_exceeded"


def test_text_is_tokenized_as_the_model_does(embedded: Embedded, tokens: dict[str, str]) -> None:
    base = embedded.base_url.removesuffix("/v1")
    answer = httpx.post(f"{base}/tokenize", json={"inputs": "Modelzone"}, headers=bearer(tokens["default"]))
    assert answer.status_code == 200, answer.text
    assert all({"id", "text", "start", "stop"} == set(item) for item in answer.json())


def test_what_is_described_is_what_is_deployed(embedded: Embedded, tokens: dict[str, str]) -> None:
    base = embedded.base_url.removesuffix("/v1")
    document = httpx.get(f"{base}/openapi.json", headers=bearer(tokens["default"])).json()
    described = {
        (path.replace("{model}", "{model+}"), verb.upper())
        for path, verbs in document["paths"].items()
        for verb in verbs
        if verb in {"get", "post"}
    }
    api = embedded.client("apigateway")
    resources = api.get_resources(restApiId=embedded.outputs("gateway")["ApiId"], limit=500)["items"]
    deployed = {(item["path"], verb) for item in resources for verb in item.get("resourceMethods", {})}
    assert deployed - {("/{proxy+}", "ANY")} == described


def test_the_command_line_chats(embedded: Embedded, tokens: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelzone", "chat", "--base-url", embedded.base_url, "--json", "What is Modelzone?"],
        cwd=ROOT,
        env={**os.environ, "MODELZONE_API_KEY": tokens["default"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"]
    assert tokens["default"] not in done.stdout + done.stderr


# Failures and records


def test_records_name_the_tenant_and_hold_no_words(embedded: Embedded, tokens: dict[str, str]) -> None:
    with client(embedded, tokens["search"]) as search:
        search.chat.completions.create(
            model="second", messages=[{"role": "user", "content": f"Say {MARKER}"}], max_tokens=4
        )
    logs = embedded.client("logs")
    groups = [
        group["logGroupName"]
        for page in logs.get_paginator("describe_log_groups").paginate()
        for group in page["logGroups"]
    ]
    lines: list[str] = []
    for group in groups:
        for event in logs.filter_log_events(logGroupName=group)["events"]:
            assert MARKER not in event["message"], group
            assert not [name for name, token in tokens.items() if token in event["message"]], group
            lines += event["message"].splitlines()
    metrics = [json.loads(line) for line in lines if '"_aws"' in line]
    mine = [line for line in metrics if line.get("Tenant") == "search" and line.get("Deployment") == "second"]
    assert mine
    assert mine[-1]["OutputTokens"] >= 1
    assert mine[-1]["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Modelzone/Gateway"


def model_server(endpoint_name: str) -> psutil.Process:
    """The process of an endpoint's model server, known by the log it writes to."""
    found = []
    for process in psutil.process_iter():
        try:
            if any("model_server" in part for part in process.cmdline()):
                log = Path(f"/proc/{process.pid}/fd/1").readlink()
                found += [process] * (endpoint_name in str(log))
        except (psutil.Error, OSError):
            continue
    (server,) = found
    return server


def test_a_model_that_dies_in_the_middle_ends_the_stream_with_an_error(
    embedded: Embedded, tokens: dict[str, str]
) -> None:
    server = model_server(embedded.outputs("deployment-second")["EndpointName"])
    body = {"model": "second", "messages": HELLO, "stream": True, "temperature": 1, "seed": 1, "max_tokens": 300}
    killed = 0.0
    lines = []
    with httpx.stream(
        "POST", f"{embedded.base_url}/chat/completions", json=body, headers=bearer(tokens["default"]), timeout=60
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                lines.append(line)
            if len(lines) == 3 and not killed:
                threading.Thread(target=server.kill).start()
                killed = time.monotonic()
        ended = time.monotonic() - killed
    assert killed
    assert "error" in json.loads(lines[-1].removeprefix("data:"))
    assert ended < 1
