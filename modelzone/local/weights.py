"""Puts a model's weights into the embedded model store, for environments without a way to the hub.

As an operator does by copying a mirror from another store (docs/compiling.md): the objects first, the manifest last.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from modelzone.artifacts import ArtifactFacts, weights_prefix
from modelzone.local.model_server.export import SHIPPED_MODEL

__all__ = ["mirror_weights"]


def mirror_weights(s3: Any, *, bucket: str, facts: ArtifactFacts) -> str:
    """Mirror the small model under the name of the one that is asked for; returns the mirror's S3 URI."""
    prefix = weights_prefix(facts.model_id, facts.model_revision)
    objects = []
    for path in sorted(SHIPPED_MODEL.iterdir()):
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        s3.put_object(Bucket=bucket, Key=prefix + path.name, Body=content, Metadata={"sha256": sha256})
        objects.append({"path": path.name, "size": len(content), "sha256": sha256, "s3_checksum": ""})
    manifest = {
        "format": 1,
        "kind": "weights",
        "model_id": facts.model_id,
        "revision": facts.model_revision,
        "commit": facts.model_revision,
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "objects": objects,
    }
    s3.put_object(Bucket=bucket, Key=f"{prefix}manifest.json", Body=json.dumps(manifest).encode())
    return f"s3://{bucket}/{prefix}"
