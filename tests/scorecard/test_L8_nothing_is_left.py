"""L8. After mixed traffic with every fault, the process holds what it held before: descriptors, tasks, threads, objects. (The
hour and the slope of its memory are the load form's.)"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import threading
from collections import Counter

import pytest
from tests.http.support import OriginCall, Wire, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import House, chat, chat_body, generate, proper_reply, request, seed

from ssis_dispatcher.core.messages import Failure, FailureKind

WORDS = ("answer", "cut", "reset", "garble", "refuse", "close", "hang")
ROUNDS = 4
SLACK = 2
"""Objects of a type that may be more than before (a timer that is just set): fewer than one for each round."""


async def faulty(call: OriginCall) -> None:
    """Does what a word of the prompt says."""
    reply = proper_reply(call)
    if b"<cut>" in call.body:
        await call.say(reply[:-20])
        call.close()
    elif b"<reset>" in call.body:
        await call.say(reply[:90])
        call.reset()
    elif b"<garble>" in call.body:
        await call.say(b"hello there\r\n\r\n")
        call.close()
    elif b"<refuse>" in call.body:
        await call.say(b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    elif b"<close>" in call.body:
        call.reset()
    elif b"<hang>" in call.body:
        await call.say(reply[:-20])
        await call.reader.read()
        call.close()
    else:
        await call.say(reply)


async def one_round(house: House) -> None:
    """Everything that callers, servers and platform may do."""
    asked = [
        (word, make("demo", stream=stream, text=f"<{word}>"))
        for word in WORDS
        for make in (chat, seed, generate)
        for stream in (False, True)
    ]
    await asyncio.gather(*(_one(house, number, word, sent) for number, (word, sent) in enumerate(asked)))
    for odd in (
        *(request("/v1/chat/completions", body) for body in (b"{", b"[]", chat_body("no-such"))),
        *(
            b"nonsense\r\n\r\n",
            request("/no-such"),
            request("/metrics", method="GET"),
            request("/v1/models", method="GET"),
        ),
        *(chat("demo", b"X-A: " + b"a" * 40_000), chat("demo", b"Content-Encoding: gzip")),
    ):
        await house.ask(odd)
    await _cold(house)
    await house.origin.stop()
    await house.ask(chat())
    await house.origin.start()
    await until(lambda: not house.seated and not house.waiting)
    await until(lambda: house.connections == (0, 0))


async def _one(house: House, number: int, word: str, sent: bytes) -> None:
    wire = await Wire.to(house.port)
    await wire.send(sent)
    if word == "hang":
        await until(lambda: house.seated)
        if number % 2:
            wire.reset()
    else:
        await wire.reply()
    await wire.close()


async def _cold(house: House) -> None:
    """A server crashes; some wait for the next one, some of them leave; then it comes."""
    for order in house.platform.running:
        house.platform.crash(order.server, Failure(FailureKind.LOST, "gone"))
    house.platform.open.clear()
    wires = [await Wire.to(house.port) for _ in range(6)]
    for wire in wires:
        await wire.send(chat())
    await until(lambda: house.waiting == len(wires))
    for wire in wires[::2]:
        wire.reset()
    await until(lambda: house.waiting == len(wires) // 2)
    house.platform.open.set()
    for wire in wires[1::2]:
        assert (await wire.reply()).status == 200
    for wire in wires:
        await wire.close()


async def test_mixed_traffic_with_faults_leaves_nothing(
    open_house: OpenHouse, caplog: pytest.LogCaptureFixture
) -> None:
    house = await open_house(faulty)
    caplog.set_level(logging.CRITICAL)  # what is logged is kept for the test, and would be counted
    await one_round(house)
    await one_round(house)
    held, objects = await counted(house)

    for _ in range(ROUNDS):
        await one_round(house)
    held_after, objects_after = await counted(house)

    assert held_after == held
    assert not {name: (objects[name], count) for name, count in objects_after.items() if count > objects[name] + SLACK}


async def counted(house: House) -> tuple[tuple[int, int, int], Counter[str]]:
    """Descriptors, tasks and threads of this process, and the objects of the program and its loop by type, when what the
    test itself keeps is let go of."""
    house.origin.calls.clear()
    house.platform.orders.clear()
    house.open_wires.clear()
    for _ in house.program.dispatcher.fleet.book.timers.due(math.inf):
        pass  # a deadline keeps what it is about until its time comes, which here is now
    await asyncio.sleep(0)
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    objects = Counter(
        name for name in names if name.startswith(("ssis_dispatcher.", "asyncio.", "uvloop.", "httptools."))
    )
    return (len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), threading.active_count()), objects
