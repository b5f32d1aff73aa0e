"""Model data copied from S3 as SageMaker hosting copies it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from modelzone.local.emulator import model_data
from modelzone.local.emulator.model_data import ModelData, ModelDataError, S3ModelData


class Bucket:
    """As much of an S3 client as is used."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    def get_paginator(self, _operation: str) -> Bucket:
        return self

    def paginate(self, *, Bucket: str, Prefix: str) -> list[dict[str, Any]]:  # noqa: N803 - boto3's names
        assert Bucket == "models"
        # One object a page, as a service may answer.
        return [{"Contents": [{"Key": key}]} for key in self._objects if key.startswith(Prefix)] or [{}]

    def download_file(self, _bucket: str, key: str, target: str) -> None:
        Path(target).write_bytes(self._objects[key])


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def copied(objects: dict[str, bytes], source: S3ModelData) -> dict[str, bytes]:
        monkeypatch.setattr(model_data, "make_client", lambda *_, **__: Bucket(objects))
        folder = tmp_path / "model"
        ModelData(endpoint_url="http://127.0.0.1:1", account="0" * 12, region="us-east-1").copy(source, folder)
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    return copied


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "wanted"),
    [
        (
            {"ModelDataSource": {"S3DataSource": {"S3Uri": "s3://b/p/", "CompressionType": "None"}}},
            S3ModelData(uri="s3://b/p/", archive=False),
        ),
        (
            {"ModelDataSource": {"S3DataSource": {"S3Uri": "s3://b/m.tar.gz", "CompressionType": "Gzip"}}},
            S3ModelData(uri="s3://b/m.tar.gz", archive=True),
        ),
        ({"ModelDataUrl": "s3://b/m.tar.gz"}, S3ModelData(uri="s3://b/m.tar.gz", archive=True)),
        ({"Image": "i"}, None),
    ],
)
def test_the_source_is_read_from_the_container(container: dict[str, Any], wanted: S3ModelData | None) -> None:
    assert S3ModelData.of_container(container) == wanted


def test_every_object_under_the_prefix_lands_at_its_path(copy: Any) -> None:
    objects = {"p/1/a": b"a", "p/1/deep/er/b": b"b", "p/1/deep/": b"", "p/10/c": b"c"}
    assert copy(objects, S3ModelData(uri="s3://models/p/1/", archive=False)) == {"a": b"a", "deep/er/b": b"b"}


def test_an_empty_prefix_is_an_error(copy: Any) -> None:
    with pytest.raises(ModelDataError, match="there is no object under s3://models/p/2/"):
        copy({"p/1/a": b"a"}, S3ModelData(uri="s3://models/p/2/", archive=False))


def test_a_key_cannot_leave_the_folder(copy: Any) -> None:
    with pytest.raises(ModelDataError, match="leaves the model's folder"):
        copy({"p/../../a": b"a"}, S3ModelData(uri="s3://models/p/", archive=False))


def test_an_archive_is_unpacked(copy: Any) -> None:
    objects = {"m.tar.gz": archive(a=b"a", code__b=b"b")}
    assert copy(objects, S3ModelData(uri="s3://models/m.tar.gz", archive=True)) == {"a": b"a", "code/b": b"b"}


def test_an_archive_cannot_leave_the_folder(copy: Any) -> None:
    with pytest.raises(ModelDataError, match="outside the destination"):
        copy({"m.tar.gz": archive(**{"..__a": b"a"})}, S3ModelData(uri="s3://models/m.tar.gz", archive=True))
