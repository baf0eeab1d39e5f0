"""What is left of the cluster for us: by hand, and against a scheduler that tries it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.launchers.knative.objects import node, pod

from ssis_dispatcher.core.slices import PENDING, Host, Pool, SliceKind
from ssis_dispatcher.launchers.knative import capacity, pods
from ssis_dispatcher.launchers.knative.features import HOST_IPC, NODE_SELECTOR, TOLERATIONS, Features
from ssis_dispatcher.launchers.knative.options import CpuShare, KnativeOptions, Toleration
from ssis_dispatcher.launchers.knative.quantities import quantity, requests

Object = dict[str, Any]

MIG = "nvidia.com/mig-1g.5gb"
BIG = "nvidia.com/mig-3g.20gb"
OLD = Features((1, 15), is_exact=True)


def counted(
    nodes: Iterable[Object],
    pods: Iterable[Object] = (),
    quotas: Iterable[Object] = (),
    *,
    ours: Iterable[str] = (),
    features: Features = OLD,
    waiting: Mapping[str, int] | None = None,
    **options: Any,
) -> tuple[tuple[Pool, ...], tuple[Host, ...]]:
    return capacity.inventory(
        nodes,
        pods,
        quotas,
        ours=set(ours),
        options=KnativeOptions(**options),
        features=features,
        waiting=waiting or {},
    )


def free(*args: Any, **more: Any) -> dict[tuple[str, str], int]:
    """(node, resource) → slices that nobody else holds."""
    pools, _ = counted(*args, **more)
    return {(pool.node, pool.slice.name): pool.total - pool.taken for pool in pools}


def mig(name: str = "n", count: int = 4, **more: Any) -> Object:
    return node(name, devices={MIG: count}, **more)


def asking(name: str, count: int = 1, **more: Any) -> Object:
    return pod(name, asks={MIG: str(count)}, **more)


# Quantities, and what a pod asks


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("7k", 7000),
        ("500m", Decimal("0.5")),
        ("1.5", Decimal("1.5")),
        (".5", Decimal("0.5")),
        ("2.", 2),
        ("64Gi", 64 * 2**30),
        ("1Ki", 1024),
        ("1.5Gi", 1.5 * 2**30),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12E", 12 * 10**18),
        ("2e-3", Decimal("0.002")),
        ("100n", Decimal("1e-7")),
        ("3u", Decimal("3e-6")),
        ("+5M", 5_000_000),
        ("-1", -1),
        (4, 4),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str | int, value: Any) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "x", "1KI", "1 Gi", "0x10", "1e", "--1", "1.2.3", "Ki"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity(text)


def container(restart: str = "", **asks: str) -> Object:
    made: Object = {"name": "c", "resources": {"requests": asks}}
    return {**made, "restartPolicy": restart} if restart else made


@pytest.mark.parametrize(
    ("spec", "cpu", "memory"),
    [
        ({"containers": [container(cpu="100m", memory="1Ki"), container(cpu="1", memory="1")]}, 1100, 1025),
        ({"containers": [container(cpu="0.0001")]}, 1, 0),  # rounded up
        ({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2", "memory": "5"}}}]}, 2000, 5),
        ({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}]}, 1000, 0),
        ({"containers": [container(cpu="1")], "initContainers": [container(cpu="3"), container(cpu="2")]}, 3000, 0),
        ({"containers": [container(cpu="1")], "initContainers": [container("Always", cpu="3")]}, 4000, 0),
        (
            {
                "containers": [container(cpu="1")],
                "initContainers": [container("Always", cpu="1"), container(cpu="5"), container("Always", cpu="2")],
            },
            6000,  # the second, with the sidecar that runs by then
            0,
        ),
        ({"containers": [container(cpu="1")], "overhead": {"cpu": "250m", "memory": "10"}}, 1250, 10),
        (
            {
                "containers": [container(cpu="1", memory="7")],
                "overhead": {"cpu": "1"},
                "resources": {"requests": {"cpu": "3"}},
            },
            4000,
            7,
        ),
        ({"containers": [{"name": "c"}], "initContainers": None}, 0, 0),
        ({"containers": [container(cpu="what?")]}, 0, 0),
    ],
)
def test_what_a_pod_asks(spec: Object, cpu: int, memory: int) -> None:
    asked = requests({"metadata": {"name": "p"}, "spec": spec})
    assert (asked.get("cpu", 0), asked.get("memory", 0)) == (cpu, memory)


# By hand


def test_trap_4_free_is_what_nodes_give_away_minus_what_all_pods_ask() -> None:
    """Not the capacity; whatever the namespace; also of pods that are being deleted; not of those that have ended (trap
    19)."""
    there = [
        asking("a", on="n", namespace="kube-system"),
        asking("b", on="n", leaving=True),
        asking("c", on="n", phase="Succeeded"),
        asking("d", on="n", phase="Failed"),
        asking("e", on="elsewhere"),
        asking("f", on="n", phase="Pending"),
        pod("g", on="n", asks={"cpu": "1"}),
    ]
    assert free([mig(count=7)], there) == {("n", MIG): 4}


def test_what_our_servers_hold_is_in_the_fleets_book() -> None:
    there = [asking("s1", on="n", service="server"), asking("s2", on="n", service="stranger")]
    assert free([mig()], there, ours=["server"]) == {("n", MIG): 3}


def test_of_each_server_one_pod_is_the_fleets_and_the_others_count() -> None:
    """While SSIS's autoscaler moves it, or a pod is replaced, a service has two pods and two slices."""
    there = [
        asking("leaving", on="a", service="server", leaving=True),
        asking("new", on="b", service="server"),
        asking("newer", on="b", service="server", born="2026-11-25T17:00:00Z"),
    ]
    assert free([mig("a"), mig("b")], there, ours=["server"]) == {("a", MIG): 3, ("b", MIG): 3}


def test_trap_4_pods_that_wait_for_a_node_compete_with_us() -> None:
    assert free([mig(count=2)], [asking("a")]) == {("n", MIG): 1}
    assert free([mig(count=2)], [asking("s", service="server")], ours=["server"]) == {("n", MIG): 2}


def test_they_are_put_where_most_is_left() -> None:
    assert free([mig("a", 2), mig("b", 3)], [asking("a1"), asking("a2"), asking("a3")]) == {
        ("a", MIG): 1,
        ("b", MIG): 1,
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {"zone": "other"}},
        {"schedulingGates": [{"name": "quota"}]},
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
                    }
                }
            }
        },
        {"containers": [{"name": "c", "resources": {"requests": {MIG: "5"}}}]},
        {"containers": [{"name": "c", "resources": {"requests": {MIG: "1", "memory": "1Ti"}}}]},
        {"containers": [{"name": "c", "resources": {"requests": {MIG: "1", BIG: "1"}}}]},
    ],
)
def test_those_that_cannot_come_here_take_nothing(spec: Object) -> None:
    assert free([mig()], [pod("p", asks={MIG: "1"}, spec=spec)]) == {("n", MIG): 4}


@pytest.mark.parametrize(
    ("operator", "values", "there"),
    [
        ("In", ["a", "b"], True),
        ("In", ["b"], False),
        ("NotIn", ["b"], True),
        ("NotIn", ["a"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
        ("Gt", ["5"], False),
        ("Lt", ["x"], False),
        ("Unheard", ["a"], False),
    ],
)
def test_required_affinity_is_read(operator: str, values: list[str], there: bool) -> None:
    wish = {"key": "zone", "operator": operator, "values": values}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [wish]}]}
    spec = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}
    nodes = [mig(labels={"zone": "a"})]
    assert free(nodes, [pod("p", asks={MIG: "1"}, spec=spec)])["n", MIG] == (3 if there else 4)


def test_numbers_and_names_of_nodes_can_be_required() -> None:
    def left(term: Object) -> int:
        terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "no", "operator": "Exists"}]}, term]}
        spec = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}
        return free([mig(labels={"gen": "7"})], [pod("p", asks={MIG: "1"}, spec=spec)])["n", MIG]

    assert left({"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["5"]}]}) == 3
    assert left({"matchExpressions": [{"key": "gen", "operator": "Lt", "values": ["5"]}]}) == 4
    assert left({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}) == 3
    assert left({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]}) == 4
    assert left({}) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"unschedulable": True}},
        {"ready": "False"},
        {"ready": "Unknown"},
        {"metadata": {"deletionTimestamp": "2026-11-25T17:00:00Z"}},
        {"labels": {"nvidia.com/mig.config.state": "pending"}},
        {"labels": {"nvidia.com/mig.config.state": "failed"}},
        {"spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]}},
    ],
    ids=str,
)
def test_trap_16_a_node_that_is_away_for_a_while_has_nothing_free(change: Object) -> None:
    """It keeps its slices, so that a model which fits only there is told to wait, and not that there is no slice for
    it."""
    pools, _ = counted([mig(count=7, **change)])
    assert [(pool.total, pool.taken) for pool in pools] == [(7, 7)]


def test_a_node_whose_mig_is_configured_is_like_any_other() -> None:
    assert free([mig(labels={"nvidia.com/mig.config.state": "success"})]) == {("n", MIG): 4}


@pytest.mark.parametrize(
    ("taint", "tolerations", "plugin", "ours"),
    [
        ({"key": "team", "value": "a", "effect": "NoSchedule"}, (), False, False),
        ({"key": "team", "value": "a", "effect": "NoExecute"}, (), False, False),
        ({"key": "team", "value": "a", "effect": "PreferNoSchedule"}, (), False, True),
        ({"key": "team", "value": "a", "effect": "NoSchedule"}, (Toleration("team", value="a"),), False, True),
        ({"key": "team", "value": "a", "effect": "NoSchedule"}, (Toleration("team", value="b"),), False, False),
        ({"key": "team", "value": "a", "effect": "NoSchedule"}, (Toleration("team", "Exists"),), False, True),
        ({"key": "team", "effect": "NoExecute"}, (Toleration("team", "Exists", effect="NoSchedule"),), False, False),
        ({"key": "team", "effect": "NoExecute"}, (Toleration(operator="Exists"),), False, True),
        ({"key": MIG, "effect": "NoSchedule"}, (), True, True),
        ({"key": MIG, "effect": "NoExecute"}, (), True, False),
        ({"key": "nvidia.com/gpu", "effect": "NoSchedule"}, (), True, False),
    ],
)
def test_tainted_nodes_are_not_for_us_unless_we_tolerate_it(
    taint: Object, tolerations: tuple[Toleration, ...], plugin: bool, ours: bool
) -> None:
    features = Features((1, 15), is_exact=True, flags={TOLERATIONS: "enabled"})
    nodes = [mig(spec={"taints": [taint]})]
    found = free(nodes, features=features, tolerations=tolerations, has_toleration_plugin=plugin)
    assert bool(found) is ours


def test_tolerations_that_knative_would_reject_do_not_count() -> None:
    nodes = [mig(spec={"taints": [{"key": "team", "effect": "NoSchedule"}]})]
    assert free(nodes, tolerations=(Toleration(operator="Exists"),)) == {}


def test_trap_2_slices_of_the_single_strategy_and_shared_ones_are_known_by_their_labels() -> None:
    single = node(
        "single",
        labels={"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/gpu.memory": "4864"},
        devices={"nvidia.com/gpu": 7},
    )
    shared = node(
        "shared",
        labels={"nvidia.com/gpu.memory": "40960", "nvidia.com/gpu.replicas": "4"},
        devices={"nvidia.com/gpu.shared": 8},
    )
    pools, _ = counted([single, shared])
    described = {pool.node: (pool.slice.kind, pool.slice.memory_mib, pool.slice.shared, pool.total) for pool in pools}
    assert described == {
        "single": (SliceKind.MIG, 4864, False, 7),
        "shared": (SliceKind.GPU, 10240, True, 8),
    }


def test_trap_3_a_slice_is_as_large_as_its_label_says_and_not_as_its_name() -> None:
    pools, _ = counted([mig(labels={f"{MIG}.memory": "4863"}), node("m", devices={"nvidia.com/mig-1g.18gb": 1})])
    assert [(pool.slice.memory_mib, pool.slice.source) for pool in pools] == [(16128, "name"), (4863, "label")]


def two_cards() -> list[Object]:
    """The same name on an A100-40 (double memory) and on an A100-80."""
    return [
        node(name, labels={"nvidia.com/gpu.memory": memory}, devices={"nvidia.com/gpu": 1})
        for name, memory in (("small", "40960"), ("large", "81920"))
    ]


@pytest.mark.parametrize(
    ("flag", "pins_nodes", "sizes"),
    [("enabled", True, {40960, 81920}), ("disabled", True, {40960}), ("enabled", False, {40960})],
)
def test_one_name_with_two_sizes_is_the_smaller_unless_the_node_can_be_pinned(
    flag: str, pins_nodes: bool, sizes: set[int]
) -> None:
    features = Features((1, 15), is_exact=True, flags={NODE_SELECTOR: flag})
    pools, _ = counted(two_cards(), features=features, pins_nodes=pins_nodes)
    assert {pool.slice.memory_mib for pool in pools} == sizes


def test_nor_where_a_node_has_no_hostname_to_select_it_by() -> None:
    nodes = two_cards()
    del nodes[0]["metadata"]["labels"]["kubernetes.io/hostname"]
    features = Features((1, 15), is_exact=True, flags={NODE_SELECTOR: "enabled"})
    pools, _ = counted(nodes, features=features)
    assert {pool.slice.memory_mib for pool in pools} == {40960}
    assert [capacity.hostname(each) for each in (*nodes, None)] == ["", "large", ""]


def test_the_operators_list_restricts_what_may_be_used() -> None:
    nodes = [node(devices={MIG: 4, BIG: 1, "nvidia.com/gpu": 2})]
    assert free(nodes, resources=(BIG, "nvidia.com/gpu-8gb")).keys() == {("n", BIG)}


def test_devices_that_are_no_slices_are_left_alone() -> None:
    assert free([node(devices={"example.com/fpga": 4, "hugepages-2Mi": 0})]) == {}


def test_a_plugin_that_went_away_leaves_a_zero() -> None:
    pools, _ = counted([mig(count=0)], [asking("a", on="n")])
    assert [(pool.total, pool.taken) for pool in pools] == [(0, 0)]


def test_cpu_and_memory_of_the_node_beside_others_pods() -> None:
    there = [
        pod("a", on="n", asks={"cpu": "1500m", "memory": "1Gi"}),
        pod("b", on="n", asks={"cpu": "1", "memory": "1"}),
        pod("c", on="n", asks={"cpu": "8", "memory": "32Gi"}, service="server"),
    ]
    _, hosts = counted([mig(room={"cpu": "16", "memory": "64Gi"})], there, ours=["server"])
    assert hosts == (Host("n", 13500, 63 * 1024 - 1, 16000, 64 * 1024),)


def test_a_node_may_be_full_of_pods() -> None:
    there = [pod(f"p{index}", on="n") for index in range(8)] + [asking("s", on="n", service="server")]
    assert free([mig(room={"pods": "10"})], there, ours=["server"]) == {("n", MIG): 2}  # one of them is ours
    assert free([mig(room={"pods": "8"})], there[:8]) == {("n", MIG): 0}


def test_most_of_what_happens_to_a_pod_changes_nothing() -> None:
    before = asking("a", on="n", service="server", phase="Pending")
    assert capacity.concerns(None, before)
    assert capacity.concerns(before, None)
    told = asking("a", on="n", service="server")
    told["status"]["containerStatuses"] = [{"name": "c", "restartCount": 3}]
    assert not capacity.concerns(before, told)
    for other in (
        asking("a", service="server"),
        asking("a", on="n", service="server", leaving=True),
        asking("a", on="n", service="server", phase="Failed"),
        asking("a", 2, on="n", service="server"),
    ):
        assert capacity.concerns(before, other)
        assert capacity.concerns(pods.trim(before), pods.trim(other))


# Quotas


def slices(count: int, scopes: list[str] | None = None) -> Object:
    return {"metadata": {"name": "q"}, "spec": {"hard": {f"requests.{MIG}": str(count)}, "scopes": scopes}}


def test_the_namespaces_quota_bounds_us_all_together() -> None:
    nodes = [mig("a", 2), mig("b", 2)]
    there = [
        asking("s", on="b", service="server", namespace="nthulab"),
        asking("t", namespace="nthulab", on="elsewhere"),
        asking("u", namespace="other", on="elsewhere"),
    ]
    found = free(nodes, there, [slices(3), slices(9)], ours=["server"])
    assert found == {("a", MIG): 1, ("b", MIG): 1}  # 3 - 1 of others = 2, one of which we hold on b
    assert free(nodes, there, [slices(1)], ours=["server"]) == {("a", MIG): 0, ("b", MIG): 1}


@pytest.mark.parametrize(
    ("scopes", "counts"), [([], True), (["NotTerminating"], True), (["BestEffort"], False), (["PriorityClass"], False)]
)
def test_a_quota_for_other_pods_is_not_for_us(scopes: list[str], counts: bool) -> None:
    assert free([mig()], [], [slices(1, scopes)])["n", MIG] == (1 if counts else 4)


def test_quotas_of_cpu_memory_and_pods() -> None:
    there = [
        pod("a", on="n", namespace="nthulab", asks={"cpu": "1"}),
        pod("s", on="other", namespace="nthulab", asks={"cpu": "2", "memory": "1Gi", MIG: "1"}, service="server"),
    ]
    limits = {"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "10", "memory": "8Gi", "count/pods": "4"}}}
    pools, hosts = counted([mig()], there, [limits], ours=["server"])
    assert hosts == (Host("n", 7000, 7 * 1024, 10_000, 8 * 1024),)
    assert [pool.total - pool.taken for pool in pools] == [2]


# MPS, launches that wait for a node, CPU


def test_trap_8_slices_on_which_nothing_can_run_are_left_out() -> None:
    nodes = [mig("a"), node("b", devices={"nvidia.com/gpu-4gb": 2})]
    assert free(nodes).keys() == {("a", MIG)}
    assert free(nodes, host_ipc=False).keys() == {("a", MIG), ("b", "nvidia.com/gpu-4gb")}
    ready = Features((1, 16), is_exact=True, flags={HOST_IPC: "enabled"})
    assert free(nodes, features=ready).keys() == {("a", MIG), ("b", "nvidia.com/gpu-4gb")}


def test_trap_8_unless_there_is_nothing_else_for_then_the_launch_tells_the_reason() -> None:
    assert free([node(devices={"nvidia.com/gpu-4gb": 2})]) == {("n", "nvidia.com/gpu-4gb"): 2}


def test_launches_may_wait_for_slices_that_a_node_has_yet_to_bring() -> None:
    nodes = [mig()]
    assert (PENDING, MIG) not in free(nodes)
    assert free(nodes, launch_pending=3)[PENDING, MIG] == 3
    found = free(nodes, launch_pending=3, resources=(MIG, "nvidia.com/gpu-8gb", "nonsense"), host_ipc=False)
    assert found == {("n", MIG): 4, (PENDING, MIG): 3, (PENDING, "nvidia.com/gpu-8gb"): 3}


def test_so_many_in_all_of_whatever_kind() -> None:
    found = free([], launch_pending=3, resources=(MIG, BIG), waiting={MIG: 2})
    assert found == {(PENDING, MIG): 3, (PENDING, BIG): 1}  # of 3, the fleet counts 2 against the first itself


def test_nodes_without_devices_are_shared_out() -> None:
    """What has a number first, then one of each by turns; Knative's own container takes its part every time."""
    plain = node("plain", room={"cpu": "8", "memory": "11Gi"})
    shares = (CpuShare(1024, 500), CpuShare(4096, 2000, count=1), CpuShare(2048, 1000))
    there = [
        pod("a", on="plain", asks={"cpu": "500m", "memory": "1Gi"}),
        pod("s", on="plain", asks={"cpu": "1", "memory": "2Gi"}, service="server"),
    ]
    pools, hosts = counted([plain, mig()], there, ours=["server"], cpu_shares=shares)
    assert {pool.slice.name: pool.total for pool in pools if pool.node == "plain"} == {
        "cpu-4gib": 1,
        "cpu-2gib": 2,
        "cpu-1gib": 2,
    }
    assert [host.node for host in hosts] == ["n"]
    assert not [pool for pool in pools if pool.slice.kind is SliceKind.CPU and pool.node == "n"]


def test_shares_of_nodes_that_differ_are_one_kind_of_slice() -> None:
    nodes = [node("a", room={"cpu": "8"}), node("b", room={"cpu": "16"})]
    pools, _ = counted(nodes, cpu_shares=(CpuShare(1024, 1000, count=1),))
    assert len({pool.slice for pool in pools}) == 1
    assert [pool.total for pool in pools] == [1, 1]


def test_a_plain_node_that_is_away_has_none_free() -> None:
    nodes = [node("a", spec={"unschedulable": True})]
    assert set(free(nodes, cpu_shares=(CpuShare(1024, 100),)).values()) == {0}
    tainted = [node("a", spec={"taints": [{"key": "x", "effect": "NoSchedule"}]})]
    assert free(tainted, cpu_shares=(CpuShare(1024, 100),)) == {}


# Against a scheduler


CPUS = st.sampled_from(["0", "100m", "250m", "1", "1.5", "2"])
MEMORIES = st.sampled_from(["0", "512Mi", "1Gi", "1.5G", "2e9", "3Gi"])
COUNTS = st.sampled_from(["0", "1", "2"])
ASKS = st.fixed_dictionaries({"cpu": CPUS, "memory": MEMORIES}, optional={MIG: COUNTS, BIG: COUNTS})
CONTAINERS = ASKS.map(lambda asks: {"name": "c", "resources": {"requests": asks}})
INITS = st.tuples(CONTAINERS, st.booleans()).map(
    lambda pair: {**pair[0], "restartPolicy": "Always"} if pair[1] else pair[0]
)
SPECS = st.fixed_dictionaries(
    {"containers": st.lists(CONTAINERS, min_size=1, max_size=2)},
    optional={
        "initContainers": st.lists(INITS, max_size=3),
        "overhead": st.fixed_dictionaries({"cpu": CPUS}),
        "resources": st.fixed_dictionaries({"requests": st.fixed_dictionaries({"memory": MEMORIES})}),
    },
)
PODS = st.builds(
    lambda number, spec, on, phase, service, leaving: pod(
        f"p{number}", spec=spec, on=on, phase=phase, service=service, leaving=leaving
    ),
    st.integers(0, 10**9),
    SPECS,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["Running", "Running", "Pending", "Succeeded", "Failed"]),
    st.sampled_from(["", "", "ours-1", "ours-2", "theirs"]),
    st.booleans(),
)
NODES = st.builds(
    lambda devices, room, cordoned, ready, taints, state: [
        node(
            name,
            devices={MIG: devices[0], BIG: devices[1]},
            room=room,
            spec={"unschedulable": cordoned, "taints": taints},
            ready=ready,
            labels={"nvidia.com/mig.config.state": state} if state else {},
        )
        for name in ("a", "b")
    ],
    st.tuples(st.integers(0, 4), st.integers(0, 2)),
    st.fixed_dictionaries(
        {
            "cpu": st.sampled_from(["2", "4", "7500m"]),
            "memory": st.sampled_from(["4Gi", "8Gi"]),
            "pods": st.sampled_from(["2", "4", "110"]),
        }
    ),
    st.sampled_from([False, False, False, True]),
    st.sampled_from(["True", "True", "True", "False"]),
    st.sampled_from(
        [
            [],
            [],
            [{"key": "team", "value": "a", "effect": "NoSchedule"}],
            [{"key": "team", "value": "b", "effect": "NoExecute"}],
            [{"key": "other", "effect": "PreferNoSchedule"}],
        ]
    ),
    st.sampled_from(["", "success", "pending"]),
)

UNITS = {"m": Decimal("0.001"), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "G": Decimal(10**9)}


def amount(text: str) -> Decimal:
    """A quantity, read once more and in another way."""
    for unit in ("Mi", "Gi", "G", "m"):
        if text.endswith(unit):
            return Decimal(text.removesuffix(unit)) * UNITS[unit]
    return Decimal(text)


class Machine:
    """A node as a scheduler and a kubelet have it: pods are tried out on it."""

    def __init__(self, object: Object, bound: Iterable[Object]) -> None:
        self.object = object
        self.there = [pod for pod in bound if pod["status"]["phase"] in ("Running", "Pending")]

    def takes(self, asked: Object) -> bool:
        """Bind a pod with one container, if it may and can be there."""
        spec, labels = self.object["spec"], self.object["metadata"]["labels"]
        if spec["unschedulable"] or labels.get("nvidia.com/mig.config.state", "success") != "success":
            return False
        conditions = {each["type"]: each["status"] for each in self.object["status"]["conditions"]}
        if conditions["Ready"] != "True":
            return False
        for taint in spec["taints"]:
            if taint["effect"] != "PreferNoSchedule" and (taint["key"], taint.get("value")) != ("team", "a"):
                return False
        with_it = [*self.there, {"spec": {"containers": [{"resources": {"requests": asked}}]}}]
        limits = self.object["status"]["allocatable"]
        if len(with_it) > int(limits["pods"]):
            return False
        for resource in (name for name, text in asked.items() if amount(text)):
            if sum(self.peak(pod["spec"], resource) for pod in with_it) > amount(limits[resource]):
                return False
        self.there = with_it
        return True

    @staticmethod
    def peak(spec: Object, resource: str) -> Decimal:
        """The most that a pod has of a resource at any moment of its life."""

        def of(container: Object) -> Decimal:
            return amount(container["resources"]["requests"].get(resource, "0"))

        moments, staying = [], Decimal(0)
        for container in spec.get("initContainers", ()):
            if container.get("restartPolicy") == "Always":
                staying += of(container)
                moments.append(staying)
            else:
                moments.append(staying + of(container))
        moments.append(staying + sum(map(of, spec["containers"])))
        most = max(moments)
        if resource in spec.get("resources", {}).get("requests", {}):
            most = amount(spec["resources"]["requests"][resource])
        return most + amount(spec.get("overhead", {}).get(resource, "0"))


@settings(max_examples=300, deadline=None)
@given(
    NODES,
    st.lists(PODS, max_size=6, unique_by=lambda pod: str(pod["metadata"]["name"])),
    st.sampled_from([MIG, BIG]),
    st.sampled_from(["0", "1", "2500m"]),
    st.sampled_from(["0", "1Gi", "3Gi"]),
    st.booleans(),
)
def test_what_is_said_to_be_free_can_be_had_and_nothing_else(
    nodes: list[Object], there: list[Object], resource: str, cpu: str, memory: str, trimmed: bool
) -> None:
    """The fleet launches by its book (pools and hosts, minus its own servers) until nothing is free; a scheduler that
    tries pod after pod on each node comes to the same number."""
    tolerations = (Toleration("team", value="a"),)
    features = Features((1, 15), is_exact=True, flags={TOLERATIONS: "enabled"})
    ours = {"ours-1", "ours-2"}
    seen = [pods.trim(pod) for pod in there] if trimmed else there
    pools, hosts = counted(
        [capacity.trim_node(node) for node in nodes] if trimmed else nodes,
        seen,
        ours=ours,
        features=features,
        tolerations=tolerations,
    )
    for object in nodes:
        name = object["metadata"]["name"]
        machine = Machine(object, [pod for pod in there if pod["spec"]["nodeName"] == name])
        asked = {"cpu": cpu, "memory": memory, resource: "1"}
        tried = 0
        while machine.takes(asked):
            tried += 1
        assert by_the_book(name, pools, hosts, own_pods(there, ours, name), resource, asked) == tried


def own_pods(there: list[Object], ours: set[str], node: str) -> list[Object]:
    """One pod of each of our servers, as far as they are on this node."""
    found = []
    for service in ours:
        server = pods.chosen(pod for pod in there if pods.service_of(pod) == service)
        if server is not None and server["spec"]["nodeName"] == node:
            found.append(dict(server))
    return found


def by_the_book(
    node: str,
    pools: Iterable[Pool],
    hosts: Iterable[Host],
    own: list[Object],
    resource: str,
    asked: Mapping[str, str],
) -> int:
    """How many the fleet would launch on this node."""
    slots = 0
    for pool in pools:
        if (pool.node, pool.slice.name) == (node, resource):
            slots = pool.total - pool.taken - int(sum(Machine.peak(pod["spec"], resource) for pod in own))
    for host in hosts:
        if host.node == node:
            left = Decimal(host.cpu_millis) / 1000 - sum(Machine.peak(pod["spec"], "cpu") for pod in own)
            if amount(asked["cpu"]):
                slots = min(slots, int(left // amount(asked["cpu"])))
            memory = Decimal(host.memory_mib) * 2**20 - sum(
                -(-Machine.peak(pod["spec"], "memory") // 2**20) * 2**20 for pod in own
            )
            if amount(asked["memory"]):
                slots = min(slots, int(memory // amount(asked["memory"])))
    return max(0, slots)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "s1", "s2"])), max_size=6),
    st.integers(0, 8),
)
def test_within_a_quota_as_many_can_be_had_as_the_api_server_lets_in(
    sizes: list[int], bound: list[tuple[int, str]], hard: int
) -> None:
    nodes = [mig(f"n{index}", size) for index, size in enumerate(sizes)]
    there = [
        asking(f"p{index}", on=f"n{on}", service=service, namespace="nthulab")
        for index, (on, service) in enumerate(bound)
        if on < len(sizes)
    ]
    ours = {"s1", "s2"}
    own = [pods.chosen(pod for pod in there if pods.service_of(pod) == name) for name in ours]
    held = [str(pod["spec"]["nodeName"]) for pod in own if pod is not None]
    left = {
        name: max(0, count - held.count(name))
        for (name, _), count in free(nodes, there, [slices(hard)], ours=ours).items()
    }
    devices = {f"n{index}": size for index, size in enumerate(sizes)}
    for each in there:
        devices[each["spec"]["nodeName"]] -= 1
    admitted = max(0, min(hard - len(there), sum(max(0, count) for count in devices.values())))
    assert sum(left.values()) == admitted
    assert all(left[name] <= max(0, devices[name]) for name in left)
