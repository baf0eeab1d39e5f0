"""Every test here runs on asyncio's own loop and on uvloop, and leaves nothing open: the fixtures look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.http.support import Origin, Script, Shop, Wire, until
from tests.loops import new_uvloop

from ssis_dispatcher.http.client import Pool, UpstreamLimits
from ssis_dispatcher.http.server import Limits, Server


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": new_uvloop}


Listen = Callable[..., Awaitable["Counter"]]


class Counter:
    """A server with its shop; ``wire`` connects to it."""

    def __init__(self, server: Server, shop: Shop, port: int) -> None:
        self.server = server
        self.shop = shop
        self.port = port
        self._wires: list[Wire] = []

    async def wire(self) -> Wire:
        wire = await Wire.to(self.port)
        self._wires.append(wire)
        return wire

    @property
    def connections(self) -> int:
        return self.server.statistics()["connections"]

    async def close(self) -> None:
        for wire in self._wires:
            await wire.close()
        try:
            await until(lambda: not self.connections)
            assert self.server.inflight == 0
        finally:
            await self.server.close()
        assert all(self.shop.ended.count(exchange) == 1 for exchange in self.shop.admitted)


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """``await listen(limits, trusted=…)``: a `Counter`. When the test ends all connections must be gone, no body may be
    accounted for, and every exchange that was admitted must have been finished once."""
    counters: list[Counter] = []

    async def start(limits: Limits | None = None, **options: Any) -> Counter:
        shop = Shop()
        tls = options.pop("ssl", None)
        server = Server(shop, limits, on_error=shop.errors.append, **options)
        counter = Counter(server, shop, await server.listen("127.0.0.1", 0, tls))
        counters.append(counter)
        return counter

    yield start
    for counter in counters:
        await counter.close()


@pytest.fixture
async def counter(listen: Listen) -> Counter:
    """A server with the usual limits."""
    return await listen()


@pytest.fixture
async def wire(counter: Counter) -> Wire:
    """A connection to it."""
    return await counter.wire()


Open = Callable[..., Awaitable[Origin]]


@pytest.fixture
async def origin_of() -> AsyncIterator[Open]:
    """``await origin_of(script)``: an `Origin`."""
    origins: list[Origin] = []

    async def start(script: Script | None = None) -> Origin:
        origin = Origin(script)
        await origin.start()
        origins.append(origin)
        return origin

    yield start
    for origin in origins:
        await origin.stop()


@pytest.fixture
async def pool_of() -> AsyncIterator[Callable[[UpstreamLimits | None], Pool]]:
    """``pool_of(limits)``: a `Pool`, closed at the end."""
    pools: list[Pool] = []

    def make(limits: UpstreamLimits | None = None) -> Pool:
        pools.append(Pool(limits))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()
        assert pool.statistics()["connections"] == 0
