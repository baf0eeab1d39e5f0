"""A store that forgets when the process ends: for tests, and where nothing may be written."""

from __future__ import annotations

from ssis_dispatcher.core.messages import Remember
from ssis_dispatcher.store.base import Lesson, Place, learned


class MemoryStore:
    """`LearnedStore` in a dictionary."""

    def __init__(self) -> None:
        self._lessons: dict[Place, Lesson] = {}

    def load(self) -> dict[Place, Lesson]:
        return dict(self._lessons)

    def remember(self, fact: Remember, when: float) -> None:
        place, lesson = learned(fact, when)
        self._lessons[place] = lesson

    def forget(self, model: str) -> None:
        self._lessons = {place: lesson for place, lesson in self._lessons.items() if place.model != model}

    def close(self) -> None:
        pass
