"""S5. No path that a caller makes up leads to another host, port or tree of the server than the one it was meant for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.http.support import Reply
from tests.scorecard.support import CHAT, House, chat_body, request, shape_of

ODD = (
    *("@h/", ".h/", ":1/", ":6443/api", "//h", "//h/", "/../x", "/a/../../etc/passwd", "/..", "/./x"),
    *("/%2e%2e/x", "/a/%2e%2e%2fx", "/a%0d%0aX-A: b", "/a\r\nX-A: b", "/a\\b", "/a?b", "/a#b", "/a b", "/a\0", "/ä"),
    *("http://h/", "http://h:1/v1/chat/completions", "file:///etc/passwd", "/" + "a" * 300, "?a", "#a", "\\\\h\\a"),
)


def subroute(value: str, **more: Any) -> bytes:
    """In the seed's dialect, where the caller names a route of the server."""
    payload = msgspec.Raw(chat_body())
    return request(
        "/", msgspec.json.encode({"env": {"MODEL_ID": "demo"}, "payload": payload, "subroute": value} | more)
    )


async def raw(house: House, target: bytes) -> Reply:
    wire = await house.wire()
    body = chat_body()
    await wire.send(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (target, len(body), body)
    )
    reply = await wire.reply()
    await wire.close()
    return reply


@pytest.mark.parametrize("value", ODD)
async def test_an_odd_subroute_is_refused_and_reaches_nobody(house: House, value: str) -> None:
    reply = await house.ask(subroute(value))

    assert reply.status == 400
    assert shape_of(reply, "/") == ("invalid_json" if "\0" in value else "invalid_request")
    assert not house.origin.calls
    assert not house.platform.orders


@pytest.mark.parametrize(
    "target",
    [
        *(
            b"/models/demo/../../etc/passwd",
            b"/models/demo/%2e%2e/x",
            b"/models/demo/%2e%2e%2fx",
            b"/models/demo//h/generate",
        ),
        *(
            b"/models/demo/a%0d%0aX-A:b/generate",
            b"/models/demo\\h/generate",
            b"/v1/../x",
            b"/v1/%2E./chat/completions",
        ),
        *(b"//h/v1/chat/completions", b"http://h/v1/chat/completions", b"http://localhost@h/v1/chat/completions"),
        *(b"http://localhost:1@h/", b"http://localhost:1/v1/chat/completions", b"ftp://localhost/", b"h:80"),
    ],
)
async def test_an_odd_target_is_refused_with_400(house: House, target: bytes) -> None:
    reply = await raw(house, target)

    assert reply.status == 400
    assert not house.origin.calls
    assert not house.platform.orders


async def test_what_is_asked_of_a_server_names_that_server_and_no_other(house: House) -> None:
    own = b"127.0.0.1:%d" % house.origin.port

    through_subroute = await house.ask(subroute("/v1/chat/completions"))
    without_a_slash = await house.ask(subroute("v1/chat/completions"))
    absolute = await raw(house, b"http://localhost/v1/chat/completions")

    assert [reply.body for reply in (through_subroute, without_a_slash, absolute)] == [CHAT] * 3
    for call in house.origin.calls:
        assert call.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert call.head.lower().count(b"\r\nhost: " + own + b"\r\n") == call.head.lower().count(b"\r\nhost:") == 1
