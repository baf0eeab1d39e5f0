"""What this cluster's Knative allows: its version, its feature flags, and which of the operator's choices need which.
Pure.

All of it is read from two ConfigMaps, ``config-features`` and ``config-defaults``, which is all that our Role may read
in Knative's namespace. A release writes its version on them as a label; where a distribution left that out, the version
follows from the flags that the ConfigMap's own ``_example`` documents. Facts: Knative's ``pkg/apis/config/features.go``
per release.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ssis_dispatcher.core.slices import Slice, SliceKind
from ssis_dispatcher.launchers.knative.options import KnativeOptions, VolumeKind

Version = tuple[int, int]

KNATIVE = "knative-serving"
"""The namespace of Knative's own objects."""
CONFIGS = ("config-features", "config-defaults")
"""The ConfigMaps there that all of this is read from, in the order of `Features.of`."""

OLDEST: Version = (1, 15)
NEWEST: Version = (1, 23)
"""The releases of Knative that this program is written for; newer ones are taken to be like the newest."""

HOST_IPC = "kubernetes.podspec-hostipc"
HOST_PATH = "kubernetes.podspec-volumes-hostpath"
CLAIM = "kubernetes.podspec-persistent-volume-claim"
CLAIM_WRITE = "kubernetes.podspec-persistent-volume-write"
EMPTY_DIR = "kubernetes.podspec-volumes-emptydir"
NODE_SELECTOR = "kubernetes.podspec-nodeselector"
TOLERATIONS = "kubernetes.podspec-tolerations"
RUNTIME_CLASS = "kubernetes.podspec-runtimeclassname"
QUEUE_DEFAULTS = "queueproxy.resource-defaults"

_SINCE: Mapping[str, Version] = {HOST_IPC: (1, 16), HOST_PATH: (1, 17)}
"""Flags that the oldest release does not have. An unknown flag is ignored by Knative, without a word."""

_ON_BY_DEFAULT = frozenset({EMPTY_DIR, "multi-container"})
_ONLY_ENABLED = frozenset({CLAIM, CLAIM_WRITE})
"""Flags for which ``allowed`` does not do."""

_TELLING: tuple[tuple[str, Version], ...] = (
    ("kubernetes.podspec-volumes-ephemeral", (1, 23)),
    ("kubernetes.podspec-volumes-image", (1, 19)),
    ("kubernetes.podspec-volumes-csi", (1, 18)),
    (HOST_PATH, (1, 17)),
    (HOST_IPC, (1, 16)),
)
"""Flags whose mention in ``_example`` tells that Knative is at least so new."""

_LONGEST_BY_DEFAULT = 600
_SKEW = 27
"""Knative 1.N is tagged 0.(N + 27), and some builds write that."""


class Missing(msgspec.Struct, frozen=True):
    """A flag that a choice of the operator's needs. ``patch`` is the command that sets it; "" where this Knative is too
    old for it. ``why`` is for people."""

    flag: str
    why: str
    patch: str = ""

    def __str__(self) -> str:
        return f"{self.why}; run: {self.patch}" if self.patch else self.why


class Features(msgspec.Struct, frozen=True):
    """``version`` is Knative's, or the least it can be where ``is_exact`` is false; None when nothing tells. ``flags``
    are those that somebody set. ``max_timeout`` is the longest a request may take, in seconds."""

    version: Version | None = None
    is_exact: bool = False
    flags: Mapping[str, str] = {}
    max_timeout: int = _LONGEST_BY_DEFAULT

    @staticmethod
    def of(config_features: Mapping[str, Any] | None, config_defaults: Mapping[str, Any] | None) -> Features:
        """From the ConfigMaps; None for one that is not there or may not be read, which leaves Knative's own defaults."""
        data = (config_features or {}).get("data") or {}
        version = _labelled(config_features) or _labelled(config_defaults)
        flags = {name: str(value).strip().lower() for name, value in data.items() if not name.startswith("_")}
        return Features(
            version or _least(data.get("_example", "")), version is not None, flags, _max_timeout(config_defaults)
        )

    def on(self, flag: str) -> bool:
        """Whether ``flag`` is set, and this Knative knows it."""
        if self.lacks(flag):
            return False
        value = self.flags.get(flag, "")
        if value not in ("enabled", "allowed", "disabled"):  # Knative ignores what it does not understand
            value = "enabled" if flag in _ON_BY_DEFAULT else "disabled"
        return value == "enabled" or (value == "allowed" and flag not in _ONLY_ENABLED)

    def lacks(self, flag: str) -> bool:
        """Whether this Knative is surely too old to know ``flag``."""
        return self.is_exact and self.version is not None and self.version < _SINCE.get(flag, OLDEST)

    @property
    def sidecar(self) -> tuple[int, int]:
        """What Knative's own container asks for beside the server's: thousandths of a core, MiB."""
        return 25, 400 if self.on(QUEUE_DEFAULTS) else 0

    @property
    def trouble(self) -> str:
        """Why this Knative may not do at all; "" where it does."""
        if self.is_exact and self.version is not None and self.version < OLDEST:
            return f"Knative {_words(self.version)} is too old: {_words(OLDEST)} is the oldest that this program knows"
        return ""


def needs(options: KnativeOptions, features: Features) -> list[Missing]:
    """The flags that the operator's choices need and that are off. For MPS slices of Nebuly's plugin, see `refusal`."""
    weights = options.weights
    wanted = {
        RUNTIME_CLASS: options.runtime_class and f"the runtime class {options.runtime_class!r}",
        TOLERATIONS: options.tolerations and "the tolerations of servers",
        HOST_PATH: weights.kind is VolumeKind.HOST and f"the weights' folder {weights.source!r} on the nodes",
        CLAIM: weights.kind is VolumeKind.CLAIM and f"the weights' claim {weights.source!r}",
        CLAIM_WRITE: weights.kind is VolumeKind.CLAIM
        and not weights.read_only
        and f"writing to the weights' claim {weights.source!r}",
        EMPTY_DIR: weights.kind is VolumeKind.EMPTY and "the folder that servers download weights to",
    }
    return [_missing(flag, what, features) for flag, what in wanted.items() if what and not features.on(flag)]


def mps_needs(options: KnativeOptions, features: Features) -> list[Missing]:
    """The flags that MPS slices of Nebuly's plugin need and that are off."""
    if not options.host_ipc:
        return []
    wanted = {HOST_IPC: "an MPS slice of Nebuly's device plugin (its clients need the host's IPC)"}
    if options.mounts_mps_pipe:
        wanted[HOST_PATH] = "an MPS slice of Nebuly's device plugin (its pipe is a folder of the node)"
    return [_missing(flag, what, features) for flag, what in wanted.items() if not features.on(flag)]


def refusal(slice: Slice, options: KnativeOptions, features: Features) -> str:
    """Why nothing can run on ``slice`` on this cluster, and what the operator does about it; "" where it can."""
    return "; ".join(map(str, mps_needs(options, features))) if is_nebuly(slice) else ""


def is_nebuly(slice: Slice) -> bool:
    """Whether it is an MPS slice of Nebuly's plugin, which leaves most of the work to the pod; NVIDIA's own does all of
    it, and calls its slices ``nvidia.com/gpu``."""
    return slice.kind is SliceKind.MPS and slice.name.startswith("nvidia.com/gpu-")


def patch(flag: str) -> str:
    """The command that switches ``flag`` on."""
    data = f'{{"data":{{"{flag}":"enabled"}}}}'
    return f"kubectl patch configmap/config-features -n {KNATIVE} --type merge -p '{data}'"


def _missing(flag: str, what: str, features: Features) -> Missing:
    if features.lacks(flag):
        assert features.version is not None
        return Missing(
            flag, f"{what} needs Knative {_words(_SINCE[flag])} or newer, and this is {_words(features.version)}"
        )
    since = f" (Knative {_words(_SINCE[flag])} or newer)" if flag in _SINCE and not features.is_exact else ""
    return Missing(flag, f"{what} needs Knative's flag {flag}{since}", patch(flag))


def _words(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _labelled(config: Mapping[str, Any] | None) -> Version | None:
    """The version that a release writes on its ConfigMaps."""
    label = ((config or {}).get("metadata", {}).get("labels") or {}).get("app.kubernetes.io/version", "")
    match = re.match(r"v?(\d{1,3})\.(\d{1,3})(?:\.|$)", label)
    if match is None:
        return None
    major, minor = int(match[1]), int(match[2])
    return (1, minor - _SKEW) if major == 0 and minor >= _SKEW else (major, minor)


def _least(example: str) -> Version | None:
    """The least version whose ConfigMap documents these flags."""
    return next((version for flag, version in _TELLING if f"{flag}:" in example), OLDEST if example else None)


def _max_timeout(config_defaults: Mapping[str, Any] | None) -> int:
    written = ((config_defaults or {}).get("data") or {}).get("max-revision-timeout-seconds", "")
    return int(written) if re.fullmatch(r"[1-9]\d{0,6}", str(written).strip()) else _LONGEST_BY_DEFAULT
