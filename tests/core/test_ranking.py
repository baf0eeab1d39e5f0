"""The index of free slices and of victims, against a list that is gone through."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.core import ranking
from ssis_dispatcher.core.ranking import Amounts, Key, Ranking

Place = tuple[Key, Amounts]
Cost = tuple[float, float]

PLACES: st.SearchStrategy[tuple[Cost, Amounts] | None] = st.none() | st.tuples(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.builds(Amounts, *[st.integers(0, 3) | st.just(inf)] * 3)
)
STEPS = st.lists(st.tuples(st.sampled_from(["change", "drop", "search"]), st.integers(0, 30), PLACES), max_size=120)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks so small that they are split and joined all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", 2)
        yield


def everything(index: Ranking[int]) -> list[int]:
    """All that `Ranking.first` comes upon, one after the other."""
    found, after = [], None
    while (entry := index.first(-inf, -inf, -inf, after)) is not None:
        found.append(entry[0])
        after = entry[1]
    return found


@given(STEPS)
def test_it_finds_what_a_search_through_all_finds(steps: list[tuple[str, int, tuple[Cost, Amounts] | None]]) -> None:
    places: dict[int, Place] = {}
    index: Ranking[int] = Ranking(places.get)
    for what, item, place in steps:
        if what == "drop" or (what == "change" and place is None):
            places.pop(item, None)
            (index.drop if what == "drop" else index.changed)(item)
        elif what == "change" and place is not None:
            places[item] = ((*place[0], item), place[1])
            index.changed(item)
        elif place is not None:
            (least, dearest), has = place
            after = (float(least), float(dearest), item)
            good = [
                (key, item)
                for item, (key, had) in places.items()
                if key > after and all(a >= b for a, b in zip(had, has, strict=True))
            ]
            found = index.first(*has, after)
            assert (found and (found[1], found[0])) == min(good, default=None)
    assert list(index) == everything(index) == sorted(places, key=lambda item: places[item][0])


def test_nothing_is_worked_out_before_it_is_sought() -> None:
    asked: list[str] = []

    def place(item: str) -> Place:
        asked.append(item)
        return (1.0, 1.0, ord(item)), Amounts(1, 1, 1)

    index = Ranking(place)
    for item in "abab":
        index.changed(item)
    assert asked == []
    found = index.first(1, 1, 1)
    assert found is not None
    assert (found[0], asked) == ("a", ["a", "b"])
    assert index.first(2, 1, 1) is None
    assert asked == ["a", "b"]


def test_looking_again_says_whether_it_has_been_where_it_belongs() -> None:
    places: dict[str, Place] = {"a": ((1.0, 0.0, 1), Amounts(1, 1, 1))}
    index = Ranking(places.get)
    index.changed("a")
    assert list(index) == ["a"]
    assert index.look("a")
    places["a"] = ((2.0, 0.0, 1), Amounts(1, 1, 1))
    assert not index.look("a")
    assert index.look("a")
    del places["a"]
    assert not index.look("a")
    assert index.look("a")
    assert list(index) == []


def test_a_block_without_enough_is_not_looked_into() -> None:
    """Half of the items lack one amount and half the other, so that no single amount is lacking anywhere."""
    looked: list[int] = []

    class Watched(int):
        def __ge__(self, other: float) -> bool:
            looked.append(self)
            return int(self) >= other

    few, many = Watched(1), Watched(9)
    places = {item: ((0.0, 0.0, item), Amounts(1, *((few, many) if item % 2 else (many, few)))) for item in range(1000)}
    index = Ranking(places.get)
    for item in places:
        index.changed(item)
    list(index)
    looked.clear()
    assert index.first(1, 5, 5) is None
    assert 0 < len(looked) <= 4 * 1000 / ranking.BLOCK


def test_a_block_forgets_what_has_left_when_it_was_looked_into_in_vain() -> None:
    places = {item: ((0.0, 0.0, item), Amounts(1, item, item)) for item in range(4)}
    index = Ranking(places.get)
    for item in places:
        index.changed(item)
    assert index.first(1, 3, 3) is not None
    index.drop(3)
    block = index._blocks[-1]
    assert block.may_have(1, 3, 3)
    assert index.first(1, 3, 3) is None
    assert not block.may_have(1, 3, 3)
