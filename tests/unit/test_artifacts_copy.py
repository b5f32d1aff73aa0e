"""A copy inside S3: whole or in parts, gone on with after a stop, its manifest last and with the copy's checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from unit.compile_world import BUCKET, OTHER, World, crc32_text, facts, sha256_text

from modelzone.artifacts import artifact_prefix
from modelzone.artifacts.copy import Copied, copy, of_artifact, of_weights
from modelzone.artifacts.store import find_one, read_place
from modelzone.artifacts.verify import verify
from modelzone.errors import ModelzoneError

FILES = {"config.json": b"{}", "big.neff": b"0123456789" * 3, "empty": b""}
PREFIX = artifact_prefix(facts())


@pytest.fixture
def world() -> World:
    return World()


def copied(world: World, **options: Any) -> Copied:
    return copy(world("s3"), of_artifact(find_one(world("s3"), BUCKET, PREFIX)), OTHER, **options)


def written(world: World) -> list[str]:
    """Keys in the order in which they were written."""
    operations = {"s3.CopyObject", "s3.CompleteMultipartUpload", "s3.PutObject"}
    return [params["Key"].removeprefix(PREFIX) for name, params in world.asked if name in operations]


def test_the_copy_is_an_artifact_with_checksums_of_its_own(world: World) -> None:
    world.artifact(files=FILES)
    counted: list[int] = []
    done = copied(world, threshold=20, part=8, on_bytes=counted.append)
    assert (done.objects, done.copied, done.bytes, sum(counted)) == (3, 3, 32, 32)
    place = read_place(world("s3"), OTHER, PREFIX)
    assert place
    assert place.complete
    assert {item.problem for item in verify(world("s3"), place, deep=True)} == {""}
    assert place.manifest
    sums = {item.path: item.s3_checksum for item in place.manifest.objects}
    assert sums == {
        "config.json": f"SHA256:{sha256_text(b'{}')}",
        "big.neff": f"CRC32:{crc32_text(FILES['big.neff'])}-4",
        "empty": f"SHA256:{sha256_text(b'')}",
    }
    old = json.loads(world.objects[PREFIX + "manifest.json"].body)
    assert {**place.manifest.document, "objects": []} == {**old, "objects": []}
    assert written(world)[-1] == "manifest.json"
    assert [upload["done"] for upload in world.uploads.values()] == ["completed"]


def test_what_is_there_is_left(world: World) -> None:
    world.artifact(files=FILES)
    copied(world)
    world.asked.clear()
    done = copied(world)
    assert (done.copied, written(world)) == (0, ["manifest.json"])
    # One that differs is brought anew, and while it is there is no manifest.
    world.buckets[OTHER][PREFIX + "config.json"].metadata = {"sha256": "else"}
    world.asked.clear()
    assert copied(world).copied == 1
    names = [name for name, _ in world.asked if name in {"s3.DeleteObject", "s3.CopyObject", "s3.PutObject"}]
    assert names == ["s3.DeleteObject", "s3.CopyObject", "s3.PutObject"]


def test_a_copy_that_is_refused_leaves_no_manifest_and_no_parts(world: World) -> None:
    world.artifact(files={"big": b"x" * 40, "more": b"y" * 40, "small": b"z"})
    copied(world)
    del world.buckets[OTHER][PREFIX + "big"]
    world.broken["UploadPartCopy"] = "AccessDenied"
    with pytest.raises(ModelzoneError, match=f"copying to s3://{OTHER}/.*not allowed to call UploadPartCopy"):
        copied(world, threshold=20, part=8)
    assert PREFIX + "manifest.json" not in world.buckets[OTHER]
    assert {upload["done"] for upload in world.uploads.values()} == {"aborted"}
    world.broken.clear()
    assert copied(world, threshold=20, part=8).copied == 1


@pytest.mark.parametrize("damage", ["marked", "gone", "unmarked"])
def test_a_damaged_original_is_not_copied(world: World, damage: str) -> None:
    world.artifact(files=FILES)
    if damage == "gone":
        del world.objects[PREFIX + "config.json"]
    else:
        world.objects[PREFIX + "config.json"].metadata = {"sha256": "else"} if damage == "marked" else {}
    with pytest.raises(ModelzoneError, match=r"config\.json is (missing|marked|not marked)"):
        copied(world)
    assert OTHER not in world.buckets or not world.buckets[OTHER]


def test_content_that_is_not_what_the_manifest_says_shows_in_the_copy(world: World) -> None:
    world.artifact(files=FILES)
    world.objects[PREFIX + "config.json"].body = b"[]"
    with pytest.raises(ModelzoneError, match="the original is damaged"):
        copied(world)
    assert PREFIX + "manifest.json" not in world.buckets[OTHER]


def test_weights(world: World) -> None:
    prefix = world.mirror()
    original = of_weights(world("s3"), BUCKET, prefix)
    assert original
    copy(world("s3"), original, OTHER)
    again = of_weights(world("s3"), OTHER, prefix)
    assert again
    assert [item.s3_checksum for item in again.objects] == [f"SHA256:{sha256_text(b)}" for b in (b"{}", b"weights")]
    assert again.document["kind"] == "weights"


@pytest.mark.parametrize("change", [{"objects": []}, {"kind": "artifact"}, {"objects": [{"path": "a", "size": 1}]}])
def test_a_mirror_whose_manifest_lists_nothing_is_none(world: World, change: Mapping[str, Any]) -> None:
    prefix = world.mirror()
    document = json.loads(world.objects[f"{prefix}manifest.json"].body)
    world.put(f"{prefix}manifest.json", json.dumps({**document, **change}).encode())
    assert of_weights(world("s3"), BUCKET, prefix) is None
    assert of_weights(world("s3"), BUCKET, "weights/nothing/") is None
