"""One gateway for all clients: starting the proxy takes longer than most tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.stack import Gateway, running_gateway


@pytest.fixture(scope="session")
def running() -> Iterator[Gateway]:
    with running_gateway() as gateway:
        yield gateway


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    """The gateway, as new; what went through it is held against OpenAI's schema when the test is over."""
    running.reset()
    yield running
    running.check()
