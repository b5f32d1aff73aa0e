"""All of it together: the fake AWS, the proxy as shipped, and API Gateway's part in front."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.gateway import world
from tests.gateway.api_gateway import Tap, fronting
from tests.gateway.fake_aws import FakeAws, Seen, serving
from tests.gateway.openai_schema import check_exchange
from tests.gateway.proxy import RunningProxy, running_proxy
from tests.gateway.scripts import Script

__all__ = ["KEY", "NARROW_KEY", "SINGLE_KEY", "Gateway", "running_gateway"]

KEY = "mz_abcdefghij_key-of-the-tenant-default"
NARROW_KEY = "mz_abcdefghij_key-of-the-tenant-narrow"
SINGLE_KEY = "mz_abcdefghij_key-of-the-tenant-single"


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway that runs; `url` is what a client is given, without ``/v1``."""

    aws: FakeAws
    proxy: RunningProxy
    url: str
    tap: Tap
    key: str = KEY

    def script(self, name: str) -> Script:
        """Return what the endpoint of a deployment does; change it to have it do something else."""
        return self.aws.scripts[world.endpoint_of(name)]

    @property
    def seen(self) -> list[Seen]:
        """What endpoints were asked."""
        return self.aws.seen

    def reset(self) -> None:
        """Forget what earlier tests did."""
        world.reset(self.aws)
        self.tap.connections.clear()

    def check(self) -> int:
        """Hold every complete answer that went through against OpenAI's schema, and return how many there were.

        Raises
        ------
        AssertionError
            For one that is not what OpenAI's clients were made for.
        """
        return sum(check_exchange(exchange) for exchange in self.tap.exchanges())


@contextlib.contextmanager
def running_gateway(**settings: Any) -> Iterator[Gateway]:
    """Start everything, with the gateway's `settings` in place of the usual ones, and end it afterwards."""
    aws, tap = FakeAws(), Tap()
    world.fill(aws, settings={**world.SETTINGS, **settings})
    keys = {KEY: "default", NARROW_KEY: "narrow", SINGLE_KEY: "single"}
    with serving(aws) as aws_url, running_proxy(aws_url) as proxy, fronting(proxy.url, keys=keys, tap=tap) as url:
        yield Gateway(aws=aws, proxy=proxy, url=url, tap=tap)
