"""The routes as data. A route cannot be made without saying who may use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from starlette import routing
from starlette.requests import Request
from starlette.responses import Response

from ssis_dispatcher.errors import Unauthenticated
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.needs import Need, Stated
from ssis_dispatcher.gateway.operations.desk import KEY, Operations

Endpoint = Callable[[Operations, Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """One route: ``says`` is its sentence in the index. Raises `ValueError` for a need that does not exist."""

    method: str
    path: str
    endpoint: Endpoint
    need: Need
    says: str

    def __post_init__(self) -> None:
        if not isinstance(self.need, Need):
            raise ValueError(f"{self.method} {self.path}: say who may use it: {', '.join(need.value for need in Need)}")

    def stated(self) -> list[Stated]:
        """Its rows in the table of needs: what answers GET answers HEAD."""
        methods = ("GET", "HEAD") if self.method == "GET" else (self.method,)
        return [Stated(self.path, method, self.need) for method in methods]

    def serve(self, desk: Operations) -> routing.Route:
        """The route as Starlette knows it."""
        return routing.Route(self.path, partial(self._answer, desk), methods=[self.method])

    async def _answer(self, desk: Operations, request: Request) -> Response:
        # The door has asked already, before the body was read. Asking again costs nothing, and makes a door that
        # forgets a closed one.
        if self.need is not Need.PUBLIC:
            key: Key | None = request.scope.get(KEY)
            if key is None:
                raise Unauthenticated(code="missing_api_key")
            key.demand(self.need.value)
        return await self.endpoint(desk, request)
