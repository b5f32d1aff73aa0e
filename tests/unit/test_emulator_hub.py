"""What the hub says of its files."""

from __future__ import annotations

import hashlib

from modelzone.local.emulator.hub import HubFile, shipped_files


def test_a_large_file_is_known_by_its_checksum_and_others_by_gits_id() -> None:
    weights = HubFile(name="model.safetensors", data=b"weights")
    config = HubFile(name="config.json", data=b"hello\n")
    assert weights.etag == hashlib.sha256(b"weights").hexdigest()
    assert config.etag == "ce013625030ba8dba906f756967f9e9ca394464a"  # what git hash-object says
    assert weights.described(blobs=True)["lfs"]["sha256"] == weights.etag
    assert "lfs" not in config.described(blobs=True)
    assert config.described(blobs=False) == {"rfilename": "config.json"}
    assert weights.in_tree()["lfs"]["oid"] == weights.etag


def test_every_repository_is_a_whole_model() -> None:
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= set(shipped_files())
