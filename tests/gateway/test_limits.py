"""What one key may do, and how much at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.errors import Forbidden, LimitExceeded
from ssis_dispatcher.gateway.limits import Key, KeyRecord, Role


def key(**fields: Any) -> Key:
    return Key(KeyRecord(name="alice", hash="sha256:" + "0" * 64, **fields))


@pytest.mark.parametrize(
    ("has", "needs", "may"),
    [
        ("use", "use", True),
        ("use", "operate", False),
        ("use", "admin", False),
        ("operate", "use", True),
        ("operate", "operate", True),
        ("operate", "admin", False),
        ("admin", "use", True),
        ("admin", "operate", True),
        ("admin", "admin", True),
    ],
)
def test_a_role_includes_those_below_it(has: Role, needs: Role, may: bool) -> None:
    if may:
        key(role=has).demand(needs)
    else:
        with pytest.raises(Forbidden, match=needs):
            key(role=has).demand(needs)


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        (("*",), "any/thing", True),
        (("meta-llama/*",), "meta-llama/Llama-3.1-8B", True),
        (("meta-llama/*",), "Meta-Llama/Llama-3.1-8B", False),
        (("meta-llama/*",), "evil/meta-llama/x", False),
        (("demo", "org/a"), "org/a", True),
        (("demo", "org/a"), "org/ab", False),
        (("demo",), "demo\n", False),
        ((), "demo", False),
        (("a.b",), "axb", False),
    ],
)
def test_models_are_allowed_by_shell_patterns(patterns: tuple[str, ...], model: str, allowed: bool) -> None:
    for _ in range(2):  # worked out, then remembered
        assert key(models=patterns).allows(model) is allowed


def test_a_model_that_is_not_allowed_is_refused_with_what_is() -> None:
    with pytest.raises(Forbidden, match=r"demo, org/\*") as caught:
        key(models=("demo", "org/*")).demand_model("other/m")
    assert caught.value.problem.param == "model"


def test_asking_for_ever_new_models_takes_no_memory() -> None:
    alice = key(models=("org/*",))
    for number in range(5000):
        assert not alice.allows(f"other/{number}")
    assert len(alice._verdicts) <= 1024


def test_without_limits_everything_is_admitted() -> None:
    alice = key()
    for _ in range(1000):
        alice.admit(0.0)
    assert alice.in_flight == 1000


def test_requests_in_flight_are_limited_and_a_place_comes_back() -> None:
    alice = key(in_flight=2)
    alice.admit(0.0)
    alice.admit(0.0)
    with pytest.raises(LimitExceeded, match="2 requests in flight") as caught:
        alice.admit(0.0)
    assert caught.value.problem.status == 429
    assert caught.value.problem.retry_after is not None
    alice.release()
    alice.admit(0.0)


def test_requests_a_minute_are_limited_with_the_time_to_come_back() -> None:
    alice = key(per_minute=60)
    for _ in range(60):
        alice.admit(100.0)
    with pytest.raises(LimitExceeded) as caught:
        alice.admit(100.25)
    assert caught.value.problem.retry_after == pytest.approx(0.75)
    alice.admit(101.0)


def test_a_refused_request_is_counted_nowhere() -> None:
    alice = key(per_minute=1, in_flight=5)
    alice.admit(0.0)
    for _ in range(10):
        with pytest.raises(LimitExceeded):
            alice.admit(1.0)
    assert alice.in_flight == 1
    alice.admit(60.0)


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=200))
def test_over_any_time_no_more_pass_than_the_rate_and_one_burst(rate: int, pauses: list[float]) -> None:
    alice, now, passed = key(per_minute=rate), 1000.0, 0
    hints: list[float] = []
    for pause in pauses:
        now += pause
        try:
            alice.admit(now)
            passed += 1
        except LimitExceeded as error:
            hints.append(error.problem.retry_after or 0)
    assert all(0 < hint <= 60 / rate + 1e-6 for hint in hints)
    assert passed <= rate + (now - 1000.0) * rate / 60 + 1e-6


def test_new_limits_count_what_is_in_flight_already() -> None:
    alice = key()
    alice.admit(0.0)
    alice.update(KeyRecord(name="alice", hash="sha256:" + "0" * 64, in_flight=1))
    with pytest.raises(LimitExceeded):
        alice.admit(0.0)


def test_a_minute_limit_that_comes_later_begins_with_a_full_minute() -> None:
    alice = key()
    alice.update(KeyRecord(name="alice", hash="sha256:" + "0" * 64, per_minute=3))
    for _ in range(3):
        alice.admit(50.0)
    with pytest.raises(LimitExceeded):
        alice.admit(50.0)
