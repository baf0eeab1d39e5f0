"""The access log: one JSON line for each finished request, written in batches.

The gateway records each request here when its reply has ended. Lines are made a few dozen at a time and cost a fraction of a
microsecond each; the file is touched a few times a second, however many requests there are. No prompt, no query, no address
that a secret could be part of: routes are templates, callers are key names.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from ssis_dispatcher.telemetry.finished import Finished
from ssis_dispatcher.telemetry.logs import ERROR, log

EVERY = 0.5
"""Seconds after which a line is written at the latest."""
BATCH = 64 * 1024
"""Bytes after which lines are written at once."""

_TOGETHER = 32
"""Requests whose lines are made together: few enough that nobody waits for it."""

Later = Callable[[float, Callable[[], object]], object]
"""``loop.call_later``, as far as this file needs it."""

_encode_lines = msgspec.json.Encoder().encode_lines


class AccessLog:
    """Collects lines and hands them to ``write`` in batches; ``later`` arms the next batch (the loop's ``call_later``).

    ``write`` gets text that ends with a newline. When it fails (disk full, reader gone), the lines are counted in
    ``lost`` and the first failure is logged; requests go on. ``clock`` tells the time of day.
    """

    def __init__(self, write: Callable[[str], object], later: Later, clock: Callable[[], float] = time.time) -> None:
        self.lost = 0
        self._write = write
        self._later = later
        self._clock = clock
        self._rows: list[Finished] = []  # not made into lines yet
        self._lines: list[bytes] = []
        self._count = self._size = 0
        self._armed = False
        self._now = -1.0
        self._stamp = ""

    def record(self, row: Finished, now: float) -> None:
        """A request finished at ``now``, by the loop's clock; the time of day is looked up when that has moved."""
        if now != self._now:
            self._now = now
            self._stamp = _stamp(self._clock())
        row.time = self._stamp
        if not self._armed:
            self._armed = True
            self._later(EVERY, self._due)
        rows = self._rows
        rows.append(row)
        if len(rows) >= _TOGETHER:
            self._make_lines()
            if self._size >= BATCH:
                self.flush()

    def _make_lines(self) -> None:
        rows, self._rows = self._rows, []
        text = _encode_lines(rows)
        self._lines.append(text)
        self._size += len(text)
        self._count += len(rows)

    def _due(self) -> None:
        self._armed = False
        self.flush()

    def flush(self) -> None:
        """Write what is there. Called by the timer, and by the owner once more at the end."""
        if self._rows:
            self._make_lines()
        if not self._lines:
            return
        lines, count = self._lines, self._count
        self._lines, self._count, self._size = [], 0, 0
        try:
            self._write(b"".join(lines).decode())
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            if not self.lost:
                log("access log cannot be written: its lines are lost until it can", ERROR, reason=str(error))
            self.lost += count


def _stamp(now: float) -> str:
    second = int(now)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{int((now - second) * 1000):03d}Z"
