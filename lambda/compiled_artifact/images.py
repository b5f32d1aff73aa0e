"""Serving images by their URI."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Image"]

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z0-9.-]+/(?P<repository>[a-z0-9._/-]+)"
    r"(?::(?P<tag>[\w.-]{1,128}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image in ECR. `tag` or `digest` may be empty."""

    uri: str
    account: str
    region: str
    repository: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, uri: str) -> Image | None:
        """Read a URI; None for an image of another registry, or none at all."""
        match = _ECR.fullmatch(uri)
        if match is None or not (match["tag"] or match["digest"]):
            return None
        parts = {name: value or "" for name, value in match.groupdict().items()}
        return cls(uri=uri, **parts)

    def by_digest(self, digest: str) -> str:
        """Return the URI that means these very bytes; SageMaker takes a tag or a digest, not both."""
        if not _DIGEST.fullmatch(digest):
            return self.uri
        registry = self.uri.partition("/")[0]
        return f"{registry}/{self.repository}@{digest}"
