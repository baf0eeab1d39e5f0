"""A dispatcher with a real fleet on the fake launcher, and the operations application in front of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    Failure,
    FailureKind,
    Model,
    Remember,
)
from ssis_dispatcher.core.placement import Plan
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Pool, SliceKind, cpu_slice
from ssis_dispatcher.dispatcher import Dispatcher
from ssis_dispatcher.errors import ModelNotServable, Problem
from ssis_dispatcher.gateway.broadcast import Broadcast
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.gateway.limits import Key, KeyRecord, Role
from ssis_dispatcher.gateway.operations import KEY, Operations, operations
from ssis_dispatcher.launchers.fake import FakeLauncher, Outcome

MIB = 2**20
POOLS = (Pool("node-1", cpu_slice(1024), 1), Pool("node-1", cpu_slice(4096), 1))


class House:
    """The parts, and what a test wants to do with them. ``outcome`` is what becomes of the launches to come."""

    def __init__(self) -> None:
        self.outcome = Outcome(phases=((0.0, "loading"),))
        self.platform = FakeLauncher(POOLS, lambda order: self.outcome)
        self.broadcast = Broadcast()
        self.numbers: dict[str, int] = {}
        self.names = ["demo", "org/large"]
        self.wishes: list[Wish] = []
        self.known_public: set[str] = set()
        self.unready: Problem | None = None
        self.weights = {"org/large": 64 * 1024 * MIB}
        self.dispatcher = Dispatcher(
            Fleet(Policy(launches_per_minute=1_000, slices_per_caller=1_000)),
            self.platform,
            describe=self._describe,
            remember=self._remember,
            log=lambda event, *level, **fields: None,
            record=self.broadcast,
        )
        self.desk = Operations(
            dispatcher=self.dispatcher,
            listing=lambda: self.names,
            identify=self.identify,
            plan=self._plan,
            exposition=lambda: b"ssis_build_info 1\n",
            lookup=lambda id, key: self.numbers.get(id),
            broadcast=self.broadcast,
            unready=lambda: self.unready,
            acquaint=self._acquaint,
        )
        self.application = operations(self.desk)

    def identify(self, wish: Wish) -> Model:
        self.wishes.append(wish)
        if wish.id.startswith("nobody/"):
            raise ModelNotServable(f"{wish.id} does not exist.", param="model")
        scope = "private" if wish.token and wish.id not in self.known_public else "public"
        return Model.of(wish.id, revision=wish.revision or "main", engine=wish.engine or "llamacpp", scope=scope)

    async def _acquaint(self, wish: Wish) -> None:
        """The hub serves `open/…` to everybody, and says so when it is asked."""
        if wish.id.startswith("open/"):
            self.known_public.add(wish.id)

    async def _describe(self, model: Model) -> Profile:
        facts = ModelFacts("catalogue", self.weights.get(model.id, 100 * MIB), 1024, 2048)
        return Profile(facts, 1024, kinds=(SliceKind.CPU,), overhead_mib=64, overhead_share=0.0, start_seconds=2.0)

    def _remember(self, command: Remember) -> None:
        return None

    async def _plan(self, wish: Wish, concurrency: int | None) -> Plan:
        model = self.identify(wish)
        profile = await self._describe(model)
        return views.plan(self.dispatcher.fleet.book, model, profile, self.dispatcher.now())

    def client(
        self, role: Role | None = "admin", models: tuple[str, ...] = ("*",), name: str = "tester"
    ) -> httpx2.AsyncClient:
        """A client behind a door that knows its key (``role`` None: that has let it in without one)."""
        door = Door(self, None if role is None else Key(_record(role, models, name)))
        transport = httpx2.ASGITransport(door, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="http://dispatcher")

    def follow(self, path: str, method: str = "GET", headers: tuple[tuple[bytes, bytes], ...] = ()) -> Wire:
        """A request whose body never comes, and whose reply is read while it comes."""
        return Wire(Door(self, Key(_record("admin", ("*",)))), method, path, headers)

    async def until(self, fact: Callable[[], bool]) -> None:
        """Let the loop run, without any time passing, until ``fact``: a few turns are enough, or it never comes."""
        for _ in range(100):
            if fact():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"it did not come about: {self.dispatcher.fleet!r}")

    def load_slowly(self) -> None:
        """Let launches take five seconds, of virtual time, from now on."""
        self.outcome = Outcome(5.0, phases=((0.0, "loading"),))

    def load_in_vain(self, message: str) -> None:
        """Let launches fail after five seconds from now on."""
        self.outcome = Outcome(5.0, Failure(FailureKind.MISCONFIGURED, message), phases=((0.0, "loading"),))

    def loading(self) -> bool:
        """Whether a server has said that it loads."""
        return any(server.phase == "loading" for server in self.dispatcher.fleet.book.servers.values())

    async def ready(self, model: str = "demo") -> str:
        """Have a server for ``model``, idle; its id."""
        async with self.dispatcher.seat(self.identify(Wish(model)), "somebody", "r-0") as endpoint:
            return endpoint.server

    @contextlib.asynccontextmanager
    async def held(self, model: str = "demo", id: str = "r-1", revision: str = "") -> AsyncIterator[None]:
        """Have one inference request that the server of ``model`` serves, or that waits for it."""

        async def sit() -> None:
            async with self.dispatcher.seat(self.identify(Wish(model, revision)), "somebody", id):
                await asyncio.Event().wait()

        task = self.dispatcher.tasks.start(sit(), f"request {id}")
        book = self.dispatcher.fleet.book
        known = {*book.waiting, *book.seated}
        await self.until(lambda: {*book.waiting, *book.seated} > known)
        (self.numbers[id],) = {*book.waiting, *book.seated} - known
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


class Door:
    """In front of the application: leaves the caller's key in the scope, as the gateway does."""

    def __init__(self, house: House, key: Key | None) -> None:
        self._house = house
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._key is not None:
            scope[KEY] = self._key
        await self._house.application(scope, receive, send)


class Wire:
    """One request and its reply, message by message: in-process clients only show a reply that has ended."""

    def __init__(self, application: Door, method: str, path: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        path, _, query = path.partition("?")
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"host", b"dispatcher"), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.over: asyncio.Task[None] = asyncio.get_running_loop().create_task(
            application(scope, self._receive, self._send)
        )

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._sent.put(message)

    async def message(self) -> dict[str, Any]:
        return await self._sent.get()

    async def text(self) -> str:
        """The next piece of the body."""
        message = await self.message()
        assert message["type"] == "http.response.body"
        return str(message["body"].decode())

    async def leave(self) -> None:
        """The client goes; returns when the application has noticed."""
        self._gone.set()
        await self.over


def _record(role: Role, models: tuple[str, ...], name: str = "tester") -> KeyRecord:
    return KeyRecord(name=name, hash="sha256:" + "0" * 64, role=role, models=models)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A house whose platform has told its inventory."""
    house = House()
    house.dispatcher.start()
    await house.until(lambda: house.dispatcher.fleet.book.stock.known)
    yield house
    await house.dispatcher.close()
