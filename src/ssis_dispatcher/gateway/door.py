"""The door: who may come in, judged by the head alone, before a byte of body is buffered."""

from __future__ import annotations

import re

from ssis_dispatcher.errors import CallerError, Forbidden
from ssis_dispatcher.gateway.keys import Callers, Keyless
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.http.server import Exchange

_LOOPBACK = re.compile(rb"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]")


class NotJson(CallerError):
    """Send the body as application/json."""

    status = 415
    code = "unsupported_media_type"


class Door:
    """Keys, or none.

    A listener bound to loopback needs no keys, but any web page that its user opens can reach it too. So without keys it
    answers only to its own names (no DNS name that somebody points at 127.0.0.1), to no other origin's scripts, to nothing
    that a page of another site merely points at (an image, a link: browsers say so), and to POSTs only as JSON, which a
    page cannot send elsewhere without asking first. ``open`` is the operator's word (``--insecure``) that anybody may call,
    by whatever name.
    """

    def __init__(self, callers: Callers, *, open: bool = False, origins: tuple[str, ...] = ()) -> None:
        self._callers = callers
        self._guarded = isinstance(callers, Keyless) and not open
        self._origins = frozenset(origin.encode() for origin in origins)

    def admit(self, exchange: Exchange) -> Key:
        """The caller's key. Raises `Unauthenticated`, `Forbidden` or `NotJson`."""
        if self._guarded:
            self._guard(exchange)
        return self._callers.check(exchange.header(b"authorization"), exchange.header(b"x-api-key"), exchange.peer)

    def refresh(self, now: float) -> None:
        """Look whether the keys have changed, at most once a second."""
        self._callers.refresh(now)

    def _guard(self, exchange: Exchange) -> None:
        if not _is_loopback(exchange.header(b"host") or b""):
            raise Forbidden(
                "Without API keys this dispatcher answers only to localhost and loopback addresses. For other names it needs "
                "keys: 'ssis keys create', and the setting require_keys."
            )
        origin = exchange.header(b"origin")
        points_here = origin is None and exchange.header(b"sec-fetch-site") == b"cross-site"
        if points_here or (origin is not None and not self._may_call(origin)):
            raise Forbidden("Without API keys this dispatcher refuses calls from web pages of other origins.")
        if exchange.method == "POST":
            kind = exchange.header(b"content-type") or b""
            if kind.partition(b";")[0].strip().lower() != b"application/json":
                raise NotJson("Send the body as JSON, with the header 'Content-Type: application/json'.")

    def _may_call(self, origin: bytes) -> bool:
        return not self._origins.isdisjoint((origin, b"*")) or _is_loopback(origin.partition(b"://")[2])


def _is_loopback(host: bytes) -> bool:
    """Whether a Host value, with or without a port, is one of this machine's own names."""
    name, colon, port = host.rpartition(b":")
    return _LOOPBACK.fullmatch((name if colon and port.isdigit() else host).lower()) is not None
