"""What launches taught, by model."""

from __future__ import annotations

from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.store.lessons import EXPIRY, Lessons
from ssis_dispatcher.store.memory import MemoryStore

MODEL = Model.of("org/m", engine="tgi")


def fact(
    outcome: str = "ready", model: Model = MODEL, slice: str = "a", kind: str = "mig", mib: int = 4864
) -> Remember:
    return Remember("r", model, slice, kind, mib, outcome, 9.0)


def test_outcomes_are_those_of_the_same_model_on_the_same_kinds_of_slice() -> None:
    lessons = Lessons(MemoryStore())
    lessons.remember(fact())
    lessons.remember(fact("out_of_memory", slice="b", mib=2048))
    lessons.remember(fact(kind="cpu", slice="c"))
    lessons.remember(fact(model=Model.of("org/m", engine="vllm")))
    lessons.remember(fact(model=Model.of("org/m", engine="tgi", context=512)))
    assert list(lessons.outcomes(MODEL, {"mig", "mps"})) == [("ready", 4864, 9.0), ("out_of_memory", 2048, 9.0)]
    assert list(lessons.outcomes(Model.of("org/other"), {"mig"})) == []


def test_they_are_there_after_a_restart() -> None:
    store = MemoryStore()
    Lessons(store).remember(fact())
    assert list(Lessons(store).outcomes(MODEL, {"mig"})) == [("ready", 4864, 9.0)]


def test_a_caller_with_a_scope_of_its_own_learns_from_all() -> None:
    lessons = Lessons(MemoryStore())
    lessons.remember(fact())
    assert list(lessons.outcomes(Model.of("org/m", engine="tgi", scope="token:1"), {"mig"}))


def test_out_of_memory_is_forgotten_after_a_while_and_success_is_not() -> None:
    now = 1000.0
    lessons = Lessons(MemoryStore(), clock=lambda: now)
    lessons.remember(fact("out_of_memory"))
    lessons.remember(fact("ready", slice="b"))
    now += EXPIRY
    assert len(list(lessons.outcomes(MODEL, {"mig"}))) == 2
    now += 1
    assert list(lessons.outcomes(MODEL, {"mig"})) == [("ready", 4864, 9.0)]


def test_forgetting_a_model_forgets_it_everywhere() -> None:
    store = MemoryStore()
    lessons = Lessons(store)
    lessons.remember(fact())
    lessons.remember(fact(model=Model.of("org/b")))
    lessons.forget("org/m")
    assert list(lessons.outcomes(MODEL, {"mig"})) == []
    assert [place.model for place in store.load()] == ["org/b"]
