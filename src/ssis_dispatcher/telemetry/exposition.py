"""Writes the metrics down for Prometheus. Everything here runs at scrape time only.

Names follow the conventions of prometheus.io: prefix ``ssis_``, base units, one unit per metric; no caller and no
prompt is ever a label, and models only as far as `Metrics` gives them one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ssis_dispatcher import __version__
from ssis_dispatcher.core.views import LineView, Statistics
from ssis_dispatcher.telemetry.metrics import Histogram, Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """The page behind ``/metrics``: this process, its `Metrics`, and the fleet's ``statistics`` and ``lines`` as of now."""

    def __init__(
        self, metrics: Metrics, statistics: Callable[[], Statistics], lines: Callable[[], Iterable[LineView]]
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Requests(metrics))
        self._registry.register(_Fleet(statistics, lines))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def page(self) -> bytes:
        """The metrics as text (`CONTENT_TYPE`). Takes milliseconds: for scrapes, not for requests."""
        return generate_latest(self._registry)

    def families(self) -> list[Metric]:
        """Every metric with its name, type and help, for the documentation."""
        return list(self._registry.collect())


class _Requests(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield _gauge("ssis_build_info", "The running version, as a label.", ["version"], [((__version__,), 1)])
        yield _counter(
            "ssis_requests",
            "Finished inference requests by dialect, class of status and how they ended.",
            ["dialect", "status", "outcome"],
            metrics.requests.items(),
        )
        yield _counter(
            "ssis_model_requests",
            "Finished inference requests by model; beyond the models that have a label: other.",
            ["model", "status"],
            [((model, status), count) for model, status, count in metrics.per_model()],
        )
        timings = metrics.timings.items()
        yield _histogram(
            "ssis_request_duration_seconds",
            "From the complete head of a request to the end of its reply.",
            ["dialect"],
            [((dialect,), of.duration) for dialect, of in timings],
        )
        yield _histogram(
            "ssis_request_first_byte_seconds",
            "From the complete head of a request to the first byte of the reply's body.",
            ["dialect"],
            [((dialect,), of.first_byte) for dialect, of in timings],
        )
        yield _histogram(
            "ssis_request_held_seconds",
            "How long requests were held until they had a seat.",
            ["dialect"],
            [((dialect,), of.held) for dialect, of in timings],
        )
        yield _counter("ssis_reply_bytes", "Body bytes sent to callers.", [], [((), metrics.sent_bytes)])
        yield _counter(
            "ssis_upstream_errors",
            "Replies of inference servers that failed, by kind.",
            ["kind"],
            [((kind,), count) for kind, count in metrics.upstream_errors.items()],
        )
        yield _histogram(
            "ssis_server_start_seconds",
            "From launch to ready, of servers that became ready.",
            [],
            [((), metrics.server_starts)],
        )
        yield _histogram("ssis_loop_lag_seconds", "How late the event loop ran a timer.", [], [((), metrics.loop_lag)])
        for reading in metrics.readings:
            family = _gauge if reading.kind == "gauge" else _counter
            yield family(reading.name, reading.help, [], [((), reading.read())])


class _Fleet(Collector):
    def __init__(self, statistics: Callable[[], Statistics], lines: Callable[[], Iterable[LineView]]) -> None:
        self._statistics = statistics
        self._lines = lines

    def collect(self) -> Iterator[Metric]:
        fleet = self._statistics()
        yield from _waiting(fleet, list(self._lines()))
        yield from _servers(fleet)
        yield from _slices(fleet)
        for name, help, count in (
            ("ssis_seatings", "Requests let through to a server.", fleet.seatings),
            ("ssis_refusals", "Requests refused by the fleet: no capacity, room full, model failed.", fleet.refusals),
            ("ssis_launches", "Servers started.", fleet.launches),
            ("ssis_evictions", "Idle servers stopped to make room for another model.", fleet.evictions),
            ("ssis_server_failures", "Servers that failed, starting or running.", fleet.failures),
        ):
            yield _counter(name, help, [], [((), count)])


def _waiting(fleet: Statistics, lines: list[LineView]) -> Iterator[Metric]:
    phases = Counter(dict.fromkeys(("describing", "slice", "starting", "seat"), 0))
    for line in lines:
        phases[line.phase] += line.waiting
    yield _gauge(
        "ssis_requests_waiting",
        "Requests held now, by what they wait for.",
        ["phase"],
        [((phase,), count) for phase, count in phases.items()],
    )
    yield _gauge("ssis_requests_waiting_bytes", "Size of the requests held now.", [], [((), fleet.waiting_bytes)])
    oldest = max((line.oldest_seconds for line in lines), default=0.0)
    yield _gauge(
        "ssis_requests_waiting_oldest_seconds", "How long the oldest held request has waited.", [], [((), oldest)]
    )
    yield _gauge("ssis_requests_seated", "Requests at a server now.", [], [((), fleet.seated)])
    yield _gauge("ssis_draining", "1 while the dispatcher takes nothing new in.", [], [((), fleet.draining)])


def _servers(fleet: Statistics) -> Iterator[Metric]:
    states = Counter((server.engine, server.state) for server in fleet.servers)
    yield _gauge("ssis_servers", "Inference servers by engine and state.", ["engine", "state"], states.items())
    seats = sum(server.seats for server in fleet.servers if server.state == "ready")
    yield _gauge("ssis_seats", "Seats of the ready servers, taken or not.", [], [((), seats)])


def _slices(fleet: Statistics) -> Iterator[Metric]:
    sums: dict[tuple[str, str], list[int]] = {}
    for pool in fleet.slices:
        row = sums.setdefault((pool.name, pool.kind), [0, 0, 0, 0])
        for at, count in enumerate((pool.total, pool.taken, pool.ours, pool.free)):
            row[at] += count
    for at, (state, help) in enumerate(
        (
            ("total", "Slices by resource name, over all nodes."),
            ("taken", "Slices that others than this dispatcher hold."),
            ("ours", "Slices that our servers hold."),
            ("free", "Slices that a launch could take now."),
        )
    ):
        # ``_total`` at the end of a gauge would read as a counter.
        name = "ssis_slices" if state == "total" else f"ssis_slices_{state}"
        yield _gauge(name, help, ["name", "kind"], [(key, row[at]) for key, row in sums.items()])


Samples = Iterable[tuple[tuple[str, ...], float]]


def _counter(name: str, help: str, labels: list[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _gauge(name: str, help: str, labels: list[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _histogram(name: str, help: str, labels: list[str], samples: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, help, labels=labels)
    for values, histogram in samples:
        family.add_metric(values, histogram.cumulative(), histogram.sum)
    return family
