"""The one owner: feeds events to the fleet, carries out its commands, hands out seats. Its `Tasks` are kept and reported.

Whoever wants a seat is a `Guest`: it is told once, by a plain call, that it has one or why not, and says `Visit.leave` when
its reply has ended. On the warm path that call comes before `Dispatcher.enter` returns, so a warm request costs no task, no
future and no turn of the loop. `Dispatcher.seat` is the same as an ``async with``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    AnyEvent,
    CallerLimits,
    Describe,
    DrainBegan,
    Failure,
    FailureKind,
    Launch,
    Model,
    ModelDescribed,
    ModelForgotten,
    ModelPinned,
    ModelRejected,
    Refuse,
    Remember,
    RequestArrived,
    RequestGone,
    Seat,
    ServerAdopted,
    ServerFailed,
    ServerReady,
    ServerStopped,
    Stop,
    TimePassed,
    WakeAt,
)
from ssis_dispatcher.core.sizing import Profile
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.http import addresses
from ssis_dispatcher.http.addresses import Address
from ssis_dispatcher.launchers.base import Launcher, LaunchFailed
from ssis_dispatcher.telemetry.logs import ERROR, WARNING

Log = Callable[..., None]
"""``log(event, level, **fields)``: one structured line."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where a seated request goes: ``server`` by name, ``address`` as (host, port), ``host`` the Host header where the
    address alone does not tell (a gateway in front of many servers)."""

    server: str
    model: Model
    address: Address
    host: bytes | None = None


class Guest(Protocol):
    """Who asked for a seat. Exactly one of the two is called, once; ``visit`` is set before."""

    visit: Visit

    def seated(self, endpoint: Endpoint) -> None: ...

    def refused(self, problem: Problem) -> None: ...


class Recorder(Protocol):
    """Is told every event with its time before the fleet is, while it ``listens``."""

    listens: bool

    def __call__(self, now: float, event: AnyEvent) -> None: ...


class Visit(msgspec.Struct, frozen=True, eq=False):
    """One request's stay, from `Dispatcher.enter` to `leave`."""

    dispatcher: Dispatcher | None
    number: int
    cause: str

    def leave(self) -> None:
        """Give back the seat, or the place in the line. May be called at any time, and more than once."""
        if self.dispatcher is not None:
            self.dispatcher.left(self.number, self.cause)

    def __repr__(self) -> str:
        return f"<Visit {self.number}>"


NOT_YET = Visit(None, 0, "")
"""That of a guest who has not entered."""


class Tasks:
    """Tasks that are kept, named, and reported when they end by an error: the loop itself does none of that."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log("task_failed", ERROR, task=task.get_name(), error=repr(error))

    async def close(self) -> None:
        """Cancel what runs and wait until it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._running)


class Dispatcher:
    """``describe`` finds out what a model needs (and raises `DispatchError`), ``remember`` keeps what a launch taught,
    ``record``, where given, hears every event."""

    def __init__(
        self,
        fleet: Fleet,
        launcher: Launcher,
        *,
        describe: Callable[[Model], Awaitable[Profile]],
        remember: Callable[[Remember], None],
        log: Log,
        describe_within: float = 60.0,
        stop_grace: float = 10.0,
        record: Recorder | None = None,
    ) -> None:
        self.fleet = fleet
        self.launcher = launcher
        self.tasks = Tasks(log)
        self._duties = Tasks(log)  # those of whoever keeps the book
        self._describe = describe
        self._remember = remember
        self._log = log
        self._describe_within = describe_within
        self._stop_grace = stop_grace
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self.now = self._loop.time
        """The clock that the fleet is told."""
        self._guests: dict[int, Guest] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._launching: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
        self._events: deque[AnyEvent] = deque()
        self._handling = False
        self._alarm: asyncio.TimerHandle | None = None
        self._calm: asyncio.Future[None] | None = None
        self._carry_out: dict[type, Callable[[Any], None]] = {
            Seat: self._seat,
            Refuse: self._refuse,
            Describe: self._start_describing,
            Launch: self._launch,
            Stop: self._stop,
            WakeAt: self._wake_at,
            Remember: self._remember,
        }

    # For those who want a seat

    def enter(
        self,
        guest: Guest,
        model: Model,
        caller: str,
        size: int,
        cause: str,
        patience: float | None = None,
        limits: CallerLimits | None = None,
    ) -> None:
        """Ask for a seat at a server of ``model``. ``size`` in bytes, ``cause`` the request id, ``patience`` in seconds,
        ``limits`` the caller's own where they differ from the policy."""
        self._number = number = self._number + 1
        self._guests[number] = guest
        guest.visit = Visit(self, number, cause)
        self.post(RequestArrived(cause, number, model, caller, size, patience, limits))

    def left(self, number: int, cause: str) -> None:
        """For `Visit` only."""
        self._guests.pop(number, None)
        self.post(RequestGone(cause, number))
        if self._calm is not None and not self.fleet.book.seated and not self._calm.done():
            self._calm.set_result(None)

    @contextlib.asynccontextmanager
    async def seat(
        self, model: Model, caller: str, cause: str, size: int = 0, patience: float | None = None
    ) -> AsyncIterator[Endpoint]:
        """Wait for a seat and hold it. Raises `DispatchError` when it is refused."""
        guest = _Waiter(self._loop.create_future())
        self.enter(guest, model, caller, size, cause, patience)
        try:
            yield await guest.answer
        finally:
            guest.visit.leave()

    def forget(self, models: Mapping[str, bool | None], cause: str) -> None:
        """What was known of these models (by their ids) is no longer true: their next launch asks anew. Their value says
        whether they are pinned from now on; None leaves that as it is."""
        if models:
            for state in [state for state in self.fleet.book.models.values() if state.model.id in models]:
                self.post(ModelForgotten(cause, state.model.key))
                if (pinned := models[state.model.id]) is not None:
                    self.post(ModelPinned(cause, state.model, pinned))

    def outlook(self, number: int) -> views.RequestView | None:
        """Where the request of a visit stands."""
        return views.outlook(self.fleet.book, number, self._loop.time())

    def statistics(self) -> views.Statistics:
        return self.fleet.statistics(self._loop.time())

    # Events in, commands out

    def post(self, event: AnyEvent) -> None:
        """Tell the fleet, and do what it says. An event that arises while another is being carried out waits its turn."""
        if self._handling:
            self._events.append(event)
            return
        self._handling = True
        record = self._record
        try:
            while True:
                now = self.now()
                if record is not None and record.listens:
                    record(now, event)
                for command in self.fleet.handle(event, now):
                    self._carry_out[type(command)](command)
                if not self._events:
                    break
                event = self._events.popleft()
        finally:
            self._handling = False

    def report(self, event: AnyEvent) -> None:
        """What a launcher says. A server that is being stopped is only gone when `Launcher.stop` has returned."""
        if isinstance(event, ServerFailed):
            if event.server in self._stopping:
                return
            self._endpoints.pop(event.server, None)
            self._log(
                "server_failed", WARNING, server=event.server, kind=event.failure.kind, reason=event.failure.message
            )
        elif isinstance(event, ServerAdopted):
            self._log("adopted", server=event.server, model=event.model.id, slice=event.slice, node=event.node)
            if event.address is not None:
                self._endpoints[event.server] = _endpoint(event.server, event.model, event.address)
        elif isinstance(event, ServerReady):  # of one that was still starting when it was adopted
            known = self.fleet.book.servers.get(event.server)
            if known is None or event.server in self._stopping:
                return
            self._endpoints[event.server] = _endpoint(event.server, known.model.model, event.address)
        self.post(event)

    def _seat(self, command: Seat) -> None:
        guest = self._guests.pop(command.request, None)
        if guest is not None:
            guest.seated(self._endpoints[command.server])

    def _refuse(self, command: Refuse) -> None:
        guest = self._guests.pop(command.request, None)
        if guest is not None:
            guest.refused(command.problem)

    def _wake_at(self, command: WakeAt) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(command.when, self.post, TimePassed("timer"))

    def _start_describing(self, command: Describe) -> None:
        self._duties.start(self._describing(command), f"describe {command.model.key}")

    async def _describing(self, command: Describe) -> None:
        model = command.model
        try:
            async with asyncio.timeout(self._describe_within):
                profile = await self._describe(model)
        except DispatchError as error:
            self.post(ModelRejected(command.cause, model, error.problem))
        except TimeoutError:
            message = f"Nothing was learned of {model.id} within {self._describe_within:.0f} s."
            self.post(ModelRejected(command.cause, model, Problem(503, "model_unknown", message, 10.0)))
        except Exception as error:
            self._log("describe_failed", ERROR, model=model.id, error=repr(error))
            problem = Problem(
                500, "internal_error", f"What {model.id} needs could not be found out: an internal error."
            )
            self.post(ModelRejected(command.cause, model, problem))
        else:
            self.post(ModelDescribed(command.cause, model, profile))

    # Servers

    def _launch(self, command: Launch) -> None:
        self._log(
            "launch",
            server=command.server,
            model=command.model.id,
            slice=command.pool.slice.name,
            node=command.pool.node,
            count=command.count,
            seats=command.seats,
            context=command.context,
            request=command.cause,
        )
        self._launching[command.server] = self._duties.start(self._launch_server(command), f"launch {command.server}")

    async def _launch_server(self, order: Launch) -> None:
        failure: Failure | None = None
        begun = self._loop.time()
        try:
            ready = await self.launcher.launch(order, self.report)
        except LaunchFailed as error:
            failure = error.failure
        except Exception as error:
            self._log("launcher_broke", ERROR, server=order.server, error=repr(error))
            failure = Failure(FailureKind.CRASHED, f"the launcher broke: {type(error).__name__}")
        self._launching.pop(order.server, None)
        if order.server in self._stopping:
            return
        if failure is not None:
            self.report(ServerFailed(order.cause, order.server, failure))
            return
        self._endpoints[order.server] = _endpoint(order.server, order.model, ready.address)
        seconds = round(self._loop.time() - begun, 3)
        self._log("ready", server=order.server, model=order.model.id, address=ready.address, seconds=seconds)
        self.post(ServerReady(order.cause, order.server, ready.address, ready.seats))

    def _stop(self, command: Stop) -> None:
        self._log("stop", server=command.server, why=command.why)
        self._stopping.add(command.server)
        self._duties.start(self._stop_server(command), f"stop {command.server}")

    async def _stop_server(self, command: Stop) -> None:
        """The slice counts as taken until the platform says otherwise, so this does not give up."""
        launching = self._launching.pop(command.server, None)
        if launching is not None:
            launching.cancel()
            await asyncio.wait([launching])
        pause = 0.5
        while True:
            try:
                await self.launcher.stop(command.server, self._stop_grace)
                break
            except Exception as error:
                self._log("stop_failed", ERROR, server=command.server, error=repr(error), again_in=pause)
                await asyncio.sleep(pause)
                pause = min(30.0, pause * 2)
        self._stopping.discard(command.server)
        self._endpoints.pop(command.server, None)
        self.post(ServerStopped(command.cause, command.server))

    # Life

    def start(self) -> None:
        """Begin to watch the platform."""
        self._duties.start(self._watch(), "watch")

    async def _watch(self) -> None:
        pause = 0.5
        while True:
            begun = self._loop.time()
            try:
                await self.launcher.watch(self.report)
            except Exception as error:
                self._log("watch_broke", ERROR, launcher=self.launcher.name, error=repr(error), again_in=pause)
            pause = 0.5 if self._loop.time() - begun > 60 else min(30.0, pause * 2)
            await asyncio.sleep(pause)

    async def abdicate(self, problem: Problem) -> None:
        """Forget everything and decide nothing more: another dispatcher keeps the book from now on, over the same servers.
        Who waits is told ``problem``; who is seated finishes. `start` begins anew, with an empty book."""
        fleet, self.fleet = self.fleet, Fleet(self.fleet.book.policy)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        await self._duties.close()
        self._launching.clear()
        self._stopping.clear()
        self._endpoints.clear()
        for number in list(fleet.book.waiting):
            guest = self._guests.pop(number, None)
            if guest is not None:
                guest.refused(problem)

    async def drain(self, within: float) -> bool:
        """Take in nothing more, tell those who wait, and let the seated finish; False when some were still seated
        after ``within`` seconds."""
        self.post(DrainBegan("operator: drain"))
        self._calm = self._loop.create_future()
        if not self.fleet.book.seated:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._calm
        return not self.fleet.book.seated

    async def close(self) -> None:
        """Let go of everything. The launcher decides which servers outlive us."""
        if self._alarm is not None:
            self._alarm.cancel()
        await self.tasks.close()
        await self._duties.close()
        await self.launcher.close()


class _Waiter:
    """A guest that awaits its seat."""

    visit: Visit

    def __init__(self, answer: asyncio.Future[Endpoint]) -> None:
        self.answer = answer

    def seated(self, endpoint: Endpoint) -> None:
        if not self.answer.done():
            self.answer.set_result(endpoint)

    def refused(self, problem: Problem) -> None:
        if not self.answer.done():
            self.answer.set_exception(DispatchError.of(problem))


def _endpoint(server: str, model: Model, address: str) -> Endpoint:
    """``host:port``, or ``gateway:port/host-header`` for servers behind a gateway."""
    where, _, host_header = address.partition("/")
    return Endpoint(server, model, addresses.split(where), host_header.encode() or None)


__all__ = ["NOT_YET", "Dispatcher", "Endpoint", "Guest", "Tasks", "Visit"]
