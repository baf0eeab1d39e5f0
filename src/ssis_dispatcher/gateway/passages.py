"""What was found out about one request, kept for the next one that is the same in everything but its prompt.

Callers repeat themselves: the same head, and mostly the same model. `Admitted` is what the door found of a head; it is kept
with the head (`http.known`), and believed as long as the caller's key is good. A `Passage` is what was then found out about
the model and the route; it is believed for a second, like the files that it comes from.
"""

from __future__ import annotations

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.gateway.dialects.base import Dialect, InferenceRequest, Upstream, Wish
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.relay import Openings
from ssis_dispatcher.http.heads import Head, Header

_BELIEVED = 1.0
"""Seconds: as long as the operator's files may be read late."""

_MOST = 64


class Passage:
    """A wish for ``model`` whose bytes pass through untouched, to ``path``."""

    __slots__ = ("model", "openings", "path", "route", "wish")

    def __init__(self, wish: Wish, route: str, model: Model, path: str) -> None:
        self.wish = wish
        self.route = route
        self.model = model
        self.path = path
        self.openings: Openings = {}


class Admitted:
    """An inference request's head that the door let pass. ``headers`` are those that are said to us, ``route`` is the path
    without what callers make up, ``extra`` what goes on every reply."""

    __slots__ = ("_passages", "_until", "dialect", "extra", "headers", "key", "route")

    def __init__(self, head: Head, dialect: Dialect, key: Key, route: str, extra: tuple[Header, ...]) -> None:
        self.headers = [header for header in head.headers if header[0].startswith(b"x-ssis-")]
        self.dialect = dialect
        self.key = key
        self.route = route
        self.extra = extra
        self._passages: dict[int, Passage] = {}
        self._until = 0.0

    def passage(self, request: InferenceRequest, now: float) -> Passage | None:
        """What is known of a request with this head, at ``now`` (seconds). A wish that is the same is the same object."""
        if now >= self._until:
            self._until = now + _BELIEVED
            self._passages.clear()
        known = self._passages.get(id(request.wish))
        if known is not None and known.wish is request.wish and known.route == request.route:
            return known
        return None

    def keep(self, request: InferenceRequest, model: Model, upstream: Upstream) -> Passage | None:
        """Remember this one, if its bytes go on as they came: then nothing but wish and route has decided about them."""
        if upstream.reply is not None or upstream.body is not request.body or request.wish.token is not None:
            return None
        if len(self._passages) >= _MOST:
            self._passages.clear()
        passage = self._passages[id(request.wish)] = Passage(request.wish, request.route, model, upstream.path)
        return passage
