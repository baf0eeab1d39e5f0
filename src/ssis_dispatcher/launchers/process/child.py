"""The dispatcher's side of one supervised server: start it, hear it, stop it, and know when all of it is gone.

Works on any asyncio event loop: pipes and readers only, no child watcher, no task. Called by `launcher`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from ssis_dispatcher.telemetry.redact import redact

SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))

TAIL_BYTES = 64 * 1024
"""How much of what a server printed is kept."""

LONGEST_LINE = 2_000

_READ = 64 * 1024

_PROMPT = re.compile(r"""(?i)(\b(?:prompt|inputs?|content|messages|text)["']?\s*[:=]\s*).+""")
"""Some servers print the requests that they work on."""


class Order(msgspec.Struct, frozen=True):
    """What to start; `supervisor.Order` says what the fields mean."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    says_ready: bool = False
    memory: int = 0
    data: int = 0
    cgroup: str = ""

    def encode(self) -> bytes:
        """Raises `ValueError` when a text holds a NUL."""
        pairs = [f"{name}={value}" for name, value in self.env]
        texts = [str(int(self.says_ready)), str(self.memory), str(self.data), self.cgroup, str(len(self.argv))]
        texts += [*self.argv, *pairs]
        if any("\0" in text for text in texts):
            raise ValueError("an argument or a variable of the server's holds a NUL character")
        body = os.fsencode("\0".join(texts))
        return b"%d\n%s" % (len(body), body)


class End(msgspec.Struct, frozen=True):
    """How a server ended: by exit ``code`` or by ``signal``, or because it could not be started (``refused`` says why); none
    of them when its supervisor was killed. ``used`` is the most memory it was seen to use, and ``over`` what it used when it
    was killed for using too much, in bytes."""

    code: int | None = None
    signal: int | None = None
    refused: str = ""
    used: int = 0
    over: int = 0


class Child:
    """One server under its supervisor. ``on_end`` is called once, when no process of it is left.

    Raises `OSError` when this machine cannot start another process. Needs a running loop.
    """

    def __init__(self, order: Order, on_end: Callable[[Child], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._tail = bytearray()
        self._unfinished = b""
        self._end: End | None = None
        self.pid: int | None = None
        self.ready: asyncio.Future[str | None] = self._loop.create_future()
        """What the server said when it was ready, and within its bounds; None when it ended before."""
        self._looks: deque[asyncio.Future[None]] = deque()
        self.ended: asyncio.Future[End] = self._loop.create_future()
        message = order.encode()
        self._process = subprocess.Popen(
            (sys.executable, "-I", "-S", SUPERVISOR),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            start_new_session=True,  # a Ctrl-C on the terminal is the dispatcher's to act on
        )
        self._orders, self._reports, self._log = _pipes(self._process)
        self._loop.add_reader(self._reports, self._hear_report)
        self._loop.add_reader(self._log, self._hear_log)
        self._tell(message)

    def stop(self, grace: float) -> None:
        """Let it finish within ``grace`` seconds, then kill it. May be said again, with less."""
        self._tell(b"stop %.3f\n" % grace)

    async def is_within_bounds(self) -> bool:
        """Have its memory looked at now. When it uses more than it may, it is ended first."""
        look: asyncio.Future[None] = self._loop.create_future()
        either: tuple[asyncio.Future[Any], ...] = (look, self.ended)
        self._looks.append(look)
        self._tell(b"look\n")
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return not self.ended.done()

    async def wait_ended(self) -> End:
        """Until no process of it is left. Cancelling this does it no harm."""
        await asyncio.wait([self.ended])
        return self.ended.result()

    def lines(self) -> list[str]:
        """The last lines it printed, oldest first: without secrets, and without the requests it was working on."""
        text = self._tail[-TAIL_BYTES:].decode(errors="replace")
        lines = text.splitlines()
        if len(self._tail) > TAIL_BYTES:
            del lines[:1]  # most likely not a whole one
        return [_PROMPT.sub(r"\1[left out]", redact(line[:LONGEST_LINE])) for line in lines]

    def _tell(self, message: bytes) -> None:
        try:
            while message:
                message = message[os.write(self._orders.fileno(), message) :]
        except (BrokenPipeError, ValueError):  # it has ended, or its pipe is closed for that reason
            pass

    def _hear_log(self) -> bool:
        """Take what was printed; False when there is nothing more for now."""
        try:
            data = os.read(self._log.fileno(), _READ)
        except BlockingIOError:
            return False
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[: -TAIL_BYTES - 1]
        if not data:
            self._loop.remove_reader(self._log)
        return bool(data)

    def _hear_report(self) -> None:
        data = os.read(self._reports.fileno(), _READ)
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        for line in lines:
            word, _, said = os.fsdecode(line).partition(" ")
            if word == "started":
                self.pid = int(said)
            elif word == "ready" and not self.ready.done():
                self.ready.set_result(said)
            elif word == "within":
                self._looks.popleft().set_result(None)
            elif word == "failed":
                self._end = End(refused=said)
            elif word == "ended":
                self._end = _end_of(*map(int, said.split()))
        if not data:
            self._hang_up()

    def _hang_up(self) -> None:
        """The supervisor has ended, and with it everything below."""
        if self._end is None and self.pid is not None:
            _kill_session(self.pid)  # somebody killed the supervisor: do its last duty
        while self._hear_log():
            pass
        for pipe in (self._reports, self._log):
            self._loop.remove_reader(pipe)
        for pipe in (self._orders, self._reports, self._log):
            pipe.close()
        self._process.wait()  # it closed its pipes by exiting, so this is no wait
        if not self.ready.done():
            self.ready.set_result(None)
        self.ended.set_result(self._end or End())
        self._on_end(self)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    """Its stdin, stdout and stderr; reading from the latter two does not wait."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    os.set_blocking(process.stdout.fileno(), False)
    os.set_blocking(process.stderr.fileno(), False)
    return process.stdin, process.stdout, process.stderr


def _end_of(status: int, used: int, over: int) -> End:
    """``status`` as waitpid gives it."""
    code = os.waitstatus_to_exitcode(status)
    return End(code if code >= 0 else None, -code if code < 0 else None, "", used, over)


def _kill_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except OSError:  # gone, as it should be
        pass
