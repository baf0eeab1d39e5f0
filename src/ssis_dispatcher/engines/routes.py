"""Which routes of an engine's own HTTP interface callers may use: the table, and the words for the others.

Routes that change the server for everybody (sleep, adapters, weights, cache) or show other callers' requests are in no
table, so nobody reaches them from outside. Used by the engines.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Routes(msgspec.Struct, frozen=True):
    """``get`` and ``post`` are paths that pass. With ``open_v1``, any other ``POST /v1/…`` passes too, since the engine's
    newer versions may have it, except those in ``absent``, with the reason; without, the tables are all there is."""

    engine: str
    get: frozenset[str]
    post: frozenset[str]
    absent: Mapping[str, str]
    open_v1: bool = True

    def refusal(self, method: str, path: str) -> str:
        """Why callers cannot have this route; "" where they can."""
        if path in (self.post if method == "POST" else self.get if method in ("GET", "HEAD") else ()):
            return ""
        if (reason := self.absent.get(path)) is not None:
            return reason
        if self.open_v1 and method == "POST" and path.startswith("/v1/"):
            return ""
        if path in self.post or path in self.get:
            return f"{path} does not take {method}."
        return f"{self.engine} has no route {path} for callers."
