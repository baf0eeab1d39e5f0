"""Who leads: one of several dispatchers, by a Lease (coordination.k8s.io/v1) that the leader renews.

Every judgement is by our own clock; the times in the record are for people. Two things are told apart:

- who *leads*: holds the book, answers requests, is forwarded to. It stays so while the API server cannot be asked;
- what is *certain*: that nobody else can have taken over. Only as long as that is so may the leader write.

A leader may write for 6 s (`DEADLINE`) from when it sent its last successful renewal; another takes over no sooner than it
has seen the record unchanged for 10 s (`DURATION`). The 4 s between are for what is under way. A leader that was paused
finds its 6 s over before it writes, and if it did nothing at all for 10 s, that was no outage but a pause: it leads no
longer until the API server confirms it. A follower counts only time in which it could see the record: after an outage it
counts anew, and the leader, who lives, renews before.

After a leader's death another leads within 12 s; after `Lease.release`, within 2 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ssis_dispatcher.kube.api import LEASES, ApiError, Kube, Object
from ssis_dispatcher.kube.pace import at_least

DURATION = 10.0
"""Seconds without a renewal after which a lease may be taken."""

DEADLINE = 6.0
"""Seconds from a renewal during which its holder may write."""

RENEW = 2.0
"""Seconds between two renewals."""

LOOK = 1.0
"""Seconds between two looks of a follower, and before a renewal that failed is tried again. Looks twice as frequent as
renewals cost little, and the record is taken over a second sooner."""

ANSWER = 2.0
"""Seconds that the API server has for each answer: two attempts without one fit before the deadline."""

AGAIN = 0.25
"""Seconds before the next attempt, at least, after one without an answer."""

ADDRESS = "ssis-dispatcher.io/address"
"""The annotation with the address at which the leader takes requests."""


class Lease:
    """Our part in the election for the lease ``name``.

    ``identity`` must be ours alone, such as the pod's name; ``address`` is where we take requests. ``changed`` is called
    when any of `leading`, `certain`, `holder` and `address` is no longer what it was. Who does not ``stand`` for election
    only sees who leads.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        address: str,
        *,
        changed: Callable[[], None],
        stands: bool = True,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._own_address = address
        self._changed = changed
        self._stands = stands
        self._told: object = (False, False, "", "")
        self._ours = False
        self._released = False
        self._woken = asyncio.Event()  # there is something to do before it is time
        self._busy = asyncio.Lock()
        self._lapse: asyncio.TimerHandle | None = None
        self._record: Object | None = None  # as last read or written; None where there is none
        self._sealed = datetime.min.replace(tzinfo=UTC)  # the last renewTime we wrote
        # By the loop's clock:
        self._renewed_at = float("-inf")  # when our last successful renewal was sent
        self._awake_at = float("-inf")  # when we were last seen not to be paused
        self._read_at = float("-inf")  # when the record was last seen
        self._beat_at = float("-inf")  # when it was first seen as it is

    # What holds now

    @property
    def leading(self) -> bool:
        """Whether we lead, as far as can be known."""
        return self._ours and _now() - self._awake_at < DURATION

    @property
    def certain(self) -> bool:
        """Whether we lead and nobody else can: only then may be written."""
        return self.holds(_now())

    def holds(self, now: float) -> bool:
        """`certain`, at a time of the loop's clock; a fence for writes (`Kube.fence`)."""
        return self._ours and now < self._renewed_at + DEADLINE

    @property
    def holder(self) -> str:
        """The identity of the leader, as far as it is known; "" when there is none."""
        holder = _holder(self._record)
        return "" if holder == self._identity and not self.leading else holder

    @property
    def address(self) -> str:
        """Where the leader takes requests; "" when there is none."""
        if not self.holder or self._record is None:
            return ""
        return str((self._record["metadata"].get("annotations") or {}).get(ADDRESS, ""))

    # What is done

    async def run(self) -> None:
        """See who leads, stand for election where that is wanted, and renew what was won, until cancelled or `release`."""
        try:
            while not self._released:
                async with self._busy:
                    seconds = await self._attempt()
                self._tell()
                await self._rest(_now() + seconds)
        finally:
            if self._lapse is not None:
                self._lapse.cancel()

    def stand(self) -> None:
        """Stand for election from now on."""
        self._stands = True
        self._woken.set()

    async def release(self) -> None:
        """Stand no more. If we lead, somebody else may at once: whoever calls this has stopped writing. Takes no longer than
        the API server takes, nor than some seconds, and raises nothing: what cannot be given back expires."""
        self._released = True
        self._woken.set()
        async with self._busy:
            ours, self._ours = self._ours, False
            self._tell()
            if not ours or self._record is None:
                return
            body = self._with(holder=None, duration=1)
            try:
                self._record = await self._kube.replace(LEASES, body, timeout=ANSWER, patience=0)
            except ApiError:
                return
            self._tell()

    async def _rest(self, until: float) -> None:
        """Sleep, in naps that are shorter than what is taken for a pause."""
        while (left := until - _now()) > 0.001 and not self._woken.is_set():
            try:
                async with asyncio.timeout(min(left, RENEW)):
                    await self._woken.wait()
            except TimeoutError:
                self._stir()
        self._woken.clear()

    def _stir(self) -> None:
        """Note that we are awake; and whether we were paused, and may have been succeeded."""
        self._ours = self.leading
        self._awake_at = _now()

    # An attempt

    async def _attempt(self) -> float:
        """Renew, or look and perhaps take; seconds until the next attempt."""
        self._stir()
        began = _now()
        try:
            if not (self._ours and await self._write(began)):
                await self._look()
        except ApiError as error:
            return max(AGAIN, began + LOOK - _now(), at_least(error.retry_after or 0.0))
        if self._ours:
            return max(0.0, began + RENEW - _now())
        return min(LOOK, max(0.05, self._beat_at + self._duration() - _now()))

    async def _look(self) -> None:
        """Read the record, and take it if it is ours to take."""
        try:
            found = await self._kube.get(LEASES, self._name, self._namespace, timeout=ANSWER, patience=0)
        except ApiError as error:
            if not error.missing:
                raise
            found = None
        now = _now()
        if _beat(found) != _beat(self._record) or now - self._read_at > DEADLINE:
            self._beat_at = now
        first = self._read_at == float("-inf")
        self._record, self._read_at = found, now
        mine = _holder(found) == self._identity or (found is None and (self._ours or first))
        if self._stands and (mine or self._is_vacant(now)):
            await self._write(now)
        else:
            self._ours = False

    def _is_vacant(self, now: float) -> bool:
        """Whether whoever held the record has given it back or has had time enough to renew it. One that somebody deleted
        is taken no sooner than one that stands: its holder writes it anew."""
        given_back = self._record is not None and not _holder(self._record)
        return given_back or now - self._beat_at >= self._duration()

    def _duration(self) -> float:
        spec = (self._record or {}).get("spec") or {}
        return float(spec.get("leaseDurationSeconds") or DURATION)

    async def _write(self, began: float) -> bool:
        """Renew or take the record; False if it is no longer as we know it."""
        body = self._with(holder=self._identity, duration=round(DURATION))
        try:
            if self._record is None:
                stored = await self._kube.create(LEASES, body, timeout=ANSWER, patience=0)
            else:
                stored = await self._kube.replace(LEASES, body, timeout=ANSWER, patience=0)
        except ApiError as error:
            if error.conflict or error.exists or error.missing:
                return False
            raise
        self._record = stored
        self._ours = True
        self._renewed_at = began
        self._read_at = self._beat_at = _now()
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = asyncio.get_running_loop().call_at(began + DEADLINE + 0.01, self._tell)
        return True

    def _with(self, holder: str | None, duration: int) -> Object:
        """The record with ``holder`` in it, renewed now. None is nobody."""
        record = self._record or {"metadata": {"name": self._name, "namespace": self._namespace}}
        self._sealed = max(datetime.now(UTC), self._sealed + timedelta(microseconds=1))
        moment = self._sealed.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(record.get("spec") or {})
        if holder and _holder(record) != holder:
            spec["acquireTime"] = moment
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1 if self._record else 0
        spec |= {"holderIdentity": holder, "leaseDurationSeconds": duration, "renewTime": moment}
        annotations = dict(record["metadata"].get("annotations") or {})
        annotations[ADDRESS] = self._own_address if holder else ""
        return {**record, "metadata": {**record["metadata"], "annotations": annotations}, "spec": spec}

    def _tell(self) -> None:
        state = (self.leading, self.certain, self.holder, self.address)
        if state != self._told:
            self._told = state
            self._changed()


def _holder(record: Object | None) -> str:
    return str(((record or {}).get("spec") or {}).get("holderIdentity") or "")


def _beat(record: Object | None) -> object:
    """What a renewal changes. A version will not do: somebody who labels a dead leader's record does not renew it."""
    if record is None:
        return None
    spec = record.get("spec") or {}
    return spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions")


def _now() -> float:
    return asyncio.get_running_loop().time()
