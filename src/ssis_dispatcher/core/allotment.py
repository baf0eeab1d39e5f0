"""Slices: which model gets one, which idle server goes, who waits for which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING

import msgspec

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.choice import Places, choose, places
from ssis_dispatcher.core.messages import Describe, Launch
from ssis_dispatcher.core.placement import candidates
from ssis_dispatcher.core.servers import Server, State, server_name
from ssis_dispatcher.core.shelves import Bin, Shelf
from ssis_dispatcher.core.sizing import Fit
from ssis_dispatcher.core.states import ModelState, Need
from ssis_dispatcher.errors import Problem

if TYPE_CHECKING:
    from ssis_dispatcher.core.fleet import Fleet


class Allotment:
    """Rules 5, 6 and 7, for one model at a time, and for whoever waits when something changed."""

    def __init__(self, book: Book, fleet: Fleet) -> None:
        self._book = book
        self._fleet = fleet

    # Needs

    def need(self, state: ModelState, caller: Caller, cause: str, now: float) -> None:
        """This model needs a server: find out about it if nothing is known, else place it."""
        need = state.need = Need(state, caller, cause)
        caller.wanted += 1
        caller.ties += 1
        if state.profile is not None:
            self.known(need, now)
        else:
            self.describe(need, now)

    def describe(self, need: Need, now: float) -> None:
        """Ask what this model needs, unless that has been asked already; meanwhile its launch hangs nowhere."""
        self._unhang(need)
        need.places = ()
        self._release(need, need.claims.values(), now)
        if not need.model.describing:
            need.model.describing = True
            self._book.out.append(Describe(need.cause, need.model.model))

    def known(self, need: Need, now: float) -> None:
        """It is known what this model needs."""
        self._hang(need, now)
        self.place(need, now)

    def need_again(self, state: ModelState, now: float) -> None:
        """The line may have lost the server it counted on: then it needs another, or rests and is told why."""
        oldest = state.line.oldest()
        if oldest is None or state.has_hope():
            return
        if now < state.pause_until:
            self._fleet.intake.refuse_line(state, state.resting(now), now)
        else:
            self.need(state, oldest.caller, oldest.cause, now)

    def end(self, need: Need, now: float) -> None:
        """This need is met, or nobody has it any more: what stopped for it may serve another, and whom it barred may pass."""
        closed = [shelf for _, shelf in need.places if need.order in shelf.barring]
        self._unhang(need)
        need.model.need = None
        need.caller.wanted -= 1
        need.caller.ties -= 1
        self._release(need, need.claims.values(), now)
        for shelf in closed:
            self.offer(shelf, now)

    def fits(self, state: ModelState) -> tuple[Fit, ...]:
        """How this model fits on each slice kind; worked out anew only when something about it changed."""
        profile, stock = state.profile, self._book.stock
        assert profile is not None
        if state.fits_kinds != stock.kinds:
            if state.floor_mib > profile.floor_mib:
                profile = state.profile = msgspec.structs.replace(profile, floor_mib=state.floor_mib)
            state.fits = candidates(profile, stock.largest())
            state.fits_kinds = stock.kinds
        return state.fits

    def _hang(self, need: Need, now: float) -> None:
        """Let a need wait on every shelf that it could use. What stops on others does not stop for it any more."""
        self._unhang(need)
        if not need.order:
            need.order = self._book.next_order()
        need.places = self._places(need.model, need.caller)
        for _, shelf in need.places:
            shelf.hang(need, need.overtaken >= self._book.policy.overtakes)
        shelves = [shelf for _, shelf in need.places]
        self._release(need, [server for server in need.claims.values() if server.bin.shelf not in shelves], now)

    def _places(self, state: ModelState, caller: Caller) -> Places:
        def allowed(fit: Fit) -> bool:
            return caller.allows(fit.slice.kind) and caller.affords(fit.count)

        return places(self.fits(state), self._book.stock.shelves, allowed)

    @staticmethod
    def _unhang(need: Need) -> None:
        for _, shelf in need.places:
            shelf.unhang(need)

    def _release(self, need: Need, servers: Iterable[Server], now: float) -> None:
        """These stop for this launch no more; another that waits may count on them."""
        for server in list(servers):
            del need.claims[server.id]
            server.claim = None
            server.bin.shelf.retiring[server.id] = server
            self.may_go(server, now)

    # Placing

    def place(self, need: Need, now: float, at: Bin | None = None) -> bool:
        """Rules 5, 6 and 7, and the part of 1 that must know the slices. False when the need waits on as before; then
        nothing has changed. For ``at`` see `choose`."""
        if not self._book.stock.known or self._book.draining:
            return False
        if not need.places:
            self._give_up(need, now)
            return True
        choice = choose(need.places, need.order, evict=not need.claims, at=at)
        if choice is None:  # (7) it hangs on its shelves
            return False
        if choice.victims:  # (6)
            self._claim(need, choice.victims, now)
        else:  # (5)
            self._count_overtaken(choice.bin.shelf, need.order)
            self._launch(need.model, choice.fit, choice.bin, need.caller, need.cause, now)
            self.end(need, now)
        return True

    def _count_overtaken(self, shelf: Shelf, order: int) -> None:
        """Each need is passed at most ``policy.overtakes`` times in its life, so this costs each need that many steps."""
        for older, need in shelf.wants.items():
            if older >= order:
                break
            need.overtaken += 1
            if need.overtaken >= self._book.policy.overtakes:
                for _, each in need.places:
                    each.barring[older] = need

    def _claim(self, need: Need, victims: Sequence[Server], now: float) -> None:
        """The need waits for these servers to be gone; those that do not stop already are told to."""
        for server in victims:
            need.claims[server.id] = server
            server.claim = need
            if server.state is State.STOPPING:
                del server.bin.shelf.retiring[server.id]
            else:
                self._book.evictions += 1
                self._fleet.lifecycle.stop(server, f"evicted for {need.model.model.id}", need.cause, now)

    def _launch(self, state: ModelState, fit: Fit, bin: Bin, caller: Caller, cause: str, now: float) -> None:
        book, profile = self._book, state.profile
        assert profile is not None
        taken = {server.replica for server in state.servers.values()}
        replica = next(n for n in range(len(taken) + 1) if n not in taken)
        name = server_name(state.model, replica)
        server = Server(name, replica, book.next_order(), state, profile, bin, fit.count, caller, now)
        server.seats, server.context = fit.seats, profile.context
        budget = self._fleet.lifecycle.starts(server, now)
        book.launches += 1
        book.out.append(
            Launch(cause, name, state.model, profile, bin.pool(), fit.count, fit.seats, profile.context, budget)
        )

    def _give_up(self, need: Need, now: float) -> None:
        """Nothing here will do: for anybody, or only for the caller whose need it is."""
        state, caller = need.model, need.caller
        self.end(need, now)
        good = [fit for fit in self.fits(state) if fit.seats > 0]
        if not good:
            self._fleet.intake.refuse_line(state, self._does_not_fit(state), now)
            return
        problem = caller.over_slices()
        if not any(caller.allows(fit.slice.kind) for fit in good):
            kinds = sorted({fit.slice.kind for fit in good})
            message = f"{state.model.id} needs a slice of kind {' or '.join(kinds)}; this caller may use "
            problem = Problem(
                403, "slice_kind_not_allowed", f"{message}{' or '.join(caller.kinds)} only.", param="model"
            )
        self._fleet.intake.refuse_caller(state, caller, problem, now)
        self.need_again(state, now)

    def _does_not_fit(self, state: ModelState) -> Problem:
        fits = self.fits(state)
        if not fits:
            return Problem(503, "no_slices", "No slices are advertised here now.", retry_after=30.0)
        largest = max(fits, key=lambda fit: fit.slice.memory_mib * fit.count)
        failed = f" Last failure: {state.trouble}" if state.trouble else ""
        message = f"{state.model.id} fits on no slice here. {largest.slice.name}: {largest.why}.{failed}"
        return Problem(422, "model_does_not_fit", message, param="model")

    # When something changed

    def offer(self, shelf: Shelf, now: float, at: Bin | None = None) -> None:
        """There is more of this kind than before: whose turn it is takes it. Where only the bin ``at`` has changed, nothing
        more can come of it when nothing is free any more, unless it was overdrawn and its idle servers are worth
        something again."""
        for_free = at is not None and at.free > 0
        while (shelf.free() > 0 or not for_free) and self._first(shelf, now, at):
            pass

    def may_go(self, server: Server, now: float) -> None:
        """A server has become a possible victim, or stops for nobody: the launch whose turn it is, of those that wait for
        none yet, may count on its slice."""
        if server.evictable or server.state is State.STOPPING:
            self._first(server.bin.shelf, now, server.bin)

    def _first(self, shelf: Shelf, now: float, at: Bin | None) -> bool:
        """The first launch in turn that can do something does it; False when none can."""
        return any(self.place(need, now, at) for need in shelf.in_turn())

    def freed(self, server: Server, now: float) -> None:
        """A server has given its slice back: whose turn it is, and then the launch that waited for this one."""
        need, server.claim = server.claim, None
        if need is not None:
            del need.claims[server.id]
        self.offer(server.bin.shelf, now, server.bin)
        if need is not None and not need.claims and need.model.need is need:
            self.place(need, now)

    def inventory_changed(self, freed: list[Shelf], kinds_changed: bool, now: float) -> None:
        if kinds_changed:
            waiting = [state.need for state in self._book.models.values() if state.need and state.profile]
            waiting.sort(key=lambda need: need.order)
            for need in waiting:
                self._unhang(need)
                need.places = ()
            for need in waiting:
                self._hang(need, now)
            for need in waiting:
                if need.model.need is need:
                    self.place(need, now)
        for shelf in freed:
            self.offer(shelf, now)

    # A second server for one model

    def watch_line(self, state: ModelState, now: float) -> None:
        """All seats are taken: look again when the line has waited long."""
        oldest = state.line.oldest()
        if oldest is not None and not state.scale_armed:
            state.scale_armed = True
            due = self._long(state, oldest.arrived)
            again = now + self._book.policy.scale_out_after
            self._book.timers.at(due if due > now else again, lambda later: self._scale_out(state, later))

    def _long(self, state: ModelState, arrived: float) -> float:
        """When a request will have waited long for a seat of the servers there are now."""
        return max(arrived, state.clock) + self._book.policy.scale_out_after

    def _scale_out(self, state: ModelState, now: float) -> None:
        state.scale_armed = False
        oldest = state.line.oldest()
        if oldest is None or not state.ready:
            return
        most = (state.profile and state.profile.max_servers) or self._book.policy.servers_per_model
        if now >= self._long(state, oldest.arrived) and not state.starting() and len(state.servers) < most:
            self._launch_extra(state, oldest.caller, oldest.cause, now)
        self.watch_line(state, now)

    def _launch_extra(self, state: ModelState, caller: Caller, cause: str, now: float) -> None:
        """On the smallest free slice that fits and that no launch waits for, if there is one; nobody goes for it."""
        if state.profile is None:
            return
        unwanted = [(fit, shelf) for fit, shelf in self._places(state, caller) if not shelf.wants]
        choice = choose(unwanted, inf, evict=False)
        if choice is not None and caller.take_launch(now) is None:
            self._launch(state, choice.fit, choice.bin, caller, cause, now)
