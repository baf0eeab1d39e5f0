"""What the cluster's rows look at: what was written, and whether a dispatcher's book is what the cluster holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import httpx2
from tests.assembly.cluster_site import NS, Replica, Site
from tests.kube.calls import Call
from tests.kube.fake import FakeCluster
from tests.kube.kinds import NODES, PODS, SECRETS, SERVICES

from ssis_dispatcher.launchers.knative import names

WRITES = ("create", "update", "patch", "delete", "deletecollection")


def calls(site: Site, verb: str, resource: str = "services") -> list[Call]:
    return [call for call in site.cluster.log if call.rule[1:] == (resource, verb)]


def writes(site: Site, *resources: str) -> list[Call]:
    """Everything asked of the API server that would change it; of these ``resources``, where some are named."""
    return [call for call in site.cluster.log if call.verb in WRITES and (not resources or call.rule[1] in resources)]


def most_within(seconds: float, times: Iterable[float]) -> int:
    """How many of ``times`` fall into the fullest span of that length."""
    ordered = sorted(times)
    return max((sum(start <= time < start + seconds for time in ordered) for start in ordered), default=0)


def servers_per_model(cluster: FakeCluster) -> Counter[str]:
    return Counter(service["metadata"]["labels"][names.MODEL] for service in cluster.all(SERVICES, NS))


def leftovers(cluster: FakeCluster) -> list[str]:
    """Objects of servers that are still there."""
    return [one["metadata"]["name"] for kind in (SERVICES, PODS, SECRETS) for one in cluster.all(kind, NS)]


def is_true(site: Site, replica: Replica) -> bool:
    """Whether the book has the servers and the slices that the cluster has."""
    there = {service["metadata"]["name"] for service in site.cluster.all(SERVICES, NS)}
    return set(replica.book.servers) == there and _slices_in(replica) == slices_of(site.cluster)


def slices_of(cluster: FakeCluster) -> Counter[str]:
    """What its nodes have, by resource."""
    found: Counter[str] = Counter()
    for node in cluster.all(NODES):
        found.update({name: int(count) for name, count in node["status"]["allocatable"].items() if "/" in name})
    return found


def _slices_in(replica: Replica) -> Counter[str]:
    found: Counter[str] = Counter()
    for shelf in replica.book.stock.shelves.values():
        found[shelf.slice.name] += sum(bin.total for bin in shelf.bins.values())
    return found


def statuses(replies: Iterable[httpx2.Response]) -> set[int]:
    return {reply.status_code for reply in replies}
