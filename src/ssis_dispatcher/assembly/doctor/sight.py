"""What there is to see of a cluster, read in one go. `cluster` judges it.

A question that the API server does not answer leaves its `ApiError` in place of the answer: who looks may see only part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ssis_dispatcher.assembly.passage import LABELS
from ssis_dispatcher.kube.api import (
    CONFIGMAPS,
    DEPLOYMENTS,
    LEASES,
    NODES,
    PODS,
    QUOTAS,
    SECRETS,
    SERVICES,
    ApiError,
    Kind,
    Kube,
)
from ssis_dispatcher.kube.credentials import in_pod
from ssis_dispatcher.launchers.knative.features import CONFIGS, KNATIVE, Features
from ssis_dispatcher.settings import Settings, SettingsError, load

Object = dict[str, Any]
T = TypeVar("T")

NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
PORTS = Kind("", "v1", "services", "Service")
"""The core's Services, not Knative's."""
ENDPOINTS = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
OWN_REVIEWS = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
REVIEWS = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False)

NAME = "dispatcher"
"""Of the dispatcher's Knative Service, Deployment and ServiceAccount."""
KEYS = "dispatcher-keys"
"""The Secret with the hashes of API keys."""
ENVIRONMENT = "dispatcher-env"
"""The ConfigMap with further settings of the dispatcher, as variables."""

PATIENCE = 3.0
"""Seconds, retries included, for each question."""


@dataclass(frozen=True, slots=True)
class Right:
    """What the dispatcher must be allowed to do. ``place``: in its own namespace (None), everywhere (``""``), or in the one
    that is named; ``only`` with the objects of these names."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    place: str | None = None
    only: tuple[str, ...] = ()

    def where(self, namespace: str) -> str:
        """Its namespace, where the dispatcher's is ``namespace``; "" for everywhere."""
        return namespace if self.place is None else self.place

    def of(self, namespace: str) -> str:
        """What it is about, for people."""
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        where = self.where(namespace)
        return f"{' '.join((what, *self.only))} {f'in {where}' if where else 'everywhere'}"


RIGHTS = (
    Right("", "nodes", ("get", "list", "watch"), ""),
    Right("", "pods", ("get", "list", "watch"), ""),
    Right("serving.knative.dev", "services", ("get", "list", "watch", "create", "delete")),
    Right("", "pods", ("delete",)),
    Right("", "pods/log", ("get",)),
    Right("", "secrets", ("get", "create", "patch", "delete")),
    Right("", "configmaps", ("get", "list", "watch", "create", "patch")),
    Right("", "resourcequotas", ("list", "watch")),
    Right("", "events", ("create",)),
    Right("coordination.k8s.io", "leases", ("get", "create", "update")),
    Right("", "configmaps", ("get",), KNATIVE, CONFIGS),
)
"""The same as deploy/base/rbac.yaml."""


@dataclass(frozen=True)
class Sight:
    """``settings`` are those of the dispatcher that is deployed, else the caller's; ``account`` is the ServiceAccount whose
    rights ``missing`` from RIGHTS, "" for the caller's own. ``knative`` are its ConfigMaps by name."""

    server: str
    inside: bool
    settings: Settings
    version: str | ApiError = ""
    namespace: Object | ApiError = field(default_factory=dict)
    services: Sequence[Object] | ApiError = ()
    deployment: Object | ApiError = field(default_factory=dict)
    knative: Mapping[str, Object | ApiError] = field(default_factory=dict)
    gateway: Object | ApiError | None = None
    endpoints: Sequence[Object] | ApiError = ()
    choices: Object | ApiError = field(default_factory=dict)
    nodes: Sequence[Object] | ApiError = ()
    pods: Sequence[Object] | ApiError = ()
    quotas: Sequence[Object] | ApiError = ()
    lease: Object | ApiError = field(default_factory=dict)
    has_keys: bool | ApiError = True
    account: str = ""
    missing: Sequence[str] | ApiError = ()
    complaint: str = ""
    """Why the settings of the deployment could not be read."""

    @property
    def features(self) -> Features:
        """What this Knative allows, as far as it may be seen."""
        found = [self.knative.get(name) for name in CONFIGS]
        return Features.of(*(None if isinstance(one, ApiError) else one for one in found))

    @property
    def deployed(self) -> Object | None:
        """The dispatcher's Knative Service or Deployment."""
        if not isinstance(self.services, ApiError):
            for service in self.services:
                if service["metadata"]["name"] == NAME:
                    return service
        return self.deployment if isinstance(self.deployment, dict) and self.deployment else None

    @property
    def replicas(self) -> list[Object]:
        """The dispatcher's pods."""
        wanted = dict(pair.split("=") for pair in LABELS.split(","))
        return [
            pod
            for pod in (() if isinstance(self.pods, ApiError) else self.pods)
            if pod["metadata"].get("namespace") == self.settings.namespace
            and wanted.items() <= (pod["metadata"].get("labels") or {}).items()
        ]


async def look(kube: Kube, settings: Settings) -> Sight:
    """Read everything. Raises `ApiError` where the API server cannot be asked at all."""
    place = settings.namespace
    namespace = await _first(kube, place)
    inside = in_pod()
    names = (*CONFIGS, "config-network")
    version, services, deployment, extra, *knative = await asyncio.gather(
        _answer(kube.version()),
        _list(kube, SERVICES, place),
        _get(kube, DEPLOYMENTS, NAME, place),
        _get(kube, CONFIGMAPS, ENVIRONMENT, place),
        *(_get(kube, CONFIGMAPS, name, KNATIVE) for name in names),
    )
    sight = Sight(kube.base_url, inside, settings, version, namespace, services, deployment)
    complaint = ""
    if sight.deployed is not None:
        try:
            settings = deployed_settings(settings, sight.deployed, extra)
        except SettingsError as error:
            complaint = "; ".join(error.problems)
    gateway = service_of(settings.gateway)
    account = "" if sight.deployed is None or inside else _account(sight.deployed)
    choices, nodes, pods, quotas, lease, keys, missing, port, endpoints = await asyncio.gather(
        _get(kube, CONFIGMAPS, settings.dispatcher_config, place),
        _list(kube, NODES),
        _list(kube, PODS),
        _list(kube, QUOTAS, place),
        _get(kube, LEASES, settings.lease, place),
        _get(kube, SECRETS, KEYS, place),
        missing_rights(kube, place, account),
        _get(kube, PORTS, *gateway) if gateway else _nothing(),
        _list(kube, ENDPOINTS, gateway[1], f"kubernetes.io/service-name={gateway[0]}") if gateway else _nothing(),
    )
    has_keys = not keys.missing if isinstance(keys, ApiError) else True
    return Sight(
        kube.base_url,
        inside,
        settings,
        version,
        namespace,
        services,
        deployment,
        dict(zip(names, knative, strict=True)),
        port,
        endpoints or (),
        choices,
        nodes,
        pods,
        quotas,
        lease,
        keys if isinstance(keys, ApiError) and not keys.missing else has_keys,
        account,
        missing,
        complaint,
    )


async def missing_rights(kube: Kube, namespace: str, account: str = "") -> list[str] | ApiError:
    """What of RIGHTS is not granted, as ``get,create leases.coordination.k8s.io in nthulab``: to the ServiceAccount, or
    without one to the caller."""

    async def is_granted(right: Right, verb: str, name: str) -> bool:
        resource, _, sub = right.resource.partition("/")
        wish: Object = {"group": right.group, "resource": resource, "verb": verb}
        more = (("namespace", right.where(namespace)), ("subresource", sub), ("name", name))
        spec: Object = {"resourceAttributes": wish | {key: value for key, value in more if value}}
        if account:
            spec["user"] = f"system:serviceaccount:{namespace}:{account}"
            spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        review = await kube.create(REVIEWS if account else OWN_REVIEWS, {"spec": spec}, patience=PATIENCE)
        return bool((review.get("status") or {}).get("allowed"))

    async def lacking(right: Right) -> str:
        names = right.only or ("",)
        granted = await asyncio.gather(*(is_granted(right, verb, name) for verb in right.verbs for name in names))
        wanted = [verb for verb in right.verbs for _ in names]
        verbs = dict.fromkeys(verb for verb, is_there in zip(wanted, granted, strict=True) if not is_there)
        return f"{','.join(verbs)} {right.of(namespace)}" if verbs else ""

    try:
        return list(filter(None, await asyncio.gather(*map(lacking, RIGHTS))))
    except ApiError as error:
        return error


def deployed_settings(own: Settings, deployed: Object, extra: Object | ApiError) -> Settings:
    """The settings of the dispatcher that is deployed, as far as they are no secrets. Raises `SettingsError`."""
    container = deployed["spec"]["template"]["spec"]["containers"][0]
    environ: dict[str, str] = {}
    if any((source.get("configMapRef") or {}).get("name") == ENVIRONMENT for source in container.get("envFrom") or ()):
        environ |= {} if isinstance(extra, ApiError) else extra.get("data") or {}
    environ |= {one["name"]: one["value"] for one in container.get("env") or () if isinstance(one.get("value"), str)}
    environ |= {"XDG_CONFIG_HOME": "/nonexistent"}  # its own machine has no settings file; this one may
    flags: dict[str, object] = {"namespace": own.namespace, "kube_context": own.kube_context}
    return load(flags=flags, environ=environ).settings


def service_of(gateway: str) -> tuple[str, str] | None:
    """Name and namespace of the Service behind an address like ``kourier-internal.kourier-system.svc.cluster.local:80``;
    None for other addresses."""
    name, _, rest = gateway.rpartition(":")[0].partition(".")
    namespace, _, rest = rest.partition(".")
    return (name, namespace) if rest == "svc" or rest.startswith("svc.") else None


def _account(deployed: Object) -> str:
    return str(deployed["spec"]["template"]["spec"].get("serviceAccountName") or "default")


async def _first(kube: Kube, namespace: str) -> Object | ApiError:
    """The first question, which tells whether there is an API server that knows us."""
    try:
        return await kube.get(NAMESPACES, namespace, timeout=PATIENCE, patience=0)
    except ApiError as error:
        if error.status in (0, 401):
            raise
        return error


async def _get(kube: Kube, kind: Kind, name: str, namespace: str) -> Any:
    return await _answer(kube.get(kind, name, namespace, patience=PATIENCE))


async def _list(kube: Kube, kind: Kind, namespace: str | None = None, labels: str = "") -> Any:
    found = await _answer(kube.list(kind, namespace, labels=labels, patience=PATIENCE))
    return found if isinstance(found, ApiError) else found[0]


async def _answer(question: Awaitable[T]) -> T | ApiError:
    try:
        return await question
    except ApiError as error:
        return error


async def _nothing() -> None:
    return None
