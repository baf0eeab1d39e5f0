"""The waiting line of one model: fair between callers, and every removal O(1)."""

from __future__ import annotations

from collections import OrderedDict

from ssis_dispatcher.core.callers import Caller


class Ticket:
    """One waiting request."""

    __slots__ = ("arrived", "caller", "cause", "request", "size")

    def __init__(self, request: int, caller: Caller, size: int, arrived: float, cause: str) -> None:
        self.request = request
        self.caller = caller
        self.size = size
        self.arrived = arrived
        self.cause = cause


class Line:
    """Requests waiting for one model.

    Served round robin by caller: whoever gets a seat goes to the end, so a caller's first request waits for at most one
    grant to each other waiting caller. Linked lists (OrderedDict) because a plain dict grows slow at its front.
    """

    __slots__ = ("_by_caller", "size", "waiting")

    def __init__(self) -> None:
        self._by_caller: OrderedDict[Caller, OrderedDict[int, Ticket]] = OrderedDict()
        self.waiting: OrderedDict[int, Ticket] = OrderedDict()
        """By request, oldest first; to be read only. Whether it is empty is asked of every warm request."""
        self.size = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, ticket: Ticket) -> None:
        own = self._by_caller.get(ticket.caller)
        if own is None:
            own = self._by_caller[ticket.caller] = OrderedDict()
        own[ticket.request] = ticket
        self.waiting[ticket.request] = ticket
        self.size += ticket.size

    def next(self) -> Ticket:
        """Remove and return whose turn it is."""
        caller, own = self._by_caller.popitem(last=False)
        request, ticket = own.popitem(last=False)
        if own:
            self._by_caller[caller] = own
        del self.waiting[request]
        self.size -= ticket.size
        return ticket

    def remove(self, request: int) -> Ticket:
        ticket = self.waiting.pop(request)
        own = self._by_caller[ticket.caller]
        del own[request]
        if not own:
            del self._by_caller[ticket.caller]
        self.size -= ticket.size
        return ticket

    def oldest(self) -> Ticket | None:
        for ticket in self.waiting.values():
            return ticket
        return None

    def of(self, caller: Caller) -> list[Ticket]:
        """This caller's requests, oldest first."""
        return list(self._by_caller.get(caller, {}).values())

    def clear(self) -> list[Ticket]:
        """Remove and return everybody, oldest first."""
        everybody = list(self.waiting.values())
        self.waiting.clear()
        self._by_caller.clear()
        self.size = 0
        return everybody

    def in_turn(self, limit: int) -> list[Ticket]:
        """The first ``limit`` requests in the order in which they would be seated."""
        queues = [list(own.values()) for own in self._by_caller.values()]
        turns: list[Ticket] = []
        depth = 0
        while queues and len(turns) < limit:
            queues = [own for own in queues if len(own) > depth]
            turns += [own[depth] for own in queues]
            depth += 1
        return turns[:limit]

    def position(self, request: int) -> int | None:
        """How many are seated before this one, counted from 1; None when it does not wait here.

        Callers ahead in the rotation get one grant more than those behind, each at most as many as it has waiting.
        """
        ticket = self.waiting.get(request)
        if ticket is None:
            return None
        rounds = list(self._by_caller[ticket.caller]).index(request)
        ahead, passed = 0, False
        for caller, own in self._by_caller.items():
            if caller == ticket.caller:
                passed = True
            else:
                ahead += min(len(own), rounds if passed else rounds + 1)
        return ahead + rounds + 1
