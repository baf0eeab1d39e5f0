"""What a scrape gets."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from ssis_dispatcher.telemetry.exposition import Exposition
from ssis_dispatcher.telemetry.metrics import Metrics


@dataclass
class Server:
    engine: str = "llamacpp"
    state: str = "ready"
    seats: int = 4
    busy: int = 1


@dataclass
class Pool:
    name: str = "cpu-2gib"
    kind: str = "cpu"
    total: int = 4
    taken: int = 1
    ours: int = 1
    free: int = 2


@dataclass
class Line:
    phase: str = "slice"
    waiting: int = 3
    oldest_seconds: float = 1.5


@dataclass
class Fleet:
    servers: list[Server] = field(default_factory=list)
    slices: list[Pool] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    bytes: int = 0
    seated_total: int = 0
    refusals: int = 0
    launches: int = 0
    evictions: int = 0
    failures: int = 0


def scrape(metrics: Metrics | None = None, fleet: Fleet | None = None) -> dict[tuple[str, tuple[str, ...]], float]:
    """``{(sample name, label values in order of their names): value}``, read back by Prometheus' own parser."""
    page = Exposition(metrics or Metrics(), lambda: fleet or Fleet()).page().decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_requests_and_their_times_are_exposed() -> None:
    metrics = Metrics()
    metrics.finished("openai", "org/m", 200, "ok", 0.02, 0.0, 0.004, 10)
    found = scrape(metrics)
    assert found["ssis_requests_total", ("openai", "ok", "2xx")] == 1
    assert found["ssis_model_requests_total", ("org/m", "2xx")] == 1
    assert found["ssis_request_duration_seconds_count", ("openai",)] == 1
    assert found["ssis_request_duration_seconds_bucket", ("openai", "0.01")] == 0
    assert found["ssis_request_duration_seconds_bucket", ("openai", "0.025")] == 1
    assert found["ssis_request_first_byte_seconds_sum", ("openai",)] == 0.004
    assert found["ssis_request_held_seconds_bucket", ("openai", "+Inf")] == 1
    assert found["ssis_reply_bytes_total", ()] == 10


def test_errors_starts_and_lag_are_exposed() -> None:
    metrics = Metrics()
    metrics.upstream_error("reset")
    metrics.server_starts.observe(0.4)
    metrics.loop_lag.observe(0.002)
    found = scrape(metrics)
    assert found["ssis_upstream_errors_total", ("reset",)] == 1
    assert found["ssis_server_start_seconds_count", ()] == 1
    assert found["ssis_loop_lag_seconds_bucket", ("0.0025",)] == 1


def test_numbers_kept_elsewhere_are_read_when_scraped() -> None:
    metrics = Metrics()
    open_now = 3
    metrics.gauge("ssis_connections", "Open connections.", lambda: open_now)
    metrics.counter("ssis_connections_accepted", "Accepted connections.", lambda: 7)
    open_now = 5
    found = scrape(metrics)
    assert found["ssis_connections", ()] == 5
    assert found["ssis_connections_accepted_total", ()] == 7


def test_the_fleet_is_read_when_scraped() -> None:
    fleet = Fleet(
        [Server(), Server(busy=0), Server(state="starting", seats=0, busy=0)],
        [Pool(), Pool(total=2, taken=0, ours=0, free=2)],
        [Line(), Line("seat", 2, 9.0)],
        4096,
        seated_total=11,
        refusals=2,
        launches=3,
        evictions=1,
        failures=4,
    )
    found = scrape(fleet=fleet)
    assert found["ssis_servers", ("llamacpp", "ready")] == 2
    assert found["ssis_servers", ("llamacpp", "starting")] == 1
    assert found["ssis_seats", ()] == 8
    assert found["ssis_seats_busy", ()] == 1
    assert found["ssis_slices", ("cpu", "cpu-2gib")] == 6
    assert found["ssis_slices_taken", ("cpu", "cpu-2gib")] == 1
    assert found["ssis_slices_ours", ("cpu", "cpu-2gib")] == 1
    assert found["ssis_slices_free", ("cpu", "cpu-2gib")] == 4
    assert found["ssis_requests_waiting", ("slice",)] == 3
    assert found["ssis_requests_waiting", ("seat",)] == 2
    assert found["ssis_requests_waiting", ("starting",)] == 0
    assert found["ssis_requests_waiting_bytes", ()] == 4096
    assert found["ssis_requests_waiting_oldest_seconds", ()] == 9.0
    counters = ["seats_given", "refusals", "launches", "evictions", "server_failures"]
    assert [found[f"ssis_{name}_total", ()] for name in counters] == [11, 2, 3, 1, 4]


def test_an_odd_model_name_does_not_break_the_page() -> None:
    metrics = Metrics()
    metrics.finished("openai", 'a"b\nc\\d{}', 200, "ok", 0.1)
    assert scrape(metrics)["ssis_model_requests_total", ('a"b\nc\\d{}', "2xx")] == 1


def test_every_metric_has_a_prefix_a_unit_and_a_help_text() -> None:
    for family in Exposition(Metrics(), Fleet).families():
        assert family.documentation
        assert family.name.startswith(("ssis_", "process_", "python_"))
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_the_process_itself_is_exposed() -> None:
    assert scrape()["process_resident_memory_bytes", ()] > 1_000_000
