"""Errors as bytes, and engines' errors as ours. Shared by the dialects; the gateway uses `engine_problem` too."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from ssis_dispatcher.engines.replies import reported
from ssis_dispatcher.errors import Problem

PROBLEM_JSON = b"application/problem+json"

_PASSED = {400: "invalid_request", 413: "request_too_large", 422: "unprocessable"}
"""Statuses of engines that are about the request, and so are the caller's to read."""


def problem_json(problem: Problem) -> bytes:
    """RFC 9457, with ``code``, ``retry_after`` in seconds and ``param`` where there are any."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
    }
    if problem.retry_after is not None:
        body["retry_after"] = problem.retry_after
    if problem.param is not None:
        body["param"] = problem.param
    return msgspec.json.encode(body)


def tgi_error_event(problem: Problem) -> bytes:
    """An error inside a stream of TGI's form."""
    return b"data:" + msgspec.json.encode({"error": problem.message, "error_type": problem.code}) + b"\n\n"


def engine_problem(status: int, body: bytes = b"") -> Problem:
    """What an engine's error reply means for the caller: its words about the request are passed on, a full queue is ours
    to apologise for, and all else is the server's failure."""
    said = reported(body)[:2000]
    if status in _PASSED:
        return Problem(status, _PASSED[status], said or "The inference server refused the request without saying why.")
    if status in (429, 503):
        return Problem(503, "server_busy", f"The inference server is busy. {said}".strip(), 1.0)
    detail = f": {said}" if said else "."
    return Problem(502, "upstream_error", f"The inference server failed with status {status}{detail}")
