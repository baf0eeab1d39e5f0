"""What a scrape gets."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families
from tests.telemetry.rows import finished

from ssis_dispatcher.core.views import LineView, ServerView, SliceView, Statistics
from ssis_dispatcher.telemetry.exposition import Exposition
from ssis_dispatcher.telemetry.metrics import Metrics


def server(state: str = "ready", seats: int = 4) -> ServerView:
    return ServerView(
        id="demo1",
        model="demo",
        revision="",
        engine="llamacpp",
        key="demo#1",
        state=state,
        phase="",
        detail="",
        slice="cpu-2gib",
        count=1,
        node="here",
        seats=seats,
        busy=0,
        waiting=0,
        context=4096,
        age_seconds=1.0,
        idle_seconds=None,
        address=None,
        pinned=False,
        extra=False,
    )


def pool(node: str, total: int, taken: int, ours: int) -> SliceView:
    return SliceView(node, "cpu-2gib", "cpu", 2048, 0.5, "setting", total, taken, ours, total - taken - ours)


def line(phase: str, waiting: int, oldest: float) -> LineView:
    return LineView("demo", "demo#1", phase, waiting, oldest, "", None, ())


QUIET = Statistics((), (), 0, 0, 0, 0, 0, 0, 0, 0, False)


def scrape(
    metrics: Metrics | None = None, fleet: Statistics = QUIET, lines: Sequence[LineView] = ()
) -> dict[tuple[str, tuple[str, ...]], float]:
    """``{(sample name, label values in order of their names): value}``, read back by Prometheus' own parser."""
    page = Exposition(metrics or Metrics(), lambda: fleet, lambda: lines).page().decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_requests_and_their_times_are_exposed() -> None:
    metrics = Metrics()
    metrics.finished(finished(model="org/m", duration=0.02, ttfb=0.004, sent=10))
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
    fleet = Statistics(
        servers=(server(), server(), server("starting", 0)),
        slices=(pool("a", 4, 1, 1), pool("b", 2, 0, 0)),
        waiting=5,
        waiting_bytes=4096,
        seated=6,
        launches=3,
        evictions=1,
        failures=4,
        refusals=2,
        seatings=11,
        draining=True,
    )
    found = scrape(fleet=fleet, lines=[line("slice", 3, 1.5), line("seat", 2, 9.0)])
    assert found["ssis_servers", ("llamacpp", "ready")] == 2
    assert found["ssis_servers", ("llamacpp", "starting")] == 1
    assert found["ssis_seats", ()] == 8
    assert found["ssis_slices", ("cpu", "cpu-2gib")] == 6
    assert found["ssis_slices_taken", ("cpu", "cpu-2gib")] == 1
    assert found["ssis_slices_ours", ("cpu", "cpu-2gib")] == 1
    assert found["ssis_slices_free", ("cpu", "cpu-2gib")] == 4
    assert found["ssis_requests_waiting", ("slice",)] == 3
    assert found["ssis_requests_waiting", ("seat",)] == 2
    assert found["ssis_requests_waiting", ("starting",)] == 0
    assert found["ssis_requests_waiting_bytes", ()] == 4096
    assert found["ssis_requests_waiting_oldest_seconds", ()] == 9.0
    assert found["ssis_requests_seated", ()] == 6
    assert found["ssis_draining", ()] == 1
    counters = ["seatings", "refusals", "launches", "evictions", "server_failures"]
    assert [found[f"ssis_{name}_total", ()] for name in counters] == [11, 2, 3, 1, 4]


def test_an_odd_model_name_does_not_break_the_page() -> None:
    metrics = Metrics()
    metrics.finished(finished(model='a"b\nc\\d{}'))
    assert scrape(metrics)["ssis_model_requests_total", ('a"b\nc\\d{}', "2xx")] == 1


def test_every_metric_has_a_prefix_a_unit_and_a_help_text() -> None:
    for family in Exposition(Metrics(), lambda: QUIET, list).families():
        assert family.documentation
        assert family.name.startswith(("ssis_", "process_", "python_"))
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_the_process_itself_is_exposed() -> None:
    assert scrape()["process_resident_memory_bytes", ()] > 1_000_000
