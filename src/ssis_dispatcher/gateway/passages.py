"""What was found out about one request, kept for the next one that is the same in everything but its prompt.

Callers repeat themselves. `Admitted` is what the door found of a head; it is kept with the head (`http.known`), and believed
as long as the caller's key is good. A `Way` belongs to a request line, and keeps what was found out about the models that
are asked for on it; that is believed for a second, like the files that it comes from.
"""

from __future__ import annotations

from typing import NamedTuple

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.gateway.dialects.base import Dialect, InferenceRequest, Upstream, Wish
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.relay import Openings
from ssis_dispatcher.http.heads import Head, Header

_BELIEVED = 1.0
"""Seconds: as long as the operator's files may be read late."""

_MOST = 256


class Passage(NamedTuple):
    """A wish for ``model`` whose bytes pass through untouched, to ``path``."""

    wish: Wish
    route: str
    model: Model
    path: str


class Way:
    """A request line of ``dialect``; ``route`` is its path without what callers make up."""

    __slots__ = ("_passages", "_until", "dialect", "route")

    def __init__(self, dialect: Dialect, route: str) -> None:
        self.dialect = dialect
        self.route = route
        self._passages: dict[int, Passage] = {}
        self._until = 0.0

    def passage(self, request: InferenceRequest, now: float) -> Passage | None:
        """What is known of such a request, at ``now`` (seconds). A wish that is the same is the same object."""
        if now >= self._until:
            self._until = now + _BELIEVED
            self._passages.clear()
        known = self._passages.get(id(request.wish))
        if known is not None and known.wish is request.wish and known.route == request.route:
            return known
        return None

    def keep(self, request: InferenceRequest, model: Model, upstream: Upstream) -> None:
        """Remember this one, if its bytes go on as they came: then nothing but wish and route has decided about them."""
        if upstream.reply is None and upstream.body is request.body and request.wish.token is None:
            if len(self._passages) >= _MOST:
                self._passages.clear()
            self._passages[id(request.wish)] = Passage(request.wish, request.route, model, upstream.path)


class Admitted:
    """An inference request's head that the door let pass. ``headers`` are those that are said to us, ``extra`` is what goes
    on every reply, ``openings`` are the heads that go to inference servers."""

    __slots__ = ("dialect", "extra", "headers", "key", "openings", "way")

    def __init__(self, head: Head, way: Way, key: Key, extra: tuple[Header, ...]) -> None:
        self.headers = [header for header in head.headers if header[0].startswith(b"x-ssis-")]
        self.way = way
        self.dialect = way.dialect
        self.key = key
        self.extra = extra
        self.openings: Openings = {}
