"""Routes that show what there is: servers, slices, the queue, one request, the models."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ssis_dispatcher.core import views
from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.errors import DispatchError, ModelNotServable, NotFound, Problem
from ssis_dispatcher.gateway.operations.desk import Operations, key_of
from ssis_dispatcher.gateway.operations.replies import reply

_BEST_STATE_FIRST = ("ready", "starting", "stopping")


async def servers(desk: Operations, request: Request) -> Response:
    """Every server, starting ones and stopping ones too."""
    return reply({"servers": desk.dispatcher.statistics().servers})


async def logs(desk: Operations, request: Request) -> Response:
    """A server's last lines, also after it failed. Raises `NotFound`."""
    server = request.path_params["id"]
    lines = await desk.dispatcher.launcher.logs(server)
    if not lines and server not in desk.dispatcher.fleet.book.servers:
        raise NotFound(f"There is no server {server}, and none of that name has left any lines.")
    return reply({"server": server, "lines": lines})


async def slices(desk: Operations, request: Request) -> Response:
    """Every pool of slices, node by node."""
    return reply({"slices": desk.dispatcher.statistics().slices})


async def queue(desk: Operations, request: Request) -> Response:
    """Every line in which somebody waits."""
    dispatcher = desk.dispatcher
    book = dispatcher.fleet.book
    lines = views.lines(book, dispatcher.now())
    return reply({"waiting": len(book.waiting), "bytes": book.waiting_bytes, "lines": lines})


async def one_request(desk: Operations, request: Request) -> Response:
    """Where a request stands; and of a warming also what came of it, its server or the reason why there is none. Requests of
    other callers are not told of: an operator sees all."""
    id, key = request.path_params["id"], key_of(request)
    number = desk.warmings.number(id, key)
    if number is None:
        number = desk.lookup(id, key)
    view = desk.dispatcher.outlook(number) if number is not None else None
    if view is not None:
        return reply({"id": id, **msgspec.structs.asdict(view)})
    end = desk.warmings.end(id, key)
    if isinstance(end, Problem):
        raise DispatchError.of(end)
    if end is not None:
        return reply({"id": id, "model": end.model.id, "state": "ready", "server": end.server})
    raise NotFound(f"No request {id} is waiting or being served. It may have ended.")


class ModelState(msgspec.Struct, frozen=True):
    """What OpenAI's model object has no word for: ``state`` is ``ready``, ``starting``, ``stopping`` or ``cold``."""

    state: str = "cold"
    servers: int = 0
    seats: int = 0
    busy: int = 0
    waiting: int = 0
    pinned: bool = False


class ListedModel(msgspec.Struct, frozen=True):
    """A model in OpenAI's shape. Nothing tells when a model was made, so ``created`` is when this dispatcher began."""

    id: str
    created: int
    owned_by: str
    ssis: ModelState
    object: str = "model"


async def models(desk: Operations, request: Request) -> Response:
    """OpenAI's list of models."""
    return reply({"object": "list", "data": list(_listed(desk, request).values())})


async def one_model(desk: Operations, request: Request) -> Response:
    """One model of that list."""
    id = request.path_params["id"]
    found = _listed(desk, request).get(id)
    if found is None:
        raise ModelNotServable(
            f"{id} is neither listed nor running here. It may be servable all the same: POST /api/plan tells.",
            param="model",
        )
    return reply(found)


def _listed(desk: Operations, request: Request) -> dict[str, ListedModel]:
    """The directory's models and those that run, as far as this caller may use them, in the order of their names.

    A running model that the hub does not serve to everybody is known to those who asked for it, and not listed.
    """
    dispatcher, key = desk.dispatcher, key_of(request)
    running: dict[str, list[views.ServerView]] = {}
    for view in dispatcher.statistics().servers:
        if _model(desk, view).scope == "public":
            running.setdefault(view.model, []).append(view)
    names = filter(key.allows, sorted({*desk.listing(), *running}))
    return {id: ListedModel(id, desk.began, _owner(id), _state(running.get(id, ()))) for id in names}


def _model(desk: Operations, view: views.ServerView) -> Model:
    return desk.dispatcher.fleet.book.models[view.key].model


def _owner(id: str) -> str:
    org, slash, _ = id.partition("/")
    return org if slash and org else "ssis"


def _state(servers: Iterable[views.ServerView]) -> ModelState:
    """The servers of one model as one; lines are counted once for each identity (revision, arguments) of the model."""
    servers = list(servers)
    if not servers:
        return ModelState()
    return ModelState(
        state=min((server.state for server in servers), key=_BEST_STATE_FIRST.index),
        servers=len(servers),
        seats=sum(server.seats for server in servers if server.state == "ready"),
        busy=sum(server.busy for server in servers),
        waiting=sum({server.key: server.waiting for server in servers}.values()),
        pinned=any(server.pinned for server in servers),
    )
