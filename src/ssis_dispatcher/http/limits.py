"""The numbers of the edge: how much of what a stranger may ask for, and how long we wait for whom.

Sizes are in bytes, times in seconds. Times are kept by one sweep every `tick`, so they are met to within one tick.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener allows its clients. The status in brackets is the answer to more."""

    max_head: int = 32 * 1024
    """Request line and header lines together (431). Also the most that trailers may take."""
    max_url: int = 8 * 1024
    """The request target (414)."""
    max_headers: int = 100
    """Header lines (431)."""
    max_body: int = 4 * 1024 * 1024
    """One request body (413, before it is read where its length is declared)."""
    inflight_bytes: int = 512 * 1024 * 1024
    """All request bodies in memory together (503). A declared length counts from the head on."""
    max_connections: int = 20_000
    """Open connections (503, then closed)."""
    max_connections_per_address: int = 10_000
    """Open connections from one address; trusted proxies and loopback, which stand for many, are exempt (503)."""
    keepalive_requests: int = 10_000
    """Requests on one connection; the last one's reply says ``Connection: close``."""
    max_pipelined: int = 32
    """Requests waiting behind another one on their connection (503 in their turn). Reading stops at a quarter of it."""
    head_timeout: float = 10.0
    """From the first byte of a head, or from the connection's start, until the head is complete (408)."""
    body_grace: float = 10.0
    """How long a body may come at any pace."""
    body_rate: int = 1024
    """Bytes per second, on average, that a body must bring after that (408)."""
    idle_timeout: float = 75.0
    """How long a connection may stay silent between two requests (closed)."""
    stall_timeout: float = 60.0
    """How long a client may leave what was sent to it unread (closed)."""
    linger: float = 2.0
    """After a refusal: how long what the client still sends is thrown away, so that it gets to read the answer."""
    tick: float = 1.0
    """How often all this is looked at."""


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """What the pool expects of inference servers. None: no limit."""

    connect_timeout: float = 5.0
    """Until a connection stands."""
    first_byte_timeout: float | None = 600.0
    """From the request until the first byte of the reply. A reply that is not streamed comes only when it is whole."""
    idle_timeout: float | None = 300.0
    """The longest silence inside a reply, where we were reading."""
    keep_timeout: float = 30.0
    """How long an unused connection is kept."""
    max_head: int = 64 * 1024
    """Status line and header lines of a reply together, or trailers."""
    max_headers: int = 200
    """Header lines of a reply."""
    max_informational: int = 8
    """1xx replies before the real one."""
    max_connecting: int = 64
    """Connections being opened to one server at the same time; more requests wait for those."""
    retry_budget: float = 0.2
    """Share of requests that may be sent a second time."""
    retry_reserve: int = 10
    """Retries that can be saved up: as many are possible before there is any traffic."""
    retry_pause: float = 0.05
    """Before a refused connection is tried again."""
    breaker_failures: int = 5
    """Failed connections in a row after which requests fail at once for a while."""
    breaker_pause: float = 0.5
    """How long the first such while is; it doubles each time …"""
    breaker_pause_most: float = 30.0
    """… up to this."""
    tick: float = 1.0
    """How often all this is looked at."""
