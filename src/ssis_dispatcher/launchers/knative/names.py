"""How our objects are marked, and what is written on them: enough for a person to know whose they are, and for a
dispatcher that was restarted to know what they run. Pure. Called by `manifests` and the launcher.

A Knative Service carries the whole record of its server as JSON in one annotation. An object without our label, or with
the record of another name (somebody's copy), is not ours; one whose record we cannot read (a newer dispatcher's) is
left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ssis_dispatcher.core.messages import Launch, Model, ServerAdopted
from ssis_dispatcher.core.sizing import Profile

Object = dict[str, Any]

PROGRAM = "ssis-dispatcher"
DOMAIN = "ssis-dispatcher.io"

MANAGED_BY = "app.kubernetes.io/managed-by"
PART_OF = "app.kubernetes.io/part-of"
MODEL = f"{DOMAIN}/model"
"""Label: a slug of the model's id and a hash of its identity, ``llama-3.1-8b-instruct-0f1e2d3c4b5a``."""

MODEL_ID = f"{DOMAIN}/model-id"
"""Annotation: the model's id as callers write it."""
SLICE = f"{DOMAIN}/slice"
"""Annotation: the slice, ``nvidia.com/mig-1g.5gb`` or ``2 × nvidia.com/gpu``."""
RECORD = f"{DOMAIN}/server"
"""Annotation: a `Record` as JSON."""

OURS = f"{MANAGED_BY}={PROGRAM}"
"""Label selector of our objects."""

SERVICE = "serving.knative.dev/service"
"""Label that Knative puts on pods: the Knative Service they belong to."""

SERVICE_UID = "serving.knative.dev/serviceUID"
"""Label that Knative puts on pods: the uid of that service, by which it is told from an older one of the same name."""

AUTO_SCALER = "auto-scaler"
"""Label of a Knative Service that SSIS's autoscaler leaves alone when its value is ``scaling``."""

VERSION = 1
"""Of the record. A reader that does not know a version must not touch the object."""

_MOST_LABEL = 63
_HASH = 12


class Record(msgspec.Struct, frozen=True):
    """What a Knative Service says of its server. ``node`` is where it was planned to run."""

    version: int
    server: str
    model: Model
    profile: Profile
    slice: str
    node: str
    count: int
    seats: int
    context: int


class Adopted(msgspec.Struct, frozen=True):
    """A server that was found on the cluster. ``slice`` and ``count`` are what its pods ask for now, which need not be what
    was launched: SSIS's autoscaler changes them."""

    record: Record
    slice: str
    count: int

    def event(self, cause: str, node: str, address: str | None) -> ServerAdopted:
        """What the fleet is told, with the ``node`` its pod runs on ("": where it was planned)."""
        record = self.record
        return ServerAdopted(
            cause,
            record.server,
            record.model,
            record.profile,
            self.slice,
            node or record.node,
            self.count,
            record.seats,
            address,
        )


class Unreadable(msgspec.Struct, frozen=True):
    """An object with our label that cannot be ours to touch; ``why`` is for the log."""

    name: str
    why: str


class _Version(msgspec.Struct):
    version: int


_record = msgspec.json.Decoder(Record).decode
_version = msgspec.json.Decoder(_Version).decode


def labels(model: Model) -> dict[str, str]:
    """The labels of everything that we make for a server of ``model``."""
    return {MANAGED_BY: PROGRAM, PART_OF: PROGRAM, MODEL: model_label(model)}


def marks(order: Launch) -> dict[str, str]:
    """What a Knative Service says of itself."""
    slice = order.pool.slice.name
    return {
        MODEL_ID: order.model.id,
        SLICE: slice if order.count == 1 else f"{order.count} × {slice}",
        RECORD: record(order),
    }


def model_label(model: Model) -> str:
    """``model`` as a label's value, which may hold no ``/`` and 63 characters at most."""
    name, _, digest = model.key.rpartition("#")
    tail = f"-{digest[:_HASH]}"
    slug = re.sub(r"[^a-z0-9.]+", "-", name.rsplit("/", 1)[-1].lower())[: _MOST_LABEL - len(tail)].strip("-.")
    return (slug or "model") + tail


def record(order: Launch) -> str:
    """All that a restarted dispatcher must know of this server. It holds no secret: a model's scope is a keyed hash."""
    made = Record(
        VERSION,
        order.server,
        order.model,
        order.profile,
        order.pool.slice.name,
        order.pool.node,
        order.count,
        order.seats,
        order.context,
    )
    return msgspec.json.encode(made).decode()


def owned(obj: Mapping[str, Any]) -> bool:
    """Whether the object says that we made it."""
    return (obj.get("metadata", {}).get("labels") or {}).get(MANAGED_BY) == PROGRAM


def read(service: Mapping[str, Any]) -> Adopted | Unreadable | None:
    """The server that a Knative Service stands for; None where it is not ours at all."""
    if not owned(service):
        return None
    metadata = service["metadata"]
    name = metadata["name"]
    written = (metadata.get("annotations") or {}).get(RECORD)
    if written is None:
        return Unreadable(name, f"it has our label, but no annotation {RECORD}")
    try:
        if (version := _version(written).version) > VERSION:
            return Unreadable(name, f"its record has version {version}; this dispatcher knows those up to {VERSION}")
        found = _record(written)
    except msgspec.MsgspecError as error:
        return Unreadable(name, f"its record cannot be read: {error}")
    if found.server != name:
        return Unreadable(name, f"its record is that of {found.server}: it was copied")
    slice, count = asked(service) or (found.slice, found.count)
    return Adopted(found, slice, count)


def asked(service: Mapping[str, Any]) -> tuple[str, int] | None:
    """The slices that a Knative Service's pods ask for: the resource and how many of it; None for none, as with CPU
    slices. The first container carries them, as SSIS's autoscaler and monitor expect."""
    containers = service.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or [{}]
    resources = containers[0].get("resources") or {}
    for where in ("limits", "requests"):
        for name, quantity in (resources.get(where) or {}).items():
            if "/" in name and str(quantity).isdigit() and int(quantity) > 0:
                return name, int(quantity)
    return None


def trim_service(service: Object) -> Object:
    """What we read of a Knative Service that is ours, for a copy that is kept of thousands."""
    metadata = service["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "generation", "deletionTimestamp", "creationTimestamp")
    written = metadata.get("annotations") or {}
    slim: Object = {key: metadata[key] for key in kept if key in metadata}
    slim["labels"] = metadata.get("labels") or {}
    slim["annotations"] = {key: value for key, value in written.items() if key.startswith(DOMAIN)}
    containers = service.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or [{}]
    first = {"resources": containers[0].get("resources") or {}}
    status = service.get("status") or {}
    return {
        "metadata": slim,
        "spec": {"template": {"spec": {"containers": [first]}}},
        "status": {
            key: status[key]
            for key in ("conditions", "observedGeneration", "url", "address", "latestReadyRevisionName")
            if key in status
        },
    }
