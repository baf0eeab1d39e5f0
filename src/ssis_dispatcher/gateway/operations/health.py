"""Routes for machines that watch machines: alive, ready, metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ssis_dispatcher.core.intake import DRAINING
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.gateway.operations.desk import Operations
from ssis_dispatcher.gateway.operations.replies import reply
from ssis_dispatcher.telemetry.exposition import CONTENT_TYPE

PROGRAM = "ssis-dispatcher"
"""How `ssis doctor` knows what answers on its port."""

_NO_INVENTORY = Problem(503, "no_inventory", "The platform has not told yet which slices exist.", retry_after=1.0)


async def healthz(desk: Operations, request: Request) -> Response:
    """This process runs its loop; that is all it says."""
    return reply({"status": "ok", "program": PROGRAM})


async def readyz(desk: Operations, request: Request) -> Response:
    """Whether requests should be sent here; raises the reason why not."""
    problem = _why_not(desk)
    if problem is not None:
        raise DispatchError.of(problem)
    return reply({"status": "ready"})


def _why_not(desk: Operations) -> Problem | None:
    book = desk.dispatcher.fleet.book
    if book.draining:
        return DRAINING
    problem = desk.unready()
    if problem is None and not book.stock.known and not desk.follows():
        return _NO_INVENTORY
    return problem


async def metrics(desk: Operations, request: Request) -> Response:
    """The page that Prometheus reads."""
    return Response(desk.exposition(), media_type=CONTENT_TYPE)
