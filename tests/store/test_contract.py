"""What every store of learned facts does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.store.base import LearnedStore, Lesson, Place
from ssis_dispatcher.store.memory import MemoryStore
from ssis_dispatcher.store.sqlite import SqliteStore

GPT2 = Model.of("org/gpt2", engine="tgi", arguments=(("dtype", "float16"),))


def fact(
    model: Model = GPT2, outcome: str = "ready", slice: str = "nvidia.com/mig-1g.5gb", seconds: float = 12.5
) -> Remember:
    return Remember("r-1", model, slice, "mig", 4864, outcome, seconds)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LearnedStore]:
    made: LearnedStore = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "state" / "ssis.db")
    yield made
    made.close()


def test_a_new_store_is_empty(store: LearnedStore) -> None:
    assert store.load() == {}


def test_a_lesson_is_kept_under_model_revision_engine_arguments_and_slice(store: LearnedStore) -> None:
    store.remember(fact(), 1000.0)
    place = Place("org/gpt2", "", "tgi", (("dtype", "float16"),), None, "nvidia.com/mig-1g.5gb", "mig")
    assert store.load() == {place: Lesson("ready", 4864, 12.5, 1000.0)}


def test_the_later_lesson_about_a_place_takes_the_place_of_the_earlier(store: LearnedStore) -> None:
    store.remember(fact(outcome="out_of_memory"), 1000.0)
    store.remember(fact(seconds=7.0), 2000.0)
    assert list(store.load().values()) == [Lesson("ready", 4864, 7.0, 2000.0)]


def test_whatever_changes_the_server_or_the_slice_is_another_place(store: LearnedStore) -> None:
    others = [
        Model.of("org/gpt-2", engine="tgi", arguments=GPT2.arguments),
        Model.of("org/gpt2", revision="v2", engine="tgi", arguments=GPT2.arguments),
        Model.of("org/gpt2", engine="vllm", arguments=GPT2.arguments),
        Model.of("org/gpt2", engine="tgi"),
        Model.of("org/gpt2", engine="tgi", arguments=GPT2.arguments, context=4096),
    ]
    for model in (GPT2, *others):
        store.remember(fact(model), 1.0)
    store.remember(fact(slice="nvidia.com/mig-2g.10gb"), 1.0)
    assert len(store.load()) == 7


def test_who_asked_makes_no_difference(store: LearnedStore) -> None:
    store.remember(fact(), 1.0)
    store.remember(fact(Model.of("org/gpt2", engine="tgi", arguments=GPT2.arguments, scope="token:1234")), 2.0)
    assert [lesson.when for lesson in store.load().values()] == [2.0]


def test_forgetting_a_model_forgets_all_of_it_and_nothing_else(store: LearnedStore) -> None:
    store.remember(fact(), 1.0)
    store.remember(fact(slice="other"), 1.0)
    store.remember(fact(Model.of("org/b")), 1.0)
    store.forget("org/gpt2")
    assert [place.model for place in store.load()] == ["org/b"]
    store.forget("org/unknown")
    store.remember(fact(), 2.0)
    assert len(store.load()) == 2


def test_what_was_loaded_does_not_change_afterwards(store: LearnedStore) -> None:
    before = store.load()
    store.remember(fact(), 1.0)
    assert before == {}


Change = tuple[str, str, str]
CHANGES = st.lists(
    st.tuples(st.sampled_from(["remember", "forget", "reopen"]), st.sampled_from("ab"), st.sampled_from("xy")),
    max_size=20,
)


@settings(max_examples=25, deadline=None)
@given(CHANGES)
def test_both_stores_agree_whatever_happens_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Change]
) -> None:
    path = tmp_path_factory.mktemp("store") / "ssis.db"
    memory, sqlite = MemoryStore(), SqliteStore(path)
    do: dict[str, Callable[[LearnedStore, str, str, float], None]] = {
        "remember": lambda store, model, slice, when: store.remember(fact(Model.of(model), slice=slice), when),
        "forget": lambda store, model, slice, when: store.forget(model),
    }
    for when, (change, model, slice) in enumerate(changes):
        if change == "reopen":
            sqlite.close()
            sqlite = SqliteStore(path)
        else:
            do[change](memory, model, slice, float(when))
            do[change](sqlite, model, slice, float(when))
        assert sqlite.load() == memory.load()
    sqlite.close()
    again = SqliteStore(path)
    assert again.load() == memory.load()
    again.close()
