"""Counting, on the path of every request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.telemetry.rows import finished

from ssis_dispatcher.telemetry.metrics import OTHER, Histogram, Metrics


def done(metrics: Metrics, model: str = "demo", status: int = 200, outcome: str = "ok", **fields: object) -> None:
    metrics.finished(finished(model=model, status=status, outcome=outcome, sent=100, **fields))


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_every_observation_is_in_exactly_one_bucket(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in (0.1, 1.0, 10.0)] + [len(values)]
    assert [count for _, count in histogram.cumulative()] == expected
    assert [bound for bound, _ in histogram.cumulative()] == ["0.1", "1.0", "10.0", "+Inf"]
    assert abs(histogram.sum - sum(values)) < 1e-6


@given(st.lists(st.lists(st.floats(0, 20), max_size=20), max_size=5))
def test_many_at_once_are_counted_as_one_by_one(batches: list[list[float]]) -> None:
    together, alone = Histogram((0.1, 1.0, 10.0)), Histogram((0.1, 1.0, 10.0))
    for values in batches:
        for value in values:
            alone.observe(value)
        together.observe_all(values)
    assert together.counts == alone.counts
    assert abs(together.sum - alone.sum) < 1e-6


def test_batches_of_several_dialects_and_models_are_told_apart() -> None:
    metrics = Metrics()
    for number in range(300):
        done(metrics, f"m{number % 3}", 200 if number % 5 else 503, "ok", dialect="tgi" if number % 2 else "openai")
    assert sum(metrics.requests.values()) == 300
    assert metrics.requests["tgi", "5xx", "ok"] == 30
    assert {model: count for model, status, count in metrics.per_model() if status == "2xx"} == {
        "m0": 80,
        "m1": 80,
        "m2": 80,
    }
    assert sum(metrics.timings["tgi"].duration.counts) == 150
    assert sum(metrics.timings["openai"].first_byte.counts) == 150
    assert metrics.sent_bytes == 30_000


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
    done(metrics, status=503, outcome="refused", dialect="ssis", held=None, ttfb=None)
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
