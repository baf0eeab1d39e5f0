"""The book of all servers and all waiting requests: decides everything, does nothing.

Theory of operation
-------------------
The dispatcher tells the fleet what happened (`handle(event, now)`) and carries out the commands it gets back. There is no
other way in, no clock and no randomness, so the same events at the same times always give the same commands, and a
recorded history replays to the same state.

A request that arrives meets these rules, in this order, but that (3) comes first where nobody waits for its model:

(1) impossible (the model is known not to fit, or rests after a failure, or we are going away): refuse with the reason;
(2) the waiting room is full: refuse with 503;
(3) a ready server has room: seat;
(4) one is starting, or all seats are taken: wait in the model's line;
(5) a slice fits and is free: launch on the smallest, wait;
(6) an idle server may go: stop it, then as 5;
(7) wait for a slice.

Rules 1, 3 and 4 touch only the model's own `ModelState`. A launch that cannot be placed becomes a `Need` and hangs on
every `Shelf` (slice kind) that it could use, oldest first. Whatever may change its fate looks at those shelves: a slice
that becomes free (`offer`), a server that becomes idle or outlives its dwell time (`may_go`), a changed inventory, hands that
are free again. Servers of one node share its CPU and memory (`Rack`), so where those are limited, what happens on one shelf
of a node concerns its others too. Nothing that waits is ever without something that will look at it again; a timer ends the
wait in any case.

A warm request (rule 3, and its end) is two dictionary look-ups and a counter; it arms no timer, and going idle costs one
flag once its server is in the shelf's index of possible victims. The bench ``bench/core.py`` holds this to its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ssis_dispatcher.core import views
from ssis_dispatcher.core.allotment import Allotment
from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.intake import Intake
from ssis_dispatcher.core.lifecycle import Lifecycle
from ssis_dispatcher.core.messages import (
    AnyCommand,
    AnyEvent,
    DrainBegan,
    HandsTied,
    InventoryChanged,
    ModelDescribed,
    ModelForgotten,
    ModelPinned,
    ModelRejected,
    RequestArrived,
    RequestGone,
    ServerAdopted,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
    ServerStopped,
    StopAsked,
    TimePassed,
    WakeAt,
)
from ssis_dispatcher.core.policy import Policy

Commands = Sequence[AnyCommand]


class Fleet:
    """See the module's docstring. Everything here is synchronous, and ``now`` (seconds, any origin) never goes backwards.

    ``intake`` keeps the lines, ``allotment`` the slices, ``lifecycle`` the servers; all three write in one ``book``.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.book = Book(policy or Policy())
        self.intake = intake = Intake(self.book, self)
        self.allotment = Allotment(self.book, self)
        self.lifecycle = lifecycle = Lifecycle(self.book, self)
        self._woken_at: float | None = None
        self._handlers: dict[type, Callable[[Any, float], Commands | None]] = {
            RequestArrived: intake.arrived,
            RequestGone: intake.gone,
            ModelDescribed: lifecycle.described,
            ModelRejected: lifecycle.rejected,
            ModelPinned: lifecycle.pinned,
            ModelForgotten: lifecycle.forgotten,
            ServerPlaced: lifecycle.placed,
            ServerProgressed: lifecycle.progressed,
            ServerReady: lifecycle.ready,
            ServerFailed: lifecycle.failed,
            ServerStopped: lifecycle.stopped,
            ServerAdopted: lifecycle.adopted,
            StopAsked: lifecycle.stop_asked,
            InventoryChanged: self._inventory_changed,
            HandsTied: self._hands_tied,
            TimePassed: self._time_passed,
            DrainBegan: self._drain_began,
        }

    def handle(self, event: AnyEvent, now: float) -> Commands:
        """Take in one event; what is to be done about it, in order."""
        commands = self._handlers[type(event)](event, now)
        return self._flush(event.cause) if commands is None else commands

    def statistics(self, now: float) -> views.Statistics:
        """The situation in numbers and words; see `views`."""
        return views.statistics(self.book, now)

    def __repr__(self) -> str:
        book = self.book
        return (
            f"<Fleet: {len(book.seated)} seated, {len(book.waiting)} waiting | "
            f"{', '.join(map(repr, book.servers.values())) or 'no servers'}>"
        )

    def _flush(self, cause: str) -> Commands:
        book = self.book
        earliest = book.timers.earliest()
        if earliest is not None and earliest != self._woken_at:
            self._woken_at = earliest
            book.out.append(WakeAt(cause, earliest))
        out, book.out = book.out, []
        return out

    def _inventory_changed(self, event: InventoryChanged, now: float) -> None:
        book, stock = self.book, self.book.stock
        first, kinds = not stock.known, stock.kinds
        freed = stock.update(event.pools, event.hosts, event.nodes)
        for server in list(book.found.values()):
            self.lifecycle.adopted(server, now)
        book.found.clear()
        self.allotment.inventory_changed(freed, first or kinds != stock.kinds, now)

    def _hands_tied(self, event: HandsTied, now: float) -> None:
        book = self.book
        book.tied = event.tied
        if not book.tied:
            due = book.deferred.copy()
            book.deferred.clear()
            for each in due:
                each(now)
            self.allotment.place_all(now)

    def _time_passed(self, event: TimePassed, now: float) -> None:
        self._woken_at = None
        for due in self.book.timers.due(now):
            due(now)

    def _drain_began(self, event: DrainBegan, now: float) -> None:
        self.intake.drain(now)
