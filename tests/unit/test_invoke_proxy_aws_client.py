"""JSON services, objects of S3 and parameters, from a server that speaks their wire formats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from unit.upstream_server import Peer, Upstream, always, answer, nothing_left, serving

from invoke_proxy.aws import AwsClient, AwsError, TransportError, ssm
from invoke_proxy.aws.errors import BadAnswerError, ConfigurationError
from invoke_proxy.aws.ssm import Parameter, parameters_by_path

GET_ITEM = "DynamoDB_20120810.GetItem"


def document(content: Any, **options: Any) -> bytes:
    return answer(json.dumps(content).encode(), **options)


async def test_a_json_call() -> None:
    async with serving(always(document({"Item": {"a": {"S": "ü"}}}))) as upstream:
        client = AwsClient(environ=upstream.environ(AWS_SESSION_TOKEN="session"))

        found = await client.json("dynamodb", GET_ITEM, {"TableName": "t"})

        assert found == {"Item": {"a": {"S": "ü"}}}
        (asked,) = upstream.asked
        assert (asked.method, asked.target, json.loads(asked.body)) == ("POST", "/", {"TableName": "t"})
        assert asked.headers["content-type"] == "application/x-amz-json-1.0"
        assert asked.headers["x-amz-target"] == GET_ITEM
        assert asked.headers["x-amz-security-token"] == "session"
        assert "/us-east-1/dynamodb/aws4_request" in asked.headers["authorization"]
        assert "x-amz-security-token;x-amz-target" in asked.headers["authorization"]
        await client.aclose()
    await nothing_left()


async def test_an_empty_answer_is_an_empty_document() -> None:
    async with serving(always(answer(b""))) as upstream:
        client = AwsClient(environ=upstream.environ())
        assert await client.json("dynamodb", "DynamoDB_20120810.PutItem", {}) == {}
        await client.aclose()


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (
            document(
                {"__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "message": "m"}, status=400
            ),
            "ResourceNotFoundException",
            "m",
        ),
        (document({"__type": "ParameterNotFound", "Message": "M"}, status=400), "ParameterNotFound", "M"),
        (
            document(
                {}, status=400, headers={"x-amzn-ErrorType": "AccessDeniedException:http://internal.amazon.com/x/"}
            ),
            "AccessDeniedException",
            "",
        ),
        (document({"code": "Slow"}, status=400), "Slow", ""),
        (answer(b"<html>bad gateway</html>", status=502), "HTTP502", ""),
        (answer(b"[1]", status=503), "HTTP503", ""),
    ],
)
async def test_errors_of_json_services(sent: bytes, code: str, words: str) -> None:
    async with serving(always(sent)) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(AwsError) as caught:
            await client.json("dynamodb", GET_ITEM, {})
        await client.aclose()
    assert (caught.value.code, caught.value.message) == (code, words)
    assert caught.value.status == int(sent[9:12])
    assert str(caught.value) == f"{code} (HTTP {caught.value.status})"


@pytest.mark.parametrize("content", [b"[]", b"{", b"null", b"\xff"])
async def test_answers_that_are_no_documents(content: bytes) -> None:
    async with serving(always(answer(content))) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(BadAnswerError, match="JSON object"):
            await client.json("ssm", "AmazonSSM.GetParametersByPath", {})
        await client.aclose()


@pytest.mark.parametrize("key", ["plain.json", "a/b/tokenizer.json", "with space+plus", "ü/€?#%", "a//b/../c"])
async def test_an_object(key: str) -> None:
    async with serving(always(answer(b"content"))) as upstream:
        client = AwsClient(environ=upstream.environ(AWS_ENDPOINT_URL_S3=f"{upstream.url}/base"))

        assert await client.get_object("bucket.name", key, limit=7) == b"content"

        from botocore.serialize import percent_encode  # type: ignore[attr-defined]  # noqa: PLC0415

        (asked,) = upstream.asked
        assert asked.method == "GET"
        assert asked.target == f"/base/bucket.name/{percent_encode(key, safe='/~')}"
        assert len(asked.headers["x-amz-content-sha256"]) == 64
        await client.aclose()


async def test_an_object_that_is_too_large() -> None:
    async with serving(always(answer(b"content"))) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(BadAnswerError, match="6 bytes"):
            await client.get_object("b", "k", limit=6)
        await client.aclose()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code><Message>no</Message><Key>k</Key></Error>', "NoSuchKey"),
        (b"", "HTTP404"),
    ],
)
async def test_an_object_that_is_not_there(content: bytes, code: str) -> None:
    async with serving(always(answer(content, status=404))) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(AwsError) as caught:
            await client.get_object("b", "k", limit=100)
        await client.aclose()
    assert (caught.value.code, caught.value.status) == (code, 404)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("AWS_REGION", "AWS_REGION"),
        ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
    ],
)
async def test_an_environment_that_says_too_little(missing: str, named: str) -> None:
    environ = {name: value for name, value in Upstream(port=1).environ().items() if name != missing}
    with pytest.raises(ConfigurationError, match=named):
        await AwsClient(environ=environ).json("ssm", "x", {})


async def test_an_endpoint_that_is_no_url() -> None:
    with pytest.raises(ConfigurationError, match="AWS_ENDPOINT_URL_SSM"):
        await AwsClient(environ=Upstream(port=1).environ(AWS_ENDPOINT_URL_SSM="nowhere")).json("ssm", "x", {})


async def test_the_region_may_be_given_or_the_sdks_default() -> None:
    async with serving(always(answer(b"{}"))) as upstream:
        environ = upstream.environ()
        del environ["AWS_REGION"]
        for client in (
            AwsClient(environ=environ, region="eu-west-1"),
            AwsClient(environ={**environ, "AWS_DEFAULT_REGION": "eu-west-1"}),
            AwsClient(environ={**environ, "AWS_DEFAULT_REGION": "us-east-2", "AWS_REGION": "eu-west-1"}),
        ):
            await client.json("ssm", "x", {})
            await client.aclose()
        assert all("/eu-west-1/ssm/" in asked.headers["authorization"] for asked in upstream.asked)


async def test_closing_what_was_never_used() -> None:
    client = AwsClient(environ={})
    await client.aclose()
    assert client.open_connections == 0


# ---- parameters -----------------------------------------------------------------------------------------------------


def pages(
    *answers: bytes,
) -> tuple[Callable[[Peer], Any], list[bytes]]:
    left = list(answers)

    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(left.pop(0))

    return handler, left


def page(*names: str, token: str | None = None) -> bytes:
    items = [{"Name": name, "Value": f"value of {name}", "LastModifiedDate": 1.7e9 + 0.5} for name in names]
    return document({"Parameters": items} | ({"NextToken": token} if token else {}))


async def test_all_pages_of_parameters() -> None:
    handler, _ = pages(page("/a/1", "/a/2", token="t1"), page(token="t2"), page("/a/3"))
    async with serving(handler) as upstream:
        client = AwsClient(environ=upstream.environ())

        found = await parameters_by_path(client, "/a", recursive=True)

        names = ["/a/1", "/a/2", "/a/3"]
        assert found == [Parameter(name=name, value=f"value of {name}", written=1_700_000_000) for name in names]
        asked = [json.loads(asked.body) for asked in upstream.asked]
        assert [body.get("NextToken") for body in asked] == [None, "t1", "t2"]
        assert all((body["Path"], body["Recursive"]) == ("/a", True) for body in asked)
        assert {asked.headers["x-amz-target"] for asked in upstream.asked} == {"AmazonSSM.GetParametersByPath"}
        await client.aclose()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssm, "FIRST_PAUSE_SECONDS", 0.0)


THROTTLED = document({"__type": "ThrottlingException", "message": "Rate exceeded"}, status=400)
FAILED = document({"__type": "InternalServerError"}, status=500)


@pytest.mark.usefixtures("no_pauses")
async def test_throttling_and_failures_of_the_service_pass() -> None:
    handler, left = pages(THROTTLED, FAILED, page("/a/1", token="t"), answer(b"", status=503), page("/a/2"))
    async with serving(handler) as upstream:
        client = AwsClient(environ=upstream.environ())
        assert len(await parameters_by_path(client, "/a", recursive=False)) == 2
        assert left == []
        await client.aclose()


@pytest.mark.usefixtures("no_pauses")
async def test_throttling_without_end() -> None:
    async with serving(always(THROTTLED)) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(AwsError, match="ThrottlingException"):
            await parameters_by_path(client, "/a", recursive=False)
        assert len(upstream.asked) == ssm.ATTEMPTS
        await client.aclose()


async def test_a_refusal_is_final() -> None:
    async with serving(always(document({"__type": "AccessDeniedException"}, status=400))) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(AwsError, match="AccessDeniedException"):
            await parameters_by_path(client, "/a", recursive=False)
        assert len(upstream.asked) == 1
        await client.aclose()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (page("/a/1", token="same"), "without end"),
        (document({"Parameters": [{"Name": "/a/1"}]}), "no value"),
        (document({"Parameters": [1]}), "no value"),
    ],
)
async def test_pages_that_make_no_sense(sent: bytes, words: str) -> None:
    async with serving(always(sent)) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(TransportError, match=words):
            await parameters_by_path(client, "/a", recursive=False)
        await client.aclose()


async def test_a_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invoke_proxy.aws.client.JSON_SECONDS", 0.05)

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with serving(handler) as upstream:
        client = AwsClient(environ=upstream.environ())
        with pytest.raises(TransportError):
            await asyncio.wait_for(parameters_by_path(client, "/a", recursive=False), 1)
        await upstream.all_gone()
