"""Every setting, once: its name, type, default, unit, and the sentence that documents it.

The name is the same everywhere: ``keep_alive`` in the file, ``SSIS_KEEP_ALIVE`` in the environment, ``--keep-alive`` on
the command line. Durations are seconds and sizes are bytes, whatever they were written as.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ssis_dispatcher.settings import kinds
from ssis_dispatcher.settings.commands import ENGINES, EngineCommand
from ssis_dispatcher.settings.kinds import CpuShare


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of a setting besides its name, type and default.

    ``least`` and ``most`` bound numbers (inclusive). A ``secret`` is never printed, and is no flag, because the process
    list shows those. ``also`` names variables of other programs that count where ours is not set. ``table`` settings
    are tables of the file and nothing else.
    """

    section: str
    doc: str
    least: float | None = None
    most: float | None = None
    secret: bool = False
    also: tuple[str, ...] = ()
    table: bool = False


class Place:
    """A default path below one of the XDG base directories, found when it is asked for."""

    def __init__(self, variable: str, fallback: str, tail: str) -> None:
        self.variable = variable
        self.fallback = fallback
        self.tail = tail

    def under(self, environ: Mapping[str, str]) -> Path:
        """The path, for a process with this environment. As the XDG specification has it, what is not absolute does not
        count; without a home directory it is below the root, where the first write says what is missing."""
        base = environ.get(self.variable, "")
        if not os.path.isabs(base):
            base = os.path.join(environ.get("HOME") or "/", self.fallback)
        return Path(base, self.tail)

    def __call__(self) -> Path:
        return self.under(os.environ)

    def __str__(self) -> str:
        return f"${self.variable}/{self.tail}"


CONFIG_FILE = Place("XDG_CONFIG_HOME", ".config", "ssis/config.toml")
_KEYS = Place("XDG_CONFIG_HOME", ".config", "ssis/keys.jsonl")
_CACHE = Place("XDG_CACHE_HOME", ".cache", "ssis")
_STATE = Place("XDG_STATE_HOME", ".local/state", "ssis")

KIB, MIB, GIB = 2**10, 2**20, 2**30

Url = Annotated[str, kinds.URL]
Seconds = Annotated[float, kinds.SECONDS]
Bytes = Annotated[int, kinds.BYTES]
Networks = Annotated[tuple[str, ...], kinds.NETWORKS]
Shares = Annotated[tuple[CpuShare, ...], kinds.SHARES]
Variables = Annotated[kinds.Pairs, kinds.VARIABLES]
Table = Annotated[kinds.Pairs, kinds.TABLE]
Engines = Annotated[tuple[EngineCommand, ...], ENGINES]

SECTIONS = {
    "listen": "Listening",
    "http": "Limits of the listener",
    "upstream": "Calls to inference servers",
    "platform": "Platform and slices",
    "knative": "Kubernetes and Knative",
    "models": "Models and engines",
    "hub": "The model hub",
    "waiting": "Waiting lines",
    "servers": "Lives of servers",
    "caller": "Limits of one caller",
    "stopping": "Stopping",
    "logging": "Logs and metrics",
    "client": "The command line as a client",
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How one dispatcher is to behave. ``Settings()`` has the defaults; `load` asks all the places."""

    host: Annotated[str, Setting("listen", "Address to listen on. Any but a loopback address needs keys.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Setting("listen", "Port to listen on; 0 lets the system choose.", 0, 65535)] = 8080
    tls_cert: Annotated[Path | None, Setting("listen", "Certificate chain (PEM); with `tls_key`, HTTPS is spoken.")] = (
        None
    )
    tls_key: Annotated[Path | None, Setting("listen", "Private key (PEM) of `tls_cert`.")] = None
    insecure: Annotated[bool, Setting("listen", "Listen beyond loopback without keys: anybody may use the GPUs.")] = (
        False
    )
    require_keys: Annotated[
        bool,
        Setting("listen", "Ask for keys on a loopback address, too: for a proxy on this machine that lets others in."),
    ] = False
    keys_file: Annotated[
        Path,
        Setting("listen", "Hashed API keys, written by `ssis keys`; or a folder of such files, which it only reads."),
    ] = msgspec.field(default_factory=_KEYS)
    trusted_proxies: Annotated[
        Networks, Setting("listen", "Networks whose `Forwarded` and `X-Forwarded-For` headers are believed.")
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], Setting("listen", "Origins whose pages may call the dispatcher from a browser; `*` for all.")
    ] = ()

    max_head: Annotated[Bytes, Setting("http", "Longest request head; more is answered 431.", 1 * KIB, 1 * MIB)] = (
        32 * KIB
    )
    max_url: Annotated[Bytes, Setting("http", "Longest request target; more is answered 414.", 256, 64 * KIB)] = 8 * KIB
    max_headers: Annotated[int, Setting("http", "Most header lines; more are answered 431.", 8, 10_000)] = 100
    max_body: Annotated[Bytes, Setting("http", "Longest request body; more is answered 413.", 1 * KIB, 1 * GIB)] = (
        4 * MIB
    )
    head_timeout: Annotated[
        Seconds, Setting("http", "Time for a request head to arrive; later is answered 408.", 0.1)
    ] = 10.0
    body_rate: Annotated[
        Bytes,
        Setting("http", "Slowest pace of a request body, per second, after its first 10 s; slower is answered 408."),
    ] = 1 * KIB
    idle_timeout: Annotated[
        Seconds, Setting("http", "How long a connection may be idle between two requests.", 0.1)
    ] = 75.0
    keepalive_requests: Annotated[int, Setting("http", "Most requests on one connection.", 1)] = 10_000
    max_connections: Annotated[int, Setting("http", "Most connections in all; more are answered 503.", 1)] = 20_000
    max_connections_per_address: Annotated[
        int, Setting("http", "Most connections from one address that is neither loopback nor a trusted proxy.", 1)
    ] = 10_000
    inflight_bytes: Annotated[
        Bytes, Setting("http", "Most request bodies held in memory, in all; more are answered 503.", 1 * MIB)
    ] = 512 * MIB
    request_timeout: Annotated[
        Seconds | None, Setting("http", "Longest life of one request, waiting included.", 0.1)
    ] = None
    heartbeat: Annotated[
        Seconds, Setting("http", "How often a waiting stream gets a comment, so that nobody between cuts it.", 0.1, 60)
    ] = 10.0

    upstream_connect_timeout: Annotated[
        Seconds, Setting("upstream", "Time to connect to an inference server.", 0.01)
    ] = 5.0
    upstream_first_byte_timeout: Annotated[
        Seconds | None, Setting("upstream", "Longest wait for the first byte of an answer.", 0.01)
    ] = 600.0
    upstream_idle_timeout: Annotated[Seconds | None, Setting("upstream", "Longest silence within an answer.", 0.01)] = (
        300.0
    )
    retry_budget: Annotated[
        float, Setting("upstream", "Share of requests that may be sent again after a refused connection.", 0, 1)
    ] = 0.2

    platform: Annotated[
        Literal["auto", "process", "knative", "fake"],
        Setting(
            "platform",
            "Where servers run: `process` on this machine, `knative` on a Kubernetes cluster, `fake` nowhere; `auto` is "
            "`knative` in a pod, else `process`.",
        ),
    ] = "auto"
    inventory: Annotated[
        str | None,
        Setting("platform", "Slices to assume instead of those found: a YAML file, or the name of a shipped one."),
    ] = None
    cpu_slices: Annotated[
        Shares,
        Setting(
            "platform",
            "Shares of memory and cores to offer as slices: of this machine where it has no GPU (empty: a menu), or of each "
            "node of a cluster (empty: none).",
        ),
    ] = ()
    reserve_memory: Annotated[Bytes, Setting("platform", "Memory of this machine that is never given to servers.")] = (
        1 * GIB
    )
    server_threads: Annotated[
        int | None, Setting("platform", "Threads of one server; none: as many as its slice has cores.", 1, 1024)
    ] = None
    server_env: Annotated[
        Variables, Setting("platform", "Environment of every server, besides what its engine sets.", secret=True)
    ] = ()

    namespace: Annotated[str, Setting("knative", "Namespace of the servers, and of what the dispatcher keeps.")] = (
        "nthulab"
    )
    kube_context: Annotated[
        str | None, Setting("knative", "Context of the kubeconfig, outside a cluster; none: the current one.")
    ] = None
    gateway: Annotated[
        str,
        Setting(
            "knative",
            "Where servers are called: Knative's gateway as `host:port`, or `pods` for straight to their pods.",
        ),
    ] = "kourier-internal.kourier-system.svc.cluster.local:80"
    cluster_domain: Annotated[str, Setting("knative", "DNS domain of the cluster.")] = "cluster.local"
    dispatcher_config: Annotated[
        str, Setting("knative", "ConfigMap with the operator's choices; edits of it count at once.")
    ] = "dispatcher-config"
    inference_image: Annotated[
        str | None,
        Setting(
            "knative",
            "Image for models whose engine nobody names; it tells the engine too. None: TGI. The ConfigMap's goes first.",
        ),
    ] = None
    server_images: Annotated[
        Table,
        Setting(
            "knative",
            "Images by engine, or by engine and slice (`mig`, `mps`, `nebuly`, `gpu`, `cpu`): `vllm=…`, `tgi/mig=…`.",
        ),
    ] = ()
    server_uids: Annotated[
        Table, Setting("knative", "User ids of servers by slice; a slice that is not named has its image's user.")
    ] = (("nebuly", "1000"),)
    server_labels: Annotated[
        Table, Setting("knative", "Labels of all servers; `auto-scaler=scaling` keeps SSIS's autoscaler off them.")
    ] = ()
    gpu_resources: Annotated[
        tuple[str, ...],
        Setting("knative", "Resource names that may be used as slices; empty: every one that nodes have."),
    ] = ()
    mps_threads: Annotated[
        Table, Setting("knative", "Share of a GPU's threads for slices of Nebuly's MPS plugin, in percent: `4gb=12`.")
    ] = ()
    mps_host_ipc: Annotated[
        bool, Setting("knative", "Give servers on such slices the host's IPC, without which MPS does not work.")
    ] = True
    mps_mount_pipe: Annotated[
        bool, Setting("knative", "Mount `/tmp/nvidia-mps` into servers on such slices, where the plugin does not.")
    ] = False
    token_secret: Annotated[
        str, Setting("knative", "Secret with the operator's hub token under `token`, for servers; it need not exist.")
    ] = "hf-token"
    pull_secrets: Annotated[tuple[str, ...], Setting("knative", "Secrets that servers' images are pulled with.")] = ()
    server_account: Annotated[str | None, Setting("knative", "ServiceAccount of servers.")] = None
    runtime_class: Annotated[str | None, Setting("knative", "RuntimeClass of servers on GPUs.")] = None
    tolerations: Annotated[
        tuple[str, ...],
        Setting("knative", "Taints of nodes that servers put up with: `key=value:Effect`, `key:Effect` or `key`."),
    ] = ()
    toleration_plugin: Annotated[
        bool,
        Setting(
            "knative", "The cluster lets pods onto nodes that are tainted with the resource they ask for, by itself."
        ),
    ] = False
    pin_nodes: Annotated[bool, Setting("knative", "Name the node of each server, where Knative's flags allow it.")] = (
        True
    )
    weights_volume: Annotated[
        str,
        Setting(
            "knative",
            "Where servers keep weights: `emptyDir`, `emptyDir:100GiB`, `hostPath:/folder`, `claim:NAME`, `claim:NAME:ro`.",
        ),
    ] = "emptyDir"
    shared_memory: Annotated[Bytes, Setting("knative", "Size of `/dev/shm` for servers of several processes.")] = (
        2 * GIB
    )
    server_cpu: Annotated[
        float, Setting("knative", "Cores that a server asks of its node, besides what grows with the model.", 0)
    ] = 1.0
    server_memory_share: Annotated[
        float, Setting("knative", "Part of a model's weights that its server asks of its node's memory.", 0, 4)
    ] = 1.0
    launch_pending: Annotated[
        int,
        Setting(
            "knative",
            "How many servers may be created for slices that no node has free, where nodes come by themselves.",
            0,
            1000,
        ),
    ] = 0
    lease: Annotated[str, Setting("knative", "Lease that names the dispatcher which decides.")] = "ssis-dispatcher"
    replica_address: Annotated[
        str | None, Setting("knative", "Address (`host:port`) at which other replicas reach this one; none: found out.")
    ] = None

    catalogue: Annotated[
        Path | None, Setting("models", "The operator's models (YAML or TOML): names, files, floors, pins.")
    ] = None
    default_engine: Annotated[
        str | None, Setting("models", "Engine for models that name none; none: what the platform suggests.")
    ] = None
    engines: Annotated[
        Engines,
        Setting(
            "models", "Inference servers that the operator configures, one table `[engines.NAME]` each.", table=True
        ),
    ] = ()
    default_context: Annotated[
        int, Setting("models", "Most tokens per seat where neither caller nor catalogue says.", 128)
    ] = 8192
    slice_ceiling_factor: Annotated[
        float,
        Setting(
            "models",
            "A model takes no slice larger than this many times its need, unless the catalogue's `ceiling` says otherwise or "
            "its engine runs on `cpu` slices only.",
            1,
        ),
    ] = 8.0
    slice_ceiling_free: Annotated[
        Bytes,
        Setting(
            "models",
            "Slices up to this size are allowed, however small the model, where the catalogue sets no `ceiling`.",
        ),
    ] = 24 * GIB
    cache_dir: Annotated[Path, Setting("models", "Downloaded models.")] = msgspec.field(default_factory=_CACHE)
    cache_limit: Annotated[Bytes, Setting("models", "Most bytes of downloaded models; the least recently used go.")] = (
        100 * GIB
    )
    state_dir: Annotated[Path, Setting("models", "What must survive a restart: what launches taught.")] = msgspec.field(
        default_factory=_STATE
    )

    hub_endpoint: Annotated[Url, Setting("hub", "Address of the model hub.", also=("HF_ENDPOINT",))] = (
        "https://huggingface.co"
    )
    hub_token: Annotated[
        str | None, Setting("hub", "The dispatcher's own hub token, for gated models.", secret=True, also=("HF_TOKEN",))
    ] = None
    hub_offline: Annotated[bool, Setting("hub", "Never ask the hub.", also=("HF_HUB_OFFLINE",))] = False
    hub_timeout: Annotated[Seconds, Setting("hub", "Time for the hub to describe a model.", 0.1)] = 10.0

    waiting_per_model: Annotated[int, Setting("waiting", "Most requests waiting for one model.", 0)] = 1_000
    waiting_total: Annotated[int, Setting("waiting", "Most requests waiting in all.", 0)] = 10_000
    waiting_bytes: Annotated[Bytes, Setting("waiting", "Most bytes of waiting requests, in all.")] = 256 * MIB
    waiting_bytes_per_model: Annotated[Bytes, Setting("waiting", "Most bytes of requests waiting for one model.")] = (
        128 * MIB
    )
    slice_wait: Annotated[Seconds, Setting("waiting", "Longest wait for a slice, or for a seat on a busy server.")] = (
        120.0
    )
    start_wait: Annotated[Seconds, Setting("waiting", "Least time a starting server is given.", 0.1)] = 120.0
    start_factor: Annotated[
        float, Setting("waiting", "A starting server is given this many times its predicted start, if that is more.", 1)
    ] = 2.0
    overtakes: Annotated[
        int,
        Setting("waiting", "How often a launch that waits for a slice may be passed by one that fits elsewhere.", 0),
    ] = 8

    keep_alive: Annotated[Seconds, Setting("servers", "How long a server that nobody uses stays.")] = 600.0
    dwell: Annotated[Seconds, Setting("servers", "How long a server stays at least, before another may evict it.")] = (
        30.0
    )
    reload_weight: Annotated[
        float, Setting("servers", "Weight of a server's start time against its idle time when one must go.", 0)
    ] = 1.0
    scale_out_after: Annotated[
        Seconds, Setting("servers", "How long a line may wait before a second server of the model is started.")
    ] = 10.0
    servers_per_model: Annotated[int, Setting("servers", "Most servers of one model.", 1)] = 4
    retry_pause: Annotated[Seconds, Setting("servers", "First pause after a model failed to start; it doubles.")] = 1.0
    retry_pause_limit: Annotated[
        Seconds,
        Setting(
            "servers",
            "Longest pause between two starts of a failing model; after a mistake of the configuration it is at least 30 s, "
            "where somebody takes its servers away again at least a minute.",
        ),
    ] = 300.0

    slices_per_caller: Annotated[int, Setting("caller", "Most slices that one caller's models hold at once.", 1)] = 64
    launches_per_minute: Annotated[int, Setting("caller", "Most servers started for one caller per minute.", 1)] = 60

    drain_quiet: Annotated[
        Seconds,
        Setting("stopping", "How long to go on serving after readiness turned false, for load balancers to notice."),
    ] = 0.0
    drain_grace: Annotated[Seconds, Setting("stopping", "How long running requests may take to end.")] = 30.0
    stop_grace: Annotated[Seconds, Setting("stopping", "How long a server may take to end before it is killed.")] = 10.0

    metrics_models: Annotated[
        int, Setting("logging", "Most models told apart in the metrics; the rest are one.", 0)
    ] = 100
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Setting("logging", "Least important lines that are logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        Setting("logging", "Form of log lines; `auto` is text on a terminal, else JSON."),
    ] = "auto"
    access_log: Annotated[bool, Setting("logging", "Log one line per request.")] = True

    url: Annotated[
        Url | None, Setting("client", "The dispatcher that `ssis ask` and its like talk to; none: `host` and `port`.")
    ] = None
    api_key: Annotated[str | None, Setting("client", "The API key that they send.", secret=True)] = None

    @property
    def is_private(self) -> bool:
        """Whether only programs of this machine may call, and need no key."""
        return self.listens_on_loopback and not self.require_keys

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach ``host``. That, and never who calls, decides whether keys are needed."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
