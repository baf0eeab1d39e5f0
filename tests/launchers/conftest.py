"""For all launchers: orders, a recorder of what they report, and a look at processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from ssis_dispatcher.core.messages import AnyEvent, Event, Launch, Model
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Pool, SliceKind, cpu_slice
from ssis_dispatcher.launchers.base import Launcher

E = TypeVar("E", bound=Event)

DEMO = Path(str(files("ssis_dispatcher") / "data" / "demo.gguf"))


class Reports:
    """A `Report` that keeps what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self._more = asyncio.Event()

    def __call__(self, event: AnyEvent) -> None:
        self.events.append(event)
        self._more.set()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[E], number: int = 1) -> E:
        """The event of this kind that came as ``number``-th."""
        while len(self.of(kind)) < number:
            self._more.clear()
            await self._more.wait()
        return self.of(kind)[number - 1]


@pytest.fixture
def demo() -> str:
    """The packaged model."""
    return str(DEMO)


@pytest.fixture
def reports() -> Reports:
    return Reports()


MakeOrder = Callable[..., Launch]


@pytest.fixture
def make_order() -> MakeOrder:
    """Orders for the packaged model on a small slice, each for another server; keywords change them."""
    numbers = count(1)

    def make(**changes: object) -> Launch:
        number = next(numbers)
        model = Model.of(str(changes.pop("model_id", "demo")), engine="llamacpp")
        profile = Profile(ModelFacts(), context=256, kinds=(SliceKind.CPU,), overhead_mib=64)
        pool = Pool("local", cpu_slice(512, 0.5), 4)
        order = Launch("request-1", f"server-{number}", model, profile, pool, 1, 2, 256, 120.0)
        return msgspec.structs.replace(order, **changes)

    return make


Watching = Callable[[Launcher], AbstractAsyncContextManager[None]]


@pytest.fixture
def watching(reports: Reports) -> Watching:
    """``async with watching(launcher)``: what happens by itself is reported meanwhile."""

    @asynccontextmanager
    async def watch(launcher: Launcher) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(launcher.watch(reports))
            try:
                yield
            finally:
                task.cancel()

    return watch
