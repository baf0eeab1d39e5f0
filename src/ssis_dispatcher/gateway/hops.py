"""Answers of those between us and a server: a gateway that has no route, a proxy whose own time is over. Pure.

Behind a gateway (Knative's Envoy, and queue-proxy in each pod) an answer need not be the server's. These speak plain text
or nothing at all, where servers speak JSON; to pass that on would tell the caller nothing, and in the wrong form. Facts:
Envoy answers 404 without a body for a host that it does not know (yet), 503 with a text when no pod answers; queue-proxy
and the activator answer 503 and 504 with a text, or 502 without one.
"""

from __future__ import annotations

from ssis_dispatcher.errors import UpstreamError, UpstreamTimeout

_SPEAKERS = (404, 502, 503, 504)
_JSON = (b"application/json", b"application/problem+json", b"text/event-stream")


def of_a_hop(status: int, content_type: bytes, body: bytes) -> UpstreamError | None:
    """What an answer that came through a gateway means, where it is not the server's; None where it is."""
    if status not in _SPEAKERS or content_type.startswith(_JSON) or (status == 404 and body):
        return None
    words = body[:200].decode("utf-8", "replace").strip()
    if status == 504:
        return UpstreamTimeout(f"The inference server's platform cut the request off: {words or 'its time is over'}.")
    if status == 404:
        return UpstreamError(
            "The platform's gateway does not know this server (any more).", code="upstream_unreachable"
        )
    return UpstreamError(
        f"The platform's gateway could not reach the inference server: {words or f'it answered {status}'}.",
        code="upstream_unreachable",
    )
