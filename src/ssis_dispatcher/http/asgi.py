"""Serves an ordinary ASGI application (Starlette) behind the same listener: everything that is not an inference request.

The one place in this folder where a request costs a task. Requests arrive whole; replies may stream, and then ``send``
waits while the client reads slowly. Lifespan events are not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ssis_dispatcher.http.exchange import Exchange
from ssis_dispatcher.http.heads import Header
from ssis_dispatcher.http.server import report

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OURS = frozenset((b"content-length", b"transfer-encoding", b"connection", b"date", b"server", b"x-request-id"))
"""Reply headers that the listener writes."""

_FAILED = b'{"type":"about:blank","title":"Internal Server Error","status":500,"code":"internal_error"}'


class AsgiBridge:
    """A `Handler` for one ASGI application. ``scheme`` is what clients speak: ``http`` or ``https``."""

    def __init__(self, app: App, *, scheme: str = "http", on_error: Callable[[BaseException], None] = report) -> None:
        self._app = app
        self._scheme = scheme
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop alone would forget them

    def __call__(self, exchange: Exchange) -> None:
        run = _Run(exchange)
        task = self._loop.create_task(self._serve(run, self._scope(exchange)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def __len__(self) -> int:
        """Requests under way."""
        return len(self._tasks)

    async def close(self) -> None:
        """Cancel what is under way, and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)  # one that ended a moment ago has not told yet

    def _scope(self, exchange: Exchange) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.0" if exchange.old else "1.1",
            "method": exchange.method,
            "scheme": self._scheme,
            "path": exchange.path,
            "raw_path": exchange.target.partition(b"?")[0],
            "query_string": exchange.query,
            "root_path": "",
            "headers": [*exchange.headers, (b"content-length", b"%d" % len(exchange.body))],
            "client": (exchange.peer, 0),
            "server": None,
            "state": {},
            "extensions": {"ssis.exchange": exchange},
        }

    async def _serve(self, run: _Run, scope: Scope) -> None:
        exchange = run.exchange
        try:
            await self._app(scope, run.receive, run.send)
            if not exchange.ended:
                raise RuntimeError("The application did not finish its reply.")
        except Exception as error:
            if not exchange.gone:  # else: however the application puts it, it is the client that left
                self._on_error(error)
            if exchange.status:
                exchange.abort()
            else:
                exchange.reply(500, _FAILED, b"application/problem+json")
        except asyncio.CancelledError:
            exchange.abort()
            raise


class ClientLeft(OSError):
    """The client left before the reply had ended; ASGI 2.4 has ``send`` raise an OSError then."""


class _Run:
    """One request inside the application."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._given = False
        self._changed = asyncio.Event()  # the client reads on, or has left, or the reply has ended
        self._status = 0
        self._headers: list[Header] = []
        self._length: int | None = None
        exchange.on_gone = self._changed.set
        exchange.source = self

    def pause(self) -> None:
        """`send` looks by itself whether it has to wait."""

    def resume(self) -> None:
        self._changed.set()

    async def receive(self) -> Message:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self.exchange.body, "more_body": False}
        while not self.exchange.ended and not self.exchange.gone:
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        exchange = self.exchange
        if exchange.gone:
            raise ClientLeft("The client left.")
        if message["type"] == "http.response.start":
            self._note(int(message["status"]), list(message.get("headers", ())))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not exchange.status:
            if not self._status:
                raise RuntimeError("The application sent a body before a head.")
            whole = self._length is None and not more
            exchange.start(self._status, self._headers, len(body) if whole else self._length)
        exchange.write(bytes(body))
        if not more:
            exchange.finish()
            self._changed.set()
            return
        while exchange.paused and not exchange.gone:
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _note(self, status: int, headers: list[Header]) -> None:
        """Keep the head until the first body message: a reply of one piece then gets its length."""
        if self._status:
            raise RuntimeError("The application sent two heads.")
        self._status = status
        for name, value in headers:
            name = bytes(name).lower()
            if b"\n" in name + value or b"\r" in name + value:
                raise ValueError("A reply header has a line break in it.")
            if name == b"content-length":
                self._length = int(value)
            elif name not in _OURS:
                self._headers.append((name, bytes(value)))
