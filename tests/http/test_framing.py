"""What is no proper request is refused, whoever would have understood it in another way."""

from __future__ import annotations

import pytest
from tests.http.conftest import Counter, Listen
from tests.http.support import Wire

POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = {
    # the 21 cases of the acceptance list
    "length and chunked": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "unknown transfer coding with length": (POST + b"Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc", 400),
    "space before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "length with a plus": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "length in hexadecimal": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n0123456789", 400),
    "folded header": (POST + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare carriage return": (POST + b"A: b\rc\r\nContent-Length: 0\r\n\r\n", 400),
    "NUL in a value": (POST + b"A: b\x00c\r\nContent-Length: 0\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "bad chunk size": (CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", 400),
    "chunks with line feeds only": (CHUNKED + b"3\nabc\n0\n\n", 400),
    "a header of 100 KiB": (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 102_400 + b"\r\n\r\n", 431),
    "1,000 headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 1000 + b"\r\n", 431),
    "a target of 100 KiB": (b"GET /" + b"a" * 102_400 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "absolute form of another host": (b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # (dripping heads and idle connections are in test_limits)
    # and others
    "equal lengths": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "empty length": (POST + b"Content-Length:\r\n\r\n", 400),
    "overflowing length": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "a length beyond every limit": (POST + b"Content-Length: 9999999999999999\r\n\r\n", 413),
    "gzip and chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked and gzip": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "only gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "overflowing chunk": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "chunk size with spaces": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 400),
    "chunk longer than its size": (CHUNKED + b"3\r\nabcX0\r\n\r\n", 400),
    "line feed in a header line": (POST + b"A: b\nContent-Length: 3\r\n\r\nabc", 400),
    "control character in a value": (POST + b"A: b\x01c\r\n\r\n", 400),
    "space in a name": (b"GET / HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n", 400),
    "space before the first header": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a host that is none": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a host with a user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "a host with a word for a port": (b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400),
    "two authorizations": (b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
    "two content types": (POST + b"Content-Type: a\r\nContent-Type: b\r\nContent-Length: 0\r\n\r\n", 400),
    "absolute form with another port": (b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute form with a user": (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute form of another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "authority form": (b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a star for GET": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method nobody knows": (b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "another protocol": (b"DESCRIBE / RTSP/1.0\r\n\r\n", 501),
    "TLS where it is not spoken": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 501),
    "raw bytes in the target": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two dots": (b"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "encoded dots": (b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "encoded dots and slash": (b"GET /a/%2e%2e%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "dots at the end": (b"GET /a/.. HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "empty segment": (b"GET //h/b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "encoded line break": (b"GET /a%0d%0ab HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "backslash": (b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "encoded backslash": (b"GET /a%5cb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bad escape": (b"GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "not UTF-8": (b"GET /a%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "gzip": (POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 415),
    "an expectation nobody knows": (POST + b"Expect: cake\r\nContent-Length: 3\r\n\r\nabc", 417),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused_with_its_status_and_the_connection_closed(
    counter: Counter, wire: Wire, sent: bytes, status: int
) -> None:
    reply = await wire.ask(sent)

    assert reply.status == status
    assert reply.headers["connection"] == "close"
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == status
    assert reply.json["detail"]
    assert reply.headers["x-request-id"]
    assert await wire.rest() == b""
    assert counter.shop.admitted == [] or status in (400, 413)
    assert [exchange.path for exchange in counter.shop.ended if exchange.path == "/smuggled"] == []
    assert counter.server.refused == {status: 1}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused_just_so_when_it_comes_after_a_good_request(
    counter: Counter, wire: Wire, sent: bytes, status: int
) -> None:
    await wire.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n" + sent)

    assert (await wire.reply()).json["path"] == "/first"
    assert (await wire.reply()).status == status
    assert await wire.rest() == b""


GOOD = {
    "absolute form of the same host": (b"GET http://A:80/x?q=1 HTTP/1.1\r\nHost: a:80\r\n\r\n", "GET", "/x", "q=1", ""),
    "absolute form without a path": (b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/", "", ""),
    "absolute form with a query only": (b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/", "q", ""),
    "a star for OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", "/*", "", ""),
    "escapes": (b"GET /v1/models/org%2Fn%C3%A4me HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/v1/models/org/näme", "", ""),
    "a query with anything": (b"GET /a?b=//../c%0a HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/a", "b=//../c%0a", ""),
    "an IPv6 host": (b"GET /a HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "GET", "/a", "", ""),
    "chunks": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "POST", "/x", "", "abcde"),
    "chunks with extensions and trailers": (
        CHUNKED + b'3;a="b;c"\r\nabc\r\n0\r\nHost: evil\r\nAuthorization: x\r\n\r\n',
        "POST",
        "/x",
        "",
        "abc",
    ),
    "a coding in capitals": (POST + b"Transfer-Encoding: CHUNKED \r\n\r\n1\r\na\r\n0\r\n\r\n", "POST", "/x", "", "a"),
    "identity": (POST + b"Content-Encoding: identity\r\nContent-Length: 1\r\n\r\na", "POST", "/x", "", "a"),
    "a length with zeros": (POST + b"Content-Length: 0003\r\n\r\nabc", "POST", "/x", "", "abc"),
    "a body with GET": (b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", "GET", "/x", "", "ab"),
    "empty lines before": (b"\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/x", "", ""),
    "empty header value": (b"GET /x HTTP/1.1\r\nHost: a\r\nA:\r\nB: \r\n\r\n", "GET", "/x", "", ""),
    "an empty host": (b"GET /x HTTP/1.1\r\nHost:\r\n\r\n", "GET", "/x", "", ""),
}


@pytest.mark.parametrize(("sent", "method", "path", "query", "body"), GOOD.values(), ids=GOOD.keys())
async def test_understood(wire: Wire, sent: bytes, method: str, path: str, query: str, body: str) -> None:
    for _ in range(2):  # the connection lives on
        reply = await wire.ask(sent)

        assert reply.status == 200
        assert reply.json["method"] == method
        assert reply.json["path"] == path
        assert reply.json["query"] == query
        assert reply.json["body"] == body
        assert "evil" not in str(reply.json["headers"])


async def test_an_upgrade_is_ignored_and_its_body_is_read(counter: Counter, wire: Wire) -> None:
    """Java's HTTP client offers h2c with every first request; llhttp would skip the body."""
    head = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    for framing, body in (
        (b"Content-Length: 3\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
    ):
        for sent in ([head + framing + b"\r\n" + body], [head + framing + b"\r\n", body[:1], body[1:]]):
            reply = await wire.ask(*sent)
            assert reply.status == 200
            assert reply.json["body"] == "abc"
    await wire.send(b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + SMUGGLED)
    assert (await wire.reply()).json["path"] == "/u"
    assert (await wire.reply()).json["path"] == "/smuggled"


async def test_an_upgrade_does_not_lift_the_limit_on_bodies(wire: Wire) -> None:
    reply = await wire.ask(POST + b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 99999999\r\n\r\n")

    assert reply.status == 413


async def test_http_1_0_is_answered_and_closed(wire: Wire) -> None:
    reply = await wire.ask(b"GET /x HTTP/1.0\r\n\r\n")

    assert reply.status == 200
    assert reply.headers["connection"] == "close"
    assert await wire.rest() == b""


async def test_http_1_0_may_ask_to_stay(wire: Wire) -> None:
    for _ in range(2):
        reply = await wire.ask(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert reply.headers["connection"] == "keep-alive"


async def test_connection_close_is_honoured_and_what_follows_is_not_read(counter: Counter, wire: Wire) -> None:
    await wire.send(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + SMUGGLED)
    reply = await wire.reply()

    assert reply.headers["connection"] == "close"
    assert await wire.rest() == b""
    assert [exchange.path for exchange in counter.shop.admitted] == ["/x"]


async def test_head_is_answered_without_a_body(wire: Wire) -> None:
    for _ in range(2):
        await wire.send(b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = await wire.reply(head=True)
        assert reply.status == 200
        assert int(reply.headers["content-length"]) > 0
    assert (await wire.ask(b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n")).json["path"] == "/y"


async def test_the_forwarding_headers_count_only_from_trusted_proxies(listen: Listen) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.2\r\n\r\n"
    stranger = await listen()
    friend = await listen(trusted=["127.0.0.0/8", "10.0.0.0/8"])

    assert (await (await stranger.wire()).ask(request)).json["peer"] == "127.0.0.1"
    assert (await (await friend.wire()).ask(request)).json["peer"] == "203.0.113.9"
