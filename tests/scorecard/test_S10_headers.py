"""S10. Of a caller's headers the server sees none that is for one hop, meant for us, or could be taken for ours; of the
server's headers the caller sees none that would speak for us."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.http.support import OriginCall
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, JSON, chat, generate, head, seed

CANARY = b"canary"
STRIPPED = (
    *(b"Keep-Alive: canary", b"Proxy-Connection: canary", b"TE: trailers, canary", b"Trailer: canary"),
    *(b"Proxy-Authorization: canary", b"Connection: x-api-key, X-Named, Keep-Alive", b"X-Named: canary"),
    *(b"X-Forwarded-For: canary", b"X-Forwarded-Host: canary", b"X-Forwarded-Proto: canary", b"Forwarded: for=canary"),
    *(b"X-Real-Ip: canary", b"Via: canary", b"Cookie: a=canary", b"Origin: http://localhost:1", b"Referer: canary"),
    *(b"X_Api_Key: canary", b"Content_Length: 3canary", b"X-SSIS-Model: canary", b"x-ssis-hop: canary"),
    *(b"Accept-Encoding: canary", b"Expect: 100-continue"),
)
KEPT = (b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"X-Custom: kept")


@pytest.mark.parametrize("make", [chat, seed, generate], ids=["openai", "ssis", "tgi"])
@pytest.mark.parametrize("with_key", ["Authorization: Bearer ", "X-Api-Key: "])
async def test_the_server_sees_no_header_that_is_not_for_it(
    open_house: OpenHouse, make: Callable[..., bytes], with_key: str
) -> None:
    house = await open_house(keys={"somebody": {}})
    secret = house.secrets["somebody"]
    sent = make("demo", *STRIPPED, *KEPT, (with_key + secret).encode(), b"X-Request-Id: mine-1")

    for _ in range(2):  # the second time, the head is known already
        assert (await house.ask(sent)).status == 200

    own = b"host: 127.0.0.1:%d" % house.origin.port
    for call in house.origin.calls:
        lines = call.head.lower().split(b"\r\n")[1:-2]
        names = [line.partition(b":")[0] for line in lines]
        assert CANARY not in call.head
        assert secret.encode() not in call.head
        assert len(names) == len(set(names))
        assert own in lines
        assert b"x-request-id: mine-1" in lines
        assert {kept.lower() for kept in KEPT} <= set(lines)
        assert not {b"authorization", b"x-api-key", b"expect", b"origin"} & set(names)


async def test_the_caller_sees_no_header_that_speaks_for_us(open_house: OpenHouse) -> None:
    async def says_too_much(call: OriginCall) -> None:
        lines = (
            *(b"Set-Cookie: a=canary", b"Server: canary", b"Via: canary", b"Access-Control-Allow-Origin: canary"),
            *(
                b"Connection: X-Named, keep-alive",
                b"Keep-Alive: canary",
                b"X-SSIS-Model: canary",
                b"X-Request-Id: canary",
            ),
            *(b"Strict-Transport-Security: canary", b"WWW-Authenticate: canary", b"Alt-Svc: canary"),
        )
        await call.say(head(JSON, *lines, b"X-Custom: kept", b"Content-Length: %d" % len(CHAT)) + CHAT)

    house = await open_house(says_too_much)

    for _ in range(2):
        reply = await house.ask(chat())
        assert reply.body == CHAT
        assert "canary" not in str(reply.headers)
        assert reply.headers["x-custom"] == "kept"


async def test_a_key_named_in_connection_still_counts_at_the_door(open_house: OpenHouse) -> None:
    """Else a proxy before us could be made to drop it, and here it would be as if nobody had asked."""
    house = await open_house(keys={"somebody": {}})

    named = await house.ask(chat("demo", b"Connection: x-api-key", b"X-Api-Key: " + house.secrets["somebody"].encode()))
    none = await house.ask(chat("demo", b"Connection: x-api-key"))

    assert (named.status, none.status) == (200, 401)
