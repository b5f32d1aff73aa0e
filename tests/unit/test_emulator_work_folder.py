"""Where a host's scripts work: the folder of the host, also inside a job that is base64."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from modelzone.local.emulator.hosts import EmulatedHost, Launch


@pytest.fixture
def host() -> EmulatedHost:
    launch = Launch(
        instance_id="i-1", instance_type="inf2.xlarge", account="0" * 12, region="us-east-1", disk_gib=8,
        spot=False, shutdown_terminates=True,
    )  # fmt: skip
    return EmulatedHost(launch=launch, folder=Path("/state/hosts/i-1"), launched=0.0)


def test_a_script(host: EmulatedHost) -> None:
    assert host.localize("cd /var/lib/modelzone/compile") == "cd /state/hosts/i-1/var/lib/modelzone/compile"


def test_a_job(host: EmulatedHost) -> None:
    job = base64.b64encode(b'{"work_dir": "/var/lib/modelzone/compile"}').decode()
    assert b"/state/hosts/i-1/var/lib/modelzone/compile" in base64.b64decode(host.localize_encoded(job))


@pytest.mark.parametrize("value", ["no", "AAAA", "/var/lib/modelzone", "", "ü"])
def test_other_values_stay(host: EmulatedHost, value: str) -> None:
    assert host.localize_encoded(value) == value
