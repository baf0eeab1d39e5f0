"""Stories for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.core.support import Story


@pytest.fixture
def begin() -> Iterator[Callable[..., Story]]:
    """Begin a story (see `Story`); at its end, nothing may be left untold."""
    stories: list[Story] = []

    def begin(inventory: str | None = None, **policy: float) -> Story:
        stories.append(Story(inventory, **policy))
        return stories[-1]

    yield begin
    for story in stories:
        story.then()
