"""What is written in one turn of the event loop goes out together at its end.

A write to a socket on which somebody waits wakes that process up. Between writes that are spread over a turn it finds one
message, deals with it and falls asleep again, to be woken by the next: that costs each of our writes a few microseconds
in the kernel. Written one after the other they find it awake.

Who uses a transport by any other way than its outbox (close, abort, half-close) flushes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Write = Callable[[bytes], None]

_LARGE = 16_384
"""Bytes that are written at once: whoever writes much has to learn soon that the other side is slow."""

_MANY = 256
"""Writes that wait at most."""


class Outbox:
    """Writes that wait for the end of this turn. ``post`` them, each with the ``write`` of its transport."""

    __slots__ = ("_later", "_writes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._later = loop.call_soon
        self._writes: list[tuple[Write, bytes]] = []

    def post(self, write: Write, data: bytes) -> None:
        """Write ``data`` soon, after everything that was posted before."""
        writes = self._writes
        if not writes:
            if len(data) > _LARGE:
                write(data)
                return
            self._later(self.flush)
        writes.append((write, data))
        if len(writes) >= _MANY or len(data) > _LARGE:
            self.flush()

    def flush(self) -> None:
        """Write everything now."""
        writes = self._writes
        if writes:
            self._writes = []
            for write, data in writes:
                write(data)

    def forget(self, write: Write) -> None:
        """This transport is closed: what still waits for it is lost."""
        if self._writes:
            self._writes = [waiting for waiting in self._writes if waiting[0] != write]
