"""Which finding is to blame: the order of findings, and what follows from what."""

from __future__ import annotations

import pytest

from modelzone.doctor.log import Diagnosis, Finding, diagnose
from modelzone.doctor.signatures import signatures

OOM = "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
PING = "The primary container for production variant AllTraffic did not pass the ping health check."
ROUTE = "HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with url: /api/models/x"
ROLLED_BACK = "x is in UPDATE_ROLLBACK_FAILED state and can not be updated."


def only(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.findings
    return finding


def explained(*lines: str) -> dict[str, str | None]:
    return {finding.id: finding.explained_by for finding in diagnose(lines).findings}


def test_the_cause_comes_before_its_consequence() -> None:
    diagnosis = diagnose([PING, "x", OOM])
    assert [finding.id for finding in diagnosis.findings] == ["cuda-out-of-memory", "ping-health-check"]
    assert [finding.explained_by for finding in diagnosis.findings] == [None, "cuda-out-of-memory"]


def test_a_consequence_alone_is_what_there_is_to_say() -> None:
    finding = only(diagnose([PING]))
    assert (finding.id, finding.explained_by) == ("ping-health-check", None)
    assert "health_check_timeout_seconds" in finding.settings


def test_an_unexplained_failure_comes_before_refused_requests_and_notes() -> None:
    note = "x not found in y: the corresponding graph will be recompiled."
    ids = [finding.id for finding in diagnose([note, "Model is overloaded", PING]).findings]
    assert ids == ["ping-health-check", "tgi-overloaded", "neuron-cache-miss"]


def test_a_refused_token_is_explained_by_the_gate() -> None:
    diagnosis = diagnose(["401 Client Error. (Request ID: Root=1)", "Cannot access gated repo for url x"])
    assert [(f.id, f.explained_by) for f in diagnosis.findings] == [("hub-gated", None), ("hub-token", "hub-gated")]


@pytest.mark.parametrize(
    "line",
    [
        ROLLED_BACK,
        "Stack:arn:aws:cloudformation:x:stack/x/5270 is in ROLLBACK_COMPLETE state and can not be updated.",
        "The stack named x failed creation, it may need to be manually deleted from the AWS console: ROLLBACK_COMPLETE",
        "The stack named x failed to deploy: UPDATE_ROLLBACK_COMPLETE",
    ],
)
def test_a_stack_that_was_rolled_back_follows_from_the_endpoint_that_failed(line: str) -> None:
    for lines in ((PING, line), (line, PING)):
        first, second = diagnose(lines).findings
        assert (first.id, first.explained_by) == ("ping-health-check", None)
        assert (second.level, second.explained_by) == ("consequence", "ping-health-check")


def test_a_chain_of_consequences_names_each_link() -> None:
    assert explained(OOM, PING, ROLLED_BACK) == {
        "cuda-out-of-memory": None,
        "ping-health-check": "cuda-out-of-memory",
        "cloudformation-rollback-failed": "ping-health-check",
    }


def test_the_states_of_a_stack_are_never_its_cause() -> None:
    levels = {signature.id: signature.level for signature in signatures()}
    for name in ("rollback-complete", "rollback-failed", "update-failed", "busy"):
        assert levels[f"cloudformation-{name}"] == "consequence"


def test_of_several_causes_none_is_blamed() -> None:
    assert explained(ROUTE, OOM, PING) == {
        "network-no-route": None,
        "cuda-out-of-memory": None,
        "ping-health-check": None,
    }


def test_a_cause_is_blamed_only_for_what_it_can_bring_about() -> None:
    busy = "You have requested more vCPU capacity than your current vCPU limit of 32"
    assert explained(busy, PING) == {"ec2-vcpu-quota": None, "ping-health-check": None}


@pytest.mark.parametrize(
    "line",
    [
        '{"Invocations": 12, "ModelError": 0}',
        "INFO ModelErrorHandler registered",
        "ExpiredTokenException refreshed credentials ok",
        "401 Client Error: Unauthorized for url: https://mlflow.example.com/api; trying without a token",
    ],
)
def test_what_healthy_programs_say_is_no_failure(line: str) -> None:
    assert diagnose([line]).findings == ()


def test_a_warning_beside_a_failure_does_not_hide_it() -> None:
    c10d = "[W socket.cpp:601] [c10d] x (gai error: -2 - Name or service not known)."
    retry = "Retrying (Retry(total=0)) after connection broken by 'Temporary failure in name resolution'"
    finding = only(diagnose([c10d, retry, ROUTE]))
    assert (finding.id, finding.count, finding.first_line) == ("network-no-route", 1, 3)
