"""The access log: one JSON line for each finished request, made by hand and written in batches.

The gateway records each request here when its reply has ended. Lines are made a few dozen at a time and cost about 1 µs
each; the file is touched a few times a second, however many requests there are. No prompt, no query, no address that a
secret could be part of: routes are templates, callers are key names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted

from ssis_dispatcher.telemetry.logs import ERROR, log

EVERY = 0.5
"""Seconds after which a line is written at the latest."""
BATCH = 64 * 1024
"""Characters after which lines are written at once."""

_TOGETHER = 32
"""Requests whose lines are made together: few enough that nobody waits for it."""

_Row = tuple[float, str, str, str, str, str, int, int, float, float, float | None, str, str]

Later = Callable[[float, Callable[[], object]], object]
"""``loop.call_later``, as far as this file needs it."""


class AccessLog:
    """Collects lines and hands them to ``write`` in batches; ``later`` arms the next batch (the loop's ``call_later``).

    ``write`` gets text that ends with a newline. When it fails (disk full, reader gone), the lines are counted in
    ``lost`` and the first failure is logged; requests go on.
    """

    def __init__(self, write: Callable[[str], object], later: Later, clock: Callable[[], float] = time.time) -> None:
        self.lost = 0
        self._write = write
        self._later = later
        self._clock = clock
        self._rows: list[_Row] = []  # not made into lines yet
        self._lines: list[str] = []
        self._size = 0
        self._second = -1
        self._stamp = ""

    def record(
        self,
        id: str,
        caller: str,
        method: str,
        route: str,
        model: str,
        status: int,
        sent: int,
        duration: float,
        held: float,
        ttfb: float | None,
        server: str,
        outcome: str,
    ) -> None:
        """One finished request. ``route`` is its template; ``sent`` body bytes; ``duration``, ``held`` (waiting for a
        seat) and ``ttfb`` (to the reply's first byte, None when there was none) are seconds; ``outcome`` as in the
        metrics.

        ``method``, ``route`` and ``outcome`` are words of this program and go in as they are; the rest may come from
        outside.
        """
        rows = self._rows
        if not rows and not self._lines:
            self._later(EVERY, self.flush)
        rows.append(
            (self._clock(), id, caller, method, route, model, status, sent, duration, held, ttfb, server, outcome)
        )
        if len(rows) >= _TOGETHER:
            self._make_lines()
            if self._size >= BATCH:
                self.flush()

    def _make_lines(self) -> None:
        rows, self._rows = self._rows, []
        for now, id, caller, method, route, model, status, sent, duration, held, ttfb, server, outcome in rows:
            second = int(now)
            if second != self._second:
                self._second = second
                self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            line = (
                f'{{"time":"{self._stamp}.{int((now - second) * 1000):03d}Z","id":{quoted(id)},"caller":{quoted(caller)},'
                f'"method":"{method}","route":"{route}","model":{quoted(model)},"status":{status},"bytes":{sent},'
                f'"duration":{duration:.6f},"held":{held:.6f},"ttfb":{"null" if ttfb is None else f"{ttfb:.6f}"},'
                f'"server":{quoted(server)},"outcome":"{outcome}"}}\n'
            )
            self._lines.append(line)
            self._size += len(line)

    def flush(self) -> None:
        """Write what is there. Called by the timer, and by the owner once more at the end."""
        self._make_lines()
        if not self._lines:
            return
        lines, self._lines, self._size = self._lines, [], 0
        try:
            self._write("".join(lines))
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            if not self.lost:
                log("access log cannot be written: its lines are lost until it can", ERROR, reason=str(error))
            self.lost += len(lines)
