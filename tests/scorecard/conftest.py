"""Houses for the scorecard. Every test here ends with a look at what is left: nothing may be."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.http.support import Script, until
from tests.loops import new_uvloop
from tests.scorecard.support import House, answer

from ssis_dispatcher.gateway.keys import KeyFile


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": new_uvloop}


OpenHouse = Callable[..., Awaitable[House]]

DEFECTS = ("task_failed", "launcher_broke", "describe_failed", "watch_broke", "stop_failed")
"""Events that the program logs when something went wrong within itself."""


@pytest.fixture
async def open_house(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[OpenHouse]:
    """``await open_house(script, keys=…, limits=…, **settings)``: a `House`.

    ``keys`` are the fields of API keys by name; with any, the program believes to listen beyond loopback. When the test
    ends, descriptors, tasks and threads are as before, no request is left anywhere, and nothing was logged as a defect.
    """
    caplog.set_level(logging.INFO)
    await _settle_loop()
    before = _open_now()
    houses: list[House] = []

    async def start(
        script: Script = answer,
        keys: dict[str, dict[str, Any]] | None = None,
        limits: dict[str, Any] | None = None,
        **changes: Any,
    ) -> House:
        secrets = {}
        if keys:
            changes.setdefault("host", "0.0.0.0")
            secrets = {name: KeyFile(tmp_path / "keys.jsonl").create(name, **fields) for name, fields in keys.items()}
        house = await House.open(tmp_path, script, limits or {}, **changes)
        house.secrets = secrets
        houses.append(house)
        await until(lambda: house.program.dispatcher.fleet.book.stock.known)
        return house

    yield start
    for house in houses:
        await house.close()
    await until(lambda: _open_now() == before)
    logged = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert not [event for level, event in logged if level >= logging.ERROR or event in DEFECTS]


async def _settle_loop() -> None:
    """Let the loop open what it keeps for itself (libuv: a spare descriptor, with the first listener)."""
    listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    listener.close()
    await listener.wait_closed()


def _open_now() -> tuple[int, ...]:
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), threading.active_count()


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    """A program with the usual settings and a healthy server."""
    return await open_house()
