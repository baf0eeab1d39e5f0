"""Kubernetes objects as an API server gives them, for tests."""

from __future__ import annotations

from typing import Any

from ssis_dispatcher.core.messages import Launch, Model
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Pool, Slice, SliceKind, cpu_slice, parse_resource

Object = dict[str, Any]

GIB = 1 << 30
A100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB", "kubernetes.io/hostname": "n"}


def slice_of(name: str, labels: dict[str, str] | None = None) -> Slice:
    slice = parse_resource(name, labels or {})
    assert slice is not None
    return slice


MIG = slice_of("nvidia.com/mig-1g.5gb")
GPU = slice_of("nvidia.com/gpu", {"nvidia.com/gpu.memory": "81559"})
NEBULY = slice_of("nvidia.com/gpu-4gb", {"nvidia.com/gpu.memory": "40960"})
NVIDIA_MPS = slice_of(
    "nvidia.com/gpu",
    {"nvidia.com/gpu.memory": "40960", "nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "mps"},
)
CPU = cpu_slice(2048)


def order(slice: Slice = MIG, **changes: Any) -> Launch:
    """A launch of a small model of the hub on a slice of node ``n``."""
    model = changes.pop("model", Model.of("org/Some-Model_7B", engine=changes.pop("engine", "tgi")))
    facts = ModelFacts("safetensors", changes.pop("weights", 2 * GIB), 32768, 8192)
    profile = changes.pop("profile", Profile(facts, context=4096, kinds=tuple(SliceKind)))
    given: dict[str, Any] = {
        "cause": "request-1",
        "server": "somemodel7babcdefghij",
        "model": model,
        "profile": profile,
        "pool": Pool("n", slice, 4),
        "count": 1,
        "seats": 8,
        "context": 4096,
        "budget": 120.0,
    }
    return Launch(**{**given, **changes})


def node(name: str = "n", /, *, labels: dict[str, str] | None = None, ready: str = "True", **more: Any) -> Object:
    """A node with 32 cores and 128 GiB; ``more`` are its devices (``_`` for the rest of its status and spec)."""
    spec, metadata = more.pop("spec", {}), more.pop("metadata", {})
    room = {"cpu": "32", "memory": "128Gi", "pods": "110", **more.pop("room", {}), **more.pop("devices", {})}
    assert not more
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}, **metadata},
        "spec": spec,
        "status": {
            "allocatable": {key: str(value) for key, value in room.items()},
            "capacity": dict.fromkeys(room, "999"),
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}],
        },
    }


def pod(
    name: str,
    /,
    *,
    asks: dict[str, str] | None = None,
    on: str = "",
    phase: str = "Running",
    service: str = "",
    namespace: str = "default",
    born: str = "2026-11-25T16:00:00Z",
    leaving: bool = False,
    spec: Object | None = None,
) -> Object:
    """A pod of one container."""
    metadata: Object = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "creationTimestamp": born}
    if leaving:
        metadata["deletionTimestamp"] = "2026-11-25T17:00:00Z"
    if service:
        metadata["labels"] = {"serving.knative.dev/service": service}
    container = {"name": "user-container", "resources": {"requests": asks or {}}}
    made: Object = {
        "metadata": metadata,
        "spec": {"containers": [container], **(spec or {})},
        "status": {"phase": phase},
    }
    if on:
        made["spec"]["nodeName"] = on
    return made
