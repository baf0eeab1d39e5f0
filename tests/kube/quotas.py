"""Quotas of namespaces: what they refuse, and what they say is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.kube.clock import Clock
from tests.kube.kinds import PODS, QUOTAS, Kind
from tests.kube.quantities import quantity, requests, written
from tests.kube.status import forbidden
from tests.kube.store import Change, Json, Key, Store

SOON = 0.02
"""Seconds until a quota's status follows."""


def charge(store: Store, kind: Kind, item: Json) -> None:
    """Refuse (403) what some quota of the namespace has no room for."""
    namespace = item["metadata"].get("namespace", "")
    cost = costs(kind, item)
    for entry in store.shelf(QUOTAS).sorted(namespace):
        quota = entry.object
        hard: Mapping[str, Any] = (quota.get("spec") or {}).get("hard") or {}
        asked = {name: cost[name] for name in sorted(cost) if name in hard}
        if not asked:
            continue
        used = used_of(store, namespace, asked)
        if any(used[name] + asked[name] > quantity(hard[name]) for name in asked):
            told = (
                f"exceeded quota: {quota['metadata']['name']}, "
                f"requested: {_listed(asked)}, used: {_listed(used)}, limited: "
                + ",".join(f"{name}={hard[name]}" for name in asked)
            )
            raise forbidden(kind, item["metadata"]["name"], told)


def _listed(amounts: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={written(name, amount)}" for name, amount in amounts.items())


def costs(kind: Kind, item: Json) -> dict[str, Any]:
    """What an object takes of the quotas of its namespace."""
    cost: dict[str, Any] = {f"count/{kind.qualified}": 1}
    if not kind.group:
        cost[kind.plural] = 1
    if kind is PODS and (item.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
        for resource, amount in requests(item["spec"]).items():
            cost[f"requests.{resource}"] = amount
            if resource in ("cpu", "memory"):
                cost[resource] = amount
    elif kind is PODS:
        cost.pop("pods")
    return cost


def used_of(store: Store, namespace: str, names: Iterable[str]) -> dict[str, Any]:
    """What all objects of a namespace take of some quotas."""
    used: dict[str, Any] = dict.fromkeys(names, 0)
    counted = {name for name in used if name.startswith("count/")}
    for shelf in store:
        if not shelf.kind.namespaced or (counted == set(used) and f"count/{shelf.kind.qualified}" not in counted):
            continue
        for key, entry in shelf.objects.items():
            if key[0] == namespace:
                _add(used, costs(shelf.kind, entry.object))
    return used


def _add(used: dict[str, Any], cost: Mapping[str, Any]) -> None:
    for name in used.keys() & cost.keys():
        used[name] += cost[name]


class Bookkeeper:
    """Keeps the status of quotas true."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._due: set[str] = set()
        for shelf in store:
            if shelf.kind.namespaced:
                shelf.follow(self._see)

    def _see(self, changes: list[Change]) -> None:
        quotas = self._store.shelf(QUOTAS).objects
        if not quotas:
            return
        for namespace in {change.key[0] for change in changes} - self._due:
            if any(key[0] == namespace for key in quotas):
                self._due.add(namespace)
                self._clock.later(SOON, self._count, namespace)

    def _count(self, namespace: str) -> None:
        self._due.discard(namespace)
        for key in [key for key in self._store.shelf(QUOTAS).objects if key[0] == namespace]:
            self._tell(key)

    def _tell(self, key: Key) -> None:
        entry = self._store.shelf(QUOTAS).objects[key]
        hard = (entry.object.get("spec") or {}).get("hard") or {}
        used = used_of(self._store, key[0], hard)
        status = {"hard": hard, "used": {name: written(name, amount) for name, amount in used.items()}}
        if entry.object.get("status") != status:
            self._store.put(QUOTAS, entry.copy() | {"status": status})
