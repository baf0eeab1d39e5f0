"""What the state machine plays with: models, callers, inventories, and words about things that nobody knows."""

from __future__ import annotations

import msgspec
from tests.core.support import SLICES, hosts, model, profile

from ssis_dispatcher.core.messages import (
    AnyCommand,
    AnyEvent,
    CallerLimits,
    Failure,
    FailureKind,
    Launch,
    Model,
    ModelDescribed,
    ModelForgotten,
    ModelPinned,
    ModelRejected,
    Refuse,
    RequestGone,
    Seat,
    ServerAdopted,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
    ServerStopped,
    Stop,
    StopAsked,
)
from ssis_dispatcher.core.placement import Plan
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.sizing import Profile
from ssis_dispatcher.core.slices import PENDING, Host, Pool, SliceKind
from ssis_dispatcher.errors import Problem

POLICY = Policy(
    waiting_per_model=8,
    waiting_total=24,
    waiting_bytes=4_000,
    waiting_bytes_per_model=1_500,
    slices_per_caller=8,
    servers_per_model=3,
    overtakes=2,
    dwell=5.0,
    keep_alive=200.0,
)
KNOWN: dict[Model, Profile] = {
    model("tiny"): profile(4, seats=2, memory=4),
    model("small"): profile(8, seats=1, start=90.0, cpus=2, memory=12),
    model("medium"): profile(15, seats=2, keep_alive=20.0, cpus=1, memory=8),
    model("unknown"): profile(None, seats=3, cpus=1),
    model("joined"): profile(120, seats=2, cpus=4, memory=16),
    model("whole"): profile(60, seats=1, kinds=(SliceKind.GPU,), memory=20),
    model("large"): profile(30, seats=1, max_servers=1),
    model("huge"): profile(250, seats=1),
    model("kept"): profile(4, seats=1, pinned=True),
    model("endless"): profile(10_000),
}
MODELS = list(KNOWN)
CALLERS: list[tuple[str, CallerLimits | None]] = [
    ("alice", None),
    ("bob", None),
    ("carol", CallerLimits(slices=3, launches_per_minute=2)),
    ("dave", CallerLimits(kinds=(SliceKind.MIG,))),
]
NODES = ("a", "b", "c")
_INVENTORIES: list[dict[str, tuple[int, int, int]]] = [
    {"1g": (2, 0, 0), "gpu": (4, 0, 0)},
    {"1g": (2, 1, 0), "2g": (1, 0, 0), "gpu": (4, 2, 0)},
    {"1g": (1, 2, 1), "3g": (0, 1, 0), "gpu": (2, 4, 1)},
    {"2g": (1, 1, 1), "mps": (1, 0, 0), "gpu": (0, 2, 0)},
    {"1g": (1, 0, 0), "gpu": (2, 0, 0)},
    {"gpu": (4, 4, 0)},
    {},
]


_PENDING: dict[int, dict[str, int]] = {2: {"1g": 1, "gpu": 2}, 3: {"3g": 1, "gpu": 1}, 5: {"gpu": 4}}
_HOSTS: list[str] = [
    "",
    "a cpu:4 mem:24; b cpu:8 mem:32",
    "a cpu:4 mem:24-4; b cpu:8-4 mem:32-8",
    "a cpu:4-3 mem:24-12; b mem:64; c mem:8",
]


def cluster_hosts(number: int, taken: int = 0) -> tuple[Host, ...]:
    """What the nodes of one of a few clusters have of CPU and memory. ``taken``: others hold so many GiB more of node a."""
    found = hosts(_HOSTS[number % len(_HOSTS)])
    return tuple(
        msgspec.structs.replace(host, memory_mib=host.memory_mib - taken * 8192) if host.node == "a" else host
        for host in found
    )


def inventory(number: int, taken: int = 0, other_size: bool = False) -> tuple[Pool, ...]:
    """One of a few clusters. ``taken``: others hold so many of each slice of node a; ``other_size``: what is called 1g is
    smaller than it was said to be."""
    pools = []
    for short, totals in _INVENTORIES[number % len(_INVENTORIES)].items():
        slice = SLICES[short]
        if other_size and short == "1g":
            slice = msgspec.structs.replace(slice, memory_mib=9_856, source="label")
        for node, total in zip(NODES, totals, strict=True):
            if total:
                pools.append(Pool(node, slice, total, taken if node == "a" else 0))
    pending = _PENDING.get(number % len(_INVENTORIES), {})
    return (*pools, *(Pool(PENDING, SLICES[short], total) for short, total in pending.items()))


NONSENSE: list[AnyEvent] = [
    ServerReady("launcher", "nobody", "127.0.0.1:1"),
    ServerFailed("launcher", "nobody", Failure(FailureKind.CRASHED, "never heard of")),
    ServerStopped("launcher", "nobody"),
    ServerProgressed("launcher", "nobody", "loading"),
    ServerPlaced("launcher", "nobody", "a"),
    ServerAdopted("launcher", "nobody", model("nobody"), profile(1), "nothing", "nowhere", 1, 1, None),
    StopAsked("operator", "nobody"),
    ModelDescribed("hub", model("nobody"), profile(1)),
    ModelRejected("hub", model("nobody"), Problem(404, "model_not_found", "It is not there.")),
    ModelForgotten("operator", "nobody"),
    ModelPinned("operator", model("nobody"), False),
    RequestGone("caller", 10**9),
]
"""Words about servers, models and requests that nobody knows: they change nothing."""


def check_plan(plan: Plan, request: int, commands: list[AnyCommand], size: int, limits: CallerLimits | None) -> None:
    """What was planned for a request is what then happened to it, but for what its size or its caller's limits forbid."""
    refused = next((c.problem for c in commands if isinstance(c, Refuse) and c.request == request), None)
    if limits is not None or (refused is not None and refused.code in ("slice_limit", "launch_limit")):
        return
    if size and plan.decision != "refuse" and refused is not None and refused.code == "waiting_room_full":
        return
    launch = next((c for c in commands if isinstance(c, Launch)), None)
    seated = any(isinstance(c, Seat) and c.request == request for c in commands)
    assert seated == (plan.decision == "seat"), plan
    assert (refused is not None) == (plan.decision == "refuse"), plan
    assert (launch is not None) == (plan.decision == "launch"), plan
    assert tuple(c.server for c in commands if isinstance(c, Stop)) == plan.evicts, plan
    if launch is not None:
        assert (launch.pool.slice.name, launch.pool.node) == (plan.slice, plan.node)
        assert (launch.count, launch.seats, launch.context) == (plan.count, plan.seats, plan.context)
