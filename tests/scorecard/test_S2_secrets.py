"""S2. Whatever secret goes in, none comes out: not in a log of any level, a metric, an error, a page, or what the server is
asked."""

from __future__ import annotations

import logging

import msgspec
import pytest
from tests.http.support import OriginCall
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import chat, chat_body, generate, proper_reply, request, seed

from ssis_dispatcher.gateway.operations import ROUTES

OURS, THEIRS, BEARER = "hf_canaryOfTheOperator0123", "hf_canaryOfTheCaller01234", "sk-canaryOfSomebodyElse0123"
PROMPT, QUERY = "canary-of-the-prompt", "canary-of-the-query"


async def half_the_time(call: OriginCall) -> None:
    """Answers, and breaks off every second time."""
    reply = proper_reply(call)
    await call.say(reply if call.number % 2 else reply[:-20])
    call.close()


async def test_no_canary_comes_out(
    open_house: OpenHouse, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    house = await open_house(half_the_time, keys={"somebody": {"role": "admin"}}, hub_token=OURS, log_level="debug")
    caplog.set_level(logging.DEBUG)
    secret = house.secrets["somebody"]
    key = b"X-Api-Key: " + secret.encode()
    with_token = b"X-SSIS-HF-Token: " + THEIRS.encode()
    foreign = b"Authorization: Bearer " + BEARER.encode()
    sent = [
        make("demo", *headers, stream=stream, text=PROMPT)
        for make in (chat, seed, generate)
        for stream in (False, True)
        for headers in ((key,), (key,), (foreign,), (key, with_token))
    ]
    for variables in ({"HF_TOKEN": THEIRS}, {"HF_TOKEN": THEIRS + "\n!"}, {"LD_PRELOAD": THEIRS}):
        body = {"env": {"MODEL_ID": "demo"} | variables, "token": PROMPT}
        sent.append(request("/", msgspec.json.encode(body), key))
    odd_paths = (f"/v1/chat/completions?key={QUERY}", f"/v1/models/demo?{QUERY}", f"/no-such?{QUERY}")
    sent += [request(path, chat_body(text=PROMPT), key) for path in odd_paths]
    odd_bodies = (chat_body(text=PROMPT)[:-1], msgspec.json.encode({"model": "demo", "messages": PROMPT}))
    sent += [request("/v1/chat/completions", odd, key) for odd in odd_bodies]
    heard = [await house.ask(one) for one in sent]
    statuses = {reply.status for reply in heard}
    pages = {
        route.path: await house.ask(request(route.path, b"", key, method="GET"))
        for route in ROUTES
        if route.method == "GET" and "{" not in route.path and route.path != "/api/events"
    }
    for server in house.program.dispatcher.fleet.book.servers:
        pages[server] = await house.ask(request(f"/api/servers/{server}/logs", b"", key, method="GET"))
    await house.quiet()
    if house.program.access is not None:
        house.program.access.flush()
    printed = capsys.readouterr()

    assert {200, 400, 401, 502} <= statuses
    places = {
        "the log": "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records),
        "the access log": printed.out + printed.err,
        "the errors": "".join(f"{reply.headers} {reply.body!r}" for reply in heard if reply.status >= 400),
        "heads upstream": b"".join(call.head for call in house.origin.calls).decode(),
        **{path: f"{page.headers} {page.body!r}" for path, page in pages.items()},
    }
    assert all(page.status == 200 for page in pages.values())
    assert '"status":200' in places["the access log"]
    canaries = (OURS, THEIRS, BEARER, secret, PROMPT)
    assert not [(place, canary) for place, text in places.items() for canary in canaries if canary in text]
    assert not [place for place, text in places.items() if QUERY in text and place != "heads upstream"]
    assert all(secret not in order.model.key and THEIRS not in order.model.key for order in house.platform.orders)
