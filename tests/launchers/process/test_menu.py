"""Shares of a machine without a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.core.slices import SliceKind, cpu_slice
from ssis_dispatcher.launchers.process.menu import Share, automatic, pools, threads


def menu(usable_mib: int) -> list[tuple[int, int]]:
    return [(share.count, share.memory_mib) for share in automatic(usable_mib, 4)]


@pytest.mark.parametrize(
    ("usable", "expected"),
    [
        (23_040, [(1, 12_288), (1, 4096), (2, 2048), (1, 1024), (3, 512)]),
        (2_048, [(1, 1024), (2, 512)]),
        (600, [(1, 512)]),
        (300, [(1, 256)]),
        (100, []),
        (0, []),
    ],
)
def test_the_menu_of_a_machine(usable: int, expected: list[tuple[int, int]]) -> None:
    assert menu(usable) == expected


@given(usable=st.integers(0, 4_000_000), cores=st.integers(1, 512))
def test_the_menu_never_promises_more_than_there_is(usable: int, cores: int) -> None:
    shares = automatic(usable, cores)
    given_away = sum(share.count * share.memory_mib for share in shares)
    assert given_away <= usable
    if usable >= 512:
        assert usable - given_away < 512
        assert max(share.memory_mib for share in shares) >= usable // 4
        assert min(share.memory_mib for share in shares) == 512
    assert all(share.cores is not None and 0 < share.cores <= cores for share in shares)


def test_shares_become_slices_of_the_node() -> None:
    made = pools("here", (Share(4, 512), Share(1, 2048, 3.0)), usable_mib=4096, cores=4)
    assert [(pool.node, pool.slice.name, pool.total, pool.slice.compute) for pool in made] == [
        ("here", "cpu-512mib", 4, 0.125),
        ("here", "cpu-2gib", 1, 0.75),
    ]
    assert {pool.slice.kind for pool in made} == {SliceKind.CPU}


def test_equal_shares_are_one_pool() -> None:
    (pool,) = pools("here", (Share(1, 512), Share(2, 512)), usable_mib=4096, cores=4)
    assert pool.total == 3


def test_a_share_never_has_more_than_all_cores() -> None:
    (pool,) = pools("here", (Share(1, 8192, 64.0),), usable_mib=4096, cores=4)
    assert pool.slice.compute == 1.0


@pytest.mark.parametrize(("compute", "expected"), [(0.01, 1), (0.5, 4), (1.0, 8)])
def test_a_server_has_as_many_threads_as_its_slice_has_cores(compute: float, expected: int) -> None:
    assert threads(cpu_slice(1024, compute), cores=8) == expected
