"""One server under its supervisor: hearing it, stopping it, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ssis_dispatcher.launchers.process.child import LONGEST_LINE, TAIL_BYTES, Child, End, Order

SAY_READY = "import os, signal; os.write(3, b'here\\n');"
WAIT = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"

FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, b"%d" % os.getpid())
    signal.pause()
grandchild = os.read(read, 100)
os.write(3, b"%d %s\\n" % (os.getpid(), grandchild))
signal.pause()
"""
"""A server with a grandchild in a session of its own; none of them minds SIGTERM."""


def of_process(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def parent_of(pid: int) -> int:
    return int(of_process(pid, "stat").rpartition(b")")[2].split()[1])


async def test_a_server_says_itself_that_it_is_ready(start: Any, wait_ready: Any) -> None:
    child = start("import os; os.write(3, b'127.0.0.1:'); os.write(3, b'1234\\nmore'); " + WAIT)
    assert await wait_ready(child) == "127.0.0.1:1234"


async def test_its_exit_code_is_told(start: Any) -> None:
    child = start("raise SystemExit(7)")
    assert await child.wait_ended() == End(code=7, used=child.ended.result().used)
    assert child.ready.result() is None


async def test_the_signal_that_ended_it_is_told(start: Any, wait_ready: Any) -> None:
    child = start(SAY_READY + WAIT)
    await wait_ready(child)
    os.kill(child.pid, signal.SIGSEGV)
    end = await child.wait_ended()
    assert (end.code, end.signal) == (None, signal.SIGSEGV)


async def test_a_program_that_is_not_there_is_refused_with_the_reason(start: Any) -> None:
    end = await start("", argv=("/no/such/program",)).wait_ended()
    assert end.refused == "No such file or directory"


async def test_programs_are_found_on_the_path_of_the_server(start: Any, wait_ready: Any, tmp_path: Path) -> None:
    program = tmp_path / "engine"
    program.write_text("#!/bin/sh\necho here >&3\nexec sleep 60\n")
    program.chmod(0o755)
    child = start("", argv=("engine",), env=(("PATH", f"{tmp_path}:/usr/bin:/bin"),))
    assert await wait_ready(child) == "here"


async def test_its_environment_is_what_was_ordered_and_nothing_else(
    start: Any, wait_ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "of the dispatcher")
    child = start(SAY_READY + WAIT, env=(("ONE", "1\nwith a line feed"), ("EMPTY", ""), ("UMLAUT", "ä=ö")))
    await wait_ready(child)
    environ = of_process(child.pid, "environ").rstrip(b"\0").split(b"\0")
    assert sorted(environ) == sorted([b"ONE=1\nwith a line feed", b"EMPTY=", "UMLAUT=ä=ö".encode()])


async def test_no_secret_is_on_a_command_line(start: Any, wait_ready: Any) -> None:
    child = start(SAY_READY + WAIT, env=(("HF_TOKEN", "hf_verysecrettoken"),))
    await wait_ready(child)
    for pid in (child.pid, parent_of(child.pid)):
        assert b"hf_verysecrettoken" not in of_process(pid, "cmdline")


async def test_it_gets_no_descriptor_of_the_dispatchers(start: Any, wait_ready: Any) -> None:
    child = start(SAY_READY + WAIT)
    await wait_ready(child)
    assert sorted(os.listdir(f"/proc/{child.pid}/fd")) == ["0", "1", "2", "3"]


async def test_the_kernel_takes_it_before_the_dispatcher_and_never_dumps_its_memory(
    start: Any, wait_ready: Any
) -> None:
    child = start(SAY_READY + WAIT)
    await wait_ready(child)
    assert int(of_process(child.pid, "oom_score_adj")) == 500
    core = next(line for line in of_process(child.pid, "limits").splitlines() if line.startswith(b"Max core file size"))
    assert core.split()[4:6] == [b"0", b"0"]


async def test_what_it_prints_is_heard_to_the_last_word(start: Any) -> None:
    child = start("import sys; print('out'); sys.stdout.flush(); sys.stderr.write('err\\nlast words')")
    await child.wait_ended()
    assert child.lines() == ["out", "err", "last words"]


async def test_its_lines_hold_no_secrets_and_no_requests(start: Any) -> None:
    child = start(
        "print('token hf_abcdefghijklmn'); print('Received request: prompt: \\'tell me my secret\\', n=1');"
        'print(\'{"content": "my secret"}\')'
    )
    await child.wait_ended()
    text = "\n".join(child.lines())
    assert "hf_abcdefgh" not in text
    assert "my secret" not in text
    assert text.count("[left out]") == 2


async def test_only_the_last_of_many_lines_is_kept(start: Any) -> None:
    child = start("import sys\nfor i in range(60000): sys.stderr.write(f'line {i}\\n')\nprint('x' * 5000)")
    await child.wait_ended()
    lines = child.lines()
    assert lines[-2:] == ["line 59999", "x" * LONGEST_LINE]
    assert sum(map(len, lines)) < TAIL_BYTES
    assert all(line.startswith("line ") for line in lines[:-1])


async def test_stopping_waits_until_it_has_finished(start: Any, wait_ready: Any) -> None:
    child = start(
        "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), os._exit(5)));"
        + SAY_READY
        + WAIT
    )
    await wait_ready(child)
    child.stop(10.0)
    assert (await child.wait_ended()).code == 5


async def test_one_that_does_not_stop_is_killed_after_its_grace(start: Any, wait_ready: Any) -> None:
    child = start(STUBBORN + SAY_READY + WAIT)
    await wait_ready(child)
    child.stop(0.2)
    assert (await child.wait_ended()).signal == signal.SIGKILL


async def test_a_grace_can_be_shortened(start: Any, wait_ready: Any) -> None:
    child = start(STUBBORN + SAY_READY + WAIT)
    await wait_ready(child)
    child.stop(3600.0)
    child.stop(0.0)
    assert (await child.wait_ended()).signal == signal.SIGKILL


async def test_stopping_one_that_has_ended_does_no_harm(start: Any) -> None:
    child = start("")
    await child.wait_ended()
    child.stop(1.0)
    assert (await child.wait_ended()).code == 0


async def test_a_grandchild_in_a_session_of_its_own_dies_too(start: Any, wait_ready: Any, death_of: Any) -> None:
    child = start(FAMILY)
    deaths = [death_of(int(pid)) for pid in (await wait_ready(child)).split()]
    child.stop(0.1)
    await child.wait_ended()
    assert all(death.comes_within(0.0) for death in deaths)


async def test_what_outlives_its_first_process_is_ended(start: Any, wait_ready: Any, death_of: Any) -> None:
    child = start(FAMILY)
    parent, grandchild = (int(pid) for pid in (await wait_ready(child)).split())
    death = death_of(grandchild)
    os.kill(parent, signal.SIGKILL)
    assert (await child.wait_ended()).signal == signal.SIGKILL
    assert death.comes_within(0.0)


async def test_one_whose_supervisor_is_killed_dies_too(start: Any, wait_ready: Any, death_of: Any) -> None:
    child = start(STUBBORN + SAY_READY + WAIT)
    await wait_ready(child)
    death = death_of(child.pid)
    os.kill(parent_of(child.pid), signal.SIGKILL)
    assert await child.wait_ended() == End()
    assert death.comes_within(5.0)


async def test_one_that_uses_more_than_its_share_is_killed(start: Any) -> None:
    child = start("held = bytearray(256 << 20); held[::4096] = b'x' * len(held[::4096]);" + WAIT, memory=64 << 20)
    end = await child.wait_ended()
    assert end.signal == signal.SIGKILL
    assert end.over > 64 << 20
    assert end.used >= end.over


GROW = "held = bytearray(256 << 20); held[::4096] = b'x' * len(held[::4096]);"


async def test_one_that_has_grown_too_large_never_says_that_it_is_ready(start: Any) -> None:
    child = start(GROW + SAY_READY + WAIT, memory=64 << 20)
    await asyncio.wait([child.ready])
    assert child.ready.result() is None
    assert (await child.wait_ended()).over > 64 << 20


async def test_its_memory_is_looked_at_when_asked(start: Any, wait_ready: Any) -> None:
    grow = "def grow(*_):\n  held = b'x' * (256 << 20)\n  print('grown', flush=True)\n  signal.pause()\n"
    child = start("import signal\n" + grow + "signal.signal(signal.SIGUSR1, grow);" + SAY_READY + WAIT, memory=64 << 20)
    await wait_ready(child)
    assert await child.is_within_bounds()
    assert await child.is_within_bounds()
    os.kill(child.pid, signal.SIGUSR1)
    while "grown" not in child.lines() and not child.ended.done():  # noqa: ASYNC110 - a line sets no event
        await asyncio.sleep(0.001)
    assert not await child.is_within_bounds()
    assert (await child.wait_ended()).over > 64 << 20
    assert not await child.is_within_bounds()


async def test_all_its_processes_share_one_share(start: Any) -> None:
    child = start("import os; os.fork(); held = bytearray(b'x' * (48 << 20));" + WAIT, memory=64 << 20)
    assert (await child.wait_ended()).over > 64 << 20


async def test_one_that_is_stopping_keeps_to_its_share_too(start: Any, wait_ready: Any) -> None:
    child = start(
        "import os, signal; signal.signal(signal.SIGTERM, lambda *_: (bytearray(b'x' * (256 << 20)), signal.pause()));"
        + SAY_READY
        + WAIT,
        memory=64 << 20,
    )
    await wait_ready(child)
    child.stop(3600.0)
    assert (await child.wait_ended()).over > 64 << 20


async def test_the_kernel_refuses_one_process_more_than_its_limit(start: Any) -> None:
    child = start("bytearray(256 << 20)", data=64 << 20)
    assert (await child.wait_ended()).code == 1
    assert child.lines()[-1] == "MemoryError"


def test_a_text_with_a_nul_cannot_be_ordered() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Order(("program", "with\0nul"), ()).encode()


async def test_the_end_is_told_once() -> None:
    told: list[Child] = []
    child = Child(Order(("/bin/true",), ()), told.append)
    await child.wait_ended()
    assert told == [child]
