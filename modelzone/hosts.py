"""Hosts of this project on EC2: how they are tagged, and how they end themselves.

Launch templates and the commands that start hosts use the same words, so that a host that is found by its tags is told
what it is for and until when.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

__all__ = [
    "COMPILE_HOST",
    "DEBUG_HOST",
    "ENVIRONMENT_TAG",
    "EXECUTION_TAG",
    "ROLE_TAG",
    "UNTIL_TAG",
    "debug_host_tags",
    "lifetime_user_data",
]

ENVIRONMENT_TAG = "modelzone:environment"
ROLE_TAG = "modelzone:role"
EXECUTION_TAG = "modelzone:execution"
UNTIL_TAG = "modelzone:until"
COMPILE_HOST = "compile-host"
DEBUG_HOST = "debug-host"

# A timer, not `shutdown +N`: user data runs once, and a reboot would forget a shutdown that was only announced. Each
# boot begins the hours anew; the reaper goes by the tag instead.
_LIFETIME = """\
#!/bin/bash
set -eu
cat > /etc/systemd/system/modelzone-lifetime.service <<'UNIT'
[Unit]
Description=The lifetime of a Modelzone host is over
[Service]
Type=oneshot
ExecStart=/usr/bin/systemctl poweroff
UNIT
cat > /etc/systemd/system/modelzone-lifetime.timer <<'UNIT'
[Unit]
Description=Ends a Modelzone host {hours} hours after it started
[Timer]
OnBootSec={hours}h
[Install]
WantedBy=timers.target
UNIT
systemctl daemon-reload
systemctl enable --now modelzone-lifetime.timer
"""


def lifetime_user_data(hours: int) -> str:
    """User data of a host that powers itself off after so many hours, whatever happens to who started it.

    The launch template makes a power-off a termination.
    """
    if hours < 1:
        raise ValueError(f"hours is {hours}, expected at least 1")
    return _LIFETIME.format(hours=hours)


def debug_host_tags(*, environment: str, deployment: str, hours: int, now: datetime | None = None) -> Mapping[str, str]:
    """Tags of a debugging host, its end among them (UTC, ISO 8601)."""
    until = (now or datetime.now(UTC)) + timedelta(hours=hours)
    return {
        ENVIRONMENT_TAG: environment,
        ROLE_TAG: DEBUG_HOST,
        UNTIL_TAG: until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Name": f"modelzone-{environment}-debug-{deployment}",
    }
