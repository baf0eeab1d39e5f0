"""What is decided of a server before it is written down: image, command, environment, devices, volumes, requests. Pure.

What the operator chose, what the engine needs, and what the slice and this cluster's Knative allow come together here;
the rules of Knative and of the device plugins are told where they count. Called by the launcher, and for `host_request`
by the assembly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

import msgspec

from ssis_dispatcher.core.messages import Failure, FailureKind, Launch
from ssis_dispatcher.core.sizing import MIB, Profile, fit
from ssis_dispatcher.core.slices import PENDING, Slice, SliceKind, cpu_slice
from ssis_dispatcher.engines import images
from ssis_dispatcher.engines.base import Command, Engine, Options
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.knative import names
from ssis_dispatcher.launchers.knative.features import NODE_SELECTOR, Features, is_nebuly, needs, refusal
from ssis_dispatcher.launchers.knative.options import (
    HostRule,
    KnativeOptions,
    PodSource,
    Toleration,
    VolumeKind,
    Weights,
)

PORT = 8080
"""Knative's own default. It is told to the server as ``PORT`` too, which nobody but Knative may set."""

RESERVED_PORTS = frozenset({8008, 8012, 8013, 8022, 8112, 9090, 9091})
"""Ports of Knative's own container beside the server's."""

RESERVED = frozenset({"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"})
"""Variables that Knative sets, and refuses to have set."""

TOKENS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""Variables that hold the hub token: never written down, a Secret is referred to."""

SECRET_KEY = "token"
"""Where the Secret of a server has the caller's hub token."""

DATA = "/data"
"""Where the weights' volume is mounted. TGI's images expect it there."""

MPS_PIPE = "/tmp/nvidia-mps"  # where the daemon of Nebuly's plugin has it, on every node

LEAST_DEADLINE = 120
MOST_DEADLINE = 24 * 3600
"""Bounds of Knative's progress deadline, in seconds."""

_AFTER_OURS = 60
"""Seconds by which Knative's deadline is later than the fleet's, so that it is ours which ends a start, with our
reason."""

_LEAST_CACHE_MIB = 20 * 1024
_UNKNOWN_CACHE_MIB = 200 * 1024


class Mount(msgspec.Struct, frozen=True):
    """A volume and where it is mounted."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = False


class Token(msgspec.Struct, frozen=True):
    """Where ``HF_TOKEN`` comes from. ``is_optional``: the server starts without it where the Secret is not there."""

    secret: str
    key: str
    is_optional: bool = False


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One server as it is to be, with everything decided.

    ``command`` takes the place of the image's entry point, () leaves it. ``resource`` is the slice's name, "" where it
    is none of the cluster's (CPU). ``cpu_millis`` and ``memory_mib`` are requests, and limits too where ``is_bounded``.
    ``uid`` None is the image's own user. Times are in seconds. ``node`` is a node's hostname label, "" leaves the
    choice to the scheduler.
    """

    name: str
    namespace: str
    image: str
    command: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    token: Token | None = None
    port: int = PORT
    health: str = "/health"
    resource: str = ""
    count: int = 1
    cpu_millis: int = 0
    memory_mib: int = 0
    is_bounded: bool = False
    mounts: tuple[Mount, ...] = ()
    uid: int | None = None
    timeout: int = 600
    progress_deadline: int = LEAST_DEADLINE
    node: str = ""
    host_ipc: bool = False
    runtime_class: str = ""
    tolerations: tuple[Toleration, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    pod_labels: Mapping[str, str] = {}
    pod_annotations: Mapping[str, str] = {}


def spec_of(
    order: Launch, engine: Engine, source: PodSource, options: KnativeOptions, features: Features, hostname: str = ""
) -> ServiceSpec:
    """``order`` as a server on this cluster; ``hostname`` is what its node is selected by (`capacity.hostname`). Raises
    `LaunchFailed`, with the reason and what the operator does, for what the cluster does not allow."""
    slice = order.pool.slice
    _check(slice, options, features)
    port = _port(engine)
    image = source.image or images.image(engine.name, slice_keys(slice), options.images)
    if not image:
        raise _misconfigured(f"nobody has said which image runs {engine.name}; the operator names one")
    command = engine.command(_terms(order, source, options, port))
    uid = _by_slice(options.uids, slice)
    cpu_millis, memory_mib, is_bounded = _asks(order, engine.name, options, features)
    token = _token(order, source, options)
    return ServiceSpec(
        name=order.server,
        namespace=options.namespace,
        image=image,
        command=_program(engine, command),
        argv=command.argv,
        env=_env(order, engine, source, options, command, uid),
        token=token,
        port=port,
        health=engine.health,
        resource="" if slice.kind is SliceKind.CPU else slice.name,
        count=order.count,
        cpu_millis=cpu_millis,
        memory_mib=memory_mib,
        is_bounded=is_bounded,
        mounts=_mounts(order, engine.name, options),
        uid=uid,
        timeout=features.max_timeout,
        progress_deadline=progress_deadline(order),
        node=hostname if _pins(order, options, features) else "",
        host_ipc=is_nebuly(slice) and options.host_ipc,
        runtime_class="" if slice.kind is SliceKind.CPU else options.runtime_class,
        tolerations=options.tolerations,
        pull_secrets=options.pull_secrets,
        service_account=options.service_account,
        labels=dict(options.labels) | names.labels(order.model),
        annotations=dict(options.annotations) | names.marks(order),
        pod_labels=dict(options.labels) | names.labels(order.model),
        pod_annotations=dict(options.annotations) | {names.MODEL_ID: order.model.id},
    )


def host_request(profile: Profile, engine: str, rule: HostRule, sidecar: tuple[int, int] = (25, 0)) -> tuple[int, int]:
    """What one server of the model asks of its node beside the slice: thousandths of a core, MiB of memory.

    Memory: the engine's own, and the weights once (× ``rule.weights_share``): they reach the GPU through the host's
    memory, whole where a file is converted or read by ``torch.load``, in pieces where it is mapped (safetensors, GGUF),
    and then it is the page cache that makes the next start quick. CPU: a core that feeds the GPU, and more for a larger
    model, which is read and checked by as many threads as there are. What Knative's own container asks (``sidecar``) is
    part of it.

    The original asked 4 cores and 100 GiB for every model, which most nodes do not have.
    """
    weights = profile.facts.weight_bytes
    own = rule.engine_mib.get(engine, images.container(engine).host_mib)
    if weights is None:
        cpu, memory = rule.cpu_millis, max(own, rule.unknown_mib)
    else:
        cpu = rule.cpu_millis + rule.cpu_millis_per_gib * weights // (1024 * MIB)
        memory = own + ceil(rule.weights_share * weights / MIB)
    cpu = max(min(cpu, rule.most_cpu_millis), 0)
    memory = max(min(memory, rule.most_mib), rule.least_mib)
    return cpu + sidecar[0], memory + sidecar[1]


def progress_deadline(order: Launch) -> int:
    """Seconds after which Knative gives a start up: later than the fleet does, which waits ``order.budget`` and longer
    while a model downloads."""
    wanted = ceil(max(order.budget, 2 * order.profile.start_seconds)) + _AFTER_OURS
    return max(LEAST_DEADLINE, min(wanted, MOST_DEADLINE))


def slice_keys(slice: Slice) -> tuple[str, ...]:
    """By what keys the operator's tables know ``slice``, most telling first."""
    return (images.NEBULY, slice.kind) if is_nebuly(slice) else (slice.kind,)


def device_mib(slice: Slice) -> int:
    """What an engine on ``slice`` sees as its whole device, where that is more than the slice: under MPS the card,
    whatever the limit; time-sliced, the memory of all who take turns. 0 where the slice is all there is to see."""
    if not slice.compute or not (slice.kind is SliceKind.MPS or slice.shared):
        return 0
    whole = 1.0
    if match := re.match(r"nvidia\.com/mig-(\d)g\.", slice.name):
        whole = min(1.0, int(match[1]) / 7)
    return round(slice.memory_mib * max(1.0, whole / slice.compute))


def thread_percentage(slice: Slice, table: Mapping[str, int]) -> int:
    """The share of a card's threads for an MPS slice of Nebuly's plugin: the operator's (``4gb`` → 12), else the
    slice's part of the card's memory."""
    size = f"{slice.name.rpartition('-')[2]}"
    if (written := table.get(size)) is not None:
        return max(1, min(100, written))
    card = device_mib(slice)
    return max(1, min(100, 100 * slice.memory_mib // card)) if card else 100


def _check(slice: Slice, options: KnativeOptions, features: Features) -> None:
    if reason := refusal(slice, options, features):
        raise _misconfigured(reason)
    if missing := needs(options, features):
        raise _misconfigured("; ".join(map(str, missing)))


def _port(engine: Engine) -> int:
    port = engine.port if isinstance(engine, CommandEngine) and engine.port else PORT
    if port in RESERVED_PORTS:
        raise _misconfigured(
            f"{engine.name} listens on port {port}, which Knative uses itself; the operator sets another"
        )
    return port


def _terms(order: Launch, source: PodSource, options: KnativeOptions, port: int) -> Options:
    """The order in the engine's terms."""
    slice = order.pool.slice
    planned = fit(order.profile, slice, order.count)
    kv = 0 if planned.weights_mib is None else planned.memory_mib - planned.weights_mib - planned.overhead_mib
    share = _cpu_millis(slice, options)
    return Options(
        model=source.load,
        served_as=order.model.id,
        host="0.0.0.0",  # of the pod, whose port only the gateway reaches
        port=port,
        context=order.context,
        seats=order.seats,
        memory_mib=slice.memory_mib,
        gpus=0 if slice.kind is SliceKind.CPU else order.count,
        threads=max(1, round((share or order.profile.host_cpu_millis or options.host.cpu_millis) / 1000)),
        revision=order.model.revision,
        arguments=order.model.arguments,
        device_mib=device_mib(slice),
        kv_mib=max(0, kv),
    )


def _program(engine: Engine, command: Command) -> tuple[str, ...]:
    """What takes the place of the image's entry point."""
    if isinstance(engine, CommandEngine) and engine.has_command:
        return command.program
    return command.program if images.container(engine.name).by_program else ()


def _env(
    order: Launch,
    engine: Engine,
    source: PodSource,
    options: KnativeOptions,
    command: Command,
    uid: int | None,
) -> tuple[tuple[str, str], ...]:
    """From the most general to what must be so, by name."""
    slice = order.pool.slice
    env = {"HF_HOME": DATA}
    env |= {name: f"{DATA}/{folder}" for name, folder in images.container(engine.name).caches}
    if uid:
        env["HOME"] = DATA  # a user whom the image does not know has no other folder to write to
    if options.weights.is_filled:
        env |= {"HF_HUB_OFFLINE": "1", **dict(images.container(engine.name).offline)}
    env |= dict(options.env) | dict(source.env) | dict(command.env)
    if slice.kind is SliceKind.CPU:
        # CUDA's base images say "all", and where the nvidia runtime is the default that is all the node has.
        env |= {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}
    if is_nebuly(slice):
        env |= mps_env(slice, options)
    return tuple((name, env[name]) for name in sorted(env.keys() - RESERVED - TOKENS))


def mps_env(slice: Slice, options: KnativeOptions) -> dict[str, str]:
    """What Nebuly's plugin fails to tell a client of its MPS server: its last release writes the limit as ``0:4G``,
    which CUDA does not understand, its last code nothing at all, and neither the share of threads. The device is number
    0 in the pod."""
    return {
        "CUDA_MPS_PIPE_DIRECTORY": MPS_PIPE,
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={slice.memory_mib // 1024}G",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(thread_percentage(slice, options.mps_threads)),
    }


def _token(order: Launch, source: PodSource, options: KnativeOptions) -> Token | None:
    if source.token:
        return Token(order.server, SECRET_KEY)
    return Token(options.token_secret, options.token_key, is_optional=True) if options.token_secret else None


def _asks(order: Launch, engine: str, options: KnativeOptions, features: Features) -> tuple[int, int, bool]:
    """What the server's own container asks of the node, and whether that bounds it: CPU slices are bounded by their
    size, and on other slices nothing is gained by killing a server for its page cache."""
    slice, profile = order.pool.slice, order.profile
    if slice.kind is SliceKind.CPU:
        return _cpu_millis(slice, options), slice.memory_mib, True
    cpu, memory = profile.host_cpu_millis, profile.host_mib
    if not (cpu or memory):
        cpu, memory = host_request(profile, engine, options.host, features.sidecar)
    sidecar_cpu, sidecar_mib = features.sidecar
    return max(0, cpu - sidecar_cpu), max(0, memory - sidecar_mib), False


def _cpu_millis(slice: Slice, options: KnativeOptions) -> int:
    """The thousandths of a core that go with a CPU slice; 0 for other slices, and where no share is of its size any
    more."""
    if slice.kind is not SliceKind.CPU:
        return 0
    return next((share.cpu_millis for share in options.cpu_shares if cpu_slice(share.memory_mib).name == slice.name), 0)


def _mounts(order: Launch, engine: str, options: KnativeOptions) -> tuple[Mount, ...]:
    mounts = [_weights_mount(options.weights, order.profile)]
    if options.shm_mib and (order.count > 1 or images.container(engine).joins):
        source = {"emptyDir": {"medium": "Memory", "sizeLimit": f"{options.shm_mib}Mi"}}
        mounts.append(Mount("shm", "/dev/shm", source))
    if is_nebuly(order.pool.slice) and options.host_ipc and options.mounts_mps_pipe:
        # Read-only is enough for a pipe and a socket, and Knative allows nothing else of a hostPath.
        source = {"hostPath": {"path": MPS_PIPE, "type": "Directory"}}
        mounts.append(Mount("mps", MPS_PIPE, source, read_only=True))
    return tuple(mounts)


def _weights_mount(weights: Weights, profile: Profile) -> Mount:
    if weights.kind is VolumeKind.HOST:
        return Mount("weights", DATA, {"hostPath": {"path": weights.source, "type": "Directory"}}, read_only=True)
    if weights.kind is VolumeKind.CLAIM:
        claim: dict[str, Any] = {"claimName": weights.source}
        if weights.read_only:
            claim["readOnly"] = True
        return Mount("weights", DATA, {"persistentVolumeClaim": claim}, weights.read_only)
    return Mount("weights", DATA, {"emptyDir": {"sizeLimit": f"{_cache_mib(weights, profile)}Mi"}})


def _cache_mib(weights: Weights, profile: Profile) -> int:
    """Room for the weights twice (some engines convert them) and what else is fetched and compiled."""
    if weights.limit_mib:
        return weights.limit_mib
    known = profile.facts.weight_bytes
    return _UNKNOWN_CACHE_MIB if known is None else max(_LEAST_CACHE_MIB, 2 * ceil(known / MIB) + _LEAST_CACHE_MIB // 2)


def _pins(order: Launch, options: KnativeOptions, features: Features) -> bool:
    return options.pins_nodes and order.pool.node not in ("", PENDING) and features.on(NODE_SELECTOR)


def _by_slice(table: Mapping[str, int | None], slice: Slice) -> int | None:
    return next((table[key] for key in (*slice_keys(slice), "") if key in table), None)


def _misconfigured(message: str) -> LaunchFailed:
    return LaunchFailed(Failure(FailureKind.MISCONFIGURED, message))
