"""An ordinary Starlette application behind the listener."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.http.support import Wire, until

from ssis_dispatcher.http.asgi import App, AsgiBridge
from ssis_dispatcher.http.server import Exchange, Handler, Limits, Server


class Desk:
    """Starlette's routes, and what they saw."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.produced = 0
        self.left = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/echo/{name:path}", self.echo, methods=["GET", "POST"]),
                Route("/plain", self.plain),
                Route("/stream", self.stream),
                Route("/endless", self.endless),
                Route("/wait", self.wait),
                Route("/fail", self.fail),
                Route("/fail-late", self.fail_late),
            ]
        )

    async def echo(self, request: Request) -> Response:
        assert request.client is not None
        return JSONResponse(
            {
                "name": request.path_params["name"],
                "query": dict(request.query_params),
                "body": (await request.body()).decode(),
                "client": request.client.host,
                "scheme": request.url.scheme,
                "x": request.headers.get("x-a"),
            },
            status_code=201,
            headers={"x-b": "2", "date": "never", "server": "me"},
        )

    async def plain(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d" % number
                await asyncio.sleep(0)

        return StreamingResponse(parts(), media_type="text/plain")

    async def endless(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.produced += 1
                    yield b"x" * 65_536
            finally:
                self.left.set()

        return StreamingResponse(parts())

    async def wait(self, request: Request) -> Response:
        while not await request.is_disconnected():  # noqa: ASYNC110 - all that ASGI offers
            await asyncio.sleep(0.005)
        self.left.set()
        return PlainTextResponse("too late")

    async def fail(self, request: Request) -> Response:
        raise KeyError("a defect")

    async def fail_late(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise KeyError("a defect")

        return StreamingResponse(parts())


class Front:
    def __init__(self, bridge: AsgiBridge) -> None:
        self._bridge = bridge

    def admit(self, exchange: Exchange) -> Handler:
        return self._bridge

    def finished(self, exchange: Exchange) -> None:
        pass


@contextlib.asynccontextmanager
async def served(app: App, errors: list[BaseException]) -> AsyncIterator[tuple[AsgiBridge, Wire]]:
    bridge = AsgiBridge(app, on_error=errors.append)
    server = Server(Front(bridge), Limits(), on_error=errors.append)
    wire = await Wire.to(await server.listen("127.0.0.1", 0))
    try:
        yield bridge, wire
    finally:
        await wire.close()
        await bridge.close()
        await server.close()
        assert len(bridge) == 0


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n".encode()


async def test_requests_and_replies() -> None:
    desk = Desk()
    async with served(desk.app, desk.errors) as (bridge, wire):
        for _ in range(2):
            head = b"POST /echo/a%20b/c?q=%C3%A4 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nContent-Length: 4\r\n\r\n"
            reply = await wire.ask(head + b"body")
            assert reply.status == 201
            assert reply.json == {
                "name": "a b/c",
                "query": {"q": "ä"},
                "body": "body",
                "client": "127.0.0.1",
                "scheme": "http",
                "x": "1",
            }
            assert reply.headers["x-b"] == "2"
            assert reply.headers["date"] != "never"
            assert "server" not in reply.headers
            assert int(reply.headers["content-length"]) == len(reply.body)
        assert (await wire.ask(get("/nothing"))).status == 404
        await until(lambda: not len(bridge))


async def test_head_and_streams() -> None:
    desk = Desk()
    async with served(desk.app, desk.errors) as (_, wire):
        await wire.send(b"HEAD /plain HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = await wire.reply(head=True)
        assert reply.headers["content-length"] == "5"
        streamed = await wire.ask(get("/stream"))
        assert streamed.body == b"012"
        assert streamed.headers["transfer-encoding"] == "chunked"
        assert (await wire.ask(get("/plain"))).body == b"hello"
    assert desk.errors == []


async def test_a_client_that_does_not_read_stops_the_application() -> None:
    desk = Desk()
    async with served(desk.app, desk.errors) as (_, wire):
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(get("/endless"))
        before = -1
        while before != desk.produced or not before:
            before = desk.produced
            await asyncio.sleep(0.05)
        assert desk.produced < 400  # 25 MiB, most of it in the kernel
        wire.reset()
        await asyncio.wait_for(desk.left.wait(), 5)


async def test_a_client_that_leaves_ends_the_stream_and_is_no_error() -> None:
    desk = Desk()
    async with served(desk.app, desk.errors) as (bridge, wire):
        await wire.send(get("/endless"))
        await wire.reader.readuntil(b"xxx")
        wire.reset()
        await asyncio.wait_for(desk.left.wait(), 5)
        await until(lambda: not len(bridge))
    assert desk.errors == []


async def test_an_application_that_waits_hears_of_it() -> None:
    desk = Desk()
    async with served(desk.app, desk.errors) as (bridge, wire):
        await wire.send(get("/wait"))
        await until(lambda: len(bridge))
        await wire.close()
        await asyncio.wait_for(desk.left.wait(), 5)


async def test_defects_are_500_or_an_aborted_reply() -> None:
    desk = Desk()
    async with served(desk.app, desk.errors) as (_, wire):
        assert (await wire.ask(get("/fail"))).status == 500
        assert (await wire.ask(get("/plain"))).status == 200
        late = await wire.ask(get("/fail-late"))
        assert late.body == b"half"
        assert not late.whole
    assert [type(error) for error in desk.errors] == [KeyError, KeyError]


async def test_closing_cancels_what_is_under_way() -> None:
    desk = Desk()
    async with served(desk.app, desk.errors) as (bridge, wire):
        await wire.send(get("/wait"))
        await until(lambda: len(bridge))
        await bridge.close()
        assert await wire.rest() == b""
    assert desk.errors == []


Message = MutableMapping[str, Any]
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"type": "http.response.body", "body": b"x"}],
        [START, START],
        [{**START, "headers": [(b"a", b"b\r\nc: d")]}],
    ],
    ids=["nothing", "a body first", "two heads", "a line break in a header"],
)
async def test_an_application_that_breaks_the_rules_is_a_500(messages: list[Message]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    errors: list[BaseException] = []
    async with served(app, errors) as (_, wire):
        reply = await wire.ask(get("/"))
        assert reply.status == 500
        assert reply.headers["content-type"] == "application/problem+json"
    assert len(errors) == 1


async def test_a_reply_shorter_than_it_said_is_not_whole() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"10")]})
        await send({"type": "http.response.body", "body": b"abc"})

    errors: list[BaseException] = []
    async with served(app, errors) as (_, wire):
        reply = await wire.ask(get("/"))
        assert reply.body == b"abc"
        assert not reply.whole
