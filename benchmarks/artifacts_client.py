"""Publish or fetch a folder with our own code; `artifacts.py` runs it as it runs awscli and s5cmd, as a process."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import boto3

from compile_job.transfer import Fetch, Upload, client_config, fetch_files, upload_files


def main() -> None:
    """Read what to do from the command line: publish|fetch FOLDER BUCKET PREFIX MANIFEST."""
    verb, name, bucket, prefix, manifest = sys.argv[1:]
    folder = Path(name)
    s3 = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"], config=client_config())
    stop = threading.Event()
    if verb == "publish":
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        uploads = [Upload(path, prefix + path.relative_to(folder).as_posix()) for path in files]
        stored = upload_files(s3, bucket, uploads, stop=stop)
        objects = [{"key": item.key, "size": item.size, "sha256": item.sha256} for item in stored]
        Path(manifest).write_text(json.dumps(objects), encoding="utf-8")
        return
    objects = json.loads(Path(manifest).read_text(encoding="utf-8"))
    items = [
        Fetch(item["key"], folder / item["key"].removeprefix(prefix), item["size"], item["sha256"]) for item in objects
    ]
    fetch_files(s3, bucket, items, stop=stop)


if __name__ == "__main__":
    main()
