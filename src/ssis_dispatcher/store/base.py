"""What launches taught, kept over restarts: the protocol, and the shape of one lesson.

`ssis_dispatcher.models.directory` loads the lessons once, and tells the store what is new; nothing on the path of a
request comes here. ``tests/store/test_contract.py`` holds every store to this page.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ssis_dispatcher.core.messages import Remember


class Place(msgspec.Struct, frozen=True):
    """What a lesson is about: a model as its server sees it (scope and node do not change what fits), on one kind of
    slice."""

    model: str
    revision: str
    engine: str
    arguments: tuple[tuple[str, str], ...]
    context: int | None
    slice: str
    kind: str


class Lesson(msgspec.Struct, frozen=True):
    """How the last launch there went: ``outcome`` is ``ready`` or ``out_of_memory``. ``memory_mib`` is what the slices
    had in all, ``seconds`` how long it took, ``when`` is seconds since the epoch."""

    outcome: str
    memory_mib: int
    seconds: float
    when: float


class LearnedStore(Protocol):
    """Keeps the last lesson for each place. No method raises for reasons that lie in the storage: what cannot be kept
    is logged, and the program goes on without it."""

    def load(self) -> dict[Place, Lesson]:
        """Everything kept, as of now."""

    def remember(self, fact: Remember, when: float) -> None:
        """Keep ``fact`` in place of what was known of the same place. Returns at once."""

    def forget(self, model: str) -> None:
        """Drop every lesson about the model id ``model``, whatever its revision, engine or slice. Returns at once."""

    def close(self) -> None:
        """Write down what is still on its way, and let go. Nothing may be called after this."""


def learned(fact: Remember, when: float) -> tuple[Place, Lesson]:
    """A `Remember` as what it is kept as."""
    model = fact.model
    place = Place(model.id, model.revision, model.engine, model.arguments, model.context, fact.slice, fact.kind)
    return place, Lesson(fact.outcome, fact.memory_mib, fact.seconds, when)
