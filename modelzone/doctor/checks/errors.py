"""What the exceptions of boto3 and AWS's refusals mean for a check."""

from __future__ import annotations

import re

from modelzone.doctor.checks.base import Outcome
from modelzone.doctor.masking import mask

__all__ = ["outcome_of_error"]

_DENIED = re.compile(r"AccessDenied|Unauthorized|NotAuthorized|Forbidden|^403$")
_EXPIRED = re.compile(r"ExpiredToken|RequestExpired|SignatureDoesNotMatch|InvalidAccessKeyId")
# AWS answers the same in a region that the account has not enabled: its keys are not known there.
_UNKNOWN_KEY = re.compile(r"InvalidClientTokenId|UnrecognizedClient|AuthFailure")
# What emulators answer to an operation that they do not have.
_UNKNOWN = re.compile(
    r"InvalidAction|MethodNotAllowed|NotImplemented|UnknownOperation|NotYetImplemented|^(404|405|501)$"
)
_ACTION = re.compile(r"is not authorized to perform: ([\w-]+:\w+)")
_LONGEST = 300


def outcome_of_error(
    error: Exception, *, permissions: tuple[str, ...], emulated: bool, needed: bool = False
) -> Outcome:
    """What an exception means for a check.

    Parameters
    ----------
    permissions
        Those that the check needs.
    needed
        Whether nothing has been checked without an answer to it (`Kind.needed`).
    """
    detail = getattr(error, "response", {}).get("Error", {})
    code, operation = str(detail.get("Code", "")), getattr(error, "operation_name", "")
    if emulated and not needed and _UNKNOWN.search(code):
        return Outcome("skipped", f"the emulator has no {operation}")
    if _EXPIRED.search(code):
        return Outcome("fail", f"AWS does not accept these credentials ({code})", "sign in again (aws sso login)")
    if _UNKNOWN_KEY.search(code):
        return Outcome(
            "fail",
            f"AWS does not accept these credentials here ({code})",
            "sign in again (aws sso login); where the region is an opt-in one, enable it for the account first",
        )
    # A role that may not be assumed leaves no credentials at all; the check's own action was not even tried.
    tried = any(action.endswith(f":{operation}") for action in permissions)
    if _DENIED.search(code) and (tried or not needed):
        named = _ACTION.search(str(detail.get("Message", "")))
        wanted = named[1] if named else " and ".join(permissions)
        return Outcome("warn", f"not allowed to look ({code})", f"allow {wanted} to be told beforehand")
    words = mask(" ".join(str(detail.get("Message") or error).split()))[:_LONGEST]
    if _of_credentials(error):
        return Outcome("fail", f"there are no AWS credentials: {words}", "sign in (aws sso login), or set AWS_PROFILE")
    said = f"could not be looked up: {f'{code}: ' if code else ''}{words}"
    return Outcome("fail" if needed else "warn", said, "try again")


def _of_credentials(error: Exception) -> bool:
    """Whether boto3 had nothing to sign the request with."""
    from botocore import exceptions as known  # noqa: PLC0415 - whoever raised one has imported them

    return isinstance(
        error,
        (
            known.NoCredentialsError,
            known.PartialCredentialsError,
            known.CredentialRetrievalError,
            known.TokenRetrievalError,
            known.NoAuthTokenError,
            known.SSOError,
            known.LoginError,
        ),
    )
