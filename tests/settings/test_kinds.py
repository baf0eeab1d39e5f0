"""One value: what a person wrote, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.settings import CpuShare, kinds

ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.text() | st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none(), max_size=3)
)
ALL = [
    kinds.TEXT,
    kinds.WHOLE,
    kinds.NUMBER,
    kinds.SWITCH,
    kinds.PATH,
    kinds.URL,
    kinds.SECONDS,
    kinds.BYTES,
    kinds.LIST,
    kinds.NETWORKS,
    kinds.SHARES,
    kinds.TABLE,
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
@given(raw=ANYTHING)
def test_whatever_is_written_is_a_value_or_an_error_and_nothing_else(kind: kinds.Kind, raw: object) -> None:
    try:
        value = kind.read(raw)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return
    assert kind.read(kind.write(value)) == value


@given(raw=ANYTHING)
def test_a_table_of_variables_has_their_names_in_order_and_shows_no_values(raw: object) -> None:
    try:
        pairs = kinds.read_variables(raw)
    except (ValueError, TypeError):
        return
    assert list(pairs) == sorted(pairs)
    assert all(name.isidentifier() and name.isascii() for name, _ in pairs)
    assert kinds.VARIABLES.write((("NAME", "canary"),)) == "NAME"


@pytest.mark.parametrize(
    "written",
    [
        "auto-scaler=scaling,example.org/team=a",
        "tgi/mig=ghcr.io/tgi@sha256:0,vllm=v:1",
        "4gb=12",
        "mig=1000,nebuly=none",
    ],
)
def test_names_in_a_table_need_not_be_those_of_variables(written: str) -> None:
    pairs = kinds.TABLE.read(written)
    assert kinds.TABLE.write(pairs) == written


@pytest.mark.parametrize("written", ["a-b=c", "4gb=12", "=c", "tgi/mig=x"])
def test_other_names_are_no_variables(written: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        kinds.VARIABLES.read(written)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        ("90", 90),
        (1.5, 1.5),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("2m30s", 150),
        ("2m 30s", 150),
        ("1h", 3600),
        ("1d", 86400),
        ("0", 0),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert kinds.SECONDS.read(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "-1", -1, "1x", "m", "1m x", "1..5s", "nan", "1e17", "99999999d", float("inf"), True, None, [1]]
)
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        kinds.SECONDS.read(written)


@given(st.floats(0, 3e9))
def test_a_duration_is_written_as_it_is_read(value: float) -> None:
    assert kinds.read_seconds(kinds.write_seconds(value)) == value


@pytest.mark.parametrize(
    ("value", "written"), [(0, "0s"), (90, "1m30s"), (600, "10m"), (86400, "1d"), (0.1, "0.1s"), (1e-7, "1e-07")]
)
def test_durations_are_written_for_people(value: float, written: str) -> None:
    assert kinds.write_seconds(value) == written


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("4096B", 4096),
        ("4KiB", 4096),
        ("4Ki", 4096),
        ("4kb", 4000),
        ("1.5GB", 1_500_000_000),
        ("2 GiB", 2 * 2**30),
        ("1TiB", 2**40),
    ],
)
def test_sizes(written: object, size: int) -> None:
    assert kinds.BYTES.read(written) == size


@pytest.mark.parametrize("written", ["", "4G", "4 XiB", "-1", -1, 1.5, True, None])
def test_what_is_no_size(written: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        kinds.BYTES.read(written)


@given(st.integers(0, 2**60))
def test_a_size_is_written_as_it_is_read(value: int) -> None:
    assert kinds.read_bytes(kinds.write_bytes(value)) == value


def test_shares_of_this_machine() -> None:
    assert kinds.SHARES.read("2GiB, 4x1GiB,2x4GiB:1.5") == (
        CpuShare(1, 2 * 2**30),
        CpuShare(4, 2**30),
        CpuShare(2, 4 * 2**30, 1.5),
    )
    for wrong in ("0x1GiB", "1x", "2x0", "1GiB:0", "1GiB:1:1"):
        with pytest.raises((ValueError, TypeError)):
            kinds.SHARES.read(wrong)


@pytest.mark.parametrize("written", ["example.org", "ftp://example.org", "http://", "https://a b", "http://a?b"])
def test_what_is_no_address(written: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        kinds.URL.read(written)


def test_switches_have_the_usual_words() -> None:
    assert [kinds.SWITCH.read(word) for word in ("yes", "ON", "1", "true")] == [True] * 4
    assert [kinds.SWITCH.read(word) for word in ("no", "Off", "0", "false")] == [False] * 4
