"""Servers in memory, with start delays and failures on order.

For simulation, demonstrations and tests of everything above the launchers: no process is started and no clock but the
loop's is read, so a day passes at once under virtual time. It is held to the same contract as the launchers that do start
something (`tests/launchers/test_contract.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from ssis_dispatcher.core.messages import (
    AnyEvent,
    Failure,
    InventoryChanged,
    Launch,
    ServerFailed,
    ServerProgressed,
    ServerReady,
)
from ssis_dispatcher.core.slices import Pool
from ssis_dispatcher.launchers.base import LaunchFailed, Report
from ssis_dispatcher.launchers.last_lines import LastLines


class Outcome(msgspec.Struct, frozen=True):
    """What becomes of one launch.

    It passes through ``phases`` (seconds, name), then, ``seconds`` after the launch began at the earliest, is ready at
    ``address`` (None: the launcher's), or fails with ``failure``.
    """

    seconds: float = 0.0
    failure: Failure | None = None
    phases: tuple[tuple[float, str], ...] = ()
    address: str | None = None


Script = Mapping[str, Outcome] | Callable[[Launch], Outcome]
"""Model id → outcome (others start at once), or a function of the order."""


class _FakeServer:
    """One server: its lines, and whether it has become ready."""

    def __init__(self, order: Launch) -> None:
        self.order = order
        self.ready = False
        self.lines: list[str] = []


class FakeLauncher:
    """``pools`` is the inventory, ``address`` where every server is said to answer, ``stop_seconds`` how long a stop takes
    (never longer than its grace)."""

    name = "fake"

    def __init__(
        self,
        pools: Iterable[Pool],
        script: Script | None = None,
        *,
        address: str = "127.0.0.1:9",
        stop_seconds: float = 0.0,
    ) -> None:
        self._pools = tuple(pools)
        self._script: Script = {} if script is None else script
        self._address = address
        self._stop_seconds = stop_seconds
        self._servers: dict[str, _FakeServer] = {}
        self._failed = LastLines()
        self._report: Report | None = None
        self._untold: deque[AnyEvent] = deque()

    async def watch(self, report: Report) -> None:
        report(InventoryChanged("launcher", self._pools))
        self._report = report
        try:
            while self._untold:
                report(self._untold.popleft())
            await asyncio.get_running_loop().create_future()  # until cancelled
        finally:
            self._report = None

    async def launch(self, order: Launch, report: Report) -> ServerReady:
        loop = asyncio.get_running_loop()
        began = loop.time()
        server = self._servers[order.server] = _FakeServer(order)
        outcome = self._outcome(order)
        for seconds, phase in outcome.phases:
            server.lines.append(phase)
            report(ServerProgressed(order.cause, order.server, phase))
            await asyncio.sleep(seconds)
        await asyncio.sleep(max(0.0, began + outcome.seconds - loop.time()))
        if outcome.failure is not None:
            self._fail(server, outcome.failure)
            raise LaunchFailed(outcome.failure)
        server.ready = True
        server.lines.append("ready")
        return ServerReady(order.cause, order.server, outcome.address or self._address)

    async def stop(self, server: str, grace: float) -> None:
        if server in self._servers:
            await asyncio.sleep(min(self._stop_seconds, grace))
            self._servers.pop(server, None)

    async def logs(self, server: str) -> list[str]:
        running = self._servers.get(server)
        return list(running.lines) if running else self._failed.of(server)

    async def close(self) -> None:
        self._servers.clear()

    # On order

    def crash(self, server: str, failure: Failure) -> None:
        """Let a ready server die by itself. One that is not ready, or not there, is left as it is."""
        running = self._servers.get(server)
        if running is not None and running.ready:
            self._fail(running, failure)
            self._tell(ServerFailed("launcher", server, failure))

    def change_inventory(self, pools: Iterable[Pool]) -> None:
        """Slices came or went."""
        self._pools = tuple(pools)
        if self._report is not None:  # else `watch` begins with it
            self._report(InventoryChanged("launcher", self._pools))

    @property
    def running(self) -> tuple[Launch, ...]:
        """The orders of all servers that hold a slice: starting, ready or stopping."""
        return tuple(server.order for server in self._servers.values())

    def __repr__(self) -> str:
        ready = sum(server.ready for server in self._servers.values())
        return f"<FakeLauncher: {ready} ready, {len(self._servers) - ready} not, {len(self._failed)} failed>"

    def _outcome(self, order: Launch) -> Outcome:
        if callable(self._script):
            return self._script(order)
        return self._script.get(order.model.id, Outcome())

    def _fail(self, server: _FakeServer, failure: Failure) -> None:
        name = server.order.server
        self._servers.pop(name, None)
        self._failed.keep(name, [*server.lines, failure.message])

    def _tell(self, event: AnyEvent) -> None:
        """Report ``event``, now or when somebody watches again."""
        if self._report is None:
            self._untold.append(event)
        else:
            self._report(event)
