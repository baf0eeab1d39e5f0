"""Pooled upstream connections: which connection a request goes out on, what is tried again, and whom we leave alone for
a while. How one connection reads replies is in `upstream`.

Inference has no side effects, so a request may be sent again as long as no byte of a reply has come: once, when its
connection was refused, or was a reused one that the server had closed meanwhile; and only as long as retries stay a small
share of the traffic, so that they cannot double the load of a server in trouble.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from functools import lru_cache

from ssis_dispatcher.errors import UpstreamError, UpstreamTimeout
from ssis_dispatcher.http import addresses
from ssis_dispatcher.http.addresses import Address
from ssis_dispatcher.http.heads import Header, block
from ssis_dispatcher.http.known import Memory
from ssis_dispatcher.http.limits import UpstreamLimits
from ssis_dispatcher.http.outbox import Outbox
from ssis_dispatcher.http.upstream import Call, Receiver, ReplyHead, UpstreamConnection

__all__ = ["Call", "Pool", "Receiver", "UpstreamLimits"]

_WITH_BODY = ("POST", "PUT", "PATCH")
_NOT_ONE_WORD = re.compile(rb"[^\x21-\x7e]")

_FORGET_AFTER = 60
"""Ticks without any use after which an address is forgotten."""


class Upstream:
    """One address: its idle connections, the calls that wait for one, its circuit breaker."""

    __slots__ = (
        "_pool",
        "address",
        "connecting",
        "failures",
        "hangs_up",
        "host",
        "idle",
        "open_until",
        "pause",
        "unused",
        "waiting",
    )

    def __init__(self, pool: Pool, address: Address) -> None:
        self._pool = pool
        self.address = address
        self.host = addresses.join(*address).encode()
        self.idle: dict[UpstreamConnection, None] = {}  # in order of release; the newest is used first
        self.waiting: deque[Call] = deque()
        self.connecting = 0
        self.failures = 0  # connections that failed in a row
        self.open_until = 0.0  # while the breaker is open, calls fail at once
        self.pause = pool.limits.breaker_pause
        self.unused = 0
        # Some servers (llama.cpp's) promise to keep the connection of a stream and close it behind the last chunk. Seen once,
        # no such connection is used again: it would be a race that costs a retry each time.
        self.hangs_up = False

    def dial(self, call: Call) -> None:
        """Have the call wait for a new connection (or one that becomes idle sooner)."""
        pool = self._pool
        call.waited = 0.0
        self.waiting.append(call)
        if self.open_until > pool.time():
            pool.loop.call_soon(self._fail_fast, call)
        elif self.connecting < min(len(self.waiting), pool.limits.max_connecting):
            self._connect()

    def _connect(self) -> None:
        self.connecting += 1
        self._pool.connect(self)

    def connected(self, connection: UpstreamConnection) -> None:
        """A connection stands: the first who waits gets it."""
        self.failures = 0
        self.pause = self._pool.limits.breaker_pause
        self.release(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """A connection is free."""
        self.unused = 0
        if self.waiting:
            connection.begin(self.waiting.popleft())
        else:
            self.idle[connection] = None

    def connect_ended(self) -> None:
        """An attempt is over; those who still wait need another."""
        self.connecting -= 1
        while self.connecting < min(len(self.waiting), self._pool.limits.max_connecting):
            self._connect()

    def connect_failed(self, error: Exception) -> None:
        """No connection: the first who waits bears it, and after too many in a row, everybody."""
        pool = self._pool
        self.failures += 1
        if self.failures >= pool.limits.breaker_failures:
            self.open_until = pool.time() + self.pause
            self.pause = min(self.pause * 2, pool.limits.breaker_pause_most)
            waiting, self.waiting = self.waiting, deque()
            for call in waiting:
                call.fail(self._unreachable(error))
        elif self.waiting:
            call = self.waiting.popleft()
            if isinstance(error, ConnectionRefusedError) and self.may_retry(call):
                call.timer = pool.loop.call_later(pool.limits.retry_pause, self.dial, call)
            else:
                call.fail(self._unreachable(error))

    def count(self, error: UpstreamError) -> None:
        """A call has failed."""
        code = error.problem.code
        self._pool.errors[code] = self._pool.errors.get(code, 0) + 1

    def _unreachable(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return self._too_slow()
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return UpstreamError(f"The inference server cannot be reached: {why}.", code="upstream_unreachable")

    def _fail_fast(self, call: Call) -> None:
        if call not in self.waiting:  # cancelled meanwhile, or served after all
            return
        self.waiting.remove(call)
        call.fail(
            UpstreamError(
                "The inference server could not be reached several times in a row; it is left alone for a moment.",
                code="upstream_unreachable",
                retry_after=max(0.0, self.open_until - self._pool.time()),
            )
        )

    def _too_slow(self) -> UpstreamTimeout:
        limit = self._pool.limits.connect_timeout
        return UpstreamTimeout(
            f"There was no connection to the inference server within {limit:g} seconds.",
            code="upstream_connect_timeout",
        )

    def may_retry(self, call: Call) -> bool:
        """Whether this call may be sent once more; takes it from the budget."""
        if call.retried or not self._pool.spend_retry():
            return False
        call.retried = True
        return True

    def look(self, seconds: float) -> bool:
        """Called by the sweep, ``seconds`` after the last time. Returns whether this address can be forgotten."""
        limit = self._pool.limits.connect_timeout
        for call in list(self.waiting):
            call.waited += seconds
            if call.waited > limit:
                self.waiting.remove(call)
                call.fail(self._too_slow())
        self.unused += 1
        return (
            self.unused > _FORGET_AFTER
            and not (self.idle or self.waiting or self.connecting)
            and self.open_until < self._pool.time()
        )


class Pool:
    """Connections to any number of upstreams, by ``(host, port)``. Made inside the running loop."""

    def __init__(self, limits: UpstreamLimits | None = None) -> None:
        self.limits = limits or UpstreamLimits()
        self.loop = asyncio.get_running_loop()
        self.time = self.loop.time
        self.connections: set[UpstreamConnection] = set()
        self.sent = 0
        """Requests, without retries."""
        self.retries = 0
        self.opened = 0
        """Connections ever made."""
        self.errors: dict[str, int] = {}
        """Failed calls by code."""
        self.memory: Memory[ReplyHead] = Memory()
        self.outbox = Outbox(self.loop)
        self._upstreams: dict[Address, Upstream] = {}
        self._credit = float(self.limits.retry_reserve)
        self._credited = 0  # requests that have earned their share of it
        self._closed = False
        self._dialling: set[asyncio.Task[None]] = set()
        self._looked = self.time()
        self._sweeper: asyncio.TimerHandle | None = self.loop.call_later(self.limits.tick, self._sweep)
        self._emptied: asyncio.Future[None] | None = None

    def send(
        self,
        address: Address,
        method: str,
        target: bytes,
        headers: list[Header],
        body: bytes,
        receiver: Receiver,
        host: bytes | None = None,
        first_byte_timeout: float | None = None,
    ) -> Call:
        """Start one request on a pooled or new connection. ``headers`` are lower-case and without framing; ``host`` overrides
        the Host header (Kourier), ``first_byte_timeout`` the limit. Nothing is called before this returns. Raises
        ValueError for a target or header that would break the framing."""
        opening = self.opening(address, method, target, headers, host)
        return self.begin(address, method, opening, body, receiver, first_byte_timeout)

    def opening(
        self, address: Address, method: str, target: bytes, headers: list[Header], host: bytes | None = None
    ) -> bytes:
        """The head of a request as far as its last header, which may be used more than once (`begin`). Raises ValueError."""
        opening = _opening(method, target, host or self.upstream(address).host) + block(headers)
        if opening.count(b"\n") != len(headers) + 2:
            raise ValueError("A header has a line break in it.")
        return opening

    def begin(
        self,
        address: Address,
        method: str,
        opening: bytes,
        body: bytes,
        receiver: Receiver,
        first_byte_timeout: float | None = None,
    ) -> Call:
        """`send` with the head already written but for the body's length."""
        upstream = self._upstreams.get(address) or self.upstream(address)
        if body or method in _WITH_BODY:
            head = b"%b\r\ncontent-length: %d\r\n\r\n" % (opening, len(body))
        else:
            head = opening + b"\r\n\r\n"
        self.sent += 1
        call = Call(upstream, receiver, head, body, method == "HEAD", None, first_byte_timeout)
        if upstream.idle:
            connection, _ = upstream.idle.popitem()
            connection.begin(call)
        else:
            upstream.dial(call)
        return call

    def upstream(self, address: Address) -> Upstream:
        """The state of one address."""
        known = self._upstreams.get(address)
        if known is None:
            known = self._upstreams[address] = Upstream(self, address)
        return known

    def spend_retry(self) -> bool:
        """Whether the budget has a retry left; takes it."""
        limits = self.limits
        earned, self._credited = (self.sent - self._credited) * limits.retry_budget, self.sent
        self._credit = min(limits.retry_reserve, self._credit + earned)
        if self._closed or self._credit < 1.0:
            return False
        self._credit -= 1.0
        self.retries += 1
        return True

    def connect(self, upstream: Upstream) -> None:
        """Open a connection. A task, because resolving and connecting wait; one for each connection, not for each request."""
        task = self.loop.create_task(self._connect(upstream))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _connect(self, upstream: Upstream) -> None:
        host, port = upstream.address
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                await self.loop.create_connection(lambda: UpstreamConnection(self, upstream), host, port)
            self.opened += 1
        except (OSError, UnicodeError) as error:  # no such name, refused, too late; a name that cannot be one
            upstream.connect_failed(error)
        finally:
            upstream.connect_ended()

    def _sweep(self) -> None:
        now = self.time()
        seconds, self._looked = now - self._looked, now
        for connection in list(self.connections):
            connection.look(seconds)
        for address, upstream in list(self._upstreams.items()):
            if upstream.look(seconds):
                del self._upstreams[address]
        self._sweeper = self.loop.call_later(self.limits.tick, self._sweep)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def close(self) -> None:
        """Cut everything off. Calls under way fail. Returns when all connections are gone. Nothing may be sent any more."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        dialling = list(self._dialling)
        for task in dialling:
            task.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)
        for upstream in self._upstreams.values():
            waiting, upstream.waiting = upstream.waiting, deque()
            for call in waiting:
                call.fail(UpstreamError("The dispatcher is shutting down.", code="shutting_down"))
        for connection in list(self.connections):
            connection.abort()
        if self.connections:
            self._emptied = self.loop.create_future()
            await self._emptied
        self._upstreams.clear()

    def statistics(self) -> dict[str, int]:
        """Plain numbers: connections (all, idle), requests, retries, and failed calls by code."""
        failed = {f"failed_{code}": count for code, count in sorted(self.errors.items())}
        return {
            "connections": len(self.connections),
            "idle": sum(len(upstream.idle) for upstream in self._upstreams.values()),
            "waiting": sum(len(upstream.waiting) for upstream in self._upstreams.values()),
            "opened": self.opened,
            "sent": self.sent,
            "retries": self.retries,
            **failed,
        }

    def __repr__(self) -> str:
        return f"<Pool {self.statistics()}>"


@lru_cache(maxsize=256)
def _opening(method: str, target: bytes, host: bytes) -> bytes:
    """The first lines of a request. Raises ValueError for what would not be one line of three words."""
    if not method.isalpha() or not target.startswith(b"/") or _NOT_ONE_WORD.search(target + host):
        raise ValueError("Not a method, not a target in origin form, or no host.")
    return b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity" % (method.encode(), target, host)
