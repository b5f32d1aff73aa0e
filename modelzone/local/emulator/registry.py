"""ECR as hosts and functions see it: a login that is checked, and the images of AWS's own registries."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from ministack import app
from ministack.core.responses import get_account_id, get_region

from modelzone.local.emulator import seams
from modelzone.local.emulator.bridge import Handler, HandlerResponse
from modelzone.local.emulator.moto_services import operation_of
from modelzone.local.host.images import KnownImage, images_of

__all__ = ["Registry"]

_USER = "AWS"
_TOKEN_SECONDS = 12 * 3600
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_IMAGE_BYTES = 8 * 1024**3

Document = dict[str, Any]


class Registry:
    """Answers for the registries of other accounts; those of the own account are MiniStack's."""

    def __init__(self) -> None:
        self._password = secrets.token_urlsafe(32)

    def accepts(self, user: str, password: str) -> bool:
        """Whether ``docker login`` gave what GetAuthorizationToken hands out."""
        return user == _USER and secrets.compare_digest(password.encode(), self._password.encode())

    def install(self) -> None:
        """Put the handler before MiniStack's."""
        handlers: dict[str, Handler] = seams.attribute(app, "SERVICE_HANDLERS")
        original = handlers["ecr"]

        async def handle(
            method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
        ) -> HandlerResponse:
            answered = self.answer(operation_of(headers), json.loads(body or b"{}"))
            if answered is not None:
                return answered
            passed_on: HandlerResponse = await original(method, path, headers, body, query)
            return passed_on

        handlers["ecr"] = handle

    def answer(self, operation: str, request: Mapping[str, Any]) -> HandlerResponse | None:
        """Answer an operation, or None to leave it to MiniStack."""
        if operation == "GetAuthorizationToken":
            return self._token()
        account = str(request.get("registryId") or get_account_id())
        if account == get_account_id() or operation not in {"DescribeImages", "BatchGetImage"}:
            return None
        repository = str(request.get("repositoryName", ""))
        images = [
            image
            for image in images_of(get_region())
            if image.repository == repository and image.uri.startswith(f"{account}.")
        ]
        if not images:
            return _error(
                "RepositoryNotFoundException",
                f"The repository with name '{repository}' does not exist in the registry with id '{account}'",
            )
        wanted = list(request.get("imageIds") or [{"imageTag": image.tag} for image in images])
        found = [(wish, image) for wish in wanted for image in images if _is(image, wish)]
        missing = [wish for wish in wanted if not any(_is(image, wish) for image in images)]
        if operation == "DescribeImages":
            if missing:
                wish = missing[0]
                return _error(
                    "ImageNotFoundException",
                    f"The image with imageId {{imageDigest:'{wish.get('imageDigest', 'null')}', "
                    f"imageTag:'{wish.get('imageTag', 'null')}'}} does not exist within the repository with name "
                    f"'{repository}' in the registry with id '{account}'",
                )
            return _json({"imageDetails": [_details(account, image) for _, image in found]})
        return _json(
            {
                "images": [
                    {
                        "registryId": account,
                        "repositoryName": repository,
                        "imageId": {"imageDigest": image.digest, "imageTag": image.tag},
                        "imageManifest": json.dumps({"schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "layers": []}),
                        "imageManifestMediaType": _MANIFEST_TYPE,
                    }
                    for _, image in found
                ],
                "failures": [
                    {"imageId": wish, "failureCode": "ImageNotFound", "failureReason": "Requested image not found"}
                    for wish in missing
                ],
            }
        )

    def _token(self) -> HandlerResponse:
        token = base64.b64encode(f"{_USER}:{self._password}".encode()).decode()
        return _json(
            {
                "authorizationData": [
                    {
                        "authorizationToken": token,
                        "expiresAt": int(time.time()) + _TOKEN_SECONDS,
                        "proxyEndpoint": f"https://{get_account_id()}.dkr.ecr.{get_region()}.amazonaws.com",
                    }
                ]
            }
        )


def _is(image: KnownImage, wish: Mapping[str, str]) -> bool:
    given = {"imageDigest": image.digest, "imageTag": image.tag}
    return bool(wish) and all(given.get(name) == value for name, value in wish.items())


def _details(account: str, image: KnownImage) -> Document:
    return {
        "registryId": account,
        "repositoryName": image.repository,
        "imageDigest": image.digest,
        "imageTags": [image.tag],
        "imageSizeInBytes": _IMAGE_BYTES,
        "imagePushedAt": 1_700_000_000,
        "imageManifestMediaType": _MANIFEST_TYPE,
    }


def _json(document: Document, status: int = 200) -> HandlerResponse:
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(document).encode()


def _error(code: str, message: str) -> HandlerResponse:
    return _json({"__type": code, "message": message}, 400)
