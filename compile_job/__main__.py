"""Entry point: ``python3 -m compile_job --job job.json``."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from pathlib import Path

from .errors import JobError, StepError, Stopped
from .job import read_job
from .masking import hide
from .spot import watch_for_notice
from .stopping import Stop

__all__ = ["main"]

_FAILED, _WRONG_JOB, _INTERRUPTED, _STOPPED = 1, 2, 75, 128 + signal.SIGTERM


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit status."""
    parser = argparse.ArgumentParser(prog="compile_job", description="Export a model and publish the artifact to S3.")
    parser.add_argument("--job", type=Path, required=True, help="the job, a JSON file without secrets")
    options = parser.parse_args(arguments)
    stop = Stop()
    try:
        stop.install()
        job = read_job(options.job)
        if importlib.util.find_spec("boto3") is None:
            return _end(_FAILED, "boto3 is missing: run the package that was staged with it, not the sources alone")
        from .pipeline import run_job  # noqa: PLC0415 - needs boto3

        with watch_for_notice(stop.notice):
            run_job(job, stop)
    except JobError as error:
        return _end(_WRONG_JOB, f"wrong job: {error}")
    except StepError as error:
        return _end(_FAILED, str(error))
    except Stopped:
        if stop.spot:
            return _end(_INTERRUPTED, "stopped by a Spot interruption notice; run the same job on another host")
        return _end(_STOPPED, "stopped by a signal; nothing was published. Run the same job again to go on")
    return 0


def _end(status: int, text: str) -> int:
    sys.stdout.flush()
    sys.stderr.write("compile_job: " + " ".join(hide(text).split()) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
