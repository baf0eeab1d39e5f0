"""Requests: who is seated, who waits, who is refused, and for how long anybody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.lines import Ticket
from ssis_dispatcher.core.messages import AnyCommand, RequestArrived, RequestGone, Seat
from ssis_dispatcher.core.reasons import why
from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.states import ModelState
from ssis_dispatcher.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssis_dispatcher.core.fleet import Fleet

_NOTHING: tuple[AnyCommand, ...] = ()
DRAINING = Problem(503, "draining", "The dispatcher is shutting down; send the request again.", retry_after=1.0)


def obstacle(book: Book, state: ModelState | None, size: int, now: float) -> Problem | None:
    """Rules 1 and 2, as far as they need not know the slices, for a request that costs ``size`` bytes to hold."""
    if book.draining:
        return DRAINING
    if state is not None and now < state.pause_until and not state.ready and state.starting() is None:
        return state.resting(now)
    policy = book.policy
    mine, mine_size = (len(state.line), state.line.size) if state is not None else (0, 0)
    if (
        len(book.waiting) >= policy.waiting_total
        or book.waiting_bytes + size > policy.waiting_bytes
        or mine >= policy.waiting_per_model
        or mine_size + size > policy.waiting_bytes_per_model
    ):
        message = f"The waiting room is full: {mine} requests wait for this model, {len(book.waiting)} in all."
        return Problem(503, "waiting_room_full", message, retry_after=5.0)
    return None


class Intake:
    """The waiting room. A handler that returns None leaves its commands in ``book.out``; the two on the warm path return
    theirs, which spares them the list and the look at the timers."""

    def __init__(self, book: Book, fleet: Fleet) -> None:
        self._book = book
        self._fleet = fleet
        self._models = book.models
        self._seated = book.seated

    # Coming

    def arrived(self, event: RequestArrived, now: float) -> Sequence[AnyCommand] | None:
        """Rules 1 to 4, and the way to 5, 6 and 7."""
        state = self._models.get(event.model.key)
        if state is not None and not state.line.waiting and not self._book.draining:  # (3)
            server = state.roomiest()
            if server is not None:
                self._sit(event.request, server)
                return (Seat(event.cause, event.request, server.id),)
        problem = obstacle(self._book, state, event.size, now)
        if problem is not None:  # (1), (2)
            self._book.refuse(event.request, event.cause, problem)
            return None
        self._join(state or ModelState(event.model), event, now)  # (4)
        return None

    def _sit(self, request: int, server: Server) -> None:
        server.busy += 1
        if server.busy == 1:
            server.owner.held += server.count
        self._seated[request] = server
        self._book.seatings += 1

    def _join(self, state: ModelState, event: RequestArrived, now: float) -> None:
        book = self._book
        caller = book.caller(event.caller, now)
        caller.take_limits(event.limits, book.policy)
        if not state.has_hope():
            over = caller.take_launch(now)
            if over is not None:
                book.refuse(event.request, event.cause, over)
                return
        self._models[state.model.key] = state
        state.line.add(Ticket(event.request, caller, event.size, now, event.cause))
        caller.ties += 1
        book.waiting[event.request] = state
        book.waiting_bytes += event.size
        if event.patience is not None:
            book.timers.at(now + event.patience, lambda later: self._patience_over(event.request, later))
        self.arm(state)
        if state.ready:
            self._fleet.allotment.watch_line(state, now)
        elif not state.has_hope():
            self._fleet.allotment.need(state, caller, event.cause, now)

    # Going

    def gone(self, event: RequestGone, now: float) -> Sequence[AnyCommand] | None:
        """The seat is free, or the place in the line."""
        server = self._seated.pop(event.request, None)
        if server is None:
            return self._left(event.request, now)
        server.busy -= 1
        if server.state is not State.READY:
            return _NOTHING
        if not server.busy:
            server.owner.held -= server.count
        if server.model.line.waiting and not server.leaving:
            self.grant(server, now, event.cause)
            return None
        if server.busy or self._fleet.lifecycle.went_idle(server, now, event.cause):
            return _NOTHING
        return None

    def _left(self, request: int, now: float) -> Sequence[AnyCommand] | None:
        state = self._book.waiting.get(request)
        if state is None:
            return _NOTHING
        self._out_of_line(state.line.remove(request))
        self._nobody_left(state, now)
        return None

    def _out_of_line(self, ticket: Ticket) -> None:
        ticket.caller.ties -= 1
        del self._book.waiting[ticket.request]
        self._book.waiting_bytes -= ticket.size

    def _nobody_left(self, state: ModelState, now: float) -> None:
        """Called whenever a line may have lost its last caller: then no new server is needed."""
        if state.line:
            return
        state.last_grant = None
        if state.need is not None:
            self._fleet.allotment.end(state.need, now)
        self._book.forget_if_empty(state, now)

    # Being served, or not

    def grant(self, server: Server, now: float, cause: str) -> None:
        """Seat those whose turn it is, as far as there is room."""
        state = server.model
        while state.line and server.busy < server.seats:
            ticket = state.line.next()
            self._out_of_line(ticket)
            self._sit(ticket.request, server)
            self._book.out.append(Seat(cause, ticket.request, server.id))
        if state.last_grant is not None:
            gap = now - state.last_grant
            state.turnover = gap if state.turnover is None else 0.8 * state.turnover + 0.2 * gap
        state.last_grant = now if state.line else None

    def refuse_line(self, state: ModelState, problem: Problem, now: float) -> None:
        """Tell everybody in this line why."""
        for ticket in state.line.clear():
            self._out_of_line(ticket)
            self._book.refuse(ticket.request, ticket.cause, problem)
        self._nobody_left(state, now)

    def refuse_caller(self, state: ModelState, caller: Caller, problem: Problem, now: float) -> None:
        """Tell one caller's requests in this line why."""
        for ticket in state.line.of(caller):
            self._out_of_line(state.line.remove(ticket.request))
            self._book.refuse(ticket.request, ticket.cause, problem)
        self._nobody_left(state, now)

    def drain(self, now: float) -> None:
        self._book.draining = True
        for state in list(self._models.values()):
            self.refuse_line(state, DRAINING, now)

    # Waiting too long. One timer a line, for its oldest request: a line of thousands costs no more than one of three.

    def arm(self, state: ModelState) -> None:
        """See to it that the line is looked at when its oldest request has waited as long as it may.

        A server on its way has a budget of its own (`Lifecycle`), and while it lasts this clock stands still.
        """
        oldest = state.line.oldest()
        if oldest is not None and not state.line_armed and state.phase() != "starting":
            state.line_armed = True
            self._book.timers.at(self._deadline(state, oldest), lambda now: self._due(state, now))

    def _deadline(self, state: ModelState, ticket: Ticket) -> float:
        return max(ticket.arrived, state.clock) + self._book.policy.slice_wait

    def _due(self, state: ModelState, now: float) -> None:
        state.line_armed = False
        if state.phase() == "starting":
            return
        while (oldest := state.line.oldest()) is not None and self._deadline(state, oldest) <= now:
            problem = self._waited_too_long(state, now - oldest.arrived)
            self._out_of_line(state.line.remove(oldest.request))
            self._book.refuse(oldest.request, oldest.cause, problem)
        self._nobody_left(state, now)
        self.arm(state)

    def _patience_over(self, request: int, now: float) -> None:
        state = self._book.waiting.get(request)
        if state is None:
            return
        ticket = state.line.remove(request)
        self._out_of_line(ticket)
        self._book.refuse(request, ticket.cause, self._waited_too_long(state, now - ticket.arrived))
        self._nobody_left(state, now)

    def _waited_too_long(self, state: ModelState, seconds: float) -> Problem:
        return Problem(503, "no_capacity", f"Waited {seconds:.0f} s. {why(self._book, state)}", retry_after=10.0)
