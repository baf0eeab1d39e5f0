"""Counting, on the path of every request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.telemetry.metrics import OTHER, Histogram, Metrics


def done(metrics: Metrics, model: str = "demo", status: int = 200, outcome: str = "ok") -> None:
    metrics.finished("openai", model, status, outcome, 0.02, 0.001, 0.01, 100)


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_every_observation_is_in_exactly_one_bucket(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in (0.1, 1.0, 10.0)] + [len(values)]
    assert [count for _, count in histogram.cumulative()] == expected
    assert [bound for bound, _ in histogram.cumulative()] == ["0.1", "1.0", "10.0", "+Inf"]
    assert abs(histogram.sum - sum(values)) < 1e-6


def test_requests_are_counted_by_dialect_class_of_status_and_outcome() -> None:
    metrics = Metrics()
    done(metrics)
    done(metrics)
    done(metrics, status=503, outcome="refused")
    assert metrics.requests == {("openai", "2xx", "ok"): 2, ("openai", "5xx", "refused"): 1}
    assert metrics.sent_bytes == 300


def test_a_status_outside_of_http_is_counted_too() -> None:
    metrics = Metrics()
    done(metrics, status=0, outcome="gone")
    done(metrics, status=700, outcome="odd")
    assert set(metrics.requests) == {("openai", OTHER, "gone"), ("openai", OTHER, "odd")}


def test_a_request_that_never_had_a_seat_says_nothing_about_holding() -> None:
    metrics = Metrics()
    metrics.finished("ssis", "demo", 503, "refused", 1.0)
    timings = metrics.timings["ssis"]
    assert sum(timings.duration.counts) == 1
    assert sum(timings.held.counts) == sum(timings.first_byte.counts) == 0


def test_models_that_callers_make_up_get_no_label() -> None:
    metrics = Metrics(model_labels=3)
    for number in range(10_000):
        done(metrics, f"made/up-{number}", 404, "refused")
    done(metrics, "real")
    assert sorted(metrics.per_model()) == [(OTHER, "4xx", 10_000), ("real", "2xx", 1)]


def test_models_beyond_the_cap_are_counted_together_and_labels_stay() -> None:
    metrics = Metrics(model_labels=2)
    for model in ("a", "b", "c", "d", "a"):
        done(metrics, model)
    done(metrics, "a", 502, "error")
    assert sorted(metrics.per_model()) == [("a", "2xx", 2), ("a", "5xx", 1), ("b", "2xx", 1), (OTHER, "2xx", 2)]


def test_upstream_errors_are_counted_by_kind() -> None:
    metrics = Metrics()
    metrics.upstream_error("reset")
    metrics.upstream_error("reset")
    assert metrics.upstream_errors == {"reset": 2}
