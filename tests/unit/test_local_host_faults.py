"""The fault file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelzone.local.host.faults import FAULTS_VARIABLE, Faults


def test_without_a_file_nothing_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Faults.read(tmp_path / "faults.json") == Faults()
    monkeypatch.delenv(FAULTS_VARIABLE, raising=False)
    assert Faults.of_host() == Faults()


def test_faults_are_read_at_each_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "faults.json"
    monkeypatch.setenv(FAULTS_VARIABLE, str(file))
    file.write_text(json.dumps({"export": "oom", "devices": 0}))
    assert (Faults.of_host().export, Faults.of_host().devices) == ("oom", 0)
    file.write_text("{}")
    assert Faults.of_host() == Faults()


@pytest.mark.parametrize("given", [{"export": "explode"}, {"made_up": 1}])
def test_a_fault_that_does_not_exist_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps(given))
    with pytest.raises(ValueError, match=r"faults\.json"):
        Faults.read(file)


@pytest.mark.parametrize(
    ("rule", "lacks"),
    [
        ({"subnet_id": "a", "instance_type": None}, True),
        ({"subnet_id": None, "instance_type": "inf2.xlarge"}, True),
        ({}, True),
        ({"subnet_id": "b"}, False),
        ({"subnet_id": "a", "instance_type": "inf2.8xlarge"}, False),
    ],
)
def test_capacity(rule: dict[str, Any], *, lacks: bool) -> None:
    faults = Faults(no_capacity=(rule,))
    assert faults.lacks_capacity(subnet_id="a", instance_type="inf2.xlarge") is lacks
