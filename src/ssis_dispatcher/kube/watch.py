"""A local copy of all objects of one kind, kept true by a list and a watch.

What the API server promises is little, and this needs no more than it:

- a watch can break, end, or fall silent without a sign. It is asked to end within a minute and dropped when it does not;
- after a break it goes on from the last version that the server vouched for as a whole: that of a list, of a bookmark, or
  of a watch that ended as it should. What has come since comes again, which is recognised by its version; so nothing hangs
  on the order of events of different objects;
- a version can be too old to go on from (410). Then everything is listed again, and what differs is found by comparing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress

from ssis_dispatcher.kube.api import PAGE, ApiError, Kind, Kube, Object
from ssis_dispatcher.kube.pace import at_least, backoff

Key = tuple[str, str]
"""Namespace ("" where the kind has none) and name."""

Mark = tuple[str, str]
"""Uid and version: the same mark, the same object in the same state."""

Draft = dict[Key, tuple[Mark, Object]]
"""A list on its way in."""

Changed = Callable[[Object | None, Object | None], None]
"""Told of every difference: old and new, None for what was not there or is no longer."""

Trim = Callable[[Object], Object]
"""Reduces an object to what is worth its memory."""

LASTS = (40.0, 50.0)
"""Seconds after which a watch is to end, so that one that is dead is noticed within a minute. Drawn anew each time, so that
watches do not begin together."""

HEALTHY = 1.0
"""Seconds after which a watch that ended without an event counts as one that worked."""

STUBBORN = 3
"""Refusals of the watch in a row after which the fault is sought in its version, and everything is listed again."""

GRAVES = 10_000
"""Deleted objects that are remembered, lest a late event bring them back."""


class Replica:
    """The objects, and the marks by which old news is told from new. Pure.

    ``changed`` is called once for each difference, after `objects` has changed; a difference of which ``trim`` leaves
    nothing is none. An object that was replaced by another of its name goes before the other comes.
    """

    def __init__(self, changed: Changed | None = None, trim: Trim | None = None) -> None:
        self.objects: dict[Key, Object] = {}
        self._changed = changed
        self._trim = trim
        self._marks: dict[Key, Mark] = {}  # beside the objects, since trimming may take them away
        self._graves: dict[Key, str] = {}  # the versions at which they went
        self._listed = ""  # the version of the last list, which knew all that is older

    def apply(self, event: Object) -> None:
        """Take in an ``ADDED``, ``MODIFIED`` or ``DELETED``; what is known already changes nothing."""
        found = event["object"]
        key, mark = _key(found), _mark(found)
        if self._is_past(key, mark[1]):
            return
        if event["type"] == "DELETED":
            self._bury(key, mark[1])
        else:
            self._put(key, mark, found if self._trim is None else self._trim(found))

    def draft(self, objects: Iterable[Object]) -> Draft:
        """A part of a list, trimmed. What is known already is not kept a second time."""
        drafted: Draft = {}
        for found in objects:
            key, mark = _key(found), _mark(found)
            if self._marks.get(key) == mark:
                drafted[key] = (mark, self.objects[key])
            else:
                drafted[key] = (mark, found if self._trim is None else self._trim(found))
        return drafted

    def settle(self, draft: Draft, version: str) -> None:
        """Take in a complete list, which was the truth at ``version``."""
        for key in [key for key in self.objects if key not in draft]:
            self._remove(key)
        for key, (mark, kept) in draft.items():
            self._put(key, mark, kept)
        self._graves.clear()
        self._listed = version

    def _is_past(self, key: Key, version: str) -> bool:
        """Whether we know of something newer. Of what is gone the version itself is past, too."""
        if key in self._marks:
            return is_older(version, self._marks[key][1])
        return any(version == gone or is_older(version, gone) for gone in (self._graves.get(key, ""), self._listed))

    def _put(self, key: Key, mark: Mark, kept: Object) -> None:
        if key in self._marks and self._marks[key][0] != mark[0]:
            self._remove(key)
        old = self.objects.get(key)
        self._marks[key] = mark
        self._graves.pop(key, None)
        if old != kept:
            self.objects[key] = kept
            self._tell(old, kept)

    def _bury(self, key: Key, version: str) -> None:
        self._graves[key] = version
        if len(self._graves) > GRAVES:
            del self._graves[next(iter(self._graves))]
        if key in self.objects:
            self._remove(key)

    def _remove(self, key: Key) -> None:
        del self._marks[key]
        self._tell(self.objects.pop(key), None)

    def _tell(self, old: Object | None, new: Object | None) -> None:
        if self._changed is not None:
            self._changed(old, new)


class Mirror:
    """The objects of ``kind`` in ``namespace`` (None: everywhere) that ``labels`` and ``fields`` select.

    ``objects`` is by (namespace, name) and, once `synced` is set, true but for what is on its way. ``error`` is why it
    cannot be brought up to date now, None where it can.
    """

    def __init__(
        self,
        kube: Kube,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        changed: Changed | None = None,
        trim: Trim | None = None,
    ) -> None:
        self.synced = asyncio.Event()
        self.error: ApiError | None = None
        self._kube = kube
        self._kind = kind
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._replica = Replica(changed, trim)
        self.objects = self._replica.objects
        self._failures = 0  # of the watch, in a row
        self._version = ""  # that the server vouched for; "" when all must be listed

    async def run(self) -> None:
        """Keep the copy true, until cancelled. No failure of the API ends it."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._follow()
            except ApiError as error:
                await self._rest(self._setback(error))

    async def _list(self) -> None:
        try:
            draft, version = await self._pages(PAGE)
        except ApiError as error:
            if not error.gone:
                raise
            draft, version = await self._pages(0)  # one piece has no rest that can expire
        self._replica.settle(draft, version)
        self._version = version
        self.error = None
        self.synced.set()

    async def _pages(self, limit: int) -> tuple[Draft, str]:
        draft: Draft = {}
        version = ""
        pages = self._kube.pages(self._kind, self._namespace, labels=self._labels, fields=self._fields, limit=limit)
        async with aclosing(pages):
            async for objects, version_then in pages:
                draft |= self._replica.draft(objects)
                version = version_then  # that of the last page counts
        return draft, version

    async def _follow(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        events = self._kube.stream(
            self._kind,
            self._namespace,
            version=self._version,
            labels=self._labels,
            fields=self._fields,
            timeout=random.uniform(*LASTS),
        )
        newest = self._version
        try:
            async with aclosing(events):
                async for event in events:
                    self._failures, self.error = 0, None
                    self._take(event)
                    version = _mark(event["object"])[1]
                    newest = version if is_older(newest, version) else newest
        finally:
            if clock() - began >= HEALTHY:
                self._failures = 0
        self._version = newest
        if clock() - began < HEALTHY:
            raise ApiError(0, "Ended", "the API server ended a watch that had just begun")
        self.error = None

    async def _rest(self, seconds: float) -> None:
        """Sleep, but after an outage no longer than it lasts: others who ask (for the lease, every second) know first that it
        is over."""
        if self._kube.reachable:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._kube.returned.wait()

    def _take(self, event: Object) -> None:
        if event["type"] == "BOOKMARK":
            self._version = _mark(event["object"])[1] or self._version
        elif event["type"] in ("ADDED", "MODIFIED", "DELETED"):
            self._replica.apply(event)

    def _setback(self, error: ApiError) -> float:
        """Seconds to wait before going on after ``error``."""
        self.error = error
        failures, self._failures = self._failures, self._failures + 1
        if error.gone:
            held, self._version = self._version, ""
            if held:  # too old to go on from, as after an outage: nothing speaks against listing at once
                return 0.0
        elif error.status not in (0, 429) and failures + 1 >= STUBBORN:
            self._version = ""
        return max(backoff(failures), at_least(error.retry_after or 0.0))


def is_older(version: str, other: str) -> bool:
    """Whether ``version`` came before ``other``, which is of the same kind. Of those that are no numbers, none did."""
    return version.isdecimal() and other.isdecimal() and int(version) < int(other)


def _key(found: Object) -> Key:
    meta = found["metadata"]
    return meta.get("namespace", ""), meta.get("name", "")


def _mark(found: Object) -> Mark:
    meta = found["metadata"]
    return meta.get("uid", ""), meta.get("resourceVersion", "")
