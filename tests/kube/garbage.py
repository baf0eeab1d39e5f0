"""The garbage collector, and the controller that empties namespaces which are to go."""

from __future__ import annotations

from tests.kube.api import Api, Deletion
from tests.kube.kinds import NAMESPACES, NODES, PODS, Kind
from tests.kube.status import Refusal
from tests.kube.store import Change, Json, Key

SOON = 0.005
"""Seconds until it notices."""


class Garbage:
    """Deletes what belongs to what is gone."""

    def __init__(self, api: Api) -> None:
        self._api = api
        for shelf in api.store:
            shelf.follow(lambda changes, kind=shelf.kind: self._see(kind, changes))  # type: ignore[misc]

    def _see(self, kind: Kind, changes: list[Change]) -> None:
        for change in changes:
            metadata = change.last.object["metadata"]
            if change.new is None:
                self._api.clock.later(SOON, self._orphaned, metadata["uid"])
                if kind is NODES:
                    self._api.clock.later(1.0, self._homeless, change.key[1])
                for owner in metadata.get("ownerReferences") or ():
                    self._api.clock.later(SOON, self._owner_waits, owner, change.key[0])
                if "namespace" in metadata:
                    self._empty(metadata["namespace"])
                continue
            if "deletionTimestamp" in metadata and (change.old is None or change.old.object["metadata"] != metadata):
                self._api.clock.later(SOON, self._going, kind, change.key)
            if change.old is None and metadata.get("ownerReferences"):
                self._api.clock.later(SOON, self._check_owners, kind, change.key)

    def _orphaned(self, uid: str) -> None:
        """The owner is gone: so are its dependents, unless somebody else owns them, too."""
        for kind, key in self._api.dependents(uid):
            self._check_owners(kind, key)

    def _check_owners(self, kind: Kind, key: Key) -> None:
        entry = self._api.store.shelf(kind).objects.get(key)
        owners = entry.object["metadata"].get("ownerReferences") if entry else None
        if owners and not any(self._alive(owner, key[0]) for owner in owners):
            self._delete(kind, key)

    def _alive(self, owner: Json, namespace: str) -> bool:
        kind = self._kind_of(owner)
        entry = self._api.store.find(kind, owner["name"], namespace) if kind else None
        return entry is not None and entry.object["metadata"]["uid"] == owner["uid"]

    def _kind_of(self, owner: Json) -> Kind | None:
        for shelf in self._api.store:
            if (shelf.kind.api_version, shelf.kind.kind) == (owner["apiVersion"], owner["kind"]):
                return shelf.kind
        return None

    def _delete(self, kind: Kind, key: Key, how: Deletion | None = None) -> None:
        try:
            self._api.delete(kind, key[1], key[0], how or Deletion())
        except Refusal:
            pass  # it went by itself meanwhile

    def _going(self, kind: Kind, key: Key) -> None:
        """Something is to go that waits for this controller."""
        entry = self._api.store.shelf(kind).objects.get(key)
        if entry is None or "deletionTimestamp" not in entry.object["metadata"]:
            return
        if kind is NAMESPACES:
            for shelf in list(self._api.store):
                for place in [place for place in shelf.objects if shelf.kind.namespaced and place[0] == key[1]]:
                    self._delete(shelf.kind, place)
            self._empty(key[1])
            return
        metadata = entry.object["metadata"]
        finalizers = metadata.get("finalizers") or ()
        dependents = self._api.dependents(metadata["uid"])
        if "orphan" in finalizers:
            for other, place in dependents:
                self._api.edit(other, place[1], place[0], lambda item: _disown(item, metadata["uid"]))
            self._release(kind, key, "orphan")
        elif "foregroundDeletion" in finalizers:
            for other, place in dependents:
                self._delete(other, place, Deletion(propagation="Foreground"))
            if not self._api.dependents(metadata["uid"]):
                self._release(kind, key, "foregroundDeletion")

    def _owner_waits(self, owner: Json, namespace: str) -> None:
        kind = self._kind_of(owner)
        if kind is not None:
            self._going(kind, (namespace if kind.namespaced else "", owner["name"]))

    def _release(self, kind: Kind, key: Key, finalizer: str) -> None:
        def release(item: Json) -> None:
            item["metadata"]["finalizers"] = [name for name in item["metadata"]["finalizers"] if name != finalizer]

        self._api.edit(kind, key[1], key[0], release)

    def _empty(self, namespace: str) -> None:
        """Let a namespace go when nothing is left in it."""
        home = self._api.store.find(NAMESPACES, namespace)
        if home is None or "deletionTimestamp" not in home.object["metadata"]:
            return
        if not any(key[0] == namespace for shelf in self._api.store for key in shelf.objects if shelf.kind.namespaced):
            self._api.remove(NAMESPACES, ("", namespace))

    def _homeless(self, node: str) -> None:
        """Pods of a node that is gone go, too."""
        for key, entry in list(self._api.store.shelf(PODS).objects.items()):
            if entry.object["spec"].get("nodeName") == node and self._api.store.find(NODES, node) is None:
                self._api.remove(PODS, key)


def _disown(item: Json, uid: str) -> None:
    owners = item["metadata"].get("ownerReferences") or ()
    item["metadata"]["ownerReferences"] = [owner for owner in owners if owner["uid"] != uid]
