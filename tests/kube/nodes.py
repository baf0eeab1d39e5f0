"""Nodes: made, filled with slices, cordoned, lost, and what is free on each for the scheduler."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.kube.api import Api
from tests.kube.kinds import NODES, PODS
from tests.kube.quantities import Amounts, quantity, requests
from tests.kube.store import Json

LEAVING = 300.0
"""Seconds after which pods are told to leave a node that is lost."""

SLICE_MIB = {"1g.5gb": 4864, "1g.10gb": 9856, "2g.10gb": 9856, "3g.20gb": 19968, "4g.20gb": 19968, "7g.40gb": 40192}
"""The memory behind the names of an A100's slices. Others are taken at 95 % of what their name says."""

UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


class Nodes:
    """What tests do to nodes, as kubelets, device plugins and administrators do."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def add(
        self,
        name: str,
        slices: Mapping[str, int] | None = None,
        *,
        cpu: str = "64",
        memory: str = "512Gi",
        pods: int = 250,
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Json] = (),
    ) -> Json:
        """A node that is Ready, with these extended resources and the labels that GPU feature discovery gives for them."""
        resources = _resources(slices or {}, cpu, memory, pods)
        given = {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
        body: Json = {
            "metadata": {"name": name, "labels": given | discovered(slices or {}) | dict(labels or {})},
            "spec": {"taints": list(taints)} if taints else {},
            "status": {
                "capacity": resources,
                "allocatable": dict(resources),
                "conditions": [self._condition("True", "KubeletReady", "kubelet is posting ready status")],
            },
        }
        return self._api.create(NODES, body).object

    def resize(self, name: str, slices: Mapping[str, int]) -> None:
        """Re-partition: the node has these slices from now on. Those it had and is not told to have become 0, as the
        kubelet writes them. Pods that use them run on."""

        def change(node: Json) -> None:
            for amounts in (node["status"]["capacity"], node["status"]["allocatable"]):
                for resource in amounts:
                    if "/" in resource:
                        amounts[resource] = "0"
                amounts.update({resource: str(count) for resource, count in slices.items()})

        self._api.edit(NODES, name, "", change, status=True)
        self.label(name, discovered(slices))

    def label(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Set labels, or take those away that are None."""

        def change(node: Json) -> None:
            merged: dict[str, str | None] = dict(node["metadata"].get("labels") or {}) | dict(labels)
            node["metadata"]["labels"] = {key: value for key, value in merged.items() if value is not None}

        self._api.edit(NODES, name, "", change)

    def taint(self, name: str, key: str, effect: str = "NoSchedule", value: str = "") -> None:
        self._api.edit(NODES, name, "", lambda node: _taint(node, key, effect, value))

    def untaint(self, name: str, key: str) -> None:
        self._api.edit(NODES, name, "", lambda node: _untaint(node, key))

    def cordon(self, name: str) -> None:
        """Nothing new is to come here."""

        def change(node: Json) -> None:
            node["spec"]["unschedulable"] = True
            _taint(node, UNSCHEDULABLE, "NoSchedule", "")

        self._api.edit(NODES, name, "", change)

    def uncordon(self, name: str) -> None:
        def change(node: Json) -> None:
            node["spec"].pop("unschedulable", None)
            _untaint(node, UNSCHEDULABLE)

        self._api.edit(NODES, name, "", change)

    def lose(self, name: str) -> None:
        """The kubelet falls silent. Its pods count as not ready at once, and are told to leave after five minutes; they
        cannot go before the node is back or removed."""

        def silent(node: Json) -> None:
            node["status"]["conditions"] = [
                self._condition("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
            ]

        self._api.edit(NODES, name, "", silent, status=True)
        for effect in ("NoSchedule", "NoExecute"):
            self.taint(name, UNREACHABLE, effect)
        for key in self._pods_of(name):
            self._api.edit(PODS, key[1], key[0], _unready, status=True)
        self._api.clock.later(LEAVING, self._leave, name)

    def back(self, name: str) -> None:
        """The kubelet is heard again."""

        def ready(node: Json) -> None:
            condition = self._condition("True", "KubeletReady", "kubelet is posting ready status")
            node["status"]["conditions"] = [condition]

        self._api.edit(NODES, name, "", ready, status=True)
        self.untaint(name, UNREACHABLE)

    def remove(self, name: str) -> None:
        """The node is gone for good, and soon its pods are."""
        self._api.delete(NODES, name)

    def lost(self, name: str) -> bool:
        """Whether nobody there hears what is asked of it."""
        entry = self._api.store.find(NODES, name)
        return entry is None or not ready(entry.object)

    def _leave(self, name: str) -> None:
        entry = self._api.store.find(NODES, name)
        if entry is not None and not ready(entry.object):
            for key in self._pods_of(name):
                self._api.delete(PODS, key[1], key[0])

    def _pods_of(self, name: str) -> list[tuple[str, str]]:
        pods = self._api.store.shelf(PODS).objects
        return [key for key, entry in pods.items() if entry.object["spec"].get("nodeName") == name]

    def _condition(self, status: str, reason: str, message: str) -> Json:
        now = self._api.clock.stamp()
        times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
        return {"type": "Ready", "status": status, "reason": reason, "message": message} | times


def ready(node: Json) -> bool:
    conditions = node["status"].get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def discovered(slices: Mapping[str, int]) -> dict[str, str]:
    """The labels that GPU feature discovery gives a node with these slices (strategy ``mixed``)."""
    labels: dict[str, str] = {}
    for resource, count in slices.items():
        found = re.fullmatch(r"nvidia\.com/(mig-(\d+g\.(\d+)gb.*))", resource)
        if found:
            labels["nvidia.com/mig.capable"] = "true"
            labels["nvidia.com/mig.strategy"] = "mixed"
            labels[f"nvidia.com/{found[1]}.count"] = str(count)
            labels[f"nvidia.com/{found[1]}.memory"] = str(SLICE_MIB.get(found[2], int(found[3]) * 973))
    return labels


def _resources(slices: Mapping[str, int], cpu: str, memory: str, pods: int) -> dict[str, str]:
    plain = {"cpu": cpu, "memory": memory, "pods": str(pods), "ephemeral-storage": "100Gi"}
    return plain | {resource: str(count) for resource, count in slices.items()}


def _taint(node: Json, key: str, effect: str, value: str) -> None:
    taint = {"key": key, "effect": effect} | ({"value": value} if value else {})
    node["spec"]["taints"] = [*(node["spec"].get("taints") or ()), taint]


def _untaint(node: Json, key: str) -> None:
    node["spec"]["taints"] = [taint for taint in node["spec"].get("taints") or () if taint["key"] != key]


def _unready(pod: Json) -> None:
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == "Ready":
            condition.update(status="False", reason="NodeNotReady", message="")


# What is free


@dataclass
class Room:
    """What one node has and what its pods take of it, in thousandths of the resource's unit."""

    node: Json
    has: dict[str, int]
    taken: dict[str, int] = field(default_factory=dict)
    pods: int = 0

    def lacks(self, asked: Mapping[str, int]) -> list[str]:
        """The resources of which there is not enough."""
        return [name for name, amount in asked.items() if amount > self.has.get(name, 0) - self.taken.get(name, 0)]

    def take(self, asked: Mapping[str, int], sign: int = 1) -> None:
        for name, amount in asked.items():
            self.taken[name] = self.taken.get(name, 0) + sign * amount
        self.pods += sign

    @property
    def full(self) -> bool:
        return self.pods * 1000 >= self.has.get("pods", 0)


def thousandths(amounts: Amounts) -> dict[str, int]:
    return {name: int(amount * 1000) for name, amount in amounts.items()}


def asked_by(pod: Json) -> dict[str, int]:
    return thousandths(requests(pod["spec"]))


def allocatable(node: Json) -> dict[str, int]:
    amounts: Mapping[str, Any] = node["status"].get("allocatable") or {}
    return {name: int(quantity(amount) * 1000) for name, amount in amounts.items()}
