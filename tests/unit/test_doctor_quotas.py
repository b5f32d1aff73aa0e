"""Quotas, and what other endpoints use of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from unit.test_doctor_support import Account, Answer, error, hub, plan, quotas, run

from modelzone.doctor.preflight import preflight

BUSY: dict[str, list[tuple[str | None, int, int]]] = {
    "chat": [("ml.inf2.24xlarge", 1, 2), ("ml.g5.xlarge", 3, 3)],
    "serverless": [(None, 0, 0)],
    "modelzone-dev-mixtral-0-0a1b2c3d": [("ml.inf2.24xlarge", 2, 2)],
    "modelzone-dev-mixtral-0-0a1b2c3d-old": [("ml.inf2.24xlarge", 1, 1)],
}


def busy(**changed: Any) -> Account:
    """An account in which endpoints run."""

    def endpoint(params: Mapping[str, Any]) -> Answer:
        rows = [
            {"VariantName": str(n), "CurrentInstanceCount": now, "DesiredInstanceCount": wanted}
            for n, (_, now, wanted) in enumerate(BUSY[params["EndpointName"]])
        ]
        return {"EndpointConfigName": params["EndpointName"], "ProductionVariants": rows}

    def config(params: Mapping[str, Any]) -> Answer:
        types = enumerate(BUSY[params["EndpointConfigName"]])
        return {
            "ProductionVariants": [
                {"VariantName": str(n), **({"InstanceType": kind} if kind else {})} for n, (kind, _, _) in types
            ]
        }

    given: dict[str, Any] = {
        "sagemaker__ListEndpoints": {"Endpoints": [{"EndpointName": name} for name in BUSY]},
        "sagemaker__DescribeEndpoint": endpoint,
        "sagemaker__DescribeEndpointConfig": config,
    }
    return Account(**(given | changed))


def test_deployments_share_a_quota() -> None:
    check = run(plan(instances=(2, 3)), Account(service_quotas__ListServiceQuotas=quotas(inf2=7, hosts=96)))
    assert check["endpoint-quota"].status == "warn"
    assert "at most 5 run here, 8 during an update" in check["endpoint-quota"].detail


def test_an_accounts_own_quota_stands_above_the_default() -> None:
    account = Account(
        service_quotas__ListServiceQuotas=quotas(hosts=96),
        service_quotas__ListAWSDefaultServiceQuotas=quotas(inf2=10, hosts=0),
    )
    checks = run(account=account)
    assert (checks["endpoint-quota"].status, checks["compile-quota"].status) == ("ok", "ok")
    assert sum(name.startswith("service-quotas.ListServiceQuotas") for name, _ in account.asked) == 2


@pytest.mark.parametrize(
    ("limit", "status", "asked"),
    [(7, "ok", ""), (6, "warn", "ask for 7"), (5, "warn", "ask for 7"), (4, "fail", "ask for 7")],
)
def test_what_other_endpoints_run_is_not_free(limit: int, status: str, asked: str) -> None:
    """Three run elsewhere: a variant that grows to 2, and one whose name only begins as ours do."""
    account = busy(service_quotas__ListServiceQuotas=quotas(inf2=limit, hosts=96))
    check = run(account=account)["endpoint-quota"]
    assert (check.status, asked in check.remedy) == (status, True)
    assert "3 run in other endpoints now" in check.detail


def test_all_endpoints_together_have_a_quota_too() -> None:
    account = busy(service_quotas__ListServiceQuotas=quotas(inf2=20, every=7, hosts=96))
    checks = [check for check in preflight(plan(), account, opener=hub()) if check.id == "endpoint-quota"]
    assert [check.status for check in checks] == ["ok", "fail"]
    assert "across active endpoints" in checks[1].detail
    assert "6 run in other endpoints now" in checks[1].detail
    assert sum(name == "sagemaker.ListEndpoints" for name, _ in account.asked) == 1


def test_what_could_not_be_counted_is_said() -> None:
    refused = busy(sagemaker__DescribeEndpoint=error("AccessDeniedException"))
    check = run(account=refused)["endpoint-quota"]
    assert check.status == "ok"
    assert "what runs in other endpoints could not be counted (AccessDeniedException)" in check.detail
    many = [{"EndpointName": "chat"}] * 101
    check = run(account=busy(sagemaker__ListEndpoints={"Endpoints": many}))["endpoint-quota"]
    assert "200 run in other endpoints now; 1 more endpoints were not counted" in check.detail


def test_an_endpoint_that_is_deleted_meanwhile_runs_nothing() -> None:
    gone = busy(sagemaker__DescribeEndpoint=error("ValidationException", 'Could not find endpoint "x".'))
    check = run(account=gone)["endpoint-quota"]
    assert (check.status, "other endpoints" in check.detail) == ("ok", False)


def test_spot_hosts_have_a_quota_of_their_own_beside_the_last_attempt() -> None:
    account = Account(
        service_quotas__ListServiceQuotas={
            "Quotas": [
                {"QuotaName": "Running On-Demand Inf instances", "Value": 96.0},
                {"QuotaName": "All Inf Spot Instance Requests", "Value": 64.0},
            ]
        }
    )
    checks = [c for c in preflight(plan(purchase="spot"), account, opener=hub()) if c.id == "compile-quota"]
    assert [c.status for c in checks] == ["ok", "fail"]
    assert "All Inf Spot Instance Requests" in checks[1].detail
