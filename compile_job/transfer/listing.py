"""What lies in a bucket already, so that what does not need not be asked for one by one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Listing"]

# A page lists up to 1000 objects and takes as long as some requests for one.
_WORTH_IT = 4
_PAGES_MORE = 4
_PAGE = 1000


class Listing:
    """The sizes of the objects below the common folder of some keys; listed when first asked for.

    It only says what is not there. It does not say so where it cannot know: the bucket may not be listed, or holds far
    more below that folder than these keys.
    """

    def __init__(self, s3: S3Client, bucket: str, keys: Sequence[str]) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._keys = keys
        self._sizes: dict[str, int] | None = None
        self._listed = len(keys) < _WORTH_IT
        self._lock = threading.Lock()

    def may_have(self, key: str, size: int) -> bool:
        """Return whether an object with this size may be there."""
        with self._lock:
            if not self._listed:
                self._sizes = self._list()
                self._listed = True
        return self._sizes is None or self._sizes.get(key) == size

    def _list(self) -> dict[str, int] | None:
        prefix = commonprefix(list(self._keys)).rpartition("/")  # noqa: RUF071 - cut at a slash right here
        sizes: dict[str, int] = {}
        more: dict[str, Any] = {}
        for _ in range(len(self._keys) // _PAGE + _PAGES_MORE):
            try:
                page = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix[0] + prefix[1], **more)
            except ClientError:
                # Whatever it is, the requests for single objects tell it, too.
                return None
            sizes.update((item["Key"], item["Size"]) for item in page.get("Contents", []))
            if not page.get("IsTruncated"):
                return sizes
            more = {"ContinuationToken": page["NextContinuationToken"]}
        return None
