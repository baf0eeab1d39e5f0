"""Replies: JSON, problems as `application/problem+json` (RFC 9457), and the headers that every reply carries."""

from __future__ import annotations

from math import ceil

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.problems import PROBLEM_JSON, problem_json
from ssis_dispatcher.http.asgi import ClientLeft
from ssis_dispatcher.telemetry.logs import ERROR, log

_openai = OpenAI()

INTERNAL = Problem(500, "internal_error", "The dispatcher failed at this; its log says why. It is not your mistake.")


def reply(content: object, status: int = 200) -> Response:
    """``content`` (structs, dictionaries, lists) as JSON."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def problem_reply(problem: Problem, path: str) -> Response:
    """An error, in the shape that callers of ``path`` expect: OpenAI's below ``/v1``, else problem+json."""
    if path.startswith("/v1/"):
        body, kind = _openai.error(problem)
    else:
        body, kind = problem_json(problem), PROBLEM_JSON
    response = Response(body, problem.status, media_type=kind.decode())
    if problem.retry_after is not None:
        response.headers["retry-after"] = str(max(1, ceil(problem.retry_after)))
    return response


async def on_dispatch_error(request: Request, error: Exception) -> Response:
    """What a route refuses."""
    assert isinstance(error, DispatchError)
    return problem_reply(error.problem, request.scope["path"])


async def on_http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").replace(",", " ").split()))
        message = f"{path} does not take {request.method}; it takes {allowed}."
        response = problem_reply(Problem(405, "method_not_allowed", message), path)
        response.headers["allow"] = allowed
        return response
    if error.status_code == 404:
        message = f"There is nothing at {path}; GET / names the routes."
        return problem_reply(Problem(404, "not_found", message), path)
    return problem_reply(Problem(error.status_code, "http_error", error.detail), path)


class LastResort:
    """ASGI middleware: an exception that nobody expected is logged and answered 500, without its details. Where the reply
    has begun already it goes on to the server, which must break off the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except (ClientDisconnect, ClientLeft):
            return  # nobody is left to answer
        except Exception as error:
            log("operation failed", ERROR, error, method=scope.get("method"), path=scope.get("path"))
            if begun:
                raise
            await problem_reply(INTERNAL, scope["path"])(scope, receive, send)


class SafeHeaders:
    """ASGI middleware: replies are not cached, not sniffed, not framed. What a route sets itself stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, safe)


_SAFE = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
