"""Entry point: ``python3 -m compile_job --job job.json``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from .errors import JobError, StepError, Stopped
from .job import read_job

__all__ = ["main"]

_FAILED, _WRONG_JOB, _STOPPED = 1, 2, 128 + signal.SIGTERM


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit status."""
    parser = argparse.ArgumentParser(prog="compile_job", description="Export a model and publish the artifact to S3.")
    parser.add_argument("--job", type=Path, required=True, help="the job, a JSON file without secrets")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        job = read_job(options.job)
        if not _boto3_will_do():
            return _end(_FAILED, "boto3 is missing or too old: python3 -m pip install 'boto3>=1.28'")
        from .pipeline import run_job  # noqa: PLC0415 - needs boto3

        run_job(job)
    except JobError as error:
        return _end(_WRONG_JOB, f"wrong job: {error}")
    except StepError as error:
        return _end(_FAILED, str(error))
    except Stopped:
        return _end(_STOPPED, "stopped by a signal; nothing was published. Run the same job again to go on")
    return 0


def _boto3_will_do() -> bool:
    """Return whether boto3 is here and can send checksums; the one in Ubuntu 22.04's packages cannot."""
    try:
        from boto3.s3.transfer import S3Transfer  # noqa: PLC0415 - this is the question
    except ImportError:
        return False
    return "ChecksumAlgorithm" in S3Transfer.ALLOWED_UPLOAD_ARGS


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Once is enough: cleaning up must not be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stopped


def _end(status: int, text: str) -> int:
    sys.stdout.flush()
    sys.stderr.write("compile_job: " + " ".join(text.split()) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
