"""The scheduler: binds pods to nodes that have room for them, and says of the others why not, in the real one's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from tests.kube.api import Api
from tests.kube.kinds import EVENTS, NODES, PODS
from tests.kube.nodes import Room, allocatable, asked_by
from tests.kube.status import Refusal
from tests.kube.store import Change, Entry, Json, Key

ENOUGH = 20
"""How many nodes that would do are looked at before one is chosen."""

PERIOD = 0.01
"""Seconds from an event until pods are tried again."""


class Scheduler:
    """Watches nodes and pods. Pods that wait are tried again whenever anything changes that might help."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.rooms: dict[str, Room] = {}
        self.events = True
        """Whether FailedScheduling events are written."""
        self._waiting: dict[Key, Entry] = {}
        self._bound: dict[str, tuple[str, dict[str, int]]] = {}
        """By the pod's uid: its node and what it takes there."""
        self._with: dict[str, dict[str, None]] = {}
        """By extended resource: the nodes that have any free. (A dict for its order.)"""
        self._due = False
        api.store.shelf(NODES).follow(self._see_nodes)
        api.store.shelf(PODS).follow(self._see_pods)

    def _see_nodes(self, changes: list[Change]) -> None:
        for change in changes:
            name = change.key[1]
            if change.new is None:
                self.rooms.pop(name, None)
                for nodes in self._with.values():
                    nodes.pop(name, None)
                continue
            room = self.rooms.get(name)
            has = allocatable(change.new.object)
            if room is None:
                self.rooms[name] = room = Room(change.new.object, has)
                for node, asked in self._bound.values():
                    if node == name:
                        room.take(asked)
            room.node, room.has = change.new.object, has
            self._index(name, room, room.has)
        self._soon()

    def _see_pods(self, changes: list[Change]) -> None:
        for change in changes:
            self._see_pod(change)
        if changes:
            self._soon()

    def _see_pod(self, change: Change) -> None:
        pod = change.last.object
        uid = pod["metadata"]["uid"]
        gone = change.new is None or pod["status"].get("phase") in ("Succeeded", "Failed")
        if gone:
            self._waiting.pop(change.key, None)
            self._release(uid)
        elif not pod["spec"].get("nodeName"):
            if pod["spec"].get("schedulerName") == "default-scheduler" and "deletionTimestamp" not in pod["metadata"]:
                self._waiting[change.key] = change.last
        else:
            self._waiting.pop(change.key, None)
            if uid not in self._bound:
                self._charge(pod["spec"]["nodeName"], uid, asked_by(pod))

    def _charge(self, node: str, uid: str, asked: dict[str, int]) -> None:
        self._bound[uid] = (node, asked)
        room = self.rooms.get(node)
        if room is not None:
            room.take(asked)
            self._index(node, room, asked)

    def _release(self, uid: str) -> None:
        node, asked = self._bound.pop(uid, ("", {}))
        room = self.rooms.get(node)
        if room is not None:
            room.take(asked, -1)
            self._index(node, room, asked)

    def _index(self, name: str, room: Room, resources: Mapping[str, int]) -> None:
        for resource in resources:
            if "/" in resource:
                nodes = self._with.setdefault(resource, {})
                if room.has.get(resource, 0) > room.taken.get(resource, 0):
                    nodes.setdefault(name)
                else:
                    nodes.pop(name, None)

    def _soon(self) -> None:
        if self._waiting and not self._due:
            self._due = True
            self._api.clock.later(PERIOD, self._run)

    def _run(self) -> None:
        """Try every pod that waits, the oldest first. Pods that ask for the same are told the same."""
        self._due = False
        hopeless: dict[bytes, str] = {}
        for key, entry in list(self._waiting.items()):
            pod = entry.object
            asked = asked_by(pod)
            alike = _likeness(pod, asked)
            if alike not in hopeless:
                node = self._choose(pod, asked)
                if node is not None:
                    del self._waiting[key]
                    self._charge(node, pod["metadata"]["uid"], asked)
                    self._bind(key, node)
                    continue
                hopeless[alike] = self._why(pod, asked)
            self._tell(key, entry, hopeless[alike])

    def _choose(self, pod: Json, asked: Mapping[str, int]) -> str | None:
        """The emptiest of the first nodes that would do."""
        best: tuple[int, str] | None = None
        seen = 0
        for name in self._candidates(asked):
            room = self.rooms[name]
            if not room.full and not room.lacks(asked) and obstacle(room.node, pod) is None:
                best = min(best, (room.pods, name)) if best else (room.pods, name)
                seen += 1
                if seen == ENOUGH:
                    break
        return best[1] if best else None

    def _candidates(self, asked: Mapping[str, int]) -> list[str]:
        scarce = [self._with.get(name, {}) for name in asked if "/" in name]
        return min((list(nodes) for nodes in scarce), key=len, default=None) or ([] if scarce else list(self.rooms))

    def _why(self, pod: Json, asked: Mapping[str, int]) -> str:
        """Why no node will do."""
        reasons: Counter[str] = Counter()
        hopes: Counter[str] = Counter()
        for room in self.rooms.values():
            why = obstacle(room.node, pod)
            never = why is not None or any(amount > room.has.get(name, 0) for name, amount in asked.items())
            lacking = [f"Insufficient {name}" for name in room.lacks(asked)] + (["Too many pods"] if room.full else [])
            reasons.update([why] if why is not None else lacking)
            hopes[_HOPELESS if never else _NO_VICTIMS] += 1
        if not self.rooms:
            return "no nodes available to schedule pods"
        of = f"0/{len(self.rooms)} nodes are available"
        told = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
        preemption = ", ".join(sorted(f"{count} {hope}" for hope, count in hopes.items()))
        return f"{of}: {told}. no new claims to deallocate, preemption: {of}: {preemption}."

    def _bind(self, key: Key, node: str) -> None:
        def bind(pod: Json) -> None:
            pod["spec"]["nodeName"] = node
            pod["status"]["conditions"] = [self._condition("True")]

        try:
            entry = self._api.get(PODS, key[1], key[0])
        except Refusal:
            return  # deleted meanwhile
        item = entry.copy()
        bind(item)
        self._api.store.put(PODS, item)

    def _tell(self, key: Key, entry: Entry, why: str) -> None:
        now = self._api.store.find(PODS, key[1], key[0])
        if now is None or now.object["metadata"]["uid"] != entry.object["metadata"]["uid"]:
            return
        before = now.object["status"].get("conditions") or [{}]
        if before[0].get("message") == why:
            return
        condition = self._condition("False", "Unschedulable", why)
        if before[0].get("status") == "False":
            condition["lastTransitionTime"] = before[0]["lastTransitionTime"]

        def tell(pod: Json) -> None:
            pod["status"]["conditions"] = [condition]

        self._api.edit(PODS, key[1], key[0], tell, status=True)
        if self.events:
            self._event(now.object, why)

    def _condition(self, status: str, reason: str = "", message: str = "") -> Json:
        more = {"reason": reason, "message": message} if reason else {}
        now = self._api.clock.stamp()
        return {"type": "PodScheduled", "status": status, "lastProbeTime": None, "lastTransitionTime": now} | more

    def _event(self, pod: Json, why: str) -> None:
        metadata = pod["metadata"]
        about = {"kind": "Pod", "apiVersion": "v1"} | {key: metadata[key] for key in ("namespace", "name", "uid")}
        body = {
            "metadata": {"name": f"{metadata['name']}.{self._api.suffix(16)}"},
            "involvedObject": about,
            "reason": "FailedScheduling",
            "message": why,
            "type": "Warning",
            "reportingComponent": "default-scheduler",
        }
        try:
            self._api.create(EVENTS, body, metadata["namespace"])
        except Refusal:
            pass  # the namespace goes


_HOPELESS = "Preemption is not helpful for scheduling"
_NO_VICTIMS = "No preemption victims found for incoming pod"


def _likeness(pod: Json, asked: Mapping[str, int]) -> bytes:
    spec = pod["spec"]
    return msgspec.json.encode(
        [asked, spec.get("nodeSelector"), spec.get("affinity"), spec.get("tolerations")], order="sorted"
    )


def obstacle(node: Json, pod: Json) -> str | None:
    """What but a lack of resources keeps a pod from a node."""
    spec = pod["spec"]
    tolerations = spec.get("tolerations") or ()
    if node["spec"].get("unschedulable") and not _tolerated(_CORDONED, tolerations):
        return "node(s) were unschedulable"
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] in ("NoSchedule", "NoExecute") and not _tolerated(taint, tolerations):
            return "node(s) had untolerated taint(s)"
    if not _selected(node, spec):
        return "node(s) didn't match Pod's node affinity/selector"
    return None


_CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def _tolerated(taint: Json, tolerations: Any) -> bool:
    return any(
        toleration.get("effect") in (None, "", taint["effect"])
        and (toleration.get("key") in (None, "", taint["key"]))
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
        for toleration in tolerations
    )


def _selected(node: Json, spec: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    name = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(_met(need, labels) for need in term.get("matchExpressions") or ())
        and all(_met(need, name) for need in term.get("matchFields") or ())
        for term in _terms(required)
    )


def _terms(required: Json) -> Iterator[Json]:
    yield from required.get("nodeSelectorTerms") or ()


def _met(need: Json, labels: Mapping[str, str]) -> bool:
    value: str | None = labels.get(need["key"])
    values: list[str] = need.get("values") or []
    match need["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case _:
            return value is not None and int(value) < int(values[0])
