"""The bucket is read as it is: complete, incomplete and broken artifacts, and what S3 says of their objects."""

from __future__ import annotations

import itertools
import json

import pytest
from unit.compile_world import BUCKET, NOW, OLD, World, facts

from modelzone.artifacts import artifact_key, artifact_prefix
from modelzone.artifacts.manifest import ManifestError, parse_manifest
from modelzone.artifacts.store import find_one, read_place, scan
from modelzone.artifacts.verify import verify
from modelzone.errors import ModelzoneError


@pytest.fixture
def world() -> World:
    return World()


def test_a_complete_artifact(world: World) -> None:
    key = world.artifact()
    (place,) = scan(world("s3"), BUCKET)
    assert (place.key, place.complete, place.problems) == (key, True, ())
    assert (place.slug, place.changed) == ("mistralai--mixtral-8x7b-instruct-v0.1", OLD)
    assert place.manifest
    assert place.manifest.facts == facts()
    assert place.manifest.bytes == 6


def test_what_lies_elsewhere_is_no_artifact(world: World) -> None:
    for name in ("compiled/readme", "compiled/a/b/c", "compiled/a/0123456789abcdef0123", "weights/a/b/manifest.json"):
        world.put(name, b"x")
    assert scan(world("s3"), BUCKET) == []


def test_incomplete_and_broken_artifacts_say_why(world: World) -> None:
    world.artifact(batch_size="2", manifest=False)
    world.artifact(batch_size="4")
    world.artifact(batch_size="8")
    world.artifact(batch_size="16")
    del world.objects[artifact_prefix(facts(batch_size="4")) + "config.json"]
    world.put(artifact_prefix(facts(batch_size="8")) + "config.json", b"longer", changed=NOW)
    world.put(artifact_prefix(facts(batch_size="16")) + "manifest.json", b"{")
    problems = {place.prefix: place.problems for place in scan(world("s3"), BUCKET)}
    expected = {
        "2": "it has no manifest: its upload was not finished",
        "4": "config.json is missing",
        "8": "config.json has 6 bytes, the manifest says 2",
        "16": "manifest.json is not JSON",
    }
    assert problems == {artifact_prefix(facts(batch_size=size)): (text,) for size, text in expected.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "has format 2, not 1"),
        ({"facts": None}, "has no facts"),
        ({"key": "x"}, "is of artifact 'x', its facts give"),
        ({"objects": []}, "lists no objects"),
        ({"objects": [{"path": "a", "size": -1}]}, "lists an object without a proper path and size"),
        ({"objects": [{"path": "a", "size": 1}, {"path": "a", "size": 1}]}, "lists an object without"),
    ],
)
def test_a_manifest_that_is_none(change: dict[str, object], says: str) -> None:
    key = artifact_key(facts())
    good = {"format": 1, "facts": facts(), "key": key, "objects": [{"path": "a", "size": 1, "sha256": "x"}]}
    assert parse_manifest(json.dumps(good).encode(), key=key).objects[0].path == "a"
    with pytest.raises(ManifestError, match=says):
        parse_manifest(json.dumps({**good, **change}).encode(), key=key)


def test_an_artifact_is_named_by_the_beginning_of_its_key_or_by_its_uri(world: World) -> None:
    key = world.artifact()
    for named in (key, key[:5], key.upper(), world.uri(), artifact_prefix(facts())):
        assert find_one(world("s3"), BUCKET, named).key == key
    with pytest.raises(ModelzoneError, match="there is no artifact 'zz'"):
        find_one(world("s3"), BUCKET, "zz")
    with pytest.raises(ModelzoneError, match="there is no artifact ''"):
        find_one(world("s3"), BUCKET, "")


def test_several_artifacts_that_begin_so(world: World) -> None:
    keys = sorted(world.artifact(batch_size=str(size)) for size in range(1, 18))
    begin = next(a[0] for a, b in itertools.pairwise(keys) if a[0] == b[0])
    with pytest.raises(ModelzoneError, match=f"'{begin}' is the beginning of several artifacts"):
        find_one(world("s3"), BUCKET, begin)


def test_nothing_lies_there(world: World) -> None:
    assert read_place(world("s3"), BUCKET, "compiled/a/b/") is None


@pytest.mark.parametrize("deep", [False, True])
def test_an_artifact_that_agrees(world: World, deep: bool) -> None:
    key = world.artifact()
    read = []
    checked = verify(world("s3"), find_one(world("s3"), BUCKET, key), deep=deep, on_bytes=read.append)
    assert [item.problem for item in checked] == ["", ""]
    expected = ("size", "metadata", "S3's checksum", *(("content",) if deep else ()))
    assert {item.by for item in checked} == {expected}
    assert sum(read) == (6 if deep else 0)


def test_each_kind_of_damage_is_found(world: World) -> None:
    key = world.artifact(files=dict.fromkeys(("gone", "short", "marked", "summed", "rotten"), b"abc"))
    prefix = artifact_prefix(facts())
    place = find_one(world("s3"), BUCKET, key)
    del world.objects[prefix + "gone"]
    world.objects[prefix + "short"].body = b"a"
    world.objects[prefix + "marked"].metadata = {"sha256": "else"}
    world.objects[prefix + "summed"].checksum = "else"
    world.objects[prefix + "rotten"].body = b"abd"
    found = {item.path: item.problem for item in verify(world("s3"), place, deep=True)}
    assert found["gone"] == "is missing"
    assert found["short"] == "has 1 bytes, the manifest says 3"
    assert found["marked"].startswith("is marked sha256 else, the manifest says ")
    assert found["summed"].startswith("has S3's checksum SHA256:else, the manifest says ")
    assert found["rotten"].startswith("holds sha256 ")
    shallow = {item.path: item.problem for item in verify(world("s3"), place, deep=False)}
    assert shallow == {**found, "rotten": ""}


def test_a_check_that_s3_refuses_is_no_result(world: World) -> None:
    key = world.artifact()
    place = find_one(world("s3"), BUCKET, key)
    world.broken["HeadObject"] = "403"
    with pytest.raises(ModelzoneError, match="not allowed to call HeadObject"):
        verify(world("s3"), place, deep=False)
