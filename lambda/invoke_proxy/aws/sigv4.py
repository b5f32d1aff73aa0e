"""AWS Signature Version 4 in the headers of a request.

The signatures are those of botocore's signer, which a contract test compares over generated requests. What is signed:
every header handed over here. What is not: ``content-length`` and ``user-agent``, which the HTTP client adds.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import quote

__all__ = ["Credentials", "Signer"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY_SHA256 = sha256().hexdigest()


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """An access key. The session token comes with keys of a role, as a Lambda function has them."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class Signer:
    """Signs requests to one service in one region.

    Parameters
    ----------
    service
        The signing name, which is not always the endpoint's: ``sagemaker`` for SageMaker's runtime. For ``s3`` the
        path is signed as it is sent and the payload's digest becomes a header, as S3 demands; for all others the path
        is normalised and encoded a second time.
    """

    def __init__(self, *, credentials: Credentials, region: str, service: str) -> None:
        self._credentials = credentials
        self._scope_end = f"{region}/{service}/aws4_request"
        self._region = region
        self._service = service
        self._is_s3 = service == "s3"
        self._day = ""
        self._key = b""
        # Almost all requests go to one of a few paths.
        self._canonical_paths: dict[str, str] = {}

    def sign(
        self,
        *,
        method: str,
        path: str,
        query: str = "",
        headers: Mapping[str, str],
        body: bytes,
        now: float | None = None,
    ) -> dict[str, str]:
        """Return the headers with those of the signature.

        Parameters
        ----------
        path, query
            As they are sent, already percent-encoded; the query without its question mark.
        headers
            Names in lower case, ``host`` among them.
        body
            The whole payload.
        now
            Seconds since 1970; None for the present.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        credentials = self._credentials
        signed = {**headers, "x-amz-date": stamp}
        if credentials.session_token:
            signed["x-amz-security-token"] = credentials.session_token
        digest = sha256(body).hexdigest() if body else _EMPTY_SHA256
        if self._is_s3:
            signed["x-amz-content-sha256"] = digest
        names = sorted(signed)
        # Inner runs of spaces count as one, and the ends do not count.
        lines = "\n".join([f"{name}:{' '.join(signed[name].split())}" for name in names])
        names_text = ";".join(names)
        request = (
            f"{method}\n{self._canonical_path(path)}\n{_canonical_query(query)}\n{lines}\n\n{names_text}\n{digest}"
        )
        day = stamp[:8]
        scope = f"{day}/{self._scope_end}"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._day_key(day), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names_text}, Signature={signature}"
        )
        return signed

    def _day_key(self, day: str) -> bytes:
        if day != self._day:
            key = b"AWS4" + self._credentials.secret_key.encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._key = day, key
        return self._key

    def _canonical_path(self, path: str) -> str:
        if self._is_s3:
            return path or "/"
        known = self._canonical_paths.get(path)
        if known is None:
            known = quote(_normalised(path), safe="/~")
            if len(self._canonical_paths) >= _KNOWN_PATHS:
                self._canonical_paths.clear()
            self._canonical_paths[path] = known
        return known


_KNOWN_PATHS = 256


def _normalised(path: str) -> str:
    """Return the path without dot segments (RFC 3986, 5.2.4) and without empty ones."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if segments:
                segments.pop()
        elif segment not in {"", "."}:
            segments.append(segment)
    end = "/" if segments and path.endswith("/") else ""
    return f"/{'/'.join(segments)}{end}"


def _canonical_query(query: str) -> str:
    if not query:
        return ""
    pairs = sorted(pair.partition("=")[::2] for pair in query.split("&"))
    return "&".join([f"{name}={value}" for name, value in pairs])
