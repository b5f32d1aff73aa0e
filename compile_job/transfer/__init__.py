"""Files to S3 and back: in parallel, in parts, checked, resumable file by file, and stopped at once."""

from __future__ import annotations

from .checksums import checksum_of, same_checksum
from .common import ChecksumError, client_config
from .fetch import Fetch, Fetched, fetch_files
from .upload import Stored, Upload, upload_files

__all__ = [
    "ChecksumError",
    "Fetch",
    "Fetched",
    "Stored",
    "Upload",
    "checksum_of",
    "client_config",
    "fetch_files",
    "same_checksum",
    "upload_files",
]
