"""The gateway: routes, forms of errors, what a caller can ask about its request, and what is counted at the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING

import httpx2
import pytest

from ssis_dispatcher.gateway.inference import Inference
from ssis_dispatcher.gateway.limits import KeyRecord, limits_of
from ssis_dispatcher.gateway.relay import Relay
from ssis_dispatcher.http.server import Exchange
from ssis_dispatcher.launchers.fake import Outcome

if TYPE_CHECKING:
    from tests.gateway.conftest import Build, House

SLOW = Outcome(60.0, phases=((0.0, "loading"),))


@pytest.mark.parametrize(
    ("path", "body", "dialect"),
    [
        ("/", {"token": "Hello", "par": {"max_new_tokens": "4"}, "env": {"MODEL_ID": "missing"}}, "ssis"),
        ("/v1/chat/completions", {"model": "missing", "messages": []}, "openai"),
        ("/v1/anything/else", {"model": "missing"}, "openai"),
        ("/models/missing/generate", {"inputs": "Hello"}, "tgi"),
    ],
)
async def test_method_and_path_choose_the_dialect(house: House, path: str, body: object, dialect: str) -> None:
    reply = await house.client.post(path, json=body)
    assert reply.status_code == 404
    assert list(house.counted) == [(dialect, "4xx", "refused")]


async def test_a_get_of_an_inference_route_is_no_inference_request(house: House) -> None:
    assert (await house.client.get("/")).json()["program"] == "ssis-dispatcher"
    assert (await house.client.get("/v1/models")).json()["object"] == "list"
    assert house.counted == {}


async def test_an_engine_route_of_a_model_takes_any_method(house: House) -> None:
    await house.client.get("/models/missing/info")
    assert [key[0] for key in house.counted] == ["tgi"]


async def test_a_route_that_does_not_exist_is_a_problem_json_404(house: House) -> None:
    reply = await house.client.get("/api/nonsense")
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["status"] == 404


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        (None, "/healthz", 200),
        (None, "/readyz", 200),
        (None, "/v1/models", 401),
        (None, "/api/servers", 401),
        ("use", "/v1/models", 200),
        ("use", "/api/servers", 403),
        ("operate", "/api/servers", 200),
    ],
)
async def test_operations_routes_ask_for_the_role_that_they_state(
    build: Build, role: str | None, path: str, status: int
) -> None:
    async with build(keys={"use": {}, "operate": {"role": "operate"}}) as house:
        reply = await house.client.get(path, headers=house.as_key(role) if role else {})
        assert reply.status_code == status


async def test_errors_have_the_form_of_the_route_even_when_refused_before_the_body(build: Build) -> None:
    async with build(keys={"ana": {}}) as house:
        refused = await house.chat()
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/json"
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "missing_api_key")
        for path in ("/", "/models/mine/generate"):
            other = await house.client.post(path, json={})
            assert other.headers["content-type"] == "application/problem+json"
            assert other.json()["code"] == "missing_api_key"


async def test_a_body_that_is_too_large_is_refused_in_the_form_of_its_route(build: Build) -> None:
    async with build(max_body=1024) as house:
        reply = await house.chat(padding="x" * 2000)
        assert reply.status_code == 413
        assert reply.json()["error"]["code"]


async def test_a_head_that_cannot_be_read_is_answered_all_the_same(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(b"POST / HTTP/1.1\r\nno colon\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()


async def test_pages_of_allowed_origins_may_read_the_reply_and_others_may_not(build: Build) -> None:
    async with build(keys={"ana": {}}, cors_origins=("https://chat.example.org",)) as house:
        key = house.as_key("ana")
        allowed = await house.chat({**key, "origin": "https://chat.example.org"})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example.org"
        assert allowed.headers["vary"].lower() == "origin"
        assert "retry-after" in allowed.headers["access-control-expose-headers"]
        asks = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-stainless-lang",
        }
        origin = {"origin": "https://chat.example.org"}
        preflight = await house.client.request("OPTIONS", "/v1/chat/completions", headers=asks | origin)
        assert preflight.status_code == 200
        assert "x-stainless-lang" in preflight.headers["access-control-allow-headers"]
        for headers in ({**key, "origin": "https://evil.example"}, key):
            assert "access-control-allow-origin" not in (await house.chat(headers)).headers


async def test_a_refusal_at_the_door_can_be_read_by_an_allowed_page_too(build: Build) -> None:
    async with build(keys={"ana": {}}, cors_origins=("*",)) as house:
        refused = await house.chat({"origin": "https://chat.example.org"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://chat.example.org"


async def test_a_callers_request_id_is_kept_and_one_is_made_where_there_is_none(house: House) -> None:
    assert (await house.chat({"x-request-id": "mine-17"})).headers["x-request-id"] == "mine-17"
    made = [(await house.chat()).headers["x-request-id"] for _ in range(2)]
    assert all(made)
    assert made[0] != made[1]


async def test_a_held_request_can_be_asked_about_by_its_id_until_it_has_ended(house: House) -> None:
    house.launches_take(SLOW)
    asking = house.begin_chat(headers={"x-request-id": "r-held"})
    await house.until(lambda: "r-held" in house.program.gateway.requests)
    view = (await house.client.get("/api/requests/r-held")).json()
    assert (view["id"], view["model"], view["state"]) == ("r-held", "mine", "waiting")
    asking.cancel()
    await house.at_rest()
    assert (await house.client.get("/api/requests/r-held")).status_code == 404


async def test_a_request_is_told_of_to_who_sent_it_and_to_operators(build: Build) -> None:
    async with build(keys={"one": {}, "two": {}, "operator": {"role": "operate"}}) as house:
        house.launches_take(SLOW)
        asking = house.begin_chat(headers={"x-request-id": "r-one", **house.as_key("one")})
        await house.until(lambda: "r-one" in house.program.gateway.requests)
        told = {
            name: (await house.client.get("/api/requests/r-one", headers=house.as_key(name))).status_code
            for name in house.keys
        }
        assert told == {"one": 200, "two": 404, "operator": 200}
        asking.cancel()
        await house.at_rest()


async def test_of_two_requests_with_one_id_the_end_of_the_first_does_not_hide_the_second(house: House) -> None:
    house.launches_take(SLOW)
    first = house.begin_chat(headers={"x-request-id": "twice"})
    await house.until(lambda: "twice" in house.program.gateway.requests)
    earlier = house.program.gateway.requests["twice"]
    second = house.begin_chat(headers={"x-request-id": "twice"})
    requests = house.program.gateway.requests
    await house.until(lambda: len(requests) == 2)
    assert next(iter(requests.values())) is earlier, "the oldest are first"
    number = earlier.visit.number
    shown = await house.client.get("/api/requests/twice")
    assert (shown.status_code, house.program.gateway.visit("twice", earlier.key)) == (200, number)
    first.cancel()
    await house.until(lambda: sum(house.counted.values()) == 1)
    assert (await house.client.get("/api/requests/twice")).status_code == 200
    assert house.program.gateway.visit("twice", earlier.key) == number + 1
    second.cancel()
    await house.at_rest()
    assert not requests


async def test_requests_of_others_with_the_same_id_do_not_hide_ones_own(build: Build) -> None:
    async with build(keys={"ana": {}, "bob": {}}) as house:
        house.launches_take(SLOW)
        asking = [house.begin_chat(headers={"x-request-id": "r", **house.as_key(who)}) for who in ("bob", "ana", "bob")]
        await house.until(lambda: len(house.program.gateway.requests) == 3)
        numbers = {each.key.name: each.visit.number for each in reversed(house.program.gateway.requests.values())}
        for each in house.program.gateway.requests.values():
            assert house.program.gateway.visit("r", each.key) == numbers[each.key.name]
        for chat in asking:
            chat.cancel()
        await house.at_rest()


async def test_requests_with_one_id_all_end_with_their_time(build: Build) -> None:
    async with build(request_timeout=2.0) as house:
        assert (await house.chat()).status_code == 200
        house.upstream.manner = "hang"
        replies = await asyncio.gather(*(house.chat(headers={"x-request-id": "same"}) for _ in range(3)))
        assert [reply.status_code for reply in replies] == [504] * 3


async def test_a_method_that_an_inference_route_does_not_take_is_told_which_it_takes(house: House) -> None:
    for method, path, takes in (("GET", "/v1/chat/completions", "POST"), ("PUT", "/", "GET, POST")):
        reply = await house.client.request(method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, takes)
        assert takes in reply.text


async def test_names_that_only_the_gateway_has_answered_for_get_no_label(house: House) -> None:
    assert (await house.client.get("/models/made/up/info")).status_code == 200
    assert (await house.chat()).status_code == 200
    assert sorted(house.program.metrics.per_model()) == [("mine", "2xx", 1), ("other", "2xx", 1)]


async def test_who_leaves_before_its_body_is_there_is_gone(house: House) -> None:
    _reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
    writer.write(b'Content-Length: 50\r\n\r\n{"model": "mine"')
    await house.until(lambda: house.program.server.inflight)
    writer.close()
    await house.until(lambda: house.counted)
    assert house.counted == {("openai", "other", "gone"): 1}


async def test_an_answer_is_counted_once_as_ok(house: House) -> None:
    assert (await house.chat()).status_code == 200
    assert house.counted == {("openai", "2xx", "ok"): 1}
    assert ("mine", "2xx", 1) in house.program.metrics.per_model()
    assert house.program.metrics.sent_bytes > 0


async def test_a_request_that_cannot_be_read_is_counted_once_as_refused(house: House) -> None:
    assert (await house.client.post("/v1/chat/completions", json={"messages": []})).status_code == 400
    assert house.counted == {("openai", "4xx", "refused"): 1}


async def test_a_caller_who_leaves_is_counted_once_as_gone(house: House) -> None:
    house.launches_take(SLOW)
    asking = house.begin_chat()
    await house.until(lambda: house.program.gateway.requests)
    asking.cancel()
    await house.at_rest()
    assert [(outcome, count) for (_, _, outcome), count in house.counted.items()] == [("gone", 1)]


async def test_a_server_that_breaks_off_is_counted_once_with_what_it_did(house: House) -> None:
    house.upstream.manner = "half"
    assert (await house.chat()).status_code == 502
    ((_, status, outcome),) = house.counted
    assert status == "5xx"
    assert outcome.startswith("upstream_")
    assert house.program.metrics.upstream_errors == {outcome: 1}


async def test_a_refusal_at_the_door_is_counted_once_as_refused(build: Build) -> None:
    async with build(keys={"ana": {}}) as house:
        assert (await house.chat()).status_code == 401
        assert house.counted == {("openai", "4xx", "refused"): 1}


async def test_the_access_log_says_who_asked_what_and_what_came_of_it_and_nothing_secret(build: Build) -> None:
    async with build(keys={"ana": {}}) as house:
        headers = {**house.as_key("ana"), "x-request-id": "r-1"}
        await house.client.post(
            "/v1/chat/completions?secret=hush",
            json={"model": "mine", "messages": [{"content": "prompt"}]},
            headers=headers,
        )
        await house.client.post("/models/mine/generate", json={"inputs": "prompt"}, headers=headers)
        lines = house.access()
    assert [line["route"] for line in lines] == ["/v1/chat/completions", "/models/{model}/…"]
    line = lines[0]
    assert line.keys() == {
        "time", "id", "caller", "method", "route", "dialect", "model", "status", "bytes",
        "duration", "held", "ttfb", "server", "outcome",
    }  # fmt: skip
    assert (line["id"], line["caller"], line["method"], line["model"]) == ("r-1", "ana", "POST", "mine")
    assert (line["status"], line["outcome"]) == (200, "ok")
    assert 0 <= line["held"] <= line["ttfb"] <= line["duration"]
    assert line["server"]
    assert "hush" not in str(lines)
    assert "prompt" not in str(lines)
    assert house.keys["ana"] not in str(lines)


async def test_what_never_had_a_seat_says_so(house: House) -> None:
    await house.chat(model="missing")
    (line,) = house.access()
    assert line["held"] is line["ttfb"] is None
    assert (line["server"], line["model"]) == ("", "")


async def test_the_access_log_can_be_left_out(build: Build) -> None:
    async with build(access_log=False) as house:
        assert (await house.chat()).status_code == 200
        assert house.access() == []


async def test_a_streaming_caller_who_waits_gets_signs_of_life_and_then_the_stream(build: Build) -> None:
    async with build(heartbeat=0.1) as house:
        house.launches_take(Outcome(0.5, phases=((0.0, "loading"),)))
        reply = await house.chat(stream=True)
        assert reply.headers["content-type"] == "text/event-stream"
        blocks = [block for block in reply.text.split("\n\n") if block]
        comments = [block for block in blocks if block.startswith(":")]
        assert len(comments) >= 2
        assert blocks[: len(comments)] == comments
        assert blocks[-1] == "data: [DONE]"


async def test_heartbeats_go_round_in_the_order_of_arrival(build: Build) -> None:
    async with build(heartbeat=0.1) as house:
        house.launches_take(SLOW)
        gateway, beats = house.program.gateway, list[str]()
        asking = []
        for number in range(3):
            asking.append(house.begin_chat(stream=True, headers={"x-request-id": f"r-{number}"}))
            await house.until(lambda: len(gateway.requests) == len(asking))
        await house.until(lambda: all(inference.streams for inference in gateway.requests.values()))
        beats = [inference.exchange.id for inference in gateway._held]
        assert sorted(beats) == ["r-0", "r-1", "r-2"]
        assert gateway._held == dict(sorted(gateway._held.items(), key=lambda item: item[1]))
        for task in asking:
            task.cancel()
        await house.at_rest()
        await house.until(lambda: gateway._tick is None)


async def test_a_caller_who_waits_for_a_whole_answer_gets_nothing_before_it(build: Build) -> None:
    async with build(heartbeat=0.1) as house:
        house.launches_take(Outcome(0.4, phases=((0.0, "loading"),)))
        reply = await house.chat()
        assert reply.status_code == 200
        assert reply.json()["choices"][0]["message"]["content"] == "Hi"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("manner", ["answer", "half", "refuse"])
async def test_an_ended_request_is_freed_at_once_without_the_garbage_collector(
    house: House, manner: str, stream: bool
) -> None:
    await house.chat()
    gc.collect()
    gc.disable()
    try:
        house.upstream.manner = manner
        with contextlib.suppress(httpx2.RemoteProtocolError):  # what broke off breaks off here, too
            await house.chat(stream=stream, model="missing" if manner == "refuse" else "mine")
        await house.until(lambda: sum(house.counted.values()) == 2)
        await house.at_rest()
        await asyncio.sleep(0)
        kept = [kind for kind in map(type, gc.get_objects()) if kind in (Inference, Exchange, Relay)]
        assert kept == []
    finally:
        gc.enable()


def test_the_fleet_is_told_of_a_keys_limits_only_where_it_has_some() -> None:
    plain = KeyRecord(name="ana", hash="sha256:" + "0" * 64)
    assert limits_of(plain) is None
    limits = limits_of(KeyRecord(name="ana", hash=plain.hash, slices=2, launches_per_minute=3, kinds=("mig", "cpu")))
    assert limits is not None
    assert (limits.slices, limits.launches_per_minute, limits.kinds) == (2, 3, ("mig", "cpu"))
    only_kinds = limits_of(KeyRecord(name="ana", hash=plain.hash, kinds=("mps",)))
    assert only_kinds is not None
    assert only_kinds.slices is None
