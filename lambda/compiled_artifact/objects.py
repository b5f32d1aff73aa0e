"""Objects below a prefix: listed and deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["delete_keys", "pages_of_keys"]

# As many as one call deletes.
_BATCH = 1000


def pages_of_keys(s3: S3Client, bucket: str, prefix: str) -> Iterator[list[str]]:
    """Yield the keys below a prefix, in pages that one call can delete."""
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": _BATCH}
    )
    for page in pages:
        if keys := [item["Key"] for item in page.get("Contents", ())]:
            yield keys


def delete_keys(s3: S3Client, bucket: str, keys: Sequence[str]) -> None:
    """Delete objects.

    Raises
    ------
    botocore.exceptions.ClientError
        S3 kept one of them.
    """
    answer: Mapping[str, Any] = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
    )
    if errors := answer.get("Errors"):
        first = {"Code": str(errors[0].get("Code")), "Message": str(errors[0].get("Message"))}
        raise ClientError({"Error": first}, "DeleteObjects")  # type: ignore[typeddict-item]
