"""The kinds of object that the fake API knows without being told, and what the real API does differently for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One resource of the API."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    """It has a ``/status`` of its own, and the object proper cannot be used to change it."""
    generation: bool = False
    """``metadata.generation`` counts the changes of the specification."""
    custom: bool = False
    """A custom resource: its lists say every item's kind, and replacing it needs a resourceVersion."""
    unconditional: bool = True
    """PUT works without a resourceVersion."""
    born_by_put: bool = False
    """PUT creates it where there is none."""
    fields: tuple[str, ...] = ()
    """Field selectors besides ``metadata.name`` and ``metadata.namespace``."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As messages call it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def custom(group: str, version: str, plural: str, kind: str, *, namespaced: bool = True) -> Kind:
    """A custom resource with a ``/status``, such as Knative's."""
    return Kind(
        group, version, plural, kind, namespaced, status=True, generation=True, custom=True, unconditional=False
    )


POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)

NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False, status=True, fields=("status.phase",))
NODES = Kind("", "v1", "nodes", "Node", namespaced=False, status=True, fields=("spec.unschedulable",))
PODS = Kind("", "v1", "pods", "Pod", status=True, generation=True, fields=POD_FIELDS)
SECRETS = Kind("", "v1", "secrets", "Secret", fields=("type",))
CONFIGMAPS = Kind("", "v1", "configmaps", "ConfigMap")
EVENTS = Kind("", "v1", "events", "Event", fields=EVENT_FIELDS)
QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota", status=True)
CORE_SERVICES = Kind("", "v1", "services", "Service", status=True, fields=("spec.clusterIP", "spec.type"))
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", unconditional=False, born_by_put=True)
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment", status=True, generation=True)
REPLICASETS = Kind("apps", "v1", "replicasets", "ReplicaSet", status=True, generation=True)
SERVICES = custom("serving.knative.dev", "v1", "services", "Service")
CONFIGURATIONS = custom("serving.knative.dev", "v1", "configurations", "Configuration")
REVISIONS = custom("serving.knative.dev", "v1", "revisions", "Revision")
ROUTES = custom("serving.knative.dev", "v1", "routes", "Route")

KNATIVE = (SERVICES, CONFIGURATIONS, REVISIONS, ROUTES)

BUILT_IN = (
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    CONFIGMAPS,
    EVENTS,
    QUOTAS,
    CORE_SERVICES,
    LEASES,
    DEPLOYMENTS,
    REPLICASETS,
    Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind("", "v1", "limitranges", "LimitRange"),
    Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", status=True),
    Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    Kind("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Kind("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Kind("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", status=True, generation=True),
)
