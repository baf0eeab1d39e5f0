"""The launcher against a cluster: starts, ends, what happens by itself, what goes wrong, what is found after a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.kube.fake import FakeCluster
from tests.kube.kinds import CONFIGMAPS, PODS, QUOTAS, SECRETS, SERVICES
from tests.kube.support import clustered, now, running, until
from tests.launchers.conftest import Reports
from tests.launchers.knative.objects import MIG, order

from ssis_dispatcher.core.messages import (
    FailureKind,
    InventoryChanged,
    Launch,
    Model,
    ServerAdopted,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
)
from ssis_dispatcher.core.servers import server_name
from ssis_dispatcher.core.shelves import Stock
from ssis_dispatcher.core.slices import PENDING, Pool
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import Forbidden, Unavailable
from ssis_dispatcher.kube.api import Kube
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.knative import names
from ssis_dispatcher.launchers.knative.launcher import KnativeLauncher
from ssis_dispatcher.launchers.knative.options import KnativeOptions, PodSource

pytestmark = pytest.mark.looptime

NS = "nthulab"
SLICES = {"nvidia.com/mig-1g.5gb": 2}


class Site:
    """A cluster with one node, and launchers on it."""

    def __init__(self, cluster: FakeCluster, kube: Kube) -> None:
        self.cluster = cluster
        self.kube = kube
        self.reports = Reports()
        self.said: list[tuple[str, dict[str, object]]] = []
        self.token = ""
        self.error: Exception | None = None
        self.launcher = self.another()

    def another(self, **options: Any) -> KnativeLauncher:
        async def resolve(model: Model, phase: Any) -> PodSource:
            if self.error is not None:
                raise self.error
            return PodSource(model.id, token=self.token)

        def log(event: str, /, *args: object, **fields: object) -> None:
            self.said.append((event, fields))

        return KnativeLauncher(self.kube, KnativeOptions(namespace=NS, **options), ENGINES, resolve, log=log)

    @contextlib.asynccontextmanager
    async def watched(self, launcher: KnativeLauncher | None = None) -> AsyncIterator[Reports]:
        """``launcher`` watches, and has told its first inventory."""
        self.reports = reports = Reports()
        async with running((launcher or self.launcher).watch(reports)):
            await reports.wait_for(InventoryChanged)
            yield reports

    async def launch(self, model: str = "org/a", **changes: Any) -> tuple[Launch, ServerReady]:
        made = order_for(model, **changes)
        return made, await self.launcher.launch(made, self.reports)

    def service(self, name: str) -> Any:
        return self.cluster.get(SERVICES, name, NS)

    def free(self) -> int:
        """Slices that a launch may take, as the fleet is told."""
        stock = Stock(1.0)
        for told in self.reports.of(InventoryChanged):
            stock.update(told.pools, told.hosts, told.nodes)
        return sum(shelf.free() for shelf in stock.shelves.values())


def order_for(model: str = "org/a", **changes: Any) -> Launch:
    named = Model.of(model, engine="tgi")
    return order(MIG, model=named, server=server_name(named, 0), pool=Pool("a", MIG, 2), **changes)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with clustered(namespaces=(NS,), knative="1.15") as (cluster, kube):
        cluster.nodes.add("a", SLICES)
        yield Site(cluster, kube)


async def failing(site: Site, model: str = "org/a", **changes: Any) -> tuple[FailureKind, str]:
    with pytest.raises(LaunchFailed) as caught:
        await site.launch(model, **changes)
    return caught.value.failure.kind, caught.value.failure.message


# Starting


async def test_a_server_is_a_knative_service_that_answers_at_the_gateway(site: Site) -> None:
    async with site.watched() as reports:
        made, ready = await site.launch()
    host = f"{made.server}.{NS}.svc.cluster.local"
    assert ready.address == f"kourier-internal.kourier-system.svc.cluster.local:80/{host}"
    phases = [event.phase for event in reports.of(ServerProgressed)]
    assert phases[0] == "creating"
    assert phases[-1] in ("loading", "starting")
    assert names.owned(site.service(made.server))


async def test_without_a_gateway_servers_are_called_at_their_pods(site: Site) -> None:
    site.launcher = KnativeLauncher(
        site.kube, KnativeOptions(namespace=NS), ENGINES, site.launcher._resolve, gateway="", log=print
    )
    async with site.watched():
        made, ready = await site.launch()
        (pod,) = site.cluster.pods(made.server, NS)
        assert ready.address == f"{pod['status']['podIP']}:8012"


async def test_the_first_inventory_is_told_when_all_is_known(site: Site) -> None:
    async with site.watched() as reports:
        (first,) = reports.of(InventoryChanged)
    assert [(pool.node, pool.slice.name, pool.total, pool.taken) for pool in first.pools] == [
        ("a", "nvidia.com/mig-1g.5gb", 2, 0)
    ]


async def test_the_node_is_told_where_the_scheduler_chose_another(site: Site) -> None:
    site.cluster.nodes.add("b", {"nvidia.com/mig-1g.5gb": 1})
    site.cluster.nodes.cordon("a")
    async with site.watched() as reports:
        await site.launch()
        assert reports.of(ServerPlaced)[-1].node == "b"


async def test_our_own_servers_are_not_counted_as_taken(site: Site) -> None:
    async with site.watched():
        await site.launch()
        await asyncio.sleep(2.0)
        assert site.free() == 2


async def test_the_slices_of_strangers_are_taken(site: Site) -> None:
    async with site.watched():
        container = {"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/mig-1g.5gb": "1"}}}
        site.cluster.create(PODS, {"metadata": {"name": "theirs"}, "spec": {"containers": [container]}}, "default")
        await until(lambda: site.free() == 1)
        site.cluster.delete(PODS, "theirs", "default")
        await until(lambda: site.free() == 2)


# Failing to start


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ({"fail": "ErrImagePull"}, FailureKind.MISCONFIGURED, "image"),
        ({"fail": "ContainerMissing"}, FailureKind.MISCONFIGURED, "image"),
        ({"fail": "CreateContainerConfigError"}, FailureKind.MISCONFIGURED, "configuration"),
        ({"fail": "OOMKilled"}, FailureKind.OUT_OF_MEMORY, "memory"),
        ({"fail": "Error", "exit_code": 3, "logs": ["no such model"]}, FailureKind.CRASHED, "3"),
        (
            {"fail": "Error", "logs": ["torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"]},
            FailureKind.OUT_OF_MEMORY,
            "memory",
        ),
    ],
    ids=lambda value: str(value.get("fail")) if isinstance(value, dict) else None,
)
async def test_why_a_start_failed_is_told_soon_and_its_slice_is_free(
    site: Site, how: dict[str, Any], kind: FailureKind, says: str
) -> None:
    site.cluster.behave("*", **how)
    async with site.watched():
        began = now()
        found, message = await failing(site, "org/b")
        assert found is kind
        assert says in message.lower()
        assert now() - began < 60
        server = order_for("org/b").server
        assert site.service(server) is None
        assert not site.cluster.pods(server, NS)
        assert (await site.launcher.logs(server))[-1] == message
        await until(lambda: site.free() == 2)


async def test_a_slice_that_somebody_else_took_meanwhile_is_told_with_the_schedulers_words(site: Site) -> None:
    async with site.watched():
        site.cluster.nodes.cordon("a")
        kind, message = await failing(site)
    assert kind is FailureKind.LOST
    assert "nodes are available" in message


async def test_a_slice_that_no_node_has_yet_is_waited_for(site: Site) -> None:
    site.cluster.nodes.cordon("a")
    async with site.watched() as reports:
        waiting = msgspec.structs.replace(order_for(), pool=Pool(PENDING, MIG, 1))
        async with running(site.launcher.launch(waiting, reports)) as (task,):
            await asyncio.sleep(60.0)
            assert not task.done()
            site.cluster.nodes.add("new", {"nvidia.com/mig-1g.5gb": 1})
            assert isinstance(await task, ServerReady)
    assert reports.of(ServerPlaced)[-1].node == "new"


async def test_what_the_webhook_refuses_is_the_operators_to_correct(site: Site) -> None:
    site.launcher = site.another(labels=(("not a label!", "x"),))
    async with site.watched():
        kind, message = await failing(site)
    assert kind is FailureKind.MISCONFIGURED
    assert "refused" in message


async def test_a_quota_that_is_used_up_is_told(site: Site) -> None:
    hard = {"requests.nvidia.com/mig-1g.5gb": "0"}
    site.cluster.create(QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard}}, NS)
    async with site.watched():
        assert site.free() == 0
        kind, message = await failing(site)
    assert kind is FailureKind.LOST
    assert "quota" in message


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Forbidden("not for this token"), FailureKind.MISCONFIGURED), (Unavailable("later"), FailureKind.CRASHED)],
)
async def test_what_cannot_be_resolved_creates_nothing(site: Site, error: Exception, kind: FailureKind) -> None:
    site.error = error
    async with site.watched():
        assert (await failing(site))[0] is kind
    assert site.cluster.all(SERVICES, NS) == []


# Objects of others


async def test_a_service_of_somebody_else_is_never_touched(site: Site) -> None:
    wanted = order_for()
    theirs = {
        "metadata": {"name": wanted.server},
        "spec": {"template": {"spec": {"containers": [{"image": "theirs:1"}]}}},
    }
    site.cluster.create(SERVICES, theirs, NS)
    before = site.service(wanted.server)["metadata"]["uid"]
    async with site.watched():
        kind, message = await failing(site)
    assert kind is FailureKind.MISCONFIGURED
    assert "not the dispatcher's" in message
    assert site.service(wanted.server)["metadata"]["uid"] == before


async def test_one_that_somebody_made_theirs_is_left_to_them(site: Site) -> None:
    async with site.watched() as reports:
        made, _ = await site.launch()

        def take(service: Any) -> None:
            del service["metadata"]["labels"][names.MANAGED_BY]

        site.cluster.edit(SERVICES, made.server, NS, take)
        failed = await reports.wait_for(ServerFailed)
        await asyncio.sleep(60.0)
    assert failed.failure.kind is FailureKind.REMOVED
    assert site.service(made.server) is not None


async def test_a_server_that_somebody_gave_another_slice_is_told_to_be_there(site: Site) -> None:
    large = "nvidia.com/mig-2g.10gb"
    site.cluster.nodes.resize("a", SLICES | {large: 1})
    async with site.watched() as reports:
        made, _ = await site.launch()

        def larger(service: Any) -> None:
            resources = service["spec"]["template"]["spec"]["containers"][0]["resources"]
            for asked in resources.values():
                if asked.pop(MIG.name, None) is not None:
                    asked[large] = "1"

        site.cluster.edit(SERVICES, made.server, NS, larger)
        moved = await reports.wait_for(ServerPlaced)
        assert (moved.server, moved.node, moved.slice) == (made.server, "a", large)
        await asyncio.sleep(60.0)
        assert reports.of(ServerFailed) == []
        assert len(reports.of(ServerPlaced)) == 1
        (pod,) = site.cluster.pods(made.server, NS)
        assert large in pod["spec"]["containers"][0]["resources"]["limits"]
        assert site.free() == 3, "our own servers are the book's to count"


async def test_a_record_of_a_newer_dispatcher_is_left_alone(site: Site) -> None:
    async with site.watched():
        made, _ = await site.launch()

    def renew(service: Any) -> None:
        service["metadata"]["annotations"][names.RECORD] = '{"version": 99}'

    site.cluster.edit(SERVICES, made.server, NS, renew)
    async with site.watched(site.another()) as reports:
        await asyncio.sleep(10.0)
        assert reports.of(ServerAdopted) == []
        assert site.free() == 1, "it holds its slice, whoever's it is"
    assert [event for event, _ in site.said if event == "left_alone"] == ["left_alone"]
    assert site.service(made.server) is not None


# Ending


async def test_a_stopped_server_frees_its_slice_within_ten_seconds(site: Site) -> None:
    async with site.watched():
        made, _ = await site.launch()
        began = now()
        await site.launcher.stop(made.server, 10.0)
        assert now() - began < 10
        assert site.service(made.server) is None
        assert not site.cluster.pods(made.server, NS)


async def test_stopping_one_that_starts_ends_it(site: Site) -> None:
    site.cluster.behave("*", stuck=True)
    async with site.watched() as reports:
        wanted = order_for()
        async with running(site.launcher.launch(wanted, reports)) as (task,):
            await until(lambda: site.cluster.pods(wanted.server, NS))
            task.cancel()
            await site.launcher.stop(wanted.server, 10.0)
        assert site.service(wanted.server) is None
        assert not site.cluster.pods(wanted.server, NS)


async def test_unknown_servers_are_stopped_already(site: Site) -> None:
    async with site.watched():
        await site.launcher.stop("nobody", 10.0)


async def test_the_same_server_can_be_launched_right_after_it_was_stopped(site: Site) -> None:
    async with site.watched():
        made, _ = await site.launch()
        old = site.service(made.server)["metadata"]["uid"]
        stopping = asyncio.get_running_loop().create_task(site.launcher.stop(made.server, 10.0))
        await stopping
        await site.launch()
        assert site.service(made.server)["metadata"]["uid"] != old


# What happens by itself


async def test_a_server_whose_pod_is_killed_is_reported_and_cleared_away(site: Site) -> None:
    async with site.watched() as reports:
        made, _ = await site.launch()
        (pod,) = site.cluster.pods(made.server, NS)
        site.cluster.delete(PODS, pod["metadata"]["name"], NS, grace=0)
        failed = await reports.wait_for(ServerFailed)
        assert (failed.server, failed.failure.kind) == (made.server, FailureKind.REMOVED)
        await until(lambda: site.service(made.server) is None)
        await until(lambda: site.free() == 2)


async def test_a_server_that_crashes_when_it_is_ready_is_reported(site: Site) -> None:
    async with site.watched() as reports:
        made, _ = await site.launch()
        (pod,) = site.cluster.pods(made.server, NS)
        site.cluster.crash(pod["metadata"]["name"], "OOMKilled")
        failed = await reports.wait_for(ServerFailed)
        assert failed.failure.kind is FailureKind.OUT_OF_MEMORY
        await until(lambda: site.service(made.server) is None)


async def test_a_service_that_somebody_deletes_is_reported_and_not_fought_over(site: Site) -> None:
    async with site.watched() as reports:
        made, _ = await site.launch()
        site.cluster.delete(SERVICES, made.server, NS)
        failed = await reports.wait_for(ServerFailed)
        assert failed.failure.kind is FailureKind.REMOVED
        calls = len([call for call in site.cluster.log if call.verb in ("create", "patch", "update")])
        await asyncio.sleep(60.0)
        assert len([call for call in site.cluster.log if call.verb in ("create", "patch", "update")]) == calls


async def test_a_node_that_is_lost_takes_its_servers_with_it(site: Site) -> None:
    async with site.watched() as reports:
        await site.launch()
        site.cluster.nodes.remove("a")
        assert (await reports.wait_for(ServerFailed)).failure.kind is FailureKind.LOST
        await until(lambda: site.free() == 0)


# After a restart


async def test_a_new_dispatcher_finds_what_runs(site: Site) -> None:
    async with site.watched():
        made, ready = await site.launch()
        other, _ = await site.launch("org/b")
    writes = len([call for call in site.cluster.log if call.verb == "create"])
    launcher = site.another()
    async with site.watched(launcher) as reports:
        found = {event.server: event for event in reports.of(ServerAdopted)}
        assert found.keys() == {made.server, other.server}
        event = found[made.server]
        assert (event.model, event.profile, event.slice, event.node) == (made.model, made.profile, MIG.name, "a")
        assert (event.count, event.seats, event.address) == (made.count, made.seats, ready.address)
        assert isinstance(reports.events[-1], InventoryChanged), "so that nothing is started that runs already"
        assert site.free() == 2
        await launcher.stop(made.server, 10.0)
    assert site.service(made.server) is None
    assert len([call for call in site.cluster.log if call.verb == "create"]) == writes


async def test_one_that_still_starts_is_found_and_told_when_it_is_ready(site: Site) -> None:
    site.cluster.behave("*", ready_after=30.0)
    async with site.watched() as reports:
        wanted = order_for()
        async with running(site.launcher.launch(wanted, reports)) as (task,):
            await until(lambda: site.cluster.pods(wanted.server, NS))
            task.cancel()
    async with site.watched(site.another()) as reports:
        assert reports.of(ServerAdopted)[0].address is None
        ready = await reports.wait_for(ServerReady)
        assert ready.address.endswith(f"/{wanted.server}.{NS}.svc.cluster.local")


async def test_one_that_starts_and_fails_is_found_and_reported(site: Site) -> None:
    site.cluster.behave("*", fail="OOMKilled", fail_after=30.0, ready_after=60.0)
    async with site.watched() as reports:
        wanted = order_for()
        async with running(site.launcher.launch(wanted, reports)) as (task,):
            await until(lambda: site.cluster.pods(wanted.server, NS))
            task.cancel()
    async with site.watched(site.another()) as reports:
        assert (await reports.wait_for(ServerFailed)).failure.kind is FailureKind.OUT_OF_MEMORY


async def test_a_pod_whose_dispatcher_went_away_while_it_stopped_it_is_seen_off_by_the_next(site: Site) -> None:
    async with site.watched():
        made, _ = await site.launch()
    (pod,) = site.cluster.pods(made.server, NS)
    site.cluster.delete(SERVICES, made.server, NS)
    async with site.watched(site.another()):
        began = now()
        await until(lambda: not site.cluster.pods(made.server, NS))
        assert now() - began < 10
        await until(lambda: site.free() == 2)
    assert ("seeing off", {"server": made.server, "pod": pod["metadata"]["name"]}) in site.said


# The API server's bad days


@pytest.mark.parametrize("kind", ["done-lost", "done-reset", "done-timeout", "reset", "unavailable", "error"])
async def test_a_create_whose_answer_is_lost_makes_one_service(site: Site, kind: str) -> None:
    site.cluster.faults.add(verb="create", resource="services", kind=kind, count=1)
    async with site.watched():
        made, ready = await site.launch()
    assert ready.server == made.server
    assert [service["metadata"]["name"] for service in site.cluster.all(SERVICES, NS)] == [made.server]


@pytest.mark.parametrize("kind", ["done-lost", "done-reset", "reset", "error", "conflict"])
async def test_a_delete_whose_answer_is_lost_is_carried_out(site: Site, kind: str) -> None:
    async with site.watched():
        made, _ = await site.launch()
        site.cluster.faults.add(verb="delete", resource="services", kind=kind, count=1)
        for _ in range(5):
            with contextlib.suppress(Exception):
                await site.launcher.stop(made.server, 10.0)
                break
        assert site.cluster.all(SERVICES, NS) == []
        assert not site.cluster.pods(made.server, NS)


async def test_a_third_of_all_calls_may_fail(site: Site) -> None:
    for kind in ("error", "timeout", "reset", "done-timeout"):
        site.cluster.faults.add(kind=kind, rate=0.09)
    async with site.watched():
        for number in range(6):
            made, _ = await site.launch(f"org/m{number}", budget=600.0)
            assert len(site.cluster.all(SERVICES, NS)) == 1
            for _ in range(20):
                try:
                    await site.launcher.stop(made.server, 10.0)
                    break
                except Exception:
                    await asyncio.sleep(1.0)
            assert site.cluster.all(SERVICES, NS) == []


async def test_an_outage_loses_nothing_and_what_happened_meanwhile_is_seen_after_it(site: Site) -> None:
    async with site.watched() as reports:
        stays, _ = await site.launch()
        dies, _ = await site.launch("org/b")
        async with site.cluster.outage():
            (pod,) = site.cluster.pods(dies.server, NS)
            site.cluster.crash(pod["metadata"]["name"], "OOMKilled")
            await asyncio.sleep(300.0)
            assert reports.of(ServerFailed) == []
        began = now()
        failed = await reports.wait_for(ServerFailed)
        assert failed.server == dies.server
        assert now() - began <= 35
        await asyncio.sleep(30.0)
        assert [event.server for event in reports.of(ServerFailed)] == [dies.server]
        assert site.service(stays.server) is not None


# Secrets


async def test_a_callers_token_is_in_a_secret_of_its_server_and_nowhere_else(site: Site) -> None:
    site.token = "hf_canary"
    async with site.watched():
        made, _ = await site.launch()
        secret = site.cluster.get(SECRETS, made.server, NS)
        assert secret is not None
        (owner,) = secret["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Service", site.service(made.server)["metadata"]["uid"])
        everything = [*site.cluster.all(SERVICES, NS), *site.cluster.pods(made.server, NS)]
        everything += site.cluster.all(CONFIGMAPS, NS)
        assert "hf_canary" not in repr(everything)
        (reference,) = [
            variable["valueFrom"]["secretKeyRef"]
            for variable in site.service(made.server)["spec"]["template"]["spec"]["containers"][0]["env"]
            if variable["name"] == "HF_TOKEN"
        ]
        assert reference == {"name": made.server, "key": "token"}
        await site.launcher.stop(made.server, 10.0)
    assert site.cluster.get(SECRETS, made.server, NS) is None


async def test_the_secret_of_a_start_that_failed_goes_too(site: Site) -> None:
    site.token = "hf_canary"
    site.cluster.behave("*", fail="ErrImagePull")
    async with site.watched():
        await failing(site)
    assert site.cluster.get(SECRETS, order_for().server, NS) is None
    assert "hf_canary" not in repr(site.said)
