"""What the operations routes are handed: everything they may look at or post to, and nothing they must fetch."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from starlette.requests import Request

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.placement import Plan
from ssis_dispatcher.dispatcher import Dispatcher
from ssis_dispatcher.errors import Problem
from ssis_dispatcher.gateway.broadcast import Broadcast
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.operations.warming import Warmings

KEY = "ssis.key"
"""Where the ASGI scope holds the caller's `Key`, put there by the door. Without one only public routes answer."""


def _nothing_else() -> Problem | None:
    return None


async def _nobody_to_ask(wish: Wish) -> None:
    return None


@dataclass(frozen=True)
class Operations:
    """``listing`` names the models of the directory; ``identify`` resolves what a caller wishes and raises
    `DispatchError` where it cannot be served; ``plan`` takes a wish and the seats wanted at once; ``exposition`` is the
    page of metrics; ``lookup`` finds the visit of a request id among the inference requests that a key may see;
    ``unready`` gives reasons for not being ready besides those of the fleet, such as the quiet period before a drain;
    ``follows`` tells that another replica keeps the book; ``acquaint`` asks the hub about the token that comes with a
    wish, so that a public model is the same model whatever token is shown.
    """

    dispatcher: Dispatcher
    listing: Callable[[], Iterable[str]]
    identify: Callable[[Wish], Model]
    plan: Callable[[Wish, int | None], Awaitable[Plan]]
    exposition: Callable[[], bytes]
    lookup: Callable[[str, Key], int | None]
    broadcast: Broadcast
    unready: Callable[[], Problem | None] = _nothing_else
    follows: Callable[[], bool] = lambda: False
    acquaint: Callable[[Wish], Awaitable[None]] = _nobody_to_ask
    warmings: Warmings = field(default_factory=Warmings)
    began: int = field(default_factory=lambda: int(time.time()))


def key_of(request: Request) -> Key:
    """The caller of a route that is not public."""
    key: Key = request.scope[KEY]
    return key
