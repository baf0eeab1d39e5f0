"""What the launcher for Knative is told when it is made. Called by the assembly and the launcher."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class VolumeKind(StrEnum):
    """Where a server keeps the weights that it downloads."""

    EMPTY = "emptyDir"
    """A folder of the pod: every start downloads anew. Needs no flag."""
    HOST = "hostPath"
    """A folder of the node that the operator fills. Read-only: Knative allows no other."""
    CLAIM = "persistentVolumeClaim"
    """A claim of the operator's, shared by all servers."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The volume of the weights. ``source`` is the folder on the node, or the claim's name. ``limit_mib`` bounds an
    emptyDir, beyond which the kubelet evicts the pod (0: by the model's size). A claim that is ``read_only`` is one the
    operator fills, and servers on it, as on a hostPath, ask the hub for nothing."""

    kind: VolumeKind = VolumeKind.EMPTY
    source: str = ""
    limit_mib: int = 0
    read_only: bool = False

    @property
    def is_filled(self) -> bool:
        """Whether models are there already, and nothing can be added."""
        return self.kind is VolumeKind.HOST or (self.kind is VolumeKind.CLAIM and self.read_only)


class HostRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a server asks of its node's CPU and memory; see `specs.host_request`. ``cpu_millis`` are thousandths of
    a core. ``engine_mib`` is what an engine needs besides the model, by engine name, where `engines.images` is not
    right for it."""

    cpu_millis: int = 1000
    cpu_millis_per_gib: int = 60
    most_cpu_millis: int = 8000
    weights_share: float = 1.0
    least_mib: int = 256
    most_mib: int = 65_536
    unknown_mib: int = 4096
    engine_mib: Mapping[str, int] = {}


class CpuShare(msgspec.Struct, frozen=True):
    """A slice of nodes without a GPU: ``memory_mib`` of their memory, and thousandths of a core. Every node that has
    room for them has ``count`` (0: as many as it has room for)."""

    memory_mib: int
    cpu_millis: int
    count: int = 0


class Toleration(msgspec.Struct, frozen=True):
    """A taint that servers put up with: as in Kubernetes, an empty ``key`` is every key, an empty ``effect`` every
    effect, and ``value`` counts where ``operator`` is ``Equal``."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class KnativeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's choices. Mappings by slice have `SliceKind`'s words and ``nebuly`` (MPS slices of Nebuly's plugin)
    as keys, ``""`` for all others.

    ``resources`` are the only slices that may be used, where any are named. ``images`` are images by engine and slice,
    ``uids`` the users that servers run as by slice (None or absent: the image's own).

    ``env`` is the environment of every server, ``labels`` and ``annotations`` are put on all that we make (``auto-scaler:
    scaling`` keeps SSIS's autoscaler off). ``token_secret`` names a Secret with the operator's own hub token under
    ``token_key``, for servers without one of a caller's; it need not exist.

    ``has_toleration_plugin`` tells that the cluster's ExtendedResourceToleration lets pods onto nodes that are tainted
    with the name of a resource they ask for. ``pins_nodes`` allows to name the node of each server, where Knative's
    flags let us.

    ``host_ipc`` False leaves out what MPS clients cannot do without, for tests of placement alone. ``mounts_mps_pipe``
    tells that Nebuly's plugin does not mount ``/tmp/nvidia-mps`` (its last code does not), so that we do.
    ``mps_threads`` is the operator's table of percentages: ``1gb`` → 3. ``launch_pending`` is how many servers may wait
    for slices that no node has free yet, ``shm_mib`` the size of ``/dev/shm`` for engines of several processes.
    """

    namespace: str = "nthulab"
    resources: tuple[str, ...] = ()
    images: Mapping[str, Mapping[str, str]] = {}
    uids: Mapping[str, int | None] = msgspec.field(default_factory=lambda: {"nebuly": 1000})
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    token_secret: str = ""
    token_key: str = "token"
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    runtime_class: str = ""
    tolerations: tuple[Toleration, ...] = ()
    has_toleration_plugin: bool = False
    pins_nodes: bool = True
    host: HostRule = HostRule()
    cpu_shares: tuple[CpuShare, ...] = ()
    weights: Weights = Weights()
    shm_mib: int = 2048
    host_ipc: bool = True
    mounts_mps_pipe: bool = False
    mps_threads: Mapping[str, int] = {}
    launch_pending: int = 0


class PodSource(msgspec.Struct, frozen=True):
    """Where a model comes from: ``load`` is what the engine is told to load, an id on the hub or a path in the image or
    on the volume of the weights. ``image`` is the catalogue's ("": the options'), ``env`` for this model alone.
    ``token`` is the caller's hub token ("": none), which goes into a Secret and nowhere else."""

    load: str
    image: str = ""
    env: tuple[tuple[str, str], ...] = ()
    token: str = ""

    def __repr__(self) -> str:
        return f"PodSource({self.load!r}, image={self.image!r}, token={'…' if self.token else 'none'})"
