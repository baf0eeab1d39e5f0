"""Servers as child processes of this machine: the launcher.

What it is made of: `child` runs one supervised server, `plans` say what to run, `bounds` keep it to its memory, `devices`
hold the GPUs, `failures` put an end into words. Called by the dispatcher through `launchers.base.Launcher`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

import msgspec

from ssis_dispatcher.core.messages import (
    AnyEvent,
    Failure,
    FailureKind,
    InventoryChanged,
    Launch,
    ServerFailed,
    ServerProgressed,
    ServerReady,
)
from ssis_dispatcher.core.slices import Pool, SliceKind
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.launchers.base import LaunchFailed, Report
from ssis_dispatcher.launchers.last_lines import LastLines
from ssis_dispatcher.launchers.process import bounds, failures, health
from ssis_dispatcher.launchers.process.child import Child, Order
from ssis_dispatcher.launchers.process.devices import Nvml, Shelf
from ssis_dispatcher.launchers.process.inventory import cpu_pools
from ssis_dispatcher.launchers.process.options import ModelSource, Phase, ProcessOptions, ResolveModel
from ssis_dispatcher.launchers.process.plans import Plan, plan

CLOSE_GRACE = 2.0
"""Seconds that servers have to end when the dispatcher does. By then nobody waits for them."""

LOOK_EVERY = 60.0
"""Seconds between two looks at the GPUs: somebody may cut them anew, and one may fall off the bus."""

_POLL_FIRST, _POLL_MOST = 0.05, 1.0
"""Seconds between two questions to a server that cannot say by itself that it is ready; they grow."""


class _Running(msgspec.Struct, frozen=True):
    """The processes of a server, as long as there are any."""

    plan: Plan
    child: Child
    bounds: bounds.Bounds
    kernel_kills: int
    """How many processes the kernel had killed for memory before this one began."""


class _Server:
    """One server, from its launch until no process of it is left."""

    def __init__(self, order: Launch) -> None:
        self.order = order
        self.running: _Running | None = None
        self.ready = False
        self.stopping = False


class ProcessLauncher:
    """One machine. ``engines`` by name; ``resolve_model`` tells where a model comes from, and fetches it."""

    name = "process"

    def __init__(
        self,
        options: ProcessOptions,
        engines: Mapping[str, Engine],
        resolve_model: ResolveModel,
        *,
        nvml: Nvml | None = None,
        bounder: bounds.Bounder | None = None,
    ) -> None:
        self._options = options
        self._engines = engines
        self._resolve_model = resolve_model
        self._nvml = nvml or Nvml.find()
        self._bounder = bounder or bounds.detect()
        self._shelf = Shelf()
        self._shares: tuple[Pool, ...] | None = None
        self._servers: dict[str, _Server] = {}
        self._failed = LastLines()
        self._report: Report | None = None
        self._untold: deque[AnyEvent] = deque()

    async def watch(self, report: Report) -> None:
        pools = await self._look()
        report(InventoryChanged("launcher", pools))
        self._report = report
        try:
            while self._untold:
                report(self._untold.popleft())
            while True:
                await asyncio.sleep(LOOK_EVERY)
                if self._nvml is not None and (now := await self._look()) != pools:
                    pools = now
                    report(InventoryChanged("launcher", pools))
        finally:
            self._report = None

    async def _look(self) -> tuple[Pool, ...]:
        """The inventory: as the operator says, else this machine's devices, and shares of its memory and cores for engines
        that need no GPU. The shares stay as they were at first: what is free now is less by what our own servers use."""
        if self._nvml is not None:
            self._shelf.put(await asyncio.to_thread(self._nvml.devices))
        if self._options.pools is not None:
            return self._options.pools
        if self._shares is None:
            self._shares = cpu_pools(self._options)
        return (*self._shelf.pools(self._options.node), *self._shares)

    async def launch(self, order: Launch, report: Report) -> ServerReady:
        server = self._servers[order.server] = _Server(order)

        def phase(name: str, detail: str = "") -> None:
            report(ServerProgressed(order.cause, order.server, name, detail))

        try:
            source = await self._resolve(order, phase)
            phase("starting")
            running = server.running = self._start(server, source)
            phase("loading")
            address = await self._wait_ready(server, running)
        except Exception as error:
            if isinstance(error, LaunchFailed):
                self._failed.keep(order.server, [*self._lines(order.server), error.failure.message])
            await self.stop(order.server, 0.0)
            raise
        server.ready = True
        return ServerReady(order.cause, order.server, address)

    async def stop(self, server: str, grace: float) -> None:
        known = self._servers.get(server)
        if known is None:
            return
        known.stopping = True
        if known.running is not None:
            known.running.child.stop(grace)
            await known.running.child.wait_ended()
        self._forget(known)

    async def logs(self, server: str) -> list[str]:
        return self._lines(server)

    def _lines(self, server: str) -> list[str]:
        known = self._servers.get(server)
        if known is None:
            return self._failed.of(server)
        return known.running.child.lines() if known.running is not None else []

    def pid(self, server: str) -> int | None:
        """The first process of a server; None while there is none."""
        known = self._servers.get(server)
        return known.running.child.pid if known is not None and known.running is not None else None

    async def close(self) -> None:
        for server in self._servers.values():
            server.stopping = True
            if server.running is not None:
                server.running.child.stop(CLOSE_GRACE)
        for name in list(self._servers):
            await self.stop(name, CLOSE_GRACE)
        self._bounder.close()

    def __repr__(self) -> str:
        ready = sum(server.ready for server in self._servers.values())
        return f"<ProcessLauncher: {ready} ready, {len(self._servers) - ready} not, {len(self._failed)} failed>"

    # A start, step by step

    async def _resolve(self, order: Launch, phase: Phase) -> ModelSource:
        """Raises `LaunchFailed`."""
        try:
            return await self._resolve_model(order.model, phase)
        except DispatchError as error:
            raise LaunchFailed.of(error) from error

    def _start(self, server: _Server, source: ModelSource) -> _Running:
        """Raises `LaunchFailed`."""
        order = server.order
        made = plan(order, self._engines, source, self._options, self._take_devices(order))
        limits = bounds.Bounds()
        if made.is_local:
            limits = self._bounder.make(order.server, order.pool.slice.memory_mib, made.all_threads, made.embedded)
        group = str(limits.cgroup / "cgroup.procs") if limits.cgroup else ""
        command = Order(made.argv, made.env, made.embedded, limits.memory, limits.data, group)
        kernel_kills = bounds.kernel_kills()
        try:
            child = Child(command, lambda _: self._ended(server))
        except (OSError, ValueError) as error:
            self._bounder.remove(limits)
            if isinstance(error, ValueError):
                failure = Failure(FailureKind.MISCONFIGURED, f"{made.engine} cannot be started: {error}")
            else:
                failure = Failure(FailureKind.CRASHED, f"this machine cannot start another process: {error}")
            raise LaunchFailed(failure) from error
        return _Running(made, child, limits, kernel_kills)

    def _take_devices(self, order: Launch) -> tuple[str, ...]:
        slice = order.pool.slice
        if slice.kind is SliceKind.CPU:
            return ()
        devices = self._shelf.take(order.server, slice, order.count)
        if devices is None and self._options.pools is None:
            message = f"{order.count} × {slice.name} was free a moment ago and is not there any more"
            raise LaunchFailed(Failure(FailureKind.LOST, message))
        return devices or ()

    async def _wait_ready(self, server: _Server, running: _Running) -> str:
        """Its address, when it can answer. Raises `LaunchFailed` when it ends before."""
        child, made = running.child, running.plan
        if made.embedded:
            await asyncio.wait([child.ready])
            address = child.ready.result()
            if address is None or child.ended.done():
                raise LaunchFailed(self._failure(server, running))
            return address
        pause = _POLL_FIRST
        while not await health.answers(made.host, made.port, made.health):
            await asyncio.wait([child.ended], timeout=pause)
            if child.ended.done():
                raise LaunchFailed(self._failure(server, running))
            pause = min(_POLL_MOST, pause * 1.5)
        if not await child.is_within_bounds():
            raise LaunchFailed(self._failure(server, running))
        return made.address

    # An end

    def _ended(self, server: _Server) -> None:
        """No process of it is left. While it starts, `launch` tells why; while it stops, nobody asks."""
        if server.stopping:
            self._forget(server)
        elif server.ready and server.running is not None:
            name, failure = server.order.server, self._failure(server, server.running)
            self._failed.keep(name, [*server.running.child.lines(), failure.message])
            self._forget(server)
            self._tell(ServerFailed("launcher", name, failure))

    def _failure(self, server: _Server, running: _Running) -> Failure:
        """Why it ended, which it has."""
        return failures.explain(
            failures.Death(
                engine=running.plan.engine,
                model=running.plan.model,
                end=running.child.ended.result(),
                lines=running.child.lines(),
                ready=server.ready,
                embedded=running.plan.embedded,
                share_mib=server.order.pool.slice.memory_mib,
                kernel_killed=self._bounder.exceeded(running.bounds) or bounds.kernel_kills() > running.kernel_kills,
            )
        )

    def _forget(self, server: _Server) -> None:
        """Give back all that it had. More than once does no harm."""
        if server.running is not None:
            self._bounder.remove(server.running.bounds)
        if self._servers.get(server.order.server) is server:
            del self._servers[server.order.server]
            self._shelf.give_back(server.order.server)

    def _tell(self, event: AnyEvent) -> None:
        """Report ``event``, now or when somebody watches again."""
        if self._report is None:
            self._untold.append(event)
        else:
            self._report(event)
