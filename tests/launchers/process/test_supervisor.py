"""The parts of the supervisor that can be asked by themselves, and what it does when the dispatcher is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ssis_dispatcher.launchers.process import child, supervisor

HOLD = """
import os, signal
held = b"x" * (48 << 20)
if os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())
signal.pause()
"""
"""Two processes that share 48 MiB."""


@pytest.fixture
def pair() -> Iterator[list[int]]:
    process = subprocess.Popen((sys.executable, "-I", "-S", "-c", HOLD), stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        second = int(process.stdout.readline())
        yield [process.pid, second]
        os.kill(second, signal.SIGKILL)
        process.kill()


def test_an_order_arrives_as_it_was_given() -> None:
    sent = child.Order(("a", "", "b c"), (("X", "1=2\n"), ("Y", "")), True, 5, 6, "/group")
    _, _, body = sent.encode().partition(b"\n")
    got = supervisor.Order(os.fsdecode(body))
    assert (got.argv, got.env) == (["a", "", "b c"], {"X": "1=2\n", "Y": ""})
    assert (got.says_ready, got.memory, got.data, got.cgroup) == (True, 5, 6, "/group")


def test_descendants_are_found_at_any_depth(pair: list[int]) -> None:
    assert set(pair) <= set(supervisor.descendants())


def test_pages_that_two_processes_share_count_once_when_it_matters(pair: list[int]) -> None:
    mib = 1 << 20
    generous = supervisor.memory_of(pair, limit=1 << 40)
    careful = supervisor.memory_of(pair, limit=64 * mib)
    assert generous > 96 * mib
    assert 48 * mib <= careful < 72 * mib


def test_a_process_that_has_ended_uses_nothing() -> None:
    process = subprocess.Popen(("/bin/true",))
    process.wait()
    assert supervisor.memory_of([process.pid], limit=0) == 0


DISPATCHER = """
import asyncio, sys
from ssis_dispatcher.launchers.process.child import Child, Order

async def main():
    argv = (sys.executable, "-I", "-S", "-c", sys.argv[1])
    child = Child(Order(argv, (), True), lambda _: None)
    await asyncio.wait([child.ready])
    print(child.pid, child.ready.result(), flush=True)
    await child.wait_ended()

asyncio.run(main())
"""

FAMILY = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, b"%d" % os.getpid())
    signal.pause()
os.write(3, os.read(read, 100) + b"\\n")
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_nothing_outlives_a_killed_dispatcher_by_more_than_five_seconds(how: signal.Signals, death_of: Any) -> None:
    dispatcher = subprocess.Popen((sys.executable, "-c", DISPATCHER, FAMILY), stdout=subprocess.PIPE)
    with dispatcher:
        assert dispatcher.stdout is not None
        deaths = [death_of(int(pid)) for pid in dispatcher.stdout.readline().split()]
        assert len(deaths) == 2
        assert not any(death.comes_within(0.0) for death in deaths)
        dispatcher.send_signal(how)
        assert all(death.comes_within(5.0) for death in deaths)
