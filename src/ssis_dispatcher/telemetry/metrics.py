"""What is counted: plain integers, added to by every request, read only when somebody scrapes.

The gateway and the dispatcher call `Metrics`; `ssis_dispatcher.telemetry.exposition` reads it. A metrics library's
objects would cost several times the whole of `Metrics.finished` for each request, in locks that one thread does not
need. Finished requests are put down as they come and counted some hundred at a time, column by column, which costs a third
of counting each; whoever reads finds all of them counted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable

from ssis_dispatcher.telemetry.finished import Finished

OTHER = "other"
"""The label of everything beyond the names that get their own."""

SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
"""Bounds for what callers wait for: from a relayed answer to the cold start of a large model."""
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_BATCH = 128
"""Finished requests that are counted together: few enough that nobody waits for it."""

_CLASSES = (OTHER, "1xx", "2xx", "3xx", "4xx", "5xx")


class Histogram:
    """Counts of observations up to each bound (``bounds`` ascending), the last for everything above; their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation, in the unit of the bounds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: list[float]) -> None:
        """Add many, which are sorted on the way: the cheaper, the fewer bounds they reach over."""
        values.sort()
        self.sum += sum(values)
        seen = place = 0
        while seen < len(values):
            upto = bisect_right(values, self.bounds[place]) if place < len(self.bounds) else len(values)
            self.counts[place] += upto - seen
            seen = upto
            place += 1

    def cumulative(self) -> list[tuple[str, float]]:
        """``(bound, observations up to it)`` pairs as Prometheus wants them, ``+Inf`` last."""
        seen, pairs = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            pairs.append((bound, float(seen)))
        return pairs


class Timings:
    """The three times of a request in one dialect."""

    __slots__ = ("duration", "first_byte", "held")

    def __init__(self) -> None:
        self.duration = Histogram()
        self.first_byte = Histogram()
        self.held = Histogram()


class Reading:
    """A number that somebody else keeps, fetched at scrape time: ``read`` must not block and may not raise."""

    __slots__ = ("help", "kind", "name", "read")

    def __init__(self, name: str, kind: str, help: str, read: Callable[[], float]) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.read = read


class Metrics:
    """The counters of one process.

    A model gets a label of its own when a server of it first answers, as long as there are fewer than ``model_labels``;
    whatever callers make up, and every model after that, is counted as ``other``. A label once given stays, because a counter
    that went down would read as a restart.
    """

    def __init__(self, model_labels: int = 100) -> None:
        self.upstream_errors: dict[str, int] = {}
        self.server_starts = Histogram()
        self.loop_lag = Histogram(LAG_SECONDS)
        self.readings: list[Reading] = []
        self._requests: dict[tuple[str, str, str], int] = {}
        self._models: dict[str, list[int]] = {OTHER: [0] * len(_CLASSES)}
        self._timings: dict[str, Timings] = {}
        self._sent_bytes = 0
        self._model_labels = model_labels
        self._uncounted: list[Finished] = []

    def finished(self, row: Finished) -> None:
        """One inference request has ended."""
        rows = self._uncounted
        rows.append(row)
        if len(rows) >= _BATCH:
            self._count()

    def _count(self) -> None:
        rows, self._uncounted = self._uncounted, []
        kinds = Counter([(row.dialect, row.model, row.status, row.outcome, row.server != "") for row in rows])
        for (dialect, model, status, outcome, served), count in kinds.items():
            group = status // 100 if 100 <= status < 600 else 0
            key = (dialect, _CLASSES[group], outcome)
            self._requests[key] = self._requests.get(key, 0) + count
            (self._models.get(model) or self._row(model, served and group == 2))[group] += count
        for dialect in {kind[0] for kind in kinds}:
            mine = [row for row in rows if row.dialect == dialect] if len(kinds) > 1 else rows
            timings = self._timings.get(dialect)
            if timings is None:
                timings = self._timings[dialect] = Timings()
            timings.duration.observe_all([row.duration for row in mine])
            timings.held.observe_all([row.held for row in mine if row.held is not None])
            timings.first_byte.observe_all([row.ttfb for row in mine if row.ttfb is not None])
        self._sent_bytes += sum([row.sent for row in rows])

    @property
    def requests(self) -> dict[tuple[str, str, str], int]:
        """Requests by dialect, status class and outcome."""
        self._count()
        return self._requests

    @property
    def timings(self) -> dict[str, Timings]:
        """By dialect."""
        self._count()
        return self._timings

    @property
    def sent_bytes(self) -> int:
        """Body bytes of all replies."""
        self._count()
        return self._sent_bytes

    def upstream_error(self, kind: str) -> None:
        """An inference server broke its word; ``kind`` is a word of ours (``refused``, ``reset``, ``timeout`` …)."""
        self.upstream_errors[kind] = self.upstream_errors.get(kind, 0) + 1

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Expose a number that goes up and down and is kept elsewhere; ``name`` with prefix and unit."""
        self.readings.append(Reading(name, "gauge", help, read))

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Expose a number that only grows and is kept elsewhere; ``name`` with prefix, without ``_total``."""
        self.readings.append(Reading(name, "counter", help, read))

    def per_model(self) -> list[tuple[str, str, int]]:
        """``(model, status class, requests)`` of everything counted."""
        self._count()
        return [
            (model, _CLASSES[group], count)
            for model, row in self._models.items()
            for group, count in enumerate(row)
            if count
        ]

    def _row(self, model: str, answered: bool) -> list[int]:
        if not answered or len(self._models) > self._model_labels:
            return self._models[OTHER]
        row = self._models[model] = [0] * len(_CLASSES)
        return row
