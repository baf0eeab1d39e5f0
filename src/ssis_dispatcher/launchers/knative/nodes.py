"""A node as far as it matters to placement: what it has, who may go there, and whether now. Pure. Called by
`capacity`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ssis_dispatcher.core.slices import Slice, parse_resource
from ssis_dispatcher.launchers.knative.options import Toleration
from ssis_dispatcher.launchers.knative.quantities import MIB, amounts

HOSTNAME = "kubernetes.io/hostname"
MIG_STATE = "nvidia.com/mig.config.state"

_PASSING_TAINTS = re.compile(
    r"node\.kubernetes\.io/(not-ready|unreachable|unschedulable|network-unavailable|(memory|disk|pid)-pressure)"
)
"""Taints that Kubernetes itself puts on a node and takes off again."""

_SHUTTING = frozenset({"NoSchedule", "NoExecute"})


class Taint(msgspec.Struct, frozen=True):
    """What keeps pods off a node."""

    key: str
    value: str
    effect: str


class Node(msgspec.Struct, frozen=True):
    """``slices`` are what it can give away of each kind, ``pods`` how many pods it can have. ``away`` says why nothing
    new may go there for now; "" where it may."""

    name: str
    slices: tuple[tuple[Slice, int], ...]
    cpu_millis: int
    memory_mib: int
    pods: int
    taints: tuple[Taint, ...] = ()
    labels: Mapping[str, str] = {}
    away: str = ""

    @staticmethod
    def of(node: Mapping[str, Any]) -> Node:
        """A node of the API, trimmed or not."""
        if (known := node.get("node")) is not None:
            assert isinstance(known, Node)
            return known
        metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
        labels = metadata.get("labels") or {}
        # Allocatable, not capacity: that goes on counting devices which are broken.
        there = amounts(status.get("allocatable") or {}, down=True)
        slices = ((parse_resource(name, labels), count) for name, count in sorted(there.items()))
        return Node(
            metadata["name"],
            tuple((slice, max(0, count)) for slice, count in slices if slice is not None),
            there.get("cpu", 0),
            there.get("memory", 0) // MIB,
            there.get("pods", 110),
            tuple(
                Taint(taint["key"], taint.get("value") or "", taint["effect"])
                for taint in spec.get("taints") or ()
                if taint.get("effect") in _SHUTTING
            ),
            labels,
            _away(node, labels),
        )

    @property
    def hostname(self) -> str:
        """What a node selector must say to mean this node."""
        return self.labels.get(HOSTNAME, "")

    def admits(self, tolerations: Iterable[Toleration], resource: str = "") -> bool:
        """Whether pods with these tolerations may go there, its passing troubles aside. ``resource``: they ask for it,
        and the cluster's ExtendedResourceToleration tolerates the taint of that name."""
        return not self.barring(tolerations, resource)

    def barring(self, tolerations: Iterable[Toleration], resource: str = "") -> list[Taint]:
        """The taints that keep such pods away."""
        tolerations = tuple(tolerations)
        return [
            taint
            for taint in self.taints
            if not (
                _PASSING_TAINTS.fullmatch(taint.key)
                or (taint.key == resource and taint.effect == "NoSchedule")
                or any(_tolerates(toleration, taint) for toleration in tolerations)
            )
        ]

    def is_chosen_by(self, pod: Mapping[str, Any]) -> bool:
        """Whether a pod of somebody else's could be put here, as far as selectors, required affinity and taints go."""
        spec = pod.get("spec") or {}
        selector = spec.get("nodeSelector") or {}
        if any(self.labels.get(key) != value for key, value in selector.items()):
            return False
        required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        ) or {}
        terms = required.get("nodeSelectorTerms")
        if terms is not None and not any(self._meets(term) for term in terms):
            return False
        written = (toleration(each) for each in spec.get("tolerations") or ())
        return not self.away and self.admits(written)

    def _meets(self, term: Mapping[str, Any]) -> bool:
        wanted = [(wish, self.labels.get(wish.get("key", ""))) for wish in term.get("matchExpressions") or ()]
        wanted += [(wish, self.name) for wish in term.get("matchFields") or ()]
        return bool(wanted) and all(_meets(wish, value) for wish, value in wanted)


def trim_node(node: dict[str, Any]) -> dict[str, Any]:
    """What we read of a node, for a copy that is kept of thousands."""
    kept = {key: node["metadata"][key] for key in ("name", "uid", "resourceVersion") if key in node["metadata"]}
    return {"metadata": kept, "node": Node.of(node)}


def toleration(written: Mapping[str, Any]) -> Toleration:
    """A toleration of the API."""
    return Toleration(
        written.get("key") or "",
        written.get("operator") or "Equal",
        written.get("value") or "",
        written.get("effect") or "",
    )


def _away(node: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Why nothing new may go to this node for now."""
    if node["metadata"].get("deletionTimestamp"):
        return "it is being removed"
    if (node.get("spec") or {}).get("unschedulable"):
        return "it is cordoned"
    conditions = (node.get("status") or {}).get("conditions") or ()
    if not any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions):
        return "it is not ready"
    state = labels.get(MIG_STATE)
    if state is not None and state != "success":
        return f"its MIG devices are being changed ({state})"
    for taint in (node.get("spec") or {}).get("taints") or ():
        if _PASSING_TAINTS.fullmatch(taint["key"]) and taint.get("effect") in _SHUTTING:
            return f"it has the taint {taint['key']}"
    return ""


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.operator == "Exists":
        return not toleration.key or toleration.key == taint.key
    return toleration.key == taint.key and toleration.value == taint.value


def _meets(wish: Mapping[str, Any], value: str | None) -> bool:
    """Whether a label's (or field's) value is as a node selector's requirement has it; None: it has none."""
    values: Sequence[str] = wish.get("values") or ()
    operator = wish.get("operator")
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) is (operator == "Exists")
    try:
        number, bound = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return number > bound if operator == "Gt" else operator == "Lt" and number < bound
