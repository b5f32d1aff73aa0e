"""A compilation in words: what a line, a status and the live view say."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelzone.compiling.hosts import Host
    from modelzone.compiling.snapshot import JobProgress, Snapshot

__all__ = [
    "clean",
    "duration",
    "facts_of",
    "host_text",
    "line_of",
    "marks_of",
    "progress_text",
    "size",
    "step_rows",
    "usd_text",
]

_MINUTE = 60
_HOUR = 3600
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
# Escape sequences and control characters, which a text from afar may hold and a terminal would obey.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\^_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """A text without what terminals obey."""
    return _CONTROL.sub("", text.replace("\t", "    "))


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``41 min``, ``2 h 05 min``."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 2 * _MINUTE:
        return f"{whole} s"
    minutes = round(seconds / _MINUTE)
    if minutes < 2 * _MINUTE:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    unit = _UNITS[0]
    for unit in _UNITS:
        if abs(count) < _STEP or unit == _UNITS[-1]:
            break
        count /= _STEP
    return f"{count:.0f} {unit}" if unit == _UNITS[0] else f"{count:,.1f} {unit}"


def host_text(host: Host) -> str:
    """Id, type, zone and how it is paid for."""
    gone = f", {host.state}" if host.state != "running" else ""
    return f"{host.instance_id}, {host.instance_type} in {host.zone or 'an unknown zone'}, {host.purchase}{gone}"


def progress_text(job: JobProgress) -> str:
    """Percent, bytes, rate and time left, as far as the job tells them."""
    parts = []
    if job.percent is not None:
        parts.append(f"{job.percent:.0f}%")
    if job.total_bytes:
        parts.append(f"{size(job.bytes)} of {size(job.total_bytes)}")
    elif job.bytes:
        parts.append(size(job.bytes))
    if (rate := job.bytes_per_second) is not None:
        parts.append(f"{size(rate)}/s")
    if job.seconds_left is not None:
        parts.append(f"{duration(job.seconds_left)} left")
    if job.message:
        parts.append(clean(job.message))
    return ", ".join(parts)


def usd_text(snapshot: Snapshot) -> str:
    """What it has cost until now."""
    if snapshot.usd is None:
        return f"unknown, no price of {snapshot.unpriced}" if snapshot.unpriced else ""
    spot = any(host.purchase == "spot" for host in snapshot.hosts)
    if snapshot.roughly:
        return f"about {snapshot.usd:,.2f} USD at the on-demand price, by the times of the steps"
    # A cent more or less is not known either: volumes and minutes of start are left out.
    return f"{'less than ' if spot else ''}{snapshot.usd:,.2f} USD at the on-demand price"


def step_rows(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    """Mark, name and duration of each step; those of the job are set in."""
    marks = {"done": "done", "running": "...", "failed": "FAILED"}
    return [
        (marks[step.state], f"  {step.name}" if step.on_host else step.name, duration(step.seconds))
        for step in snapshot.steps
    ]


def facts_of(snapshot: Snapshot) -> list[tuple[str, str]]:
    """All that is known, for ``compile status``."""
    execution, host = snapshot.execution, snapshot.host
    facts = [
        ("compilation", execution.name),
        ("status", execution.word),
        ("started", f"{execution.started.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {_ran(snapshot)}"),
    ]
    if snapshot.step:
        job = progress_text(snapshot.job) if snapshot.job and snapshot.job.state == "running" else ""
        facts.append(("step", f"{snapshot.step}{': ' if job else ''}{job}"))
    if snapshot.waiting:
        facts.append(("tries again", clean(snapshot.waiting)))
    if host:
        facts.append(("host", host_text(host)))
    if cost := usd_text(snapshot):
        facts.append(("cost", cost))
    if artifact := execution.output.get("artifact"):
        facts.append(("artifact", str(artifact)))
    if execution.failure:
        facts.append(("failure", execution.failure))
    return facts


def _ran(snapshot: Snapshot) -> str:
    return f"{'running for' if snapshot.execution.running else 'took'} {duration(snapshot.seconds)}"


def marks_of(snapshot: Snapshot) -> tuple[object, ...]:
    """What has to differ for a new line: step, whole percents, host, message, end."""
    job, host = snapshot.job, snapshot.host
    return (
        snapshot.execution.status,
        snapshot.step,
        None if job is None or job.percent is None else int(job.percent),
        job and job.message,
        snapshot.waiting,
        host and (host.instance_id, host.gone),
    )


def line_of(snapshot: Snapshot) -> str:
    """One line for logs and pipes."""
    parts = [f"{snapshot.now.astimezone(UTC):%H:%M:%S}", snapshot.step or snapshot.execution.word]
    job = snapshot.job
    if snapshot.step and job and job.state == "running" and (said := progress_text(job)):
        parts.append(said)
    if snapshot.waiting:
        parts.append(f"tries again: {clean(snapshot.waiting)}")
    if snapshot.host:
        parts.append(host_text(snapshot.host))
    parts.append(f"after {duration(snapshot.seconds)}")
    if cost := usd_text(snapshot):
        parts.append(cost if snapshot.usd is not None else f"cost {cost}")
    return "  ".join(parts)
