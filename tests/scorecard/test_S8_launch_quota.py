"""S8. One tenant who asks for no end of models starts as many as its quota, and no more; others notice nothing, and neither
the book nor the metrics grow with what it makes up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.http.support import until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, chat, request, shape_of

from ssis_dispatcher.models.catalogue import demo_path

MODELS, SLICES, LAUNCHES = 30, 3, 5


def catalogue(folder: Path) -> Path:
    """Many models that exist."""
    file = folder / "many.yaml"
    lines = (f"  m{number}: {{path: {demo_path()}, engine: llamacpp}}\n" for number in range(MODELS))
    file.write_text("models:\n" + "".join(lines))
    return file


async def ask_for_everything(open_house: OpenHouse, folder: Path, **quota: int) -> Counter[tuple[int, str]]:
    """The hog asks for all models at once, while no server gets ready; what it hears, by status and code. Then somebody else
    asks, all servers get ready, and whoever was not refused is answered."""
    house = await open_house(keys={"hog": quota, "other": {}}, catalogue=catalogue(folder))
    hog, other = (b"Authorization: Bearer " + house.secrets[name].encode() for name in ("hog", "other"))
    house.platform.open.clear()
    most = min(quota.values())
    held = await house.wires(most)
    for number, wire in enumerate(held):
        await wire.send(chat(f"m{number}", hog))
    await until(lambda: house.waiting == most == len(house.platform.orders))
    refused = [await house.ask(chat(f"m{number}", hog)) for number in range(most, MODELS)]
    heard = Counter((reply.status, shape_of(reply, "/v1/")) for reply in refused)
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)

    last = await house.wire()
    await last.send(chat("demo", other))
    await until(lambda: len(house.platform.orders) == most + 1)
    house.platform.open.set()
    replies = [await wire.reply() for wire in (*held, last)]

    assert {(reply.status, reply.body) for reply in replies} == {(200, CHAT)}
    assert len(house.platform.orders) == most + 1
    return heard


async def test_no_more_starts_than_a_minute_allows(open_house: OpenHouse, tmp_path: Path) -> None:
    heard = await ask_for_everything(open_house, tmp_path, launches_per_minute=LAUNCHES)

    assert heard == {(429, "launch_limit"): MODELS - LAUNCHES}


async def test_no_more_slices_than_the_quota(open_house: OpenHouse, tmp_path: Path) -> None:
    heard = await ask_for_everything(open_house, tmp_path, slices=SLICES)

    assert heard == {(429, "slice_limit"): MODELS - SLICES}


async def test_made_up_names_leave_nothing_in_the_book_or_the_metrics(open_house: OpenHouse) -> None:
    house = await open_house(metrics_models=4)
    await house.warm()
    known = len(house.program.dispatcher.fleet.book.models)

    replies = [await house.ask(chat(f"nobody/made-up-{number}")) for number in range(200)]
    page = (await house.ask(request("/metrics", method="GET"))).body.decode()

    assert {reply.status for reply in replies} <= {404, 429, 503}
    assert "made-up" not in page
    assert len(house.platform.orders) == 1
    assert len(house.program.dispatcher.fleet.book.models) == known


async def test_models_beyond_the_cap_are_one_in_the_metrics(open_house: OpenHouse, tmp_path: Path) -> None:
    house = await open_house(catalogue=catalogue(tmp_path), metrics_models=2)
    for number in range(6):
        assert (await house.ask(chat(f"m{number}"))).status == 200
    page = (await house.ask(request("/metrics", method="GET"))).body.decode()

    counted = [line for line in page.splitlines() if line.startswith("ssis_model_requests_total{")]
    labels = {line.partition('model="')[2].partition('"')[0] for line in counted}
    assert len(labels) == 2 + 1, page
    assert "other" in labels
