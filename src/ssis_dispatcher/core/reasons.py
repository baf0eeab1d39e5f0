"""What a line waits for, in words that a caller can use."""

from __future__ import annotations

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.choice import waits_for
from ssis_dispatcher.core.states import ModelState

TIED = "The platform cannot be reached now: nothing is started until it can."


def why(book: Book, state: ModelState) -> str:
    """What the line of this model waits for."""
    if state.ready:
        seats = sum(server.seats for server in state.ready)
        return f"All {seats} seats of {len(state.ready)} server(s) are taken."
    starting = state.starting()
    if starting is not None:
        return f"Server {starting.id} is starting: {starting.phase} {starting.detail}".rstrip() + "."
    if state.profile is None:
        return "Finding out what this model needs."
    need = state.need
    if need is None or not need.places:
        return "Waiting to learn which slices exist."
    if need.claims:
        return f"Waiting for {', '.join(sorted(need.claims))} to stop and free its slice."
    return TIED if book.tied else waits_for(need.places, need.ask)
