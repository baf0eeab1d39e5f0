"""The listener: who may connect, what all connections share, the sweep that keeps their deadlines, and the drain.

An `Application` is asked twice about each request. `admit` is called when the head is complete and before any body byte
is buffered; it may raise `DispatchError` (answered at once, the connection closed where the body is unread) or return
the handler. The handler is called once with the `Exchange` when the whole body is there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl as tls
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from ipaddress import ip_address, ip_network
from typing import Protocol

from ssis_dispatcher.errors import Problem
from ssis_dispatcher.http.connection import Connection
from ssis_dispatcher.http.exchange import Exchange, Handler
from ssis_dispatcher.http.heads import Head, Network, problem_reply, status_line
from ssis_dispatcher.http.known import Memory
from ssis_dispatcher.http.limits import Limits
from ssis_dispatcher.http.outbox import Outbox

__all__ = ["Application", "Exchange", "Handler", "Limits", "Server"]

Render = Callable[[Exchange, Problem], tuple[bytes, bytes]]
"""Body and content type of a refusal. The exchange may have no method and no path: its head could not be read."""


class Application(Protocol):
    """What the listener serves."""

    def admit(self, exchange: Exchange) -> Handler:
        """The handler for this request; only method, target, path, query, headers and peer are set yet."""

    def finished(self, exchange: Exchange) -> None:
        """Called once when the reply has ended, however it ended: for the access log and the counters. Also for requests
        that the listener refused by itself, before `admit`; what could not be read has an empty method."""


def report(error: BaseException) -> None:
    """The default for `on_error`. Not the message of the error, which may quote what a caller sent."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    at = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "?"
    logging.getLogger(__name__).error("a handler failed: %s at %s", type(error).__name__, at)


class Server:
    """Any number of listening sockets for one application. Made inside the running loop.

    ``trusted`` are the networks of proxies whose word about the client's address is believed. ``render`` writes refusals,
    `application/problem+json` by default; ``on_error`` is told of exceptions that handlers let out.
    """

    def __init__(
        self,
        application: Application,
        limits: Limits | None = None,
        *,
        trusted: Iterable[Network | str] = (),
        render: Render | None = None,
        on_error: Callable[[BaseException], None] = report,
    ) -> None:
        self.application = application
        self.limits = limits or Limits()
        self.trusted: tuple[Network, ...] = tuple(ip_network(network) for network in trusted)
        self.render: Render = render or (lambda exchange, problem: problem_reply(problem))
        self.failed = on_error
        self.draining = False
        self.refused: dict[int, int] = {}
        """Requests that the listener, or `Application.admit`, refused, by status."""
        self.inflight = 0
        """Bytes of request bodies in memory, or announced."""
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self.now = self.time()
        """The loop's time at the last sweep: good enough for deadlines, and free."""
        self.openings = _Openings()
        self.memory: Memory[Head] = Memory()
        self.outbox = Outbox(self._loop)
        self._connections: set[Connection] = set()
        self._addresses: dict[str, int] = {}
        self._accepted = 0
        self.prefix = secrets.token_hex(6)
        """Of all request ids: nobody can guess it."""
        self.numbers = 0
        """Requests so far; the latest one's number ends its id."""
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def listen(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> int:
        """Accept connections on ``host``:``port`` (0: the kernel chooses). Returns the port. Raises OSError."""
        if ssl is None:
            listener = await self._loop.create_server(self._connection, host, port, backlog=4096)
        else:
            listener = await self._loop.create_server(
                self._connection, host, port, backlog=4096, ssl=ssl, ssl_handshake_timeout=self.limits.head_timeout
            )
        self._listeners.append(listener)
        if self._sweeper is None:
            self._sweep()
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    def _connection(self) -> Connection:
        return Connection(self)

    # What connections ask for

    def trusts(self, address: str) -> bool:
        """Whether this is a proxy whose word about the client's address counts."""
        return bool(self.trusted) and _inside(address, self.trusted)

    def entered(self, connection: Connection) -> Problem | None:
        """A connection was made; the answer where it is one too many."""
        self._connections.add(connection)
        self._accepted += 1
        address = connection.peer
        count = self._addresses[address] = self._addresses.get(address, 0) + 1
        limits = self.limits
        if len(self._connections) > limits.max_connections:
            return Problem(503, "too_many_connections", "There are too many connections.", 1.0)
        exempt = connection.trusted or address in ("127.0.0.1", "::1", "")
        if count > limits.max_connections_per_address and not exempt:
            return Problem(503, "too_many_connections", "There are too many connections from this address.", 1.0)
        return None

    def left(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        address = connection.peer
        count = self._addresses[address] - 1
        if count:
            self._addresses[address] = count
        else:
            del self._addresses[address]
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _sweep(self) -> None:
        """Every tick: the clock for deadlines, the Date header, and who is late."""
        self.now = now = self.time()
        self.openings.clear()  # the date has changed
        for connection in list(self._connections):
            connection.look(now)
        self._sweeper = self._loop.call_later(self.limits.tick, self._sweep)

    # The end

    async def drain(self, *, quiet: float = 0.0, within: float) -> bool:
        """Stop in good order. From now on every reply ends its connection; after ``quiet`` seconds, in which load balancers
        learn of it, no connection is accepted and idle ones are closed; then ``within`` seconds for what is under way.
        Returns whether everything had ended by then; what had not is cut off."""
        self.draining = True
        for connection in self._connections:
            connection.last = True
        if quiet:
            await asyncio.sleep(quiet)
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            if connection.idle:
                connection.close()
        if self._connections:
            self._emptied = self._loop.create_future()
            await asyncio.wait([self._emptied], timeout=within)
        complete = not self._connections
        await self.close()
        return complete

    async def close(self) -> None:
        """Stop listening and cut every connection off. Returns when they are gone."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.shut()
        if self._connections:
            self._emptied = self._loop.create_future()
            await self._emptied
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._listeners.clear()

    def statistics(self) -> dict[str, int]:
        """Plain numbers: connections now and ever, bytes of bodies in flight, request ids given, refusals by status."""
        refused = {f"refused_{status}": count for status, count in sorted(self.refused.items())}
        return {
            "connections": len(self._connections),
            "connections_accepted": self._accepted,
            "inflight_bytes": self.inflight,
            "requests": self.numbers,
            **refused,
        }

    def __repr__(self) -> str:
        return f"<Server {'draining' if self.draining else 'open'}: {self.statistics()}>"


def _inside(address: str, networks: Iterable[Network]) -> bool:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(parsed in network for network in networks)


class _Openings(dict[int, bytes]):
    """The first lines of a reply by status: status line, date, and the name of the request id's header."""

    def __missing__(self, status: int) -> bytes:
        date = formatdate(time.time(), usegmt=True).encode()
        opening = self[status] = b"%bdate: %b\r\nx-request-id: " % (status_line(status), date)
        return opening
