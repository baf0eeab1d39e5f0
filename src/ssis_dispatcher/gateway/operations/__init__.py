"""The operations API: an ordinary Starlette application behind the gateway's own listener.

`routes` is the table of contents. Everything is shown from the fleet's views and changed by posting events; nothing is
decided here.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.gateway.operations.desk import KEY, Operations
from ssis_dispatcher.gateway.operations.replies import LastResort, SafeHeaders, on_dispatch_error, on_http_error
from ssis_dispatcher.gateway.operations.routes import ROUTES, need_of, needs

__all__ = ["KEY", "ROUTES", "Operations", "need_of", "needs", "operations"]


def operations(desk: Operations, cors_origins: Sequence[str] = ()) -> Starlette:
    """The application. ``cors_origins`` are the origins whose pages may call it from a browser, ``*`` for all."""
    middleware = [Middleware(SafeHeaders)]
    if cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=tuple(cors_origins),
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=("*",),  # OpenAI's client sends a dozen of its own
                expose_headers=("Retry-After", "X-Request-Id"),
            )
        )
    middleware.append(Middleware(LastResort))
    application = Starlette(
        routes=[route.serve(desk) for route in ROUTES],
        middleware=middleware,
        exception_handlers={DispatchError: on_dispatch_error, HTTPException: on_http_error},
    )
    # A path with a slash too many is another path: redirecting it would run past the table of needs.
    application.router.redirect_slashes = False
    return application
