"""Real children: small Python programs under the real supervisor."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ssis_dispatcher.launchers.process.child import Child, Order

Start = Callable[..., Child]


@dataclass
class Death:
    """Lets a test wait for the end of any process, its own child or not."""

    pid: int
    descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        self.descriptor = os.pidfd_open(self.pid)

    def comes_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


@pytest.fixture
def death_of() -> Callable[[int], Death]:
    return Death


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """``start(program)``: a Python program as a server. What the test leaves running is killed."""
    children: list[Child] = []

    def start_program(program: str, *, env: tuple[tuple[str, str], ...] = (), **order: object) -> Child:
        argv = (sys.executable, "-I", "-S", "-c", program)
        fields: dict[str, object] = {"argv": argv, "env": env, "says_ready": True, **order}
        children.append(Child(Order(**fields), lambda _: None))  # type: ignore[arg-type]
        return children[-1]

    yield start_program
    for child in children:
        child.stop(0.0)
        await child.wait_ended()


@pytest.fixture
def xllamacpp_folder() -> str:
    """Where the embedded runtime is installed."""
    import importlib.util

    found = importlib.util.find_spec("xllamacpp")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent.parent)


async def ready(child: Child) -> str:
    await asyncio.wait([child.ready])
    said = child.ready.result()
    assert said is not None, child.lines()
    return said


@pytest.fixture
def wait_ready() -> Callable[[Child], object]:
    return ready
