"""Copies a SageMaker model's data from the emulator's S3 to a folder, as hosting fills ``/opt/ml/model``."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from modelzone.local.emulator.sdk import make_client

__all__ = ["ModelData", "ModelDataError", "S3ModelData"]


class ModelDataError(Exception):
    """The data cannot be copied; the text says why."""


@dataclass(frozen=True, kw_only=True)
class S3ModelData:
    """Where a model's data lies: a prefix of plain objects, or one ``tar.gz`` archive."""

    uri: str
    archive: bool

    @classmethod
    def of_container(cls, container: dict[str, Any]) -> S3ModelData | None:
        """The data source of a model's container definition, ``None`` when it has none."""
        source = (container.get("ModelDataSource") or {}).get("S3DataSource")
        if source:
            return cls(uri=source["S3Uri"], archive=source.get("CompressionType", "None") == "Gzip")
        if container.get("ModelDataUrl"):
            return cls(uri=container["ModelDataUrl"], archive=True)
        return None


@dataclass(frozen=True, kw_only=True)
class ModelData:
    """Copies model data with the account and region of the model."""

    endpoint_url: str
    account: str
    region: str

    def copy(self, source: S3ModelData, folder: Path) -> None:
        """Fill ``folder`` with the data of ``source``.

        Raises
        ------
        ModelDataError
            There is nothing at the address, or it cannot be read.
        """
        address = urlsplit(source.uri)
        bucket, prefix = address.netloc, address.path.removeprefix("/")
        s3 = make_client("s3", endpoint_url=self.endpoint_url, account=self.account, region=self.region, attempts=2)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if source.archive:
                self._copy_archive(s3, bucket, prefix, folder)
            else:
                self._copy_prefix(s3, bucket, prefix, folder)
        except (BotoCoreError, ClientError, OSError, tarfile.TarError) as error:
            raise ModelDataError(str(error)) from error

    @staticmethod
    def _copy_prefix(s3: Any, bucket: str, prefix: str, folder: Path) -> None:
        copied = 0
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                relative = PurePosixPath(entry["Key"].removeprefix(prefix).lstrip("/"))
                if entry["Key"].endswith("/") or not relative.parts:
                    continue
                if ".." in relative.parts:
                    raise ModelDataError(f"object key {entry['Key']!r} leaves the model's folder")
                target = folder.joinpath(*relative.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, entry["Key"], str(target))
                copied += 1
        if not copied:
            raise ModelDataError(f"there is no object under s3://{bucket}/{prefix}")

    @staticmethod
    def _copy_archive(s3: Any, bucket: str, key: str, folder: Path) -> None:
        archive = folder.with_suffix(".tar.gz")
        s3.download_file(bucket, key, str(archive))
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        archive.unlink()

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a folder that :meth:`copy` filled."""
        shutil.rmtree(folder, ignore_errors=True)
