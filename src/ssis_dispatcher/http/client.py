"""Pooled upstream connections, with the same care in the other direction.

INTERFACE (fixed; the insides are free).
"""

from __future__ import annotations

from typing import Protocol

from ssis_dispatcher.errors import UpstreamError


class Receiver(Protocol):
    """Who gets the reply. Calls come in the order head, body…, then exactly one of end and failed."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
        """Names are lower-case, hop-by-hop and framing headers are left out. ``length`` is that of the body, None when
        it is chunked or ends with the connection."""

    def on_body(self, data: bytes) -> None:
        """Body bytes, framing removed."""

    def on_end(self) -> None:
        """The reply is complete as far as HTTP can tell."""

    def on_failed(self, error: UpstreamError) -> None:
        """Refused, broken, garbled, too late. Nothing follows."""


class Call:
    """One request under way."""

    def cancel(self) -> None:
        """Close the upstream connection; nothing is called after this."""

    def pause(self) -> None:
        """Stop reading from upstream."""

    def resume(self) -> None: ...


class Pool:
    """Connections to any number of upstreams, by ``(host, port)``."""

    def send(
        self,
        address: tuple[str, int],
        method: str,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        receiver: Receiver,
        host: bytes | None = None,
    ) -> Call:
        """Start one request on a pooled or new connection. ``host`` overrides the Host header (Kourier)."""
        raise NotImplementedError

    async def close(self) -> None: ...
