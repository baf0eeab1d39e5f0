"""The kinds of objects that we read and write, and where the API has them. Used by `api`."""

from __future__ import annotations

from urllib.parse import quote

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """A kind of object, and where it is found. ``group`` "" is the core."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, sub: str | None = None) -> str:
        """The path of one object or, without ``name``, of all (in ``namespace``, else everywhere)."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, sub) if part]
        return "/" + "/".join(quote(part, safe="") for part in parts)


PODS = Kind("", "v1", "pods", "Pod")
NODES = Kind("", "v1", "nodes", "Node", namespaced=False)
SECRETS = Kind("", "v1", "secrets", "Secret")
CONFIGMAPS = Kind("", "v1", "configmaps", "ConfigMap")
EVENTS = Kind("", "v1", "events", "Event")
QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment")
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")
SERVICES = Kind("serving.knative.dev", "v1", "services", "Service")
"""Knative's, not the core's."""
REVISIONS = Kind("serving.knative.dev", "v1", "revisions", "Revision")
