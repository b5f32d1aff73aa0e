"""The states of a hosted endpoint, with a server of a few lines in the container's place."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelzone.local.emulator.children import ChildProcesses
from modelzone.local.emulator.sagemaker_hosting import (
    EndpointKey,
    EndpointPlan,
    EndpointStatus,
    HostedEndpoint,
    ModelHosting,
    NoSuchVariant,
    VariantPlan,
    VariantUnavailable,
)
from modelzone.local.emulator.settings import EmulatorSettings

SERVER = """
import http.server, os, sys
status = int(os.environ.get("PING", "200"))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(os.environ["NAME"].encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""
KEY = EndpointKey(account="0" * 12, region="us-east-1", name="e")


@pytest.fixture
def settings(tmp_path: Path) -> EmulatorSettings:
    (tmp_path / "server.py").write_text(SERVER)
    made = EmulatorSettings(
        port=1, state_dir=tmp_path, model_server_command=(sys.executable, str(tmp_path / "server.py"))
    )
    made.logs_dir.mkdir()
    return made


@pytest.fixture
def hosting(settings: EmulatorSettings) -> Iterator[ModelHosting]:
    children = ChildProcesses(children_file=settings.children_file)
    yield ModelHosting(settings=settings, children=children, image_known=lambda image: image == "known")
    children.stop_all(grace_seconds=0.5)


def plan(*names: str, config: str = "c", image: str = "known", timeout: float = 20, **environment: str) -> EndpointPlan:
    variants = tuple(
        VariantPlan(
            name=name,
            image=image,
            environment={"NAME": name, **environment},
            data=None,
            startup_timeout_s=timeout,
            weight=0.0 if name == "shadow" else 1.0,
        )
        for name in names or ("a",)
    )
    return EndpointPlan(config_name=config, variants=variants)


def created(hosting: ModelHosting, wanted: EndpointPlan) -> tuple[HostedEndpoint, list[Any]]:
    settled: list[Any] = []
    endpoint = hosting.create(KEY, wanted, on_settled=lambda e: settled.append((e.status, e.failure_reason)))
    assert endpoint.settled.wait(30)
    return endpoint, settled


def ask(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return str(answer.read().decode())


def test_an_endpoint_is_in_service_when_every_variant_answers(hosting: ModelHosting) -> None:
    endpoint, settled = created(hosting, plan("a", "b"))
    assert settled == [(EndpointStatus.IN_SERVICE, None)]
    for name in ("a", "b"):
        variant, port = hosting.port_for(endpoint, target_variant=name)
        assert (variant, ask(port)) == (name, name)


def test_traffic_follows_the_weights(hosting: ModelHosting) -> None:
    endpoint, _ = created(hosting, plan("main", "shadow"))
    assert {hosting.port_for(endpoint)[0] for _ in range(50)} == {"main"}
    assert hosting.port_for(endpoint, target_variant="shadow")[0] == "shadow"
    with pytest.raises(NoSuchVariant):
        hosting.port_for(endpoint, target_variant="absent")


def test_a_container_that_does_not_answer_its_ping_in_time_fails(hosting: ModelHosting) -> None:
    endpoint, settled = created(hosting, plan(PING="503", timeout=0.5))
    reason = (
        "The primary container for production variant a did not pass the ping health check. "
        "Please check CloudWatch logs for this endpoint."
    )
    assert settled == [(EndpointStatus.FAILED, reason)]
    with pytest.raises(VariantUnavailable):
        hosting.port_for(endpoint)


def test_an_unknown_image_cannot_be_pulled(hosting: ModelHosting) -> None:
    _, settled = created(hosting, plan(image="mine"))
    ((status, reason),) = settled
    assert (status, reason.split(":")[0]) == (EndpointStatus.FAILED, "CannotPullContainerError")


def test_what_nobody_foresaw_fails_the_endpoint_too(settings: EmulatorSettings) -> None:
    children = ChildProcesses(children_file=settings.children_file)
    children.stop_all()
    stopped = ModelHosting(settings=settings, children=children, image_known=lambda _: True)
    ((status, reason),) = created(stopped, plan())[1]
    assert (status, reason.split(":")[0]) == (EndpointStatus.FAILED, "Request to service failed")


def test_an_update_that_fails_keeps_everything_as_it_was(hosting: ModelHosting) -> None:
    endpoint, settled = created(hosting, plan())
    before = hosting.port_for(endpoint)
    hosting.update(
        endpoint, plan("a", "b", config="d", PING="500", timeout=0.5), on_settled=lambda e: settled.append(e.status)
    )
    assert endpoint.status is EndpointStatus.UPDATING
    assert hosting.port_for(endpoint) == before
    assert endpoint.settled.wait(30)
    assert (endpoint.status, endpoint.config_name) == (EndpointStatus.IN_SERVICE, "c")
    assert "ping health check" in str(endpoint.failure_reason)
    assert ask(hosting.port_for(endpoint)[1]) == "a"


def test_an_update_that_succeeds_forgets_the_old_failure(hosting: ModelHosting) -> None:
    endpoint, settled = created(hosting, plan())
    hosting.update(endpoint, plan(image="mine"), on_settled=settled.append)
    assert endpoint.settled.wait(30)
    old = hosting.port_for(endpoint)[1]
    hosting.update(endpoint, plan("b", config="d"), on_settled=settled.append)
    assert endpoint.settled.wait(30)
    assert (endpoint.config_name, endpoint.failure_reason) == ("d", None)
    variant, port = hosting.port_for(endpoint)
    assert (variant, port != old) == ("b", True)


def test_an_endpoint_can_be_deleted_while_it_starts(hosting: ModelHosting, settings: EmulatorSettings) -> None:
    started = time.monotonic()
    endpoint = hosting.create(KEY, plan(PING="503", timeout=60), on_settled=lambda _: None)
    deadline = time.monotonic() + 10
    while not list(settings.models_dir.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    hosting.delete(KEY)
    assert endpoint.settled.wait(10)
    assert time.monotonic() - started < 10
    assert hosting.get(KEY) is None
    assert list(settings.models_dir.glob("*")) == []


def test_a_server_that_ends_is_started_again_once(hosting: ModelHosting) -> None:
    endpoint, _ = created(hosting, plan())
    old = endpoint.instances["a"]
    old.process.kill()
    old.process.wait()
    with pytest.raises(VariantUnavailable):
        hosting.port_for(endpoint)
    fresh = endpoint.instances["a"]
    assert fresh.process.pid != old.process.pid
    assert hosting.port_for(endpoint) == ("a", fresh.port)
