"""The whole program on a cluster: answers, a leader and who follows it, bad days of the API server, edits, rights."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.assembly.cluster_site import CATALOGUE, NS, Site, opened, services, until
from tests.kube.kinds import CONFIGMAPS, EVENTS, PODS, SERVICES

pytestmark = pytest.mark.looptime

RBAC = Path(__file__).parents[2] / "deploy" / "base" / "rbac.yaml"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


async def test_a_model_that_nobody_declared_a_slice_for_is_started_and_answers(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        reply = await one.chat()
        assert reply.status_code == 200
        assert reply.json()["choices"][0]["message"]["content"] == "one two three"
        (service,) = site.cluster.all(SERVICES, NS)
        container = service["spec"]["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"] == {"nvidia.com/mig-1g.5gb": "1"}
        assert (await one.chat()).status_code == 200
        assert len(services(site)) == 1
        large = await one.chat("large")
        assert large.status_code == 200
        slices = (await one.client.get("/api/slices")).json()["slices"]
        assert {each["name"]: each["free"] for each in slices} == {
            "nvidia.com/mig-1g.5gb": 1,
            "nvidia.com/mig-2g.10gb": 0,
        }


async def test_a_hundred_callers_of_a_cold_model_start_one_server(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        replies = await asyncio.gather(*(one.chat() for _ in range(100)))
        assert {reply.status_code for reply in replies} == {200}
        assert len([call for call in site.cluster.log if call.rule[1:] == ("services", "create")]) == 1


async def test_a_full_cluster_lets_wait_evicts_the_idle_and_refuses_what_can_never_be(site: Site) -> None:
    async with site.dispatcher(dwell=0.0, slice_wait=30.0) as one:
        await one.leading()
        for model in ("a", "b", "large"):
            assert (await one.chat(model)).status_code == 200
        site.cluster.gateway.pace = 20.0
        busy = [one.ask("a", stream=True), one.ask("b", stream=True), one.ask("large", stream=True)]
        await until(lambda: len(one.book.seated) == 3)
        waiting = one.ask("c")
        await until(lambda: one.book.waiting)
        assert (await waiting).status_code == 503
        for task in busy:
            assert (await task).status_code == 200
        site.cluster.gateway.pace = 0.0
        assert (await one.chat("c")).status_code == 200, "an idle one made room"
        assert len(services(site)) == 3
        huge = await one.chat("org/llama-400b")
        assert huge.status_code in (422, 503)
        assert "MiB" in huge.text or "GiB" in huge.text


async def test_out_of_memory_climbs_to_the_next_slice_and_that_is_remembered_in_the_cluster(site: Site) -> None:
    def on_small(pod: dict[str, Any]) -> bool:
        return "nvidia.com/mig-1g.5gb" in pod["spec"]["containers"][0]["resources"].get("limits", {})

    site.cluster.behave(on_small, fail="OOMKilled", logs=["CUDA out of memory"])
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        (service,) = site.cluster.all(SERVICES, NS)
        limits = service["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits == {"nvidia.com/mig-2g.10gb": "1"}
        await until(lambda: site.cluster.get(CONFIGMAPS, "dispatcher-learned", NS))
        for name in services(site):
            assert (await one.client.delete(f"/api/servers/{name}")).status_code < 300
        await until(lambda: not services(site))
    starts = len([call for call in site.cluster.log if call.rule[1:] == ("services", "create")])
    async with site.dispatcher() as two:
        await two.leading()
        assert (await two.chat()).status_code == 200
        assert len([call for call in site.cluster.log if call.rule[1:] == ("services", "create")]) == starts + 1


async def test_a_wrong_image_is_told_to_the_caller_within_seconds(site: Site) -> None:
    site.cluster.behave("*", fail="ErrImagePull")
    async with site.dispatcher() as one:
        await one.leading()
        began = asyncio.get_running_loop().time()
        reply = await one.chat()
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "model_failed"
        assert "image" in reply.json()["error"]["message"]
        assert asyncio.get_running_loop().time() - began < 12


# Restarts and replicas


async def test_a_restarted_dispatcher_answers_from_what_runs(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        before = services(site)
        await one.leave()
    writes = len([call for call in site.cluster.log if call.rule[1:] == ("services", "create")])
    async with site.dispatcher() as two:
        assert (await two.chat()).status_code == 200
        assert services(site) == before
    assert len([call for call in site.cluster.log if call.rule[1:] == ("services", "create")]) == writes


async def test_who_does_not_lead_answers_through_who_does(site: Site) -> None:
    async with site.dispatcher() as one, site.dispatcher() as two:
        await one.leading()
        await until(lambda: two.cluster.leader() is not None)
        assert (await two.client.get("/readyz")).status_code == 200
        assert (await two.chat()).status_code == 200
        assert (one.book.seatings, two.book.seatings) == (1, 0)
        assert len(services(site)) == 1


async def test_a_leader_that_dies_is_followed_within_twelve_seconds_and_nothing_held_is_lost(site: Site) -> None:
    site.cluster.behave("*", ready_after=20.0)
    async with site.dispatcher() as one:
        await one.leading()
        async with site.dispatcher() as two:
            await until(lambda: two.cluster.leader() is not None)
            held = [two.ask() for _ in range(5)]
            await until(lambda: len(one.book.waiting) == 5)
            await one.die()
            assert await until(lambda: two.cluster.leads) <= 12
            assert {(await task).status_code for task in held} == {200}
            assert len(services(site)) == 1
            assert len([call for call in site.cluster.log if call.rule[1:] == ("services", "create")]) == 1


async def test_a_leader_that_leaves_hands_over_what_waits_and_finishes_what_runs(site: Site) -> None:
    site.cluster.behave("*org/b*", ready_after=12.0)
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        async with site.dispatcher() as two:
            await until(lambda: two.cluster.leader() is not None)
            site.cluster.gateway.pace = 3.0
            stream = one.ask(stream=True)
            await until(lambda: one.book.seated)
            held = one.ask("b")
            await until(lambda: one.book.waiting)
            await one.leave()
            assert (await stream).text.endswith("data: [DONE]\n\n")
            assert (await held).status_code == 200
            await two.leading()
            assert sorted(services(site)) == sorted({*services(site)})
            assert len(services(site)) == 2


async def test_a_paused_leader_that_comes_back_writes_nothing(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        async with site.dispatcher() as two:
            await until(lambda: two.cluster.leader() is not None)
            lease = one.cluster._lease
            attempt = lease._attempt

            async def paused() -> float:
                return 5.0

            lease._attempt = paused
            await until(lambda: two.cluster.leads)
            with contextlib.suppress(Exception):
                await one.program.dispatcher.launcher.stop("nobody", 1.0)
            created = asyncio.get_running_loop().create_task(one.chat())
            lease._attempt = attempt
            assert (await created).status_code == 200
            assert len(services(site)) == 1
            assert two.book.servers
            assert not one.cluster.leads


# The API server's bad days


async def test_ready_models_answer_through_an_outage_and_nothing_is_started_or_stopped(site: Site) -> None:
    async with site.dispatcher(keep_alive=60.0) as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        before = services(site)
        async with site.cluster.outage():
            await until(lambda: one.cluster._tied)
            for _ in range(20):
                assert (await one.chat()).status_code == 200
                await asyncio.sleep(15.0)
            cold = one.ask("b")
            await asyncio.sleep(10.0)
            assert not cold.done()
            assert one.cluster.leads
            assert services(site) == before
        took = await until(lambda: not one.cluster._tied)
        assert took <= 10
        assert (await cold).status_code == 200
        await asyncio.sleep(90.0)
        assert services(site) == [], "idle ones go when their time is over"


async def test_what_changed_in_an_outage_is_known_ten_seconds_after_it(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        (name,) = services(site)
        async with site.cluster.outage():
            (pod,) = site.cluster.pods(name, NS)
            site.cluster.delete(PODS, pod["metadata"]["name"], NS, grace=0)
            site.cluster.nodes.add("node-b", {"nvidia.com/mig-1g.5gb": 4})
            await asyncio.sleep(300.0)
        assert await until(lambda: name not in one.book.servers) <= 10
        assert (
            await until(
                lambda: sum(bin.total for shelf in one.book.stock.shelves.values() for bin in shelf.bins.values()) == 7
            )
            <= 10
        )


# A gateway between


async def test_a_route_that_is_not_there_yet_is_asked_for_once_more(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        missing = iter([404])

        def reply(asked: Any, pod: Any, exchange: Any) -> bool:
            if next(missing, None) is None:
                return False
            exchange.answer(404, b"", "", {"server": "envoy"})
            return True

        site.cluster.gateway.reply = reply
        assert (await one.chat()).status_code == 200
        assert len(one.book.seated) == 0


@pytest.mark.parametrize(
    ("status", "words", "says"),
    [(404, b"", 502), (503, b"no healthy upstream", 502), (504, b"request timeout", 504)],
)
async def test_a_gateways_own_words_become_an_error_in_the_callers_form(
    site: Site, status: int, words: bytes, says: int
) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200

        def reply(asked: Any, pod: Any, exchange: Any) -> bool:
            exchange.answer(status, words, "text/plain", {"server": "envoy"})
            return True

        site.cluster.gateway.reply = reply
        answer = await one.chat()
        assert answer.status_code == says
        assert answer.json()["error"]["code"].startswith("upstream_")
        assert not one.book.seated


# Edits


async def test_an_edit_of_the_config_counts_at_once_and_a_bad_one_is_refused_with_an_event(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()

        def edit(**data: str) -> None:
            site.cluster.edit(CONFIGMAPS, "dispatcher-config", NS, lambda item: item["data"].update(data))

        edit(**{"gpu-resource-config": "nvidia.com/mig-2g.10gb"})
        await until(lambda: one.cluster.choices.options.resources == ("nvidia.com/mig-2g.10gb",))
        assert (await one.chat()).status_code == 200
        (service,) = site.cluster.all(SERVICES, NS)
        limits = service["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits == {"nvidia.com/mig-2g.10gb": "1"}
        edit(**{"mps-active-thread-percentage-config": "4gb: lots"})
        await until(lambda: site.cluster.all(EVENTS, NS))
        (event,) = site.cluster.all(EVENTS, NS)
        assert (event["reason"], event["involvedObject"]["name"]) == ("Refused", "dispatcher-config")
        assert "4gb" in event["message"]
        assert one.cluster.choices.options.resources == ("nvidia.com/mig-2g.10gb",)
        assert (await one.chat()).status_code == 200


async def test_who_starts_with_a_bad_config_decides_nothing_until_it_is_put_right(site: Site) -> None:
    def edit(**data: str) -> None:
        site.cluster.edit(CONFIGMAPS, "dispatcher-config", NS, lambda item: item["data"].update(data))

    edit(**{"gpu-resource-config": "no resource", "inference-image": "tgi:9"})
    async with site.dispatcher() as one:
        await until(lambda: site.cluster.all(EVENTS, NS))
        asking = one.ask()
        reply = await one.client.get("/readyz")
        assert (reply.status_code, "dispatcher-config" in reply.text, "no resource" in reply.text) == (503, True, False)
        (event,) = site.cluster.all(EVENTS, NS)
        assert "no resource" in event["message"]
        await asyncio.sleep(20.0)
        assert not one.cluster.leads
        assert not services(site)
        edit(**{"gpu-resource-config": "nvidia.com/mig-2g.10gb"})
        assert (await asking).status_code == 200
        (service,) = site.cluster.all(SERVICES, NS)
        container = service["spec"]["template"]["spec"]["containers"][0]
        assert (container["image"], container["resources"]["limits"]) == ("tgi:9", {"nvidia.com/mig-2g.10gb": "1"})
        assert (await one.client.get("/readyz")).status_code == 200


async def test_who_starts_with_a_bad_config_beside_a_leader_is_not_ready_and_does_not_take_over(site: Site) -> None:
    """In a rollout the last one that works would be ended next."""
    async with site.dispatcher() as one:
        await one.leading()
        site.cluster.edit(CONFIGMAPS, "dispatcher-config", NS, lambda item: item["data"].update(nonsense="x"))
        async with site.dispatcher() as two:
            await until(lambda: two.cluster.leader() is not None)
            assert (await two.client.get("/readyz")).status_code == 503
            assert (await one.client.get("/readyz")).status_code == 200
            assert (await two.chat()).status_code == 200, "through the leader"
            await one.die()
            await asyncio.sleep(30.0)
            assert not two.cluster.leads
            site.cluster.edit(CONFIGMAPS, "dispatcher-config", NS, lambda item: item["data"].pop("nonsense"))
            await two.leading()
            assert (await two.client.get("/readyz")).status_code == 200


async def test_without_a_config_the_settings_count(site: Site) -> None:
    site.cluster.delete(CONFIGMAPS, "dispatcher-config", NS)
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.client.get("/readyz")).status_code == 200


async def test_a_launch_that_waits_is_of_the_model_as_the_config_has_it_now(site: Site) -> None:
    """It waits for the one large slice, and then needs a small one only."""
    heavy = CATALOGUE.replace("id: org/b, weights: 1GiB", "id: org/b, weights: 6GiB")

    def edit(catalogue: str) -> None:
        site.cluster.edit(CONFIGMAPS, "dispatcher-config", NS, lambda item: item["data"].update(catalogue=catalogue))

    async with site.dispatcher() as one:
        await one.leading()
        edit(heavy)
        await until(lambda: one.cluster.choices.catalogue.entries["b"].weights_mib == 6 * 1024)
        assert (await one.chat("large")).status_code == 200
        asking = one.ask("b")
        await until(lambda: any(state.need and state.need.order for state in one.book.models.values()))
        edit(CATALOGUE)
        await until(lambda: len(services(site)) == 2, within=10.0)
        assert (await asking).status_code == 200
        slices = {server.model.model.id: server.bin.shelf.slice.name for server in one.book.servers.values()}
        assert slices == {"large": "nvidia.com/mig-2g.10gb", "b": "nvidia.com/mig-1g.5gb"}


# Rights


async def test_the_calls_made_are_those_that_the_roles_allow_and_each_is_made(site: Site) -> None:
    """S7, both ways."""
    site.cluster.behave("*org/b*", fail="Error", exit_code=3)
    async with site.dispatcher(hub_token=None) as one, site.dispatcher():
        await one.leading()
        assert (await one.chat()).status_code == 200
        assert (await one.chat("b")).status_code == 503
        site.cluster.edit(CONFIGMAPS, "dispatcher-config", NS, lambda item: item["data"].update(nonsense="x"))
        await until(lambda: site.cluster.all(EVENTS, NS))
        await until(lambda: site.cluster.get(CONFIGMAPS, "dispatcher-learned", NS))
        (name,) = services(site)
        assert (await one.client.get(f"/api/servers/{name}/logs")).status_code == 200
        assert (await one.client.delete(f"/api/servers/{name}")).status_code < 300
        await until(lambda: not services(site))
    made = {(call.namespace, *call.rule) for call in site.cluster.log if call.verb}
    allowed = set(rules())
    strange = {each for each in made if not covered(each, allowed)}
    assert strange == set()
    by_a_caller_with_a_token = {("", "secrets", verb) for verb in ("get", "create", "patch", "delete")}
    later = {("", "configmaps", "patch")}  # of facts that come after the first
    later |= {("", "nodes", "get"), ("", "pods", "get")}  # reading is one right, as everywhere
    unused = {
        each
        for each in allowed
        if not any(covered(call, {each}) for call in made) and each[1:] not in by_a_caller_with_a_token | later
    }
    assert unused == set()


def rules() -> list[tuple[str, str, str, str]]:
    """(namespace, "" for all; group; resource; verb)."""
    found = []
    for document in yaml.safe_load_all(RBAC.read_text()):
        if document["kind"] in ("Role", "ClusterRole"):
            namespace = document["metadata"].get("namespace", "") if document["kind"] == "Role" else ""
            found += [
                (namespace, group, resource, verb)
                for rule in document["rules"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            ]
    return found


def covered(call: tuple[str, str, str, str], allowed: set[tuple[str, str, str, str]]) -> bool:
    return call in allowed or ("", *call[1:]) in allowed
