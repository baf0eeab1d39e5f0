"""What is kept from one request for the next is believed only as long as it is true."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

from tests.gateway.conftest import CHAT, Build, House
from tests.http.support import Reply, Wire

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.gateway.dialects.base import InferenceRequest, Upstream, Wish
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.keys import KeyFile
from ssis_dispatcher.gateway.passages import Way


class Caller:
    """One connection that says the same head again and again; to be entered."""

    def __init__(self, house: House, key: str) -> None:
        self._port = house.port
        self._head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {house.keys[key]}\r\nContent-Length: "
        )

    async def __aenter__(self) -> Self:
        self._wire = await Wire.to(self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._wire.close()

    async def ask(self, model: str = "mine") -> Reply:
        body = str(CHAT).replace("'", '"').replace("mine", model)
        return await self._wire.ask(f"{self._head}{len(body)}\r\n\r\n{body}".encode())


async def test_a_revoked_key_opens_nothing_on_the_connection_that_it_has_opened(build: Build) -> None:
    async with (
        build(keys={"ana": {}, "ben": {}}) as house,
        Caller(house, "ana") as caller,
        Caller(house, "ben") as other,
    ):
        assert [(await caller.ask()).status for _ in range(3)] == [200] * 3
        KeyFile(house.program.settings.keys_file).revoke("ana")
        house.program.door.refresh(1e9)
        reply = await caller.ask()
        assert reply.status == 401
        assert reply.json["error"]["code"] == "invalid_api_key"
        assert (await other.ask()).status == 200


async def test_a_key_that_expires_is_looked_at_each_time(build: Build) -> None:
    now = datetime.now(UTC)
    async with build(keys={"ana": {"expires": now + timedelta(hours=1)}}) as house, Caller(house, "ana") as caller:
        assert [(await caller.ask()).status for _ in range(3)] == [200] * 3
        house.program.door._callers._clock = lambda: now.timestamp() + 7200  # type: ignore[attr-defined]
        assert (await caller.ask()).status == 401


async def test_what_a_key_may_do_is_asked_each_time(build: Build) -> None:
    async with build(keys={"ana": {"models": ["mine"], "in_flight": 1}}) as house, Caller(house, "ana") as caller:
        assert [(await caller.ask(model)).status for model in ("mine", "other", "mine", "mine")] == [
            200,
            403,
            200,
            200,
        ]
        [key] = house.program.door._callers._by_digest.values()  # type: ignore[attr-defined]
        key.in_flight = 1
        assert (await caller.ask()).status == 429
        key.in_flight = 0
        assert (await caller.ask()).status == 200


def request(body: bytes, wish: Wish, route: str = "/v1/completions") -> InferenceRequest:
    return InferenceRequest("openai", route, wish, False, body)


def test_a_passage_is_found_by_the_very_wish_and_route_for_a_second() -> None:
    way, wish, model = Way(OpenAI(), "/v1/…"), Wish("m"), Model.of("m")
    asked = request(b"{}", wish)
    assert way.passage(asked, 10.0) is None
    way.keep(asked, model, Upstream("POST", "/v1/completions", asked.body))

    known = way.passage(request(b'{"another": "body"}', wish), 10.5)
    assert known is not None
    assert (known.model, known.path) == (model, "/v1/completions")
    assert way.passage(request(b"{}", Wish("m")), 10.5) is None
    assert way.passage(request(b"{}", wish, "/v1/embeddings"), 10.5) is None
    assert way.passage(asked, 11.0) is None


def test_only_what_passes_through_untouched_is_kept() -> None:
    way, model, secret = Way(OpenAI(), "/v1/…"), Model.of("m"), Wish("m", token="hf_x")
    way.passage(request(b"", secret), 0.0)
    for asked, body in ((request(b"{}", Wish("m")), b'{"model":"other"}'), (request(b"[]", secret), b"[]")):
        way.keep(asked, model, Upstream("POST", "/", asked.body if asked.wish is secret else body))
        assert way.passage(asked, 0.5) is None
