"""Which slices the cluster has, and how many of them are left for us. Pure. Called by the launcher.

Kubernetes says nowhere what is free. It is what nodes can give away, minus what every pod that is bound and has not ended
asks (whatever its namespace, also while it is being deleted), minus what pods ask that wait for a node and could get this
one. What our own servers hold is not subtracted: the fleet keeps that book. A slice counts only together with CPU, memory
and room for one more pod on the same node, and within the quota of our namespace.

A node that is cordoned, not ready, or being reconfigured keeps its slices, all of them taken: who waits for one is told
so, not that there is none. A node that is tainted against us has none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from ssis_dispatcher.core.slices import PENDING, Host, Pool, Slice, cpu_slice, parse_resource, smallest_by_name
from ssis_dispatcher.launchers.knative import pods as _pods
from ssis_dispatcher.launchers.knative.features import NODE_SELECTOR, TOLERATIONS, Features, refusal
from ssis_dispatcher.launchers.knative.nodes import Node, trim_node
from ssis_dispatcher.launchers.knative.options import CpuShare, KnativeOptions
from ssis_dispatcher.launchers.knative.quantities import MIB, Amounts, amounts, requests

__all__ = ["concerns", "hostname", "inventory", "trim_node"]

Pod = Mapping[str, Any]

_NOBODY: Mapping[str, int] = MappingProxyType({})
_MOST_PENDING = 1000
"""Pods that wait for a node and are looked at, the oldest first: a queue of ten thousand must not stop ours."""


class _Room:
    """What is left of one node. ``others`` is what pods that are not servers of the fleet ask, ``own`` what the fleet's
    do."""

    __slots__ = ("node", "other_pods", "others", "own", "own_pods")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.others: Amounts = {"cpu": 0, "memory": 0}
        self.own: Amounts = {"cpu": 0, "memory": 0}
        self.other_pods = 0
        self.own_pods = 0

    def take(self, asks: Mapping[str, int], *, own: bool = False) -> None:
        book = self.own if own else self.others
        for name, amount in asks.items():
            book[name] = book.get(name, 0) + amount
        if own:
            self.own_pods += 1
        else:
            self.other_pods += 1

    def used(self, name: str) -> int:
        return self.others.get(name, 0) + self.own.get(name, 0)

    def fits(self, asks: Mapping[str, int]) -> bool:
        """Whether a pod that asks this could be put here now."""
        node = self.node
        if self.other_pods + self.own_pods >= node.pods:
            return False
        has = {slice.name: count for slice, count in node.slices}
        has |= {"cpu": node.cpu_millis, "memory": node.memory_mib * MIB}
        counted = {name: amount for name, amount in asks.items() if name in has or parse_resource(name) is not None}
        return all(not amount or self.used(name) + amount <= has.get(name, 0) for name, amount in counted.items())

    @property
    def cpu_left(self) -> int:
        """Thousandths of a core for our servers, those that are there included."""
        return self.node.cpu_millis - self.others["cpu"]

    @property
    def mib_left(self) -> int:
        """The same of memory."""
        return self.node.memory_mib - -(-self.others["memory"] // MIB)

    @property
    def pods_left(self) -> int:
        """How many more pods."""
        return max(0, self.node.pods - self.other_pods - self.own_pods)


def inventory(
    nodes: Iterable[Mapping[str, Any]],
    pods: Iterable[Pod],
    quotas: Iterable[Mapping[str, Any]] = (),
    *,
    ours: Collection[str],
    options: KnativeOptions,
    features: Features,
    waiting: Mapping[str, int] = _NOBODY,
) -> tuple[tuple[Pool, ...], tuple[Host, ...]]:
    """The pools of the cluster, and what its nodes have of CPU and memory.

    ``ours`` are the Knative Services of the servers in the fleet's book: of each, one pod (`pods.chosen`) is left out,
    and all others count, like everybody's. ``waiting`` is how many of our servers wait on `PENDING` for which resource.
    """
    rooms = {node.name: _Room(node) for node in sorted(map(Node.of, nodes), key=lambda node: node.name)}
    others, own = _sorted_out(pods, ours)
    for pod in own:
        if (room := rooms.get(_node_of(pod))) is not None:
            room.take(requests(pod), own=True)
    for pod in others:
        if (room := rooms.get(_node_of(pod))) is not None:
            room.take(requests(pod))
    _put_down(rooms.values(), [pod for pod in others if not _node_of(pod)])
    quota = _Quota(quotas, others, own, options.namespace)
    pools = _device_pools(rooms.values(), options, features, quota)
    pinned = options.pins_nodes and features.on(NODE_SELECTOR) and all(room.node.hostname for room in rooms.values())
    pools = smallest_by_name(pools, pinned)
    hosts = tuple(quota.bounded(rooms[name]) for name in sorted({pool.node for pool in pools}))
    plain = [room for room in rooms.values() if not room.node.slices]
    pending = _pending_pools(pools, options, features, waiting)
    return pools + _cpu_pools(plain, options, features, quota) + pending, hosts


def concerns(old: Pod | None, new: Pod | None) -> bool:
    """Whether a pod's change may change the inventory. Most do not: they tell how its containers are."""
    return old is None or new is None or _counted_as(old) != _counted_as(new)


def hostname(node: Mapping[str, Any] | None) -> str:
    """What a server must select to be put on this node; "" where it cannot be pinned."""
    return "" if node is None else Node.of(node).hostname


class _Quota:
    """What the quotas of our namespace allow all our servers together. Quotas for some pods only (by priority, by
    deadline) are left to the API server, which says so when it refuses."""

    def __init__(
        self, quotas: Iterable[Mapping[str, Any]], others: Iterable[Pod], own: Sequence[Pod], namespace: str
    ) -> None:
        self._hard: Amounts = {}
        for quota in quotas:
            for name, amount in _hard(quota).items():
                self._hard[name] = min(amount, self._hard.get(name, amount))
        self._others = _Tally(pod for pod in others if pod["metadata"].get("namespace") == namespace)
        self._own = _Tally(own)

    def left(self, resource: str) -> int | None:
        """How much of ``resource`` our servers may ask in addition to what they do; None: nothing bounds it."""
        if (hard := self._hard.get(resource)) is None:
            return None
        return hard - self._others.of(resource) - self._own.of(resource)

    def slices_left(self, resource: str) -> int | None:
        """How many more slices may be had, each by a pod of its own."""
        bounds = [left for left in (self.left(resource), self.left("pods")) if left is not None]
        return max(0, min(bounds)) if bounds else None

    def bounded(self, room: _Room) -> Host:
        """What ``room`` has for our servers, those there included, within the quota."""
        cpu, memory = self.left("cpu"), self.left("memory")
        cpu_left, mib_left = room.cpu_left, room.mib_left
        if cpu is not None:
            cpu_left = min(cpu_left, cpu + room.own["cpu"])
        if memory is not None:
            mib_left = min(mib_left, (memory + room.own["memory"]) // MIB)
        node = room.node
        return Host(
            node.name,
            max(0, cpu_left),
            max(0, mib_left),
            min(node.cpu_millis, self._hard.get("cpu", node.cpu_millis)),
            min(node.memory_mib, self._hard.get("memory", node.memory_mib * MIB) // MIB),
        )


class _Tally:
    """What some pods ask, all in all."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._asked: Amounts = {"pods": 0}
        for pod in pods:
            self._asked["pods"] += 1
            for name, amount in requests(pod).items():
                self._asked[name] = self._asked.get(name, 0) + amount

    def of(self, resource: str) -> int:
        return self._asked.get(resource, 0)


def _sorted_out(pods: Iterable[Pod], ours: Collection[str]) -> tuple[list[Pod], list[Pod]]:
    """Pods that have not ended: other people's, and one of each of ``ours``."""
    others: list[Pod] = []
    servers: dict[str, list[Pod]] = {}
    for pod in filter(_pods.is_live, pods):
        service = _pods.service_of(pod)
        if service and service in ours:
            servers.setdefault(service, []).append(pod)
        else:
            others.append(pod)
    own = []
    for group in servers.values():
        server = _pods.chosen(group)
        own += [pod for pod in group if pod is server]
        others += [pod for pod in group if pod is not server]
    return others, own


def _put_down(rooms: Iterable[_Room], pods: Iterable[Pod]) -> None:
    """Count pods without a node where they could be put: each on the node that has most of what it asks. Those that fit
    nowhere take nothing, and those that ask no slice are bound before they are seen."""
    by_resource: dict[str, list[_Room]] = {}
    for room in rooms:
        for slice, _ in room.node.slices:
            by_resource.setdefault(slice.name, []).append(room)
    asking = [(pod, requests(pod)) for pod in pods if not (pod.get("spec") or {}).get("schedulingGates")]
    asking = [(pod, asks) for pod, asks in asking if any(asks.get(name) for name in by_resource)]
    asking.sort(key=lambda each: each[0]["metadata"].get("creationTimestamp") or "")
    for pod, asks in asking[:_MOST_PENDING]:
        name = next(name for name in by_resource if asks.get(name))
        fitting = [room for room in by_resource[name] if room.fits(asks) and room.node.is_chosen_by(pod)]
        if fitting:
            most = max(fitting, key=lambda room: dict(_counts(room.node))[name] - room.used(name))
            most.take(asks)


def _device_pools(
    rooms: Iterable[_Room], options: KnativeOptions, features: Features, quota: _Quota
) -> tuple[Pool, ...]:
    """The pools of what device plugins advertise. Slices on which nothing can run here (MPS without Knative's flag) are
    left out, unless there is nothing else: then a launch fails with the reason, which tells more than that there is no
    slice."""
    tolerations = options.tolerations if features.on(TOLERATIONS) else ()
    found = [
        (room, _pool(room, slice, total))
        for room in rooms
        for slice, total in room.node.slices
        if (not options.resources or slice.name in options.resources)
        and room.node.admits(tolerations, slice.name if options.has_toleration_plugin else "")
    ]
    usable = [(room, pool) for room, pool in found if not refusal(pool.slice, options, features)]
    return _within_quota(usable or found, quota)


def _pool(room: _Room, slice: Slice, total: int) -> Pool:
    if room.node.away:
        return Pool(room.node.name, slice, total, total)
    own = room.own.get(slice.name, 0)
    taken = max(room.others.get(slice.name, 0), total - own - room.pods_left)
    return Pool(room.node.name, slice, total, max(0, min(total, taken)))


def _within_quota(found: Iterable[tuple[_Room, Pool]], quota: _Quota) -> tuple[Pool, ...]:
    """What exceeds the quota counts as taken; which node it is on makes no difference to the quota."""
    left: dict[str, int] = {}
    pools = []
    for room, pool in found:
        name = pool.slice.name
        most = left.get(name, quota.slices_left(name))
        if most is not None:
            free = max(0, pool.total - pool.taken - room.own.get(name, 0))
            granted = min(free, most)
            left[name] = most - granted
            pool = msgspec.structs.replace(pool, taken=pool.taken + free - granted)
        pools.append(pool)
    return tuple(pools)


def _cpu_pools(rooms: Iterable[_Room], options: KnativeOptions, features: Features, quota: _Quota) -> tuple[Pool, ...]:
    """Shares of the memory and cores of nodes without devices. A server on one asks exactly its share, so that what a
    node has is dealt out once, and its `Host` is not needed beside it."""
    if not options.cpu_shares:
        return ()
    tolerations = options.tolerations if features.on(TOLERATIONS) else ()
    pools = []
    for room in rooms:
        if not room.node.admits(tolerations):
            continue
        for share, total in _dealt(room, options.cpu_shares, features.sidecar, quota):
            slice = cpu_slice(share.memory_mib, min(1.0, share.cpu_millis / max(1, room.node.cpu_millis)))
            pools.append(Pool(room.node.name, slice, total, total if room.node.away else 0))
    return smallest_by_name(pools, pinned=False)


def _dealt(
    room: _Room, shares: Iterable[CpuShare], sidecar: tuple[int, int], quota: _Quota
) -> list[tuple[CpuShare, int]]:
    """How many of each share a node has: those with a number first, then by turns one of each of the others, the
    largest first, while there is room."""
    host = quota.bounded(room)
    cpu, mib, pods = host.cpu_millis, host.memory_mib, room.pods_left + room.own_pods
    counts: dict[CpuShare, int] = {}
    automatic = sorted((share for share in shares if not share.count), key=lambda share: -share.memory_mib)
    turns = [share for share in shares for _ in range(share.count)]
    while True:
        dealt = False
        for share in turns:
            asks_cpu, asks_mib = share.cpu_millis + sidecar[0], share.memory_mib + sidecar[1]
            if pods > 0 and asks_cpu <= cpu and asks_mib <= mib:
                cpu, mib, pods = cpu - asks_cpu, mib - asks_mib, pods - 1
                counts[share] = counts.get(share, 0) + 1
                dealt = True
        if turns is automatic and not dealt:
            return list(counts.items())
        turns = automatic


def _pending_pools(
    pools: Iterable[Pool], options: KnativeOptions, features: Features, waiting: Mapping[str, int]
) -> tuple[Pool, ...]:
    """Slices that a node may bring for a server that waits: of each kind that is known, as many as may be waited for at
    once."""
    if options.launch_pending <= 0:
        return ()
    known = {pool.slice.name: pool.slice for pool in smallest_by_name(pools, pinned=False)}
    for name in options.resources:
        if name not in known and (slice := parse_resource(name)) is not None:
            known[name] = slice
    return tuple(
        Pool(PENDING, slice, max(0, options.launch_pending - sum(waiting.values()) + waiting.get(name, 0)))
        for name, slice in known.items()
        if not refusal(slice, options, features)
    )


def _hard(quota: Mapping[str, Any]) -> Amounts:
    """The limits of a quota that counts every pod of ours; empty for one that counts only some."""
    spec = quota.get("spec") or {}
    if spec.get("scopeSelector") or set(spec.get("scopes") or ()) - {"NotTerminating", "NotBestEffort"}:
        return {}
    written = spec.get("hard") or {}
    return amounts(
        {name.removeprefix("requests.").removeprefix("count/"): amount for name, amount in written.items()}, down=True
    )


def _counts(node: Node) -> list[tuple[str, int]]:
    return [(slice.name, count) for slice, count in node.slices]


def _counted_as(pod: Pod) -> tuple[object, ...]:
    leaving = "deletionTimestamp" in pod["metadata"]
    gated = bool((pod.get("spec") or {}).get("schedulingGates"))
    return _node_of(pod), _pods.is_live(pod), _pods.is_ready(pod), leaving, gated, requests(pod)


def _node_of(pod: Pod) -> str:
    return (pod.get("spec") or {}).get("nodeName") or ""
