"""Heads: what a request head must satisfy, what passes from hop to hop, how a reply head is written. Pure functions.

llhttp has already parsed the bytes. Here is what it leaves open: Host, repeated headers, the target's form, and encodings.
Rules are those of RFC 9112 (framing), RFC 9110 (fields) and RFC 7239 (`Forwarded`), taken strictly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address
from math import ceil
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from ssis_dispatcher.errors import DispatchError, Problem

Header = tuple[bytes, bytes]
Network = IPv4Network | IPv6Network

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
"""The methods that are served, by their bytes; any other is answered 501."""

_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"http2-settings", b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
    )
)

_NOT_UPSTREAM = _HOP_BY_HOP | {
    *(b"host", b"content-length", b"expect", b"accept-encoding"),  # written by the client side itself
    *(b"authorization", b"cookie", b"x-api-key", b"api-key"),  # meant for us
    *(b"forwarded", b"via", b"x-real-ip", b"x-request-id", b"origin", b"referer"),
}

_NOT_BACK = _HOP_BY_HOP | {
    *(b"content-length", b"date", b"server", b"via", b"x-request-id"),  # written by the listener itself
    *(b"set-cookie", b"alt-svc", b"strict-transport-security", b"www-authenticate"),  # would speak for our origin
}

_ONCE = frozenset(
    (
        *(b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"authorization"),
        *(b"x-api-key", b"expect", b"x-request-id", b"origin", b"traceparent"),
    )
)
"""Headers that change who is asked, by whom, or where the body ends: said twice, two readers may believe different ones."""

_PLAIN_CONNECTION = frozenset((b"keep-alive", b"Keep-Alive", b"close", b"Close"))

_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_BAD_TARGET = re.compile(rb"[^\x21-\x7e]|[#\\]|%(?![0-9A-Fa-f]{2})")
_BAD_PATH = re.compile(r"[\x00-\x1f\x7f\\]|//|/\.\.?(?:/|$)")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+=@-]{1,128}")
_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for="?(\[[^\]]*\]|[^";,:\s]+)(?::[^";,]*)?"?', re.IGNORECASE)


class Lines(list[Header]):
    """Header lines in order, names in lower case. Lines that come again, with the same head, are the same object: so what was
    made of them can be kept in ``note``."""

    note: object = None


class Head:
    """What a request's head says, once it is found good. The same object comes with every request that has the same head:
    what the application has made of it, it can keep in ``note``."""

    __slots__ = ("headers", "id", "index", "keep", "method", "note", "old", "path", "peer", "plain", "query", "target")

    def __init__(
        self,
        method: str,
        target: bytes,
        path: str,
        query: bytes,
        headers: Lines,
        index: dict[bytes, bytes],
        peer: str,
        keep: bool = False,
        old: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.headers = headers
        self.index = index
        self.peer = peer
        self.keep = keep
        self.old = old
        self.plain = method != "HEAD" and not old
        """Its reply has a body, and need not say that the connection lives on."""
        self.id: str | None = None
        self.note: object = None


def refusal(status: int, code: str, message: str, retry_after: float | None = None) -> DispatchError:
    """A refusal with a status that has no class of its own in `errors`."""
    return DispatchError.of(Problem(status, code, message, retry_after))


def unknown_method() -> DispatchError:
    return refusal(501, "unknown_method", f"The methods served here are {', '.join(METHODS.values())}.")


def check_repeated(headers: Iterable[Header]) -> None:
    """Refuse a head that says twice what may be said once. Raises `DispatchError` (400)."""
    seen = set()
    for name, _ in headers:
        if name in seen and name in _ONCE:
            raise refusal(400, "repeated_header", f"The header {name.decode()!r} may occur only once.")
        seen.add(name)


@lru_cache(maxsize=256)
def parse_target(verb: bytes, target: bytes, host: bytes | None) -> tuple[str, bytes, str, bytes]:
    """Method, target in origin form, decoded path and raw query of a request. Raises `DispatchError`: 501, or 400, also for
    a Host header that is no ``uri-host [":" port]``.

    Nothing is normalised away: a path that needs it (``..``, ``//``, a backslash, control characters, encoded or not) is
    refused, because the next reader might do it differently.
    """
    method = METHODS.get(verb)
    if method is None:
        raise unknown_method()
    host = (host or b"").strip()
    if not _HOST.fullmatch(host):
        raise refusal(400, "invalid_host", "The Host header is not a host name with an optional port.")
    if not target.startswith(b"/"):
        target = _origin_form(target, host, method)
    if _BAD_TARGET.search(target):
        raise refusal(400, "invalid_target", "The request target has characters that must be percent-encoded.")
    raw, _, query = target.partition(b"?")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise refusal(400, "invalid_target", "The path is not UTF-8.") from None
    if _BAD_PATH.search(path):
        raise refusal(
            400, "invalid_target", "The path has empty or dotted segments, backslashes or control characters."
        )
    return method, target, path, query


def _origin_form(target: bytes, host: bytes, method: str) -> bytes:
    """The absolute form (RFC 9112 §3.2.2) is accepted where it names the same host as the Host header, so that it cannot
    be understood in two ways; ``*`` is accepted for OPTIONS. Raises `DispatchError` (400)."""
    if target == b"*" and method == "OPTIONS":
        return b"/*"
    scheme, _, rest = target.partition(b"://")
    authority = rest.partition(b"/")[0].partition(b"?")[0]
    if scheme.lower() not in (b"http", b"https") or not authority:
        raise refusal(400, "invalid_target", "The request target must be a path.")
    if authority.lower() != host.lower():
        raise refusal(400, "invalid_target", "The request target names another host than the Host header.")
    path = rest[len(authority) :]
    return path if path.startswith(b"/") else b"/" + path


def check_coding(headers: Mapping[bytes, bytes], old: bool) -> bool:
    """Whether the body is chunked. ``old`` is HTTP/1.0. Raises `DispatchError`: 400, 415, 501."""
    coding = headers.get(b"content-encoding")
    if coding is not None and coding.strip().lower() not in (b"", b"identity"):
        raise refusal(
            415, "unsupported_encoding", "Send the body without Content-Encoding: it is not decompressed here."
        )
    transfer = headers.get(b"transfer-encoding")
    if transfer is None:
        return False
    if old:
        raise refusal(400, "invalid_framing", "HTTP/1.0 has no Transfer-Encoding.")
    if transfer.strip().lower() != b"chunked":
        raise refusal(
            501, "unsupported_transfer_encoding", "The only Transfer-Encoding that is understood is 'chunked'."
        )
    return True


def request_id(sent: bytes | None) -> str | None:
    """The caller's X-Request-Id where it is one: 1 to 128 letters, digits and ``._:+=@-``."""
    return sent.decode() if sent is not None and _REQUEST_ID.fullmatch(sent) else None


def forwarded_peer(headers: Iterable[Header], peer: str, trusted: Iterable[Network]) -> str:
    """The client as told by trusted proxies: from the right, the first address that is not one of theirs.

    ``X-Forwarded-For`` counts where there is one, because proxies that write only that (Envoy, Knative's) let a caller's
    ``Forwarded`` through; else ``Forwarded``. What cannot be read ends the search at the last proxy believed.
    """
    headers = list(headers)
    hops = _values(headers, b"x-forwarded-for")
    if not hops:
        found = (_FORWARDED_FOR.search(element) for element in _values(headers, b"forwarded"))
        hops = [match.group(1) if match else "" for match in found]
    for hop in reversed(hops):
        try:
            address = ip_address(_bare(hop))
        except ValueError:
            break
        peer = str(address)
        if not any(address in network for network in trusted):
            break
    return peer


def _values(headers: Iterable[Header], name: bytes) -> list[str]:
    lines = (value.decode("latin-1") for key, value in headers if key == name)
    return [part.strip() for line in lines for part in line.split(",")]


def _bare(hop: str) -> str:
    """An address without brackets and port."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _goes_upstream(name: bytes) -> bool:
    """Whether a caller's header of this (lower-case) name goes to the inference server.

    Left out: hop-by-hop, credentials and cookies (they are for us), what proxies say of the caller, names with ``_``
    (which some servers read as ``-``), and ours (``x-ssis-…``).
    """
    ours = name.startswith((b"x-ssis-", b"x-forwarded-", b"sec-", b"proxy-"))
    return not (name in _NOT_UPSTREAM or ours or b"_" in name)


def _comes_back(name: bytes) -> bool:
    """Whether an inference server's header goes to the caller. Left out: hop-by-hop, what the listener says itself, and
    what would speak for our own origin (cookies, CORS)."""
    return not (name in _NOT_BACK or name.startswith((b"x-ssis-", b"access-control-", b"proxy-")))


T = TypeVar("T")


class _Memo(dict[bytes, T]):
    """What a rule says of header names, remembered: a look-up costs a third of a call, and the same few names come all the
    time. Bounded, because callers make up names."""

    def __init__(self, rule: Callable[[bytes], T]) -> None:
        self._rule = rule

    def __missing__(self, name: bytes) -> T:
        if len(self) >= 1024:
            self.clear()
        said = self[name] = self._rule(name)
        return said


goes_upstream: Mapping[bytes, bool] = _Memo(_goes_upstream)
comes_back: Mapping[bytes, bool] = _Memo(_comes_back)
lower: Mapping[bytes, bytes] = _Memo(bytes.lower)
"""Header names in lower case: always the same object for the same name, whose hash is then known already."""


def for_upstream(headers: Iterable[Header], connection: bytes | None) -> list[Header]:
    """What goes on to the inference server. ``connection`` is the value of that header, which may name others as
    hop-by-hop."""
    if connection is None or connection in _PLAIN_CONNECTION:
        return [header for header in headers if goes_upstream[header[0]]]
    named = frozenset(token.strip().lower() for token in connection.split(b","))
    return [header for header in headers if goes_upstream[header[0]] and header[0] not in named]


def block(headers: Iterable[Header]) -> bytes:
    """Header lines as they are written behind another line, without the last line's end."""
    return b"".join([b"\r\n" + name + b": " + value for name, value in headers])


_WRITTEN_FOR_NEXT_HOP = _HOP_BY_HOP | {
    *(b"host", b"content-length", b"expect", b"accept-encoding", b"x-request-id", b"x-forwarded-for", b"x-ssis-hop"),
}


def for_next_hop(headers: Iterable[Header], connection: bytes | None) -> list[Header]:
    """What goes on to another of our own kind: everything, credentials included, but what is for one hop."""
    named = frozenset(token.strip().lower() for token in (connection or b"").split(b","))
    return [header for header in headers if header[0] not in _WRITTEN_FOR_NEXT_HOP and header[0] not in named]


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def problem_reply(problem: Problem) -> tuple[bytes, bytes]:
    """Body and content type of an error: ``application/problem+json`` (RFC 9457)."""
    phrase = HTTPStatus(problem.status).phrase if problem.status in STATUS_LINES else ""
    fields: dict[str, object] = {
        "type": "about:blank",
        "title": phrase,
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
    }
    if problem.retry_after is not None:
        fields["retry_after"] = problem.retry_after
    if problem.param is not None:
        fields["param"] = problem.param
    return json.dumps(fields).encode(), b"application/problem+json"


def retry_headers(problem: Problem) -> tuple[Header, ...]:
    """``Retry-After`` in whole seconds, where retrying can help."""
    if problem.retry_after is None:
        return ()
    return ((b"retry-after", b"%d" % max(1, ceil(problem.retry_after))),)
