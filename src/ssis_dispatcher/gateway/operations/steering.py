"""Routes by which an operator says what shall be: stop, plan, warm, pin."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ssis_dispatcher.core.messages import CallerLimits, Model, ModelPinned, StopAsked
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.errors import NotFound
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.gateway.dialects.reading import hub_token
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.operations.bodies import ModelBody, PinBody, PlanBody, read
from ssis_dispatcher.gateway.operations.desk import Operations, key_of
from ssis_dispatcher.gateway.operations.replies import reply


async def stop(desk: Operations, request: Request) -> Response:
    """Stop a server; a busy one takes in nobody any more and finishes first. Raises `NotFound`."""
    server = request.path_params["id"]
    if server not in desk.dispatcher.fleet.book.servers:
        raise NotFound(f"There is no server {server}; GET /api/servers lists them.")
    desk.dispatcher.post(StopAsked(_operator(request), server))
    return reply({"server": server, "state": "stopping"}, 202)


async def plan(desk: Operations, request: Request) -> Response:
    """What would happen to a request for this model now. A refusal is a plan too, not an error."""
    body = await read(request, PlanBody)
    return reply(await desk.plan(await _wish(desk, body, request), body.concurrency))


async def warm(desk: Operations, request: Request) -> Response:
    """Start a model; the reply names the request under which that can be followed."""
    body = await read(request, ModelBody)
    model, key = await _model(desk, body, request), key_of(request)
    id = desk.warmings.begin(desk.dispatcher, model, key.name, _limits(key))
    return reply({"request": id}, 202)


async def pin(desk: Operations, request: Request) -> Response:
    """Keep the server of exactly this model (revision, engine and all), or let it go."""
    body = await read(request, PinBody)
    model = await _model(desk, body, request)
    desk.dispatcher.post(ModelPinned(_operator(request), model, body.pinned))
    return reply({"model": model.id, "pinned": body.pinned})


def _operator(request: Request) -> str:
    """Who is the cause of an event."""
    return f"operator: {key_of(request).name}"


async def _wish(desk: Operations, body: ModelBody, request: Request) -> Wish:
    """What is wished, once the key allows it and the hub has been asked about the token."""
    wish = body.wish(hub_token(request.headers.raw))
    key_of(request).demand_model(wish.id)
    await desk.acquaint(wish)
    return wish


async def _model(desk: Operations, body: ModelBody, request: Request) -> Model:
    """The model that is meant. What it is resolved to must be allowed as well, as for an inference request."""
    model = desk.identify(await _wish(desk, body, request))
    key_of(request).demand_model(model.id)
    return model


def _limits(key: Key) -> CallerLimits:
    record = key.record
    return CallerLimits(record.slices, record.launches_per_minute, tuple(map(SliceKind, record.kinds)))
