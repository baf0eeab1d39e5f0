"""What the API server refuses before it stores anything: names, labels, finalizers, pods and leases that make no sense."""

from __future__ import annotations

import re
from typing import Any

from tests.kube.kinds import EVENTS, LEASES, PODS, Kind
from tests.kube.status import Refusal, invalid
from tests.kube.store import Json

SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NOT_A_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{SUBDOMAIN}')"
)
LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NOT_A_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
)
LABEL_VALUE = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_NOT_A_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{LABEL_VALUE}')"
)
QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_NOT_QUALIFIED = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{QUALIFIED}')"
)
ANNOTATIONS_MOST = 256 * 1024
"""Bytes of all annotations of one object together."""


def check(kind: Kind, item: Json) -> None:
    """Refuse what the API does not store. Raises `Refusal` (422)."""
    metadata = item["metadata"]
    name = metadata.get("name", "")
    _check_name(kind, name)
    for field in ("labels", "annotations"):
        for key, value in (metadata.get(field) or {}).items():
            _check_pair(kind, name, f"metadata.{field}", key, value)
    size = sum(len(key) + len(value) for key, value in (metadata.get("annotations") or {}).items())
    if size > ANNOTATIONS_MOST:
        raise invalid(
            kind,
            name,
            "metadata.annotations",
            f"Too long: may not be more than {ANNOTATIONS_MOST} bytes",
            "FieldValueTooLong",
        )
    for place, finalizer in enumerate(metadata.get("finalizers") or ()):
        if "/" not in finalizer and finalizer not in ("foregroundDeletion", "orphan", "kubernetes"):
            why = f'Invalid value: "{finalizer}": name is neither a standard finalizer name nor is it fully qualified'
            raise invalid(kind, name, f"metadata.finalizers[{place}]", why)
    if kind is PODS:
        _check_pod(name, item.get("spec") or {})
    elif kind is LEASES:
        _check_lease(name, item.get("spec") or {})


def _check_name(kind: Kind, name: str) -> None:
    if not name:
        raise invalid(
            kind, "", "metadata.name", "Required value: name or generateName is required", "FieldValueRequired"
        )
    pattern, why, most = (
        (LABEL, _NOT_A_LABEL, 63) if kind.plural == "namespaces" else (SUBDOMAIN, _NOT_A_SUBDOMAIN, 253)
    )
    if kind is EVENTS:
        return
    if len(name) > most:
        why = f"must be no more than {most} {'bytes' if most == 253 else 'characters'}"
    elif re.fullmatch(pattern, name):
        return
    raise invalid(kind, name, "metadata.name", f'Invalid value: "{name}": {why}')


def _check_pair(kind: Kind, name: str, field: str, key: str, value: Any) -> None:
    prefix, _, plain = key.rpartition("/")
    if not re.fullmatch(QUALIFIED, plain) or len(plain) > 63 or (prefix and not re.fullmatch(SUBDOMAIN, prefix)):
        raise invalid(kind, name, field, f'Invalid value: "{key}": {_NOT_QUALIFIED}')
    if not isinstance(value, str):
        raise Refusal(
            400,
            "BadRequest",
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot unmarshal '
            f"{_go_type(value)} into Go struct field ObjectMeta.{field} of type string",
        )
    if field == "metadata.labels" and (len(value) > 63 or not re.fullmatch(LABEL_VALUE, value)):
        why = "must be no more than 63 bytes" if len(value) > 63 else _NOT_A_VALUE
        raise invalid(kind, name, field, f'Invalid value: "{value}": {why}')


def _go_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return {int: "number", float: "number", dict: "object", list: "array"}.get(type(value), "null")


def _check_pod(name: str, spec: Json) -> None:
    if not spec.get("containers"):
        raise invalid(PODS, name, "spec.containers", "Required value", "FieldValueRequired")
    for place, container in enumerate(spec["containers"]):
        resources = container.get("resources") or {}
        limits, asked = resources.get("limits") or {}, resources.get("requests") or {}
        for resource in asked:
            if "/" in resource and resource not in limits:
                why = "Required value: Limit must be set for non overcommitable resources"
                field = f"spec.containers[{place}].resources.limits"
                raise invalid(PODS, name, field, why, "FieldValueRequired")


def _check_lease(name: str, spec: Json) -> None:
    for field in ("leaseDurationSeconds",):
        if field in spec and spec[field] is not None and spec[field] <= 0:
            raise invalid(LEASES, name, f"spec.{field}", f"Invalid value: {spec[field]}: must be greater than 0")
