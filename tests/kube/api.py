"""The verbs of the API on stored objects, as methods. No HTTP here: `tests.kube.http` speaks it, and the controllers call
these directly, as their real namesakes go through the real API."""

from __future__ import annotations

import base64
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
from tests.kube import admission, applying, patches, quotas, selectors
from tests.kube.clock import Clock
from tests.kube.kinds import BUILT_IN, KNATIVE, NAMESPACES, PODS, Kind
from tests.kube.status import (
    Refusal,
    already_exists,
    bad_request,
    conflict,
    expired,
    forbidden,
    invalid,
    invalid_option,
    not_found,
    success,
    unmet,
)
from tests.kube.store import Change, Entry, Json, Key, Store, key_of

Mutate = Callable[[Json], None]

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

SYSTEM_FIELDS = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "namespace",
)
"""Metadata that an update leaves as they are."""

NOT_A_MERGE_PATCH = "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"

TOO_OLD_TO_CONTINUE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the "
    "continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing "
    "with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the "
    "time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True)
class Deletion:
    """What a DELETE asks for besides the name."""

    grace: int | None = None
    uid: str = ""
    version: str = ""
    propagation: str = "Background"
    dry: bool = False


@dataclass(frozen=True)
class Page:
    """One answer to a list."""

    entries: list[Entry]
    version: int
    more: str = ""
    """The token of the next page."""
    remaining: int | None = None


@dataclass
class _Rest:
    """What the later pages of a list will hold, whatever happens in between."""

    entries: list[Entry]
    version: int


@dataclass
class Api:
    """An API server without a wire."""

    history: int = 10_000
    """Changes kept for watches, per resource."""
    seed: int = 0
    clock: Clock = field(default_factory=Clock)
    store: Store = field(init=False)
    admit: dict[Kind, list[Callable[[Json, Json | None], None]]] = field(default_factory=dict)
    """Webhooks by kind: called with the new object, to change or refuse, and the old one."""

    def __post_init__(self) -> None:
        self.store = Store((*BUILT_IN, *KNATIVE), self.history)
        self.random = random.Random(self.seed)
        self.warnings: list[str] = []
        """What the last write should be warned of."""
        self._rests: dict[str, _Rest] = {}
        self._managers: dict[str, dict[str, set[applying.Path]]] = {}
        """By uid: which fields each manager has applied."""
        self._owned: dict[str, set[tuple[Kind, Key]]] = {}

    # Reading

    def get(self, kind: Kind, name: str, namespace: str = "") -> Entry:
        entry = self.store.find(kind, name, namespace)
        if entry is None:
            raise not_found(kind, name)
        return entry

    def list_page(
        self,
        kind: Kind,
        namespace: str = "",
        match: selectors.Match = selectors.everything,
        *,
        limit: int = 0,
        token: str = "",
    ) -> Page:
        """One page of what there is. Raises `Refusal`: 410 when the token is older than the history."""
        if token:
            entries, version = self._continued(token)
        else:
            entries, version = self.store.shelf(kind).sorted(namespace), self.store.version
            if match is not selectors.everything:
                entries = [entry for entry in entries if match(entry.object)]
        if not limit or len(entries) <= limit:
            return Page(entries, version)
        page, rest = entries[:limit], entries[limit:]
        start = "/".join(key_of(kind, page[-1].object)) + "\0"
        more = _token({"v": "meta.k8s.io/v1", "rv": version, "start": start})
        self._rests[more] = _Rest(rest, version)
        return Page(page, version, more, None if match is not selectors.everything else len(rest))

    def _continued(self, token: str) -> tuple[list[Entry], int]:
        rest = self._rests.get(token)
        if rest is not None:
            return rest.entries, rest.version
        try:
            base64.urlsafe_b64decode(token + "==")
            msgspec.json.decode(base64.urlsafe_b64decode(token + "=="))
        except ValueError:
            raise bad_request("invalid continue token: continue key is not valid") from None
        raise expired(TOO_OLD_TO_CONTINUE)

    def compact(self) -> None:
        """Forget the history: watches from earlier versions and later pages of lists are answered with 410."""
        self.store.compact()
        self._rests.clear()

    # Writing

    def create(self, kind: Kind, body: Json, namespace: str = "", *, dry: bool = False) -> Entry:
        """Raises `Refusal`: 404 (namespace), 409 (name taken), 422, or what a webhook or quota says. ``body`` is ours now."""
        item = self._newborn(kind, body, namespace)
        admission.check(kind, item)
        for hook in self.admit.get(kind, ()):
            hook(item, None)
        name = item["metadata"]["name"]
        there = self.store.find(kind, name, namespace)
        if there is None or "generateName" not in item["metadata"]:
            quotas.charge(self.store, kind, item)
        if there is not None:
            raise already_exists(kind, name, deleting="deletionTimestamp" in there.object["metadata"])
        if dry:
            return Entry(item, 0)
        self._note_owners(kind, item)
        return self.store.put(kind, item)

    def _newborn(self, kind: Kind, body: Json, namespace: str) -> Json:
        given: Json = body.get("metadata") or {}
        if given.get("resourceVersion"):
            raise Refusal(500, "", "resourceVersion should not be set on objects to be created")
        if kind.namespaced:
            self._check_namespace(kind, given, namespace)
        name = given.get("name") or ""
        if not name and given.get("generateName"):
            name = given["generateName"] + self.suffix()
        order: Json = {"name": name} if name else {}
        order |= {"generateName": given["generateName"]} if given.get("generateName") else {}
        order |= {"namespace": namespace} if kind.namespaced else {}
        order |= {"uid": self.uid(), "creationTimestamp": self.clock.stamp()} | (
            {"generation": 1} if kind.generation else {}
        )
        kept = ("labels", "annotations", "finalizers", "ownerReferences")
        order |= {key: given[key] for key in kept if given.get(key)}
        item = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": order}
        item |= {key: value for key, value in body.items() if key not in item}
        _complete(kind, item)
        return item

    def _check_namespace(self, kind: Kind, given: Json, namespace: str) -> None:
        if given.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        home = self.store.find(NAMESPACES, namespace)
        if home is None:
            raise not_found(NAMESPACES, namespace)
        if "deletionTimestamp" in home.object["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(kind, given.get("name", ""), why)

    def replace(
        self, kind: Kind, name: str, body: Json, namespace: str = "", *, status: bool = False, dry: bool = False
    ) -> Entry:
        """PUT. Raises `Refusal`: 404, 409 when the body's resourceVersion or uid is not the object's."""
        metadata: Json = body.setdefault("metadata", {})
        if metadata.get("name", name) != name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        if metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        there = self.store.find(kind, name, namespace)
        if there is None:
            if not kind.born_by_put or status:
                raise not_found(kind, name)
            metadata.pop("resourceVersion", None)
            return self.create(kind, body | {"metadata": metadata | {"name": name}}, namespace, dry=dry)
        if not metadata.get("resourceVersion") and not kind.unconditional:
            raise _versionless(kind, name)
        return self._update(kind, there, body, status=status, dry=dry)

    def patch(
        self,
        kind: Kind,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        how: str = MERGE,
        status: bool = False,
        dry: bool = False,
    ) -> Entry:
        """PATCH, by merge patch or JSON patch. Raises `Refusal`."""
        there = self.get(kind, name, namespace)
        if how == MERGE:
            if not isinstance(patch, dict):
                raise bad_request(
                    "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
                )
            body = patches.merged(there.copy(), patch)
        else:
            body = patches.patched(there.copy(), patch)
        if body["metadata"].get("name") != name:
            theirs = body["metadata"].get("name")
            raise bad_request(f"the name of the object ({theirs}) does not match the name on the URL ({name})")
        return self._update(kind, there, body, status=status, dry=dry)

    def apply(
        self,
        kind: Kind,
        name: str,
        body: Json,
        namespace: str = "",
        *,
        manager: str,
        force: bool = False,
        status: bool = False,
        dry: bool = False,
    ) -> Entry:
        """Server-side apply. Raises `Refusal`: 409 when another manager owns a field that would change."""
        if not manager:
            why = "Required value: is required for apply patch"
            raise invalid_option("PatchOptions", "fieldManager", why, "FieldValueRequired")
        there = self.store.find(kind, name, namespace)
        given = {key: value for key, value in body.items() if key not in ("kind", "apiVersion", "status")}
        mine = applying.leaves(given)
        uid = there.object["metadata"]["uid"] if there else ""
        managers = self._managers.setdefault(uid, {}) if there else {}
        item = there.copy() if there else {"metadata": {"name": name}}
        others = applying.conflicts(
            item, given, mine, {other: paths for other, paths in managers.items() if other != manager}
        )
        if others and not force:
            raise applying.refusal(others)
        item = applying.applied(item, given, managers.get(manager, set()) - mine - applying.kept(managers, manager))
        if there is None:
            entry = self.create(kind, item, namespace, dry=dry)
            managers = {} if dry else self._managers.setdefault(entry.object["metadata"]["uid"], {})
        else:
            item["metadata"].pop("resourceVersion", None)
            entry = self._update(kind, there, item, status=status, dry=dry)
        for paths in managers.values():
            paths -= mine
        managers[manager] = mine
        return entry

    def edit(self, kind: Kind, name: str, namespace: str, change: Mutate, *, status: bool = False) -> Entry:
        """Read, change, write, for those who run on this loop and so cannot be overtaken."""
        there = self.get(kind, name, namespace)
        item = there.copy()
        change(item)
        return self._update(kind, there, item, status=status)

    def _update(self, kind: Kind, there: Entry, body: Json, *, status: bool, dry: bool = False) -> Entry:
        old = there.object
        name = old["metadata"]["name"]
        _check_preconditions(kind, there, body["metadata"])
        item = _updated(kind, old, body, status=status)
        if not status:
            for hook in self.admit.get(kind, ()):
                hook(item, old)
            admission.check(kind, item)
            if kind.generation and _specification(item) != _specification(old):
                item["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        item["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if item == old or dry:
            return there if item == old else Entry(item, there.version)
        namespace = old["metadata"].get("namespace", "") if kind.namespaced else ""
        if "deletionTimestamp" in item["metadata"] and not item["metadata"].get("finalizers") and kind is not PODS:
            self.remove(kind, (namespace, name))
            return Entry(item, there.version)
        self._note_owners(kind, item)
        return self.store.put(kind, item)

    # Deleting

    def delete(self, kind: Kind, name: str, namespace: str = "", how: Deletion = Deletion()) -> Json | Entry:
        """Raises `Refusal`: 404, 409 when a precondition does not hold. Returns what the API answers: a ``Status`` for what
        is gone, the object for what is going."""
        there = self.get(kind, name, namespace)
        metadata = there.object["metadata"]
        if how.uid and how.uid != metadata["uid"]:
            happened = "The object might have been deleted and then recreated"
            raise unmet(kind, name, "UID", how.uid, metadata["uid"], happened)
        if how.version and how.version != metadata["resourceVersion"]:
            happened = "The object might have been modified"
            raise unmet(kind, name, "ResourceVersion", how.version, metadata["resourceVersion"], happened)
        if how.dry:
            return success(kind, name, metadata["uid"])
        key = (namespace if kind.namespaced else "", name)
        if kind is NAMESPACES:
            return self._mark(kind, there, 0, ["kubernetes"])
        finalizers = list(metadata.get("finalizers") or ())
        extra = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(how.propagation)
        if extra and extra not in finalizers and "deletionTimestamp" not in metadata:
            finalizers.append(extra)
        grace = _grace(there.object, how.grace) if kind is PODS else 0
        if finalizers or grace:
            return self._mark(kind, there, grace, finalizers)
        if kind is PODS:
            return self.remove(kind, key, deletionTimestamp=self.clock.stamp(), deletionGracePeriodSeconds=0)
        self.remove(kind, key)
        return success(kind, name, metadata["uid"])

    def _mark(self, kind: Kind, there: Entry, grace: int, finalizers: list[str]) -> Entry:
        """Say that an object is going. A second DELETE can only shorten the time it has."""
        metadata = there.object["metadata"]
        going = metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in metadata and (going is None or grace >= going):
            return there
        item = there.copy()
        item["metadata"] |= {
            "deletionTimestamp": self.clock.stamp(self.clock.now() + timedelta(seconds=grace)),
            "deletionGracePeriodSeconds": grace,
        }
        if finalizers and kind is not NAMESPACES:
            item["metadata"]["finalizers"] = finalizers
        if kind is NAMESPACES:
            item["status"] = {"phase": "Terminating"}
        if kind.generation:
            item["metadata"]["generation"] = metadata.get("generation", 0) + 1
        return self.store.put(kind, item)

    def remove(self, kind: Kind, key: Key, **marks: Any) -> Entry:
        """Take an object away for good, whoever still wants it."""
        return self.store.remove(kind, key, **marks)

    # Owners

    def dependents(self, uid: str) -> list[tuple[Kind, Key]]:
        """What says that the object with this uid owns it."""
        found = [(kind, key) for kind, key in self._owned.get(uid, ()) if key in self.store.shelf(kind).objects]
        return sorted(found, key=lambda place: (place[0].plural, place[1]))

    def _note_owners(self, kind: Kind, item: Json) -> None:
        for owner in item["metadata"].get("ownerReferences") or ():
            self._owned.setdefault(owner["uid"], set()).add((kind, key_of(kind, item)))

    # Making things up

    def uid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def suffix(self, length: int = 5) -> str:
        return "".join(self.random.choices("bcdfghjklmnpqrstvwxz2456789", k=length))


def _complete(kind: Kind, item: Json) -> None:
    """Fill in what the API fills in."""
    if kind is PODS:
        spec = item.setdefault("spec", {})
        for name, value in (("restartPolicy", "Always"), ("terminationGracePeriodSeconds", 30)):
            spec.setdefault(name, value)
        spec.setdefault("schedulerName", "default-scheduler")
        for container in spec.get("containers") or ():
            resources = container.setdefault("resources", {})
            for resource, amount in (resources.get("limits") or {}).items():
                resources.setdefault("requests", {}).setdefault(resource, amount)
        item["status"] = {"phase": "Pending", "qosClass": "Burstable"}
    elif kind is NAMESPACES:
        item.setdefault("spec", {"finalizers": ["kubernetes"]})
        item["status"] = {"phase": "Active"}
        name = item["metadata"].get("name", "")
        item["metadata"]["labels"] = {"kubernetes.io/metadata.name": name} | (item["metadata"].get("labels") or {})
    elif kind.plural == "secrets":
        item.setdefault("type", "Opaque")
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in item.pop("stringData", {}).items()}
        if encoded or "data" in item:
            item["data"] = (item.get("data") or {}) | encoded
    elif kind.status and kind.custom:
        item.pop("status", None)


def _versionless(kind: Kind, name: str) -> Refusal:
    why = f"Invalid value: {'0x0' if kind.custom else 0}: must be specified for an update"
    refusal = invalid(kind, name, "metadata.resourceVersion", why)
    message = refusal.message.replace(f"{kind.kind}.{kind.group}", kind.qualified, 1)
    details = (refusal.details or {}) | {"kind": kind.plural}
    return Refusal(422, "Invalid", message, details)


def _check_preconditions(kind: Kind, there: Entry, given: Mapping[str, Any]) -> None:
    metadata = there.object["metadata"]
    name = metadata["name"]
    if given.get("uid") not in (None, "", metadata["uid"]):
        why = f"Precondition failed: UID in precondition: {given['uid']}, UID in object meta: {metadata['uid']}"
        raise conflict(kind, name, f"StorageError: invalid object, Code: 4, AdditionalErrorMsg: {why}")
    if given.get("resourceVersion") not in (None, "", metadata["resourceVersion"]):
        raise conflict(kind, name)


def _updated(kind: Kind, old: Json, body: Json, *, status: bool) -> Json:
    """The object after an update that brings ``body``: the parts that are not this update's to change stay."""
    metadata = {"name": old["metadata"]["name"]}
    given = old["metadata"] if status else body["metadata"]
    metadata |= {key: old["metadata"][key] for key in SYSTEM_FIELDS if key in old["metadata"]}
    metadata |= {
        key: value
        for key, value in given.items()
        if key not in SYSTEM_FIELDS and key not in ("name", "resourceVersion", "managedFields") and value
    }
    item: Json = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
    if status:
        item |= {key: value for key, value in old.items() if key not in item and key != "status"}
        if "status" in body:
            item["status"] = body["status"]
        return item
    item |= {key: value for key, value in body.items() if key not in item and not (kind.status and key == "status")}
    if kind.status and "status" in old:
        item["status"] = old["status"]
    return item


def _specification(item: Json) -> Json:
    return {key: value for key, value in item.items() if key not in ("metadata", "status")}


def _grace(pod: Json, asked: int | None) -> int:
    """Seconds a pod has: none if it never came to a node, or has ended."""
    if not pod["spec"].get("nodeName") or pod["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    given: int = pod["spec"].get("terminationGracePeriodSeconds", 30)
    return given if asked is None else asked


def _token(content: Json) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(content)).decode().rstrip("=")


def events(change: Change, match: selectors.Match) -> tuple[str, Entry] | None:
    """What a watch with this selection shows of a change: something can come into the selection, and leave it. What leaves is
    shown as it was before, under the version of the change."""
    if match is selectors.everything:
        before, after = change.old is not None, change.new is not None
    else:
        before = change.old is not None and match(change.old.object)
        after = change.new is not None and match(change.new.object)
    if after:
        return ("MODIFIED" if before else "ADDED"), change.last
    if not before or change.old is None:
        return None
    if change.new is None:
        return "DELETED", change.last
    metadata = change.old.object["metadata"] | {"resourceVersion": str(change.version)}
    return "DELETED", Entry(change.old.object | {"metadata": metadata}, change.version)
