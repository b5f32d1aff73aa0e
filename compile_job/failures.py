"""What AWS and the host refuse, in words that say what to do."""

from __future__ import annotations

import errno
import re

from botocore.exceptions import ClientError

__all__ = ["code_of", "explain", "is_absent"]

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_DENIED = {"403", "AccessDenied", "Forbidden", "AccessDeniedException"}
_WRONG_SUM = {
    "BadDigest",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_KEY_ARN = re.compile(r"arn:aws[\w-]*:kms:[\w:/-]+")
_NEEDS = {
    "GetObject": "s3:GetObject and, on the bucket, s3:ListBucket",
    "HeadObject": "s3:GetObject and, on the bucket, s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket on the bucket",
    "PutObject": "s3:PutObject, and kms:GenerateDataKey on the bucket's KMS key",
    "CreateMultipartUpload": "s3:PutObject, and kms:GenerateDataKey on the bucket's KMS key",
    "UploadPart": "s3:PutObject, and kms:GenerateDataKey and kms:Decrypt on the bucket's KMS key",
    "CompleteMultipartUpload": "s3:PutObject, and kms:Decrypt on the bucket's KMS key",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "GetSecretValue": "secretsmanager:GetSecretValue on the hub token's secret, and kms:Decrypt on its key",
    "GetAuthorizationToken": "ecr:GetAuthorizationToken",
}


def code_of(error: ClientError) -> str:
    """Return the code of AWS's answer."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_absent(error: ClientError) -> bool:
    """Return whether there is no such object, which is not a failure."""
    return code_of(error) in _ABSENT


def explain(error: BaseException, bucket: str) -> str:
    """Return why a step failed and what to do about it.

    Parameters
    ----------
    bucket
        The job's, for what S3 refuses.
    """
    if isinstance(error, ClientError):
        return _refused(error, bucket)
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}No space left on device: give the host a larger root volume, or delete what lies on it"
    return str(error) or type(error).__name__


def _refused(error: ClientError, bucket: str) -> str:
    code, operation = code_of(error), error.operation_name
    said = str(error.response.get("Error", {}).get("Message", "")).strip() or code
    if "kms:" in said or code.startswith("KMS.") or "KMS key" in said:
        key = _KEY_ARN.search(said)
        named = key[0] if key else "that key"
        return (
            f"S3 may not use the KMS key of bucket '{bucket}' for this host ({operation}, {code}: {said}): allow the "
            f"host's role kms:GenerateDataKey and kms:Decrypt on {named}, in its policy and in the key's"
        )
    if code in _WRONG_SUM:
        return (
            f"checksum mismatch: S3 received other bytes than were sent to bucket '{bucket}' ({operation}, {code}): "
            "run again; if it comes back, use another host"
        )
    if code in _DENIED:
        needs = _NEEDS.get(operation, "the permission")
        return f"AWS refused {operation} ({code}: {said}), bucket '{bucket}': the host's role needs {needs}"
    return f"AWS refused {operation} ({code}: {said}), bucket '{bucket}'"
