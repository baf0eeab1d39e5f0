"""What a request asks of the API, read off its method and path: the vocabulary of RBAC, of the log and of the faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote


@dataclass(frozen=True)
class Call:
    """One request."""

    verb: str
    """get, list, watch, create, update, patch, delete, deletecollection; empty for what is no resource."""
    group: str
    version: str
    resource: str
    subresource: str
    namespace: str
    name: str
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    at: float = 0.0
    """The loop's time."""

    @property
    def rule(self) -> tuple[str, str, str]:
        """(group, resource or resource/subresource, verb), as a Role lists them."""
        return self.group, self.resource + (f"/{self.subresource}" if self.subresource else ""), self.verb


def read(method: str, target: str, headers: Mapping[str, str], body: bytes, at: float) -> Call:
    """``GET /api/v1/namespaces/models/pods/p/log?tailLines=5`` is get of pods/log."""
    path, _, query_text = target.partition("?")
    query = parse_query(query_text)
    steps = [unquote(step) for step in path.split("/") if step]
    group, version, rest = _place(steps)
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = [*rest, "", "", ""][:3]
    return Call(
        _verb(method, name, query) if resource else "",
        group,
        version,
        resource,
        subresource,
        namespace,
        name,
        path,
        query,
        headers,
        body,
        at,
    )


def _place(steps: list[str]) -> tuple[str, str, list[str]]:
    if steps[:1] == ["api"]:
        return "", "".join(steps[1:2]), steps[2:]
    if steps[:1] == ["apis"]:
        return "".join(steps[1:2]), "".join(steps[2:3]), steps[3:]
    return "", "", []


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method == "GET":
        if name:
            return "get"
        return "watch" if query.get("watch") in ("1", "true") else "list"
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, method.lower())


def parse_query(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split("&") if pair)
    return {unquote(name.replace("+", " ")): unquote(value.replace("+", " ")) for name, _, value in pairs}
