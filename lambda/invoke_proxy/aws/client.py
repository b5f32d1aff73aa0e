"""The calls to AWS that the gateway makes: signed requests, JSON services, and objects of S3."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from .endpoints import Address, Service, address_of, bucket_address
from .errors import AwsError, BadAnswerError, ConfigurationError
from .http import HttpClient
from .http_connection import HttpAnswer
from .sigv4 import Credentials, Signer

__all__ = ["AwsClient", "json_error"]

JSON_SECONDS = 5.0
OBJECT_SECONDS = 60.0
# Parameters and items of AWS are far below it.
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024

_SIGNING_NAMES: Mapping[Service, str] = {
    "sagemaker-runtime": "sagemaker",
    "ssm": "ssm",
    "dynamodb": "dynamodb",
    "s3": "s3",
}
_JSON_VERSIONS: Mapping[str, str] = {"ssm": "1.1", "dynamodb": "1.0"}
_OK, _FIRST_ERROR = 200, 300
_XML_CODE = re.compile(r"<Code>([^<]{1,200})</Code>")
_XML_MESSAGE = re.compile(r"<Message>([^<]{1,2000})</Message>")


class AwsClient:
    """AWS in one region, with the credentials of the process's environment. Calls nothing until it is asked to.

    Parameters
    ----------
    region
        None: ``AWS_REGION``, or else ``AWS_DEFAULT_REGION``.
    environ
        The variables: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_ENDPOINT_URL``
        and ``AWS_ENDPOINT_URL_<SERVICE>``, ``AWS_CA_BUNDLE``. Lambda sets the first three for the life of a process.
    """

    def __init__(self, *, region: str | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._region = region
        self._environ = environ
        self._http: HttpClient | None = None
        self._services: dict[Service, tuple[Address, Signer]] = {}

    @property
    def open_connections(self) -> int:
        """How many connections are open, in use or kept."""
        return 0 if self._http is None else self._http.open_connections

    async def request(
        self,
        service: Service,
        *,
        method: str = "POST",
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        seconds: float,
        bucket: str | None = None,
    ) -> HttpAnswer:
        """Send a signed request; return when the head of the answer is there.

        Parameters
        ----------
        path
            Percent-encoded, from the service's own root.
        headers
            Names in lower case; all are signed.
        seconds
            How long the whole answer may take.
        bucket
            For ``s3``: the bucket that the path is in.

        Raises
        ------
        TransportError
            When there is no answer. An answer with an error's status is an answer.
        """
        address, signer = self._service(service)
        if bucket is not None:
            address = bucket_address(bucket, region=self._region_name(), environ=self._environ)
        target = address.base_path + path
        signed = signer.sign(method=method, path=target, headers={"host": address.host_header, **headers}, body=body)
        if self._http is None:
            self._http = HttpClient(ca_bundle=self._environ.get("AWS_CA_BUNDLE"))
        return await self._http.request(
            address, method=method, target=target, headers=signed, body=body, seconds=seconds
        )

    async def json(
        self, service: Literal["ssm", "dynamodb"], target: str, document: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Call an operation of a JSON service.

        Parameters
        ----------
        target
            Service and operation, as in ``AmazonSSM.GetParametersByPath``.

        Raises
        ------
        AwsError
            When AWS refuses.
        TransportError
            When there is no whole answer within 5 seconds.
        """
        headers = {"content-type": f"application/x-amz-json-{_JSON_VERSIONS[service]}", "x-amz-target": target}
        body = json.dumps(document, separators=(",", ":")).encode()
        answer = await self.request(service, path="/", headers=headers, body=body, seconds=JSON_SECONDS)
        if answer.status != _OK:
            raise await json_error(answer)
        content = await answer.read(limit=MAX_JSON_BYTES)
        try:
            found = json.loads(content) if content else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            message = f"the answer to {target} is not a JSON object"
            raise BadAnswerError(message)
        return found

    async def get_object(self, bucket: str, key: str, *, limit: int) -> bytes:
        """Return an object of S3.

        Parameters
        ----------
        limit
            The most bytes that are accepted.

        Raises
        ------
        AwsError
            When S3 refuses: ``NoSuchKey``, ``AccessDenied``, ``PermanentRedirect`` for a bucket of another region.
        TransportError
            When there is no whole answer within 60 seconds, or the object is larger.
        """
        path = f"/{quote(key, safe='/~')}"
        answer = await self.request("s3", method="GET", path=path, headers={}, seconds=OBJECT_SECONDS, bucket=bucket)
        if answer.status != _OK:
            text = (await answer.read(limit=MAX_ERROR_BYTES)).decode(errors="replace")
            code, message = _XML_CODE.search(text), _XML_MESSAGE.search(text)
            raise AwsError(code[1] if code else f"HTTP{answer.status}", message[1] if message else "", answer.status)
        return await answer.read(limit=limit)

    async def aclose(self) -> None:
        """Drop all connections."""
        if self._http is not None:
            await self._http.aclose()

    def _service(self, service: Service) -> tuple[Address, Signer]:
        known = self._services.get(service)
        if known is None:
            region = self._region_name()
            try:
                address = address_of(service, region=region, environ=self._environ)
            except ValueError as error:
                raise ConfigurationError(str(error)) from error
            signer = Signer(credentials=self._credentials(), region=region, service=_SIGNING_NAMES[service])
            known = self._services[service] = (address, signer)
        return known

    def _region_name(self) -> str:
        region = self._region or self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise ConfigurationError("AWS_REGION is not set: set it to the region of the endpoints")
        return region

    def _credentials(self) -> Credentials:
        access_key = self._environ.get("AWS_ACCESS_KEY_ID")
        secret_key = self._environ.get("AWS_SECRET_ACCESS_KEY")
        if not access_key or not secret_key:
            raise ConfigurationError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must both be set")
        token = self._environ.get("AWS_SESSION_TOKEN") or None
        return Credentials(access_key=access_key, secret_key=secret_key, session_token=token)


async def json_error(answer: HttpAnswer) -> AwsError:
    """Return the error that an answer of a JSON service holds; its body is read.

    The code stands in the header ``x-amzn-errortype`` or the body's ``__type`` (or ``code``), with a namespace before
    ``#`` or a URL after ``:`` that do not belong to it.
    """
    content = await answer.read(limit=MAX_ERROR_BYTES)
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    code = answer.headers.get("x-amzn-errortype") or document.get("__type") or document.get("code")
    code = str(code).split(":", 1)[0].rsplit("#", 1)[-1] if code else f"HTTP{answer.status}"
    message = document.get("message") or document.get("Message") or ""
    return AwsError(code, str(message), answer.status, document=document)
