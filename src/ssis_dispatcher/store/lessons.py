"""What launches taught, by model: in memory for those who ask, and in the store for the next start.

Handed to `ssis_dispatcher.models.directory` by whoever builds the program, and used on the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.store.base import LearnedStore, Lesson, Place, learned

EXPIRY = 30 * 86_400.0
"""Seconds after which an out-of-memory is tried again: engines and drivers get better, and so do settings."""

_Subject = tuple[str, str, str, tuple[tuple[str, str], ...], int | None]
"""Model id, revision, engine, arguments, context: everything that decides what fits, and nothing else."""


class Lessons:
    """The lessons of ``store``, by model. Out-of-memory counts for ``expiry`` seconds."""

    def __init__(self, store: LearnedStore, expiry: float = EXPIRY, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._expiry = expiry
        self._clock = clock
        self._known: dict[_Subject, dict[tuple[str, str], Lesson]] = {}
        self.reload()

    def reload(self) -> None:
        """Take in what the store has now; what it does not have any more stays."""
        for place, lesson in self._store.load().items():
            self._take(place, lesson)

    def outcomes(self, model: Model, kinds: Collection[str]) -> Iterator[tuple[str, int, float]]:
        """How launches on slices of these kinds went: ``ready`` or ``out_of_memory``, the slices' MiB, the seconds."""
        oldest = self._clock() - self._expiry
        lessons = self._known.get((model.id, model.revision, model.engine, model.arguments, model.context), {})
        for (_, kind), lesson in lessons.items():
            if kind in kinds and (lesson.outcome == "ready" or lesson.when >= oldest):
                yield lesson.outcome, lesson.memory_mib, lesson.seconds

    def remember(self, fact: Remember) -> None:
        """Keep what a launch taught, here and over restarts."""
        now = self._clock()
        self._take(*learned(fact, now))
        self._store.remember(fact, now)

    def forget(self, id: str) -> None:
        """Drop what is known of the model id, whatever its revision and arguments."""
        self._known = {subject: lessons for subject, lessons in self._known.items() if subject[0] != id}
        self._store.forget(id)

    def _take(self, place: Place, lesson: Lesson) -> None:
        subject = (place.model, place.revision, place.engine, place.arguments, place.context)
        self._known.setdefault(subject, {})[place.slice, place.kind] = lesson
