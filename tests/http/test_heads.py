"""The rules on heads, one by one."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.http import heads
from ssis_dispatcher.http.heads import Header

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        ([(b"x-forwarded-for", b"203.0.113.9")], "203.0.113.9"),
        ([(b"x-forwarded-for", b"6.6.6.6, 203.0.113.9")], "203.0.113.9"),
        ([(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"203.0.113.9, 10.1.1.1")], "203.0.113.9"),
        ([(b"x-forwarded-for", b"203.0.113.9:4711")], "203.0.113.9"),
        ([(b"x-forwarded-for", b"2001:db8::1")], "2001:db8::1"),
        ([(b"x-forwarded-for", b"[2001:db8::1]:80")], "2001:db8::1"),
        ([(b"x-forwarded-for", b"10.0.0.1, 10.0.0.2")], "10.0.0.1"),
        ([(b"x-forwarded-for", b"6.6.6.6, nonsense")], "10.9.9.9"),
        ([(b"x-forwarded-for", b"")], "10.9.9.9"),
        ([(b"forwarded", b"for=203.0.113.9;proto=https")], "203.0.113.9"),
        ([(b"forwarded", b'proto=http; For="[2001:db8::1]:4711"')], "2001:db8::1"),
        ([(b"forwarded", b"for=6.6.6.6, for=203.0.113.9, for=10.0.0.1")], "203.0.113.9"),
        ([(b"forwarded", b"for=unknown")], "10.9.9.9"),
        ([(b"forwarded", b"by=10.0.0.1")], "10.9.9.9"),
        ([(b"forwarded", b"for=6.6.6.6"), (b"x-forwarded-for", b"203.0.113.9")], "203.0.113.9"),
        ([], "10.9.9.9"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(headers: list[Header], peer: str) -> None:
    assert heads.forwarded_peer(headers, "10.9.9.9", NETWORKS) == peer


@pytest.mark.parametrize(
    "name",
    [
        *(b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection"),
        *(b"host", b"content-length", b"expect", b"accept-encoding", b"authorization", b"cookie", b"x-api-key"),
        *(b"x-ssis-hf-token", b"x-forwarded-for", b"x-forwarded-anything", b"forwarded", b"x_forwarded_for"),
        *(b"proxy-authorization", b"http2-settings", b"origin", b"x-real-ip"),
    ],
)
def test_not_for_the_inference_server(name: bytes) -> None:
    assert not heads.goes_upstream[name]
    assert heads.for_upstream([(name, b"x"), (b"accept", b"*/*")], None) == [(b"accept", b"*/*")]


@pytest.mark.parametrize("name", [b"content-type", b"accept", b"traceparent", b"tracestate", b"user-agent", b"x-own"])
def test_for_the_inference_server(name: bytes) -> None:
    assert heads.goes_upstream[name]


def test_what_connection_names_is_for_one_hop() -> None:
    headers = [(b"connection", b"X-Own, close"), (b"x-own", b"1"), (b"x-other", b"2")]

    assert heads.for_upstream(headers, b"X-Own, close") == [(b"x-other", b"2")]
    assert heads.for_upstream(headers, b"keep-alive") == headers[1:]


@pytest.mark.parametrize(
    "name",
    [
        *(b"connection", b"transfer-encoding", b"content-length", b"date", b"server", b"x-request-id", b"x-ssis-x"),
        *(b"set-cookie", b"access-control-allow-origin", b"strict-transport-security", b"alt-svc"),
    ],
)
def test_not_for_the_caller(name: bytes) -> None:
    assert not heads.comes_back[name]


@pytest.mark.parametrize("name", [b"content-type", b"cache-control", b"x-compute-time", b"retry-after"])
def test_for_the_caller(name: bytes) -> None:
    assert heads.comes_back[name]


def test_memories_are_bounded() -> None:
    for number in range(5_000):
        assert heads.goes_upstream[b"x-%d" % number]

    assert len(heads.goes_upstream) <= 1024


def test_a_name_in_lower_case_is_always_the_same_object() -> None:
    assert heads.lower[b"Content-Type"] == b"content-type"
    assert heads.lower[bytes(bytearray(b"X-Some"))] is heads.lower[bytes(bytearray(b"X-Some"))]


@given(st.text(max_size=40))
def test_no_path_that_is_accepted_can_climb_or_hide(text: str) -> None:
    target = b"/" + text.encode("utf-8", "surrogatepass")
    try:
        _, _, path, _ = heads.parse_target(b"GET", target, b"a")
    except DispatchError:
        return
    assert path.startswith("/")
    assert "//" not in path
    assert ".." not in path.split("/")
    assert "." not in path.split("/")
    assert all(character >= " " and character not in "\\\x7f" for character in path)


@pytest.mark.parametrize(
    "host", [b"a", b"a:80", b"a.b-c.example:8080", b"127.0.0.1", b"[::1]", b"[::1]:80", b"", b" a "]
)
def test_hosts(host: bytes) -> None:
    assert heads.parse_target(b"GET", b"/", host)[0] == "GET"


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"a?b", b"u@a", b"a:b", b"a:123456", b"[::1", b"::1", b"\xe4"])
def test_no_hosts(host: bytes) -> None:
    with pytest.raises(DispatchError):
        heads.parse_target(b"GET", b"/", host)


def test_a_problem_as_a_reply() -> None:
    body, content_type = heads.problem_reply(Problem(429, "rate_limit_exceeded", "Slow down.", 1.5, "model"))

    assert content_type == b"application/problem+json"
    assert b'"title": "Too Many Requests"' in body
    assert b'"retry_after": 1.5' in body
    assert b'"param": "model"' in body
    assert heads.problem_reply(Problem(599, "odd", "Odd."))[0].startswith(b'{"type": "about:blank", "title": ""')


def test_retry_after_is_at_least_a_second() -> None:
    assert heads.retry_headers(Problem(503, "x", "x", 0.01)) == ((b"retry-after", b"1"),)
    assert heads.retry_headers(Problem(503, "x", "x")) == ()


def test_status_lines() -> None:
    assert heads.status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert heads.status_line(299) == b"HTTP/1.1 299 \r\n"
