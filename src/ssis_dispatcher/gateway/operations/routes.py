"""Every operations route, on one page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ssis_dispatcher.gateway.needs import Need, NeedTable, Stated
from ssis_dispatcher.gateway.operations import events, health, looking, steering
from ssis_dispatcher.gateway.operations.desk import Operations
from ssis_dispatcher.gateway.operations.replies import reply
from ssis_dispatcher.gateway.operations.table import Route

_INFERENCE = {
    "POST /": 'generate, as the original program did: {"env": {"MODEL_ID": …}, "token": …, "par": …}',
    "POST /v1/chat/completions": "and the other routes of OpenAI's API",
    "POST /models/{model}/generate": "and the other routes of TGI's API",
}
"""The routes that are not served here, for the index."""


async def index(desk: Operations, request: Request) -> Response:
    """What there is, for somebody who looks around: text for browsers, else JSON."""
    routes = _INFERENCE | {f"{route.method} {route.path}": route.says for route in ROUTES}
    if "text/html" not in request.headers.get("accept", ""):
        return reply({"program": health.PROGRAM, "routes": routes})
    width = max(map(len, routes))
    lines = "\n".join(f"{name:<{width}}  {says}" for name, says in routes.items())
    return PlainTextResponse(f"SSIS-Dispatcher\n\n{lines}\n")


ROUTES = (
    Route("GET", "/", index, need=Need.USE, says="this index"),
    Route("GET", "/healthz", health.healthz, need=Need.PUBLIC, says="whether the process is alive"),
    Route("GET", "/readyz", health.readyz, need=Need.PUBLIC, says="whether it takes requests"),
    Route("GET", "/metrics", health.metrics, need=Need.USE, says="numbers for Prometheus"),
    Route("GET", "/v1/models", looking.models, need=Need.USE, says="models that can be asked for"),
    Route("GET", "/v1/models/{id:path}", looking.one_model, need=Need.USE, says="one of them"),
    Route("GET", "/api/servers", looking.servers, need=Need.OPERATE, says="inference servers"),
    Route("GET", "/api/servers/{id}/logs", looking.logs, need=Need.OPERATE, says="the last lines of one"),
    Route("DELETE", "/api/servers/{id}", steering.stop, need=Need.OPERATE, says="stop one; it finishes first"),
    Route(
        "GET",
        "/api/slices",
        looking.slices,
        need=Need.OPERATE,
        says="slices: how many, how many are held, what is free",
    ),
    Route("GET", "/api/queue", looking.queue, need=Need.OPERATE, says="who waits for what"),
    Route("GET", "/api/requests/{id}", looking.one_request, need=Need.USE, says="where one request stands"),
    Route("POST", "/api/plan", steering.plan, need=Need.USE, says="where a model would run, and why not elsewhere"),
    Route("POST", "/api/models/warm", steering.warm, need=Need.OPERATE, says="start a model before somebody asks it"),
    Route("POST", "/api/models/pin", steering.pin, need=Need.OPERATE, says="keep a model's server, or let it go"),
    Route("GET", "/api/events", events.events, need=Need.OPERATE, says="what happens, as an event stream"),
)

_TABLE = NeedTable(row for route in ROUTES for row in route.stated())


def needs() -> list[Stated]:
    """Every path template and method with its need."""
    return [row for route in ROUTES for row in route.stated()]


def need_of(method: str, path: str) -> Need | None:
    """What a caller must be allowed to do for this request. None where nothing would run: the application answers 404 or
    405, or a browser's preflight where origins are allowed, and tells nothing by it."""
    return _TABLE.of(method, path)
