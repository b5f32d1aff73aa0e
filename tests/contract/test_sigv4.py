"""Our signatures are botocore's, over requests of every shape that the gateway could send."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from botocore import auth
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from invoke_proxy.aws.sigv4 import Credentials, Signer

REQUESTS = 4000
ODD = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~äß€😀\t"
ALPHABET = string.ascii_letters + string.digits + "-._~" * 3 + ODD
VISIBLE = string.ascii_letters + string.digits + " \t!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"


def text(rng: random.Random, alphabet: str, most: int) -> str:
    return "".join(rng.choices(alphabet, k=rng.randrange(most + 1)))


def random_path(rng: random.Random) -> str:
    """A path as it is sent: encoded, with empty and dot segments and slashes in all places."""
    segments = [
        rng.choice(["", ".", "..", quote(text(rng, ALPHABET, 12), safe="-._~")]) for _ in range(rng.randrange(7))
    ]
    return "/" + "/".join(segments) + rng.choice(["", "/"])


def random_query(rng: random.Random) -> str:
    names = [quote(text(rng, ALPHABET, 5) or "n", safe="-._~") for _ in range(rng.randrange(4))]
    pairs = [
        f"{rng.choice(names)}={quote(text(rng, ALPHABET, 6), safe='-._~')}" for _ in range(rng.randrange(6)) if names
    ]
    return "&".join(pairs + rng.choice([[], ["flag"]]))


def random_headers(rng: random.Random) -> dict[str, str]:
    known = ["content-type", "accept", "x-amz-target", "x-amzn-sagemaker-inference-id", "x-amzn-sagemaker-accept"]
    names = rng.sample(known, k=rng.randrange(len(known)))
    names += [
        "x-" + (text(rng, string.ascii_lowercase + string.digits + "-", 8) or "a") for _ in range(rng.randrange(3))
    ]
    return {name: text(rng, VISIBLE, 30) for name in names}


def signed_by_botocore(
    monkeypatch: pytest.MonkeyPatch,
    *,
    credentials: Credentials,
    region: str,
    service: str,
    request: dict[str, Any],
    moment: datetime,
) -> dict[str, str]:
    monkeypatch.setattr(auth, "get_current_datetime", lambda **_: moment)
    theirs = BotocoreCredentials(credentials.access_key, credentials.secret_key, credentials.session_token)
    query = f"?{request['query']}" if request["query"] else ""
    asked = AWSRequest(
        method=request["method"],
        url=f"http://{request['headers']['host']}{request['path']}{query}",
        headers=request["headers"],
        data=request["body"],
    )
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    signer(theirs, service, region).add_auth(asked)
    return {name.lower(): value for name, value in asked.headers.items()}


@pytest.mark.parametrize("service", ["sagemaker", "ssm", "dynamodb", "s3"])
def test_signatures_equal_those_of_botocore(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(f"sigv4 {service}")  # noqa: S311 - the same each time
    moments = [datetime(2026, month, day, hour, 59, 59, tzinfo=UTC) for month, day, hour in ((1, 1, 0), (12, 31, 23))]
    signers: dict[Any, Signer] = {}
    seen: set[str] = set()
    for number in range(REQUESTS // 4):
        credentials = Credentials(
            access_key="AKIDEXAMPLE",
            secret_key=rng.choice(["wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "ü"]),
            session_token=rng.choice([None, "IQoJb3JpZ2luX2VjEA//+=" * 20]),
        )
        region = rng.choice(["us-east-1", "cn-north-1", "us-gov-west-1"])
        moment = rng.choice(moments)
        request = {
            "method": rng.choice(["GET", "POST", "PUT", "DELETE"]),
            "path": random_path(rng),
            "query": random_query(rng),
            "headers": {"host": rng.choice(["h.example", "127.0.0.1:8080", "[::1]:4566"]), **random_headers(rng)},
            "body": rng.choice([b"", b"{}", rng.randbytes(rng.randrange(200))]),
        }
        key = (credentials, region)
        signer = signers.setdefault(key, Signer(credentials=credentials, region=region, service=service))

        ours = signer.sign(**request, now=moment.timestamp())

        theirs = signed_by_botocore(
            monkeypatch, credentials=credentials, region=region, service=service, request=request, moment=moment
        )
        assert ours == theirs, (number, request)
        seen.add(ours["authorization"])
    assert len(seen) == REQUESTS // 4


def test_the_credentials_print_no_secret() -> None:
    printed = repr(Credentials(access_key="AKIDEXAMPLE", secret_key="hush", session_token="whisper"))

    assert "AKIDEXAMPLE" in printed
    assert "hush" not in printed
    assert "whisper" not in printed


def test_the_present_is_the_default() -> None:
    signer = Signer(credentials=Credentials(access_key="a", secret_key="b"), region="us-east-1", service="ssm")
    signed = signer.sign(method="POST", path="/", headers={"host": "h"}, body=b"")

    stamp = datetime.strptime(signed["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - stamp) < timedelta(seconds=10)
