"""U1. A server that dies in the middle of its answer, after whichever byte: the caller is told, and never takes what there is
for the whole; and nobody is asked a second time once a byte has come."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.http.support import OriginCall
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import chat, generate, marked_stream, proper_reply, seed, shape_of


class Dying:
    """A server that says so many bytes of a proper answer and resets the connection. ``length`` is the whole answer's."""

    def __init__(self) -> None:
        self.after = 1
        self.length = 2

    async def __call__(self, call: OriginCall) -> None:
        whole = proper_reply(call)
        self.length = len(whole)
        await call.say(whole[: self.after])
        call.reset()


@pytest.mark.parametrize(
    ("make", "path"), [(chat, "/v1/"), (seed, "/"), (generate, "/models/")], ids=["openai", "ssis", "tgi"]
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_reset_after_each_byte_is_told(
    open_house: OpenHouse, make: Callable[..., bytes], path: str, stream: bool
) -> None:
    dying = Dying()
    house = await open_house(dying)
    await house.warm()
    asked = 0
    while dying.after < dying.length:
        reply = await house.ask(make(stream=stream))
        asked += 1
        if reply.status == 200:
            assert stream
            assert marked_stream(reply), dying.after
            said_done = dying.after > proper_reply(house.origin.calls[-1]).find(b"[DONE]") > 0
            assert said_done or b"[DONE]" not in reply.body
        else:
            assert reply.status == 502
            assert shape_of(reply, path) in ("upstream_truncated", "upstream_closed")
        dying.after += 1
    assert len(house.origin.calls) == asked == dying.length - 1
    assert house.program.pool.retries == 0
