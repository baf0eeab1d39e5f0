"""`ssis doctor --cluster`: what a dispatcher needs of a cluster, what is missing, and the command that fixes it.

Works from an administrator's machine as well as in a pod. `sight` reads; here it is judged. What may not be seen is said,
and counts as no failure.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ssis_dispatcher.assembly.choices import FALLBACK_ENGINE, Choices, choices
from ssis_dispatcher.assembly.cluster import served
from ssis_dispatcher.assembly.doctor import places
from ssis_dispatcher.assembly.doctor.check import Check
from ssis_dispatcher.assembly.doctor.sight import KEYS, Sight, look, service_of
from ssis_dispatcher.assembly.passage import in_words, is_ready
from ssis_dispatcher.core.slices import Pool, SliceKind
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.http import addresses
from ssis_dispatcher.kube.api import ApiError, Kube
from ssis_dispatcher.kube.credentials import NoCluster
from ssis_dispatcher.launchers.knative.capacity import inventory
from ssis_dispatcher.launchers.knative.features import (
    NEWEST,
    NODE_SELECTOR,
    TOLERATIONS,
    is_nebuly,
    mps_needs,
    needs,
    patch,
)
from ssis_dispatcher.launchers.knative.nodes import Node
from ssis_dispatcher.launchers.knative.options import KnativeOptions, VolumeKind
from ssis_dispatcher.settings import Settings

OLDEST_KUBERNETES = (1, 28)
"""What the oldest Knative that this program knows starts on."""

KOURIER = "kourier.ingress.networking.knative.dev"
CLASS = "ingress-class"

SHOWN = 5
"""Nodes with something wrong that get a line each."""

CONNECT_SECONDS = 3.0

_SETUP = "make setup_knative"
_DEPLOY = "make deploy"


def doctor(settings: Settings) -> list[Check]:
    """Look at everything that a dispatcher with these settings, or the one that is deployed, needs. Never raises."""
    try:
        return asyncio.run(_doctor(settings))
    except Exception as error:
        return [Check("cluster", None, f"could not be looked at: {type(error).__name__}: {error}")]


async def _doctor(settings: Settings) -> list[Check]:
    try:
        kube = Kube.find(settings.kube_context)
    except NoCluster as error:
        detail = str(error).rstrip(".")
        fix = "" if "pip install" in detail else "name a kubeconfig with KUBECONFIG, or a context with --kube-context"
        return [Check("cluster", False, detail, fix)]
    try:
        sight = await look(kube, settings)
    except ApiError as error:
        fix = "sign in again" if error.status == 401 else "check the address and the network: kubectl version"
        return [Check("cluster", False, error.message, fix)]
    finally:
        await kube.close()
    gateway, trouble = await asyncio.gather(
        asyncio.to_thread(reached, sight.settings.gateway), asyncio.to_thread(places.hub_trouble, sight.settings)
    )
    return [*judged(sight, gateway), hub(sight, trouble)]


def judged(sight: Sight, gateway: str | None) -> list[Check]:
    """The lines about everything that was seen; ``gateway`` is what `reached` said of it."""
    lines: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("kubernetes", lambda: [kubernetes(sight)]),
        ("knative", lambda: [knative(sight)]),
        ("ingress class", lambda: [ingress_class(sight)]),
        ("gateway", lambda: gateways(sight, gateway)),
        ("namespace", lambda: [namespace(sight)]),
        ("configuration", lambda: [configuration(sight)]),
        ("flags", lambda: flags(sight)),
        ("slices", lambda: slices(sight)),
        ("pod security", lambda: pod_security(sight)),
        ("rights", lambda: [rights(sight)]),
        ("dispatcher", lambda: dispatcher(sight)),
        ("keys", lambda: [keys(sight)]),
    )
    return [check for name, line in lines for check in _examined(name, line)]


def _examined(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    try:
        return list(look())
    except Exception as error:  # as in the doctor of this machine: one look that fails must not hide the others
        return [Check(name, None, f"could not be looked at: {type(error).__name__}: {error}")]


def _unseen(name: str, error: ApiError) -> Check:
    return Check(name, None, f"cannot be told: {in_words(error)}")


# The platform


def kubernetes(sight: Sight) -> Check:
    if isinstance(sight.version, ApiError):
        return _unseen("kubernetes", sight.version)
    detail = f"{sight.version} at {sight.server}"
    parts = sight.version.split(".")
    if not all(map(str.isdecimal, parts)) or tuple(map(int, parts)) >= OLDEST_KUBERNETES:
        return Check("kubernetes", True, detail)
    oldest = ".".join(map(str, OLDEST_KUBERNETES))
    return Check("kubernetes", False, f"{detail}: Knative needs {oldest} or newer", "upgrade the cluster")


def knative(sight: Sight) -> Check:
    """Whether it is there, and of which version."""
    if isinstance(sight.services, ApiError):
        if sight.services.missing:
            return Check("knative", False, "the cluster knows no services.serving.knative.dev", _SETUP)
        return _unseen("knative", sight.services)
    features = sight.features
    if features.trouble:
        return Check("knative", False, features.trouble, "upgrade Knative, one minor version at a time")
    if features.version is None:
        return Check("knative", None, "there; its version cannot be told from config-features")
    version = f"{features.version[0]}.{features.version[1]}"
    if features.version > NEWEST:
        newest = f"{NEWEST[0]}.{NEWEST[1]}"
        return Check("knative", None, f"{version}: newer than {newest}, the newest that this program was written for")
    return Check("knative", True, version if features.is_exact else f"{version} or newer")


def ingress_class(sight: Sight) -> Check:
    config = sight.knative.get("config-network", {})
    if isinstance(config, ApiError):
        return _unseen("ingress class", config)
    data = config.get("data") or {}
    found = data.get(CLASS) or data.get("ingress.class") or ""
    if found == KOURIER:
        return Check("ingress class", True, "kourier")
    patch = f'{{"data":{{"{CLASS}":"{KOURIER}"}}}}'
    fix = f"kubectl patch configmap/config-network -n knative-serving --type merge -p '{patch}'"
    if not found:
        return Check(
            "ingress class", False, "none is set: Knative takes Istio's, and no server would become ready", fix
        )
    if sight.settings.gateway != Settings().gateway:
        return Check("ingress class", True, f"{found}; servers are called at {sight.settings.gateway}")
    fix = "SSIS_GATEWAY=HOST:PORT of that gateway, or SSIS_GATEWAY=pods"
    return Check("ingress class", False, f"{found}, but servers are called at Kourier's address", fix)


def gateways(sight: Sight, reached: str | None) -> Iterator[Check]:
    """The Service that servers are called at, and whether its name means anything here."""
    address = sight.settings.gateway
    if address == "pods":
        yield Check("gateway", True, "none is used: servers are called at their pods")
        return
    if (named := service_of(address)) is not None:
        name, home = named
        if isinstance(sight.gateway, ApiError):
            if sight.gateway.missing:
                fix = f"{_SETUP}, or SSIS_GATEWAY=HOST:PORT where the gateway is another"
                yield Check("gateway", False, f"there is no Service {name} in {home}", fix)
            else:
                yield _unseen("gateway", sight.gateway)
        elif isinstance(sight.endpoints, ApiError):
            yield _unseen("gateway", sight.endpoints)
        else:
            ready = _ready_endpoints(sight.endpoints)
            why = f"kubectl -n {home} get pods"
            detail = f"{name} in {home}: {_count(ready, 'pod')} ready"
            yield Check("gateway", bool(ready), detail, "" if ready else why)
    if reached == "":
        yield Check("gateway address", True, f"{address} answers")
    elif reached is None and not sight.inside:
        yield Check(
            "gateway address", None, f"{address} means nothing on this machine, as is usual outside the cluster"
        )
    else:
        fix = "check the cluster's DNS, SSIS_GATEWAY and network policies"
        yield Check("gateway address", False, f"{address}: {reached or 'the name is not known'}", fix)


def _ready_endpoints(slices: Iterable[dict[str, Any]]) -> int:
    """How many addresses take requests; ``ready`` that is not said means yes."""
    points = [point for slice in slices for point in slice.get("endpoints") or ()]
    return sum((point.get("conditions") or {}).get("ready") is not False for point in points)


def reached(address: str) -> str | None:
    """Whether somebody listens at ``host:port``: "" if so, None where the name is not known, else what went wrong."""
    if not address.rpartition(":")[0]:
        return None
    where = addresses.split(address)
    try:
        socket.getaddrinfo(*where, type=socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        socket.create_connection(where, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def hub(sight: Sight, trouble: str) -> Check:
    """``trouble``: what went wrong when it was asked from here, "" if it answers."""
    settings = sight.settings
    if settings.hub_offline:
        return Check("model hub", None, "not asked: hub_offline is set")
    if not trouble:
        return Check("model hub", True, f"{settings.hub_endpoint} answers")
    whose = "" if sight.inside else "; asked from this machine, and the cluster may be better off"
    fix = "check the network, or SSIS_HUB_ENDPOINT of a mirror, or SSIS_HUB_OFFLINE=1"
    return Check("model hub", None, f"{settings.hub_endpoint}: {trouble}{whose}", fix)


# Our place in it


def namespace(sight: Sight) -> Check:
    name, found = sight.settings.namespace, sight.namespace
    if isinstance(found, ApiError):
        if found.missing:
            return Check(
                "namespace", False, f"there is no namespace {name}", f"{_DEPLOY}, or kubectl create namespace {name}"
            )
        return _unseen("namespace", found)
    if found["metadata"].get("deletionTimestamp"):
        return Check("namespace", False, f"{name} is being deleted", f"wait until it is gone, then {_DEPLOY}")
    return Check("namespace", True, name)


def pod_security(sight: Sight) -> Iterator[Check]:
    """Whether the namespace admits the pods that servers need."""
    found, name = sight.namespace, sight.settings.namespace
    if isinstance(found, ApiError):
        if not found.missing:
            yield _unseen("pod security", found)
        return
    level = (found["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce", "")
    shown = f"{name} enforces {level}" if level else f"{name} enforces no level of its own"
    options = _chosen(sight).options
    wants = []
    if options.host_ipc and any(map(_is_nebuly, _pools(sight))):
        wants.append("MPS slices of Nebuly's plugin (host IPC)")
    if options.weights.kind is VolumeKind.HOST or options.mounts_mps_pipe:
        wants.append("folders of the node")

    def relabel(to: str) -> str:
        return f"kubectl label namespace {name} pod-security.kubernetes.io/enforce={to} --overwrite"

    if wants and level in ("baseline", "restricted"):
        yield Check("pod security", False, f"{shown}, which forbids {' and '.join(wants)}", relabel("privileged"))
    elif level == "restricted":
        detail = f"{shown}: inference images that run as root are refused"
        yield Check("pod security", None, detail, relabel("baseline"))
    else:
        yield Check("pod security", True, shown)


def configuration(sight: Sight) -> Check:
    """The ConfigMap with the operator's choices, and the settings beneath it."""
    name, place = sight.settings.dispatcher_config, sight.settings.namespace
    if sight.complaint:
        return Check(
            "configuration", False, f"settings of the deployment: {sight.complaint}", f"mend them, then {_DEPLOY}"
        )
    if isinstance(sight.choices, ApiError) and not sight.choices.missing:
        return _unseen("configuration", sight.choices)
    fix = f"mend that setting, then {_DEPLOY}"
    try:
        _choices(sight, None)
        fix = f"kubectl -n {place} edit configmap {name}"
        found = _choices(sight, _edited(sight))
    except BadFile as error:
        return Check("configuration", False, str(error), fix)
    only = f"only {', '.join(found.options.resources)}" if found.options.resources else "every slice that nodes have"
    if isinstance(sight.choices, ApiError):
        return Check(
            "configuration", None, f"there is no ConfigMap {name} in {place}: the settings alone count", _DEPLOY
        )
    models = f", {_count(len(found.catalogue.entries), 'model')} in the catalogue" if found.catalogue else ""
    return Check("configuration", True, f"{name}: {only}, engine {found.engine}{models}")


def _edited(sight: Sight) -> dict[str, str] | None:
    """What is in the ConfigMap; None where it is not, or may not be read."""
    return sight.choices.get("data") if isinstance(sight.choices, dict) else None


def _choices(sight: Sight, edited: dict[str, str] | None) -> Choices:
    """Raises `BadFile`."""
    return choices(sight.settings, edited, served(sight.settings))


def _chosen(sight: Sight) -> Choices:
    """The choices that count: without the ConfigMap where that is wrong, and none at all where the settings are."""
    for edited in (_edited(sight), None):
        try:
            return _choices(sight, edited)
        except BadFile:
            continue
    return Choices(KnativeOptions(namespace=sight.settings.namespace), FALLBACK_ENGINE)


def flags(sight: Sight) -> Iterator[Check]:
    """Knative's flags that the choices need, and those that the slices do."""
    config = sight.knative.get("config-features", {})
    if isinstance(config, ApiError):
        yield _unseen("flags", config)
        return
    options, features, pools = _chosen(sight).options, sight.features, _pools(sight)
    quiet = True
    for missing in needs(options, features):
        quiet = False
        yield Check("flags", False, missing.why, missing.patch or "upgrade Knative")
    if nebuly := [pool for pool in pools if _is_nebuly(pool)]:
        for missing in mps_needs(options, features):
            quiet = False
            rest = None if len(nebuly) < len(pools) else False
            yield Check("flags", rest, missing.why, missing.patch or "upgrade Knative, or use MIG or whole GPUs")
    sizes = defaultdict(set)
    for pool in pools:
        sizes[pool.slice.name].add((pool.slice.memory_mib, pool.slice.compute))
    for name in sorted(name for name, found in sizes.items() if len(found) > 1):
        if not (options.pins_nodes and features.on(NODE_SELECTOR)):
            quiet = False
            detail = f"{name} has several sizes, and the smallest counts, unless servers may be put on nodes by name"
            yield Check("flags", None, detail, patch(NODE_SELECTOR))
    if quiet:
        yield Check("flags", True, f"all that is needed; requests may take {features.max_timeout} s")


# Slices


def _pools(sight: Sight) -> list[Pool]:
    """Every slice of every node as the node itself means it, whatever may be used of them."""
    if isinstance(sight.nodes, ApiError):
        return []
    nodes = map(Node.of, sight.nodes)
    return [Pool(node.name, slice, count) for node in nodes for slice, count in node.slices if count]


def _is_nebuly(pool: Pool) -> bool:
    return is_nebuly(pool.slice)


def slices(sight: Sight) -> Iterator[Check]:
    """What there is and what of it is free, and the nodes whose slices cannot be used."""
    for answer in (sight.nodes, sight.pods):
        if isinstance(answer, ApiError):
            yield _unseen("slices", answer)
            return
    assert not isinstance(sight.nodes, ApiError)
    assert not isinstance(sight.pods, ApiError)
    options = _chosen(sight).options
    quotas = () if isinstance(sight.quotas, ApiError) else sight.quotas
    pools, _ = inventory(sight.nodes, sight.pods, quotas, ours=(), options=options, features=sight.features)
    if not pools:
        there = {pool.slice.name for pool in _pools(sight)}
        if there:
            place, config = sight.settings.namespace, sight.settings.dispatcher_config
            fix = f"kubectl -n {place} edit configmap {config}, or see nodes below"
            yield Check("slices", False, f"nodes have {', '.join(sorted(there))}, and nothing of it may be used", fix)
        else:
            fix = "install a GPU device plugin, or share out nodes' memory: make deploy OVERLAY=cpu"
            yield Check("slices", False, "no node advertises a slice", fix)
    else:
        yield Check("slices", True, _listed(pools))
    yield from _single(sight)
    yield from _nodes(sight)


def _listed(pools: Iterable[Pool]) -> str:
    """``3 of 4 nvidia.com/mig-1g.5gb free``, by name."""
    total: dict[str, int] = defaultdict(int)
    free: dict[str, int] = defaultdict(int)
    for pool in pools:
        total[pool.slice.name] += pool.total
        free[pool.slice.name] += pool.total - pool.taken
    return "free: " + ", ".join(f"{free[name]} of {total[name]} {name}" for name in sorted(total))


def _single(sight: Sight) -> Iterator[Check]:
    """Nodes of MIG strategy ``single``, where the name of a whole GPU means a slice."""
    found = [pool for pool in _pools(sight) if pool.slice.kind is SliceKind.MIG and "mig-" not in pool.slice.name]
    if found:
        names = ", ".join(sorted({f"{pool.node} ({pool.slice.memory_mib} MiB)" for pool in found})[:SHOWN])
        yield Check("slices", None, f"MIG strategy single: {found[0].slice.name} means a MIG slice on {names}")


def _nodes(sight: Sight) -> Iterator[Check]:
    """Nodes that have slices and take nothing."""
    if isinstance(sight.nodes, ApiError):
        return
    options = _chosen(sight).options
    tolerations = options.tolerations if sight.features.on(TOLERATIONS) else ()
    wrong: list[tuple[str, str, str]] = []
    for node in map(Node.of, sight.nodes):
        held = [slice.name for slice, count in node.slices if count]
        if not held:
            continue
        if node.away:
            fix = f"kubectl uncordon {node.name}" if "cordoned" in node.away else f"kubectl describe node {node.name}"
            wrong.append((node.name, node.away, fix))
            continue
        taints = min(
            (node.barring(tolerations, name if options.has_toleration_plugin else "") for name in held), key=len
        )
        if taints:
            words = ",".join(f"{one.key}{f'={one.value}' if one.value else ''}:{one.effect}" for one in taints)
            why = f"it is tainted with {', '.join(one.key for one in taints)}"
            wrong.append((node.name, why, f"SSIS_TOLERATIONS={words}, with Knative's flag {TOLERATIONS}"))
    for name, why, fix in wrong[:SHOWN]:
        yield Check("nodes", None, f"{name} takes no server: {why}", fix)
    if len(wrong) > SHOWN:
        yield Check("nodes", None, f"and {len(wrong) - SHOWN} more nodes that take no server", "kubectl get nodes")


# Ourselves


def rights(sight: Sight) -> Check:
    who = f"ServiceAccount {sight.account}" if sight.account else "this pod" if sight.inside else "you"
    if isinstance(sight.missing, ApiError):
        return _unseen("rights", sight.missing)
    if not sight.missing:
        return Check("rights", True, f"{who} may do all that is needed")
    fix = f"{_DEPLOY}, or kubectl apply -f deploy/base/rbac.yaml"
    # Where none is deployed, it is the caller's that were asked for: they matter to a dispatcher on this machine alone.
    return Check("rights", None if who == "you" else False, f"{who} may not: {'; '.join(sight.missing)}", fix)


def dispatcher(sight: Sight) -> Iterator[Check]:
    """Whether it is deployed and ready, and who leads."""
    place, deployed = sight.settings.namespace, sight.deployed
    if deployed is None:
        for answer in (sight.services, sight.deployment):
            if isinstance(answer, ApiError) and not answer.missing:
                yield _unseen("dispatcher", answer)
                return
        yield Check("dispatcher", None, f"none is deployed in {place}", _DEPLOY)
        return
    what = deployed.get("kind", "Deployment")
    ready = sum(map(is_ready, sight.replicas))
    told = _condition(deployed, "Ready" if what == "Service" else "Available")
    if told.get("status") == "True":
        url = (deployed.get("status") or {}).get(
            "url"
        ) or f"http://dispatcher.{place}.svc.{sight.settings.cluster_domain}"
        yield Check("dispatcher", True, f"{_count(ready, 'pod')} ready, at {url}")
    else:
        # Knative's own summary may say only that there is no ready revision; the cause is one condition below.
        cause = _condition(deployed, "ConfigurationsReady")
        said = next((one["message"] for one in (cause, told) if one.get("message")), "it is not ready")
        fix = f"kubectl -n {place} describe pods -l app.kubernetes.io/name=ssis-dispatcher"
        yield Check("dispatcher", False, said, fix)
    yield leader(sight, ready > 0)


def leader(sight: Sight, serves: bool) -> Check:
    """Who decides, by the Lease. How old that is cannot be told from here: clocks differ."""
    if isinstance(sight.lease, ApiError):
        if not sight.lease.missing:
            return _unseen("leader", sight.lease)
        holder = ""
    else:
        holder = (sight.lease.get("spec") or {}).get("holderIdentity") or ""
    logs = f"kubectl -n {sight.settings.namespace} logs -l app.kubernetes.io/name=ssis-dispatcher -c dispatcher"
    if not holder:
        return Check("leader", False if serves else None, "no dispatcher leads", logs if serves else "")
    if sight.replicas and holder not in {pod["metadata"]["name"] for pod in sight.replicas}:
        return Check("leader", None, f"{holder}, which is none of the dispatcher's pods (it may just have gone)", logs)
    return Check("leader", True, holder)


def keys(sight: Sight) -> Check:
    if isinstance(sight.has_keys, ApiError):
        return _unseen("keys", sight.has_keys)
    if sight.has_keys:
        return Check("keys", True, f"in the Secret {KEYS}")
    if sight.settings.insecure:
        return Check("keys", None, "none are asked for: whoever reaches the dispatcher may use the GPUs", _DEPLOY)
    missing = f"there is no Secret {KEYS}, without which a dispatcher does not start"
    return Check("keys", None if sight.deployed is None else False, missing, _DEPLOY)


def _condition(item: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
