"""`GET /api/events`: what happens in the fleet, as it happens."""

from __future__ import annotations

import asyncio
import difflib

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ssis_dispatcher.core.messages import Event
from ssis_dispatcher.errors import InvalidRequest
from ssis_dispatcher.gateway.broadcast import KINDS, Broadcast, Subscription
from ssis_dispatcher.gateway.operations.desk import Operations

_HEARTBEAT = 10.0
"""Seconds of silence before a comment: proxies cut connections that say nothing for 30 to 60 s."""


async def events(desk: Operations, request: Request) -> Response:
    """``?only=ServerReady,ServerFailed`` leaves out the rest: requests come and go by the thousand."""
    return EventStream(desk.broadcast, _kinds(request.query_params.get("only", "")))


def _kinds(only: str) -> frozenset[type[Event]]:
    names = [name for part in only.split(",") if (name := part.strip())]
    for name in names:
        if name not in KINDS:
            close = difflib.get_close_matches(name, KINDS, 1)
            hint = f"Did you mean {close[0]}?" if close else f"The events are {', '.join(KINDS)}."
            raise InvalidRequest(f"There is no event {name[:64]!r}. {hint}", param="only")
    return frozenset(KINDS[name] for name in names)


class EventStream(Response):
    """The reply: a subscription for as long as the client stays, the broadcast goes on, and the client keeps up."""

    media_type = "text/event-stream"

    def __init__(self, broadcast: Broadcast, only: frozenset[type[Event]]) -> None:
        self.status_code = 200
        self.background = None
        self._broadcast = broadcast
        self._only = only
        self.init_headers()
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._broadcast.subscribe(self._only) as subscription:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            # Two things to wait for, news and the client's leaving, need two tasks; the group never outlives the reply.
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_until_gone(receive, subscription))
                await _write(send, subscription)
                watch.cancel()


async def _until_gone(receive: Receive, subscription: Subscription) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscription.close()


async def _write(send: Send, subscription: Subscription) -> None:
    chunk = b": what happens from now on\n\n"
    try:
        while chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    chunk = await subscription.read()
            except TimeoutError:
                chunk = b": nothing happened\n\n"
        await send({"type": "http.response.body", "body": b""})
    except OSError:
        return  # the client left while it was written to
