"""What is decided of a server: by its slice, its engine, the operator, and what this Knative allows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.launchers.knative.objects import CPU, GIB, GPU, MIG, NEBULY, NVIDIA_MPS, order, slice_of
from tests.launchers.knative.written import MPS, OLD, container_of, env_of, made, pod_of, written

from ssis_dispatcher.core.messages import FailureKind, Model
from ssis_dispatcher.core.sizing import MIB, ModelFacts, Profile
from ssis_dispatcher.core.slices import PENDING, Pool, Slice
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.knative import names
from ssis_dispatcher.launchers.knative.features import CLAIM, CLAIM_WRITE, HOST_IPC, HOST_PATH, Features
from ssis_dispatcher.launchers.knative.options import (
    CpuShare,
    HostRule,
    PodSource,
    VolumeKind,
    Weights,
)
from ssis_dispatcher.launchers.knative.specs import RESERVED, host_request


@pytest.mark.parametrize("name", ["nvidia.com/mig-1g.10gb.me", "nvidia.com/mig-1g.24gb-me", "nvidia.com/gpu.shared"])
def test_trap_2_the_resource_is_called_what_the_node_calls_it(name: str) -> None:
    labels = {"nvidia.com/gpu.memory": "40960", "nvidia.com/gpu.replicas": "4"}
    assert container_of(order(slice_of(name, labels)))["resources"]["limits"] == {name: "1"}


def test_trap_8_host_ipc_is_refused_where_knative_is_too_old_for_it() -> None:
    with pytest.raises(LaunchFailed, match=r"needs Knative 1\.16 or newer, and this is 1\.15") as failed:
        made(order(NEBULY))
    assert failed.value.failure.kind is FailureKind.MISCONFIGURED
    assert "kubectl" not in failed.value.failure.message


def test_trap_8_where_a_flag_is_off_the_reason_says_how_to_set_it() -> None:
    with pytest.raises(LaunchFailed) as failed:
        made(order(NEBULY), features=Features((1, 18), is_exact=True))
    assert (
        "kubectl patch configmap/config-features -n knative-serving --type merge"
        ' -p \'{"data":{"kubernetes.podspec-hostipc":"enabled"}}\''
    ) in failed.value.failure.message


def test_trap_9_nebulys_plugin_leaves_the_mps_variables_to_us() -> None:
    """It writes the limit as ``0:4G``, or not at all, and never the share of threads."""
    pod = pod_of(order(NEBULY), features=MPS)
    env = env_of(order(NEBULY), features=MPS)
    assert pod["hostIPC"] is True
    assert {name: value for name, value in env.items() if "MPS" in name} == {
        "CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=4G",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "10",
    }


@pytest.mark.parametrize(
    ("size", "card", "percentage"), [(1, 40, 2), (3, 40, 7), (29, 100, 29), (40, 40, 100), (1, 200, 1), (4, 0, 12)]
)
def test_trap_9_threads_go_by_the_part_of_the_card(size: int, card: int, percentage: int) -> None:
    """The original's table was right for cards of 32 GB only, which is what counts where no label tells."""
    slice = slice_of(f"nvidia.com/gpu-{size}gb", {"nvidia.com/gpu.memory": str(card * 1024)} if card else {})
    env = env_of(order(slice, weights=1000), features=MPS)
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == str(percentage)


def test_trap_9_the_operators_table_comes_first() -> None:
    env = env_of(order(NEBULY), features=MPS, mps_threads={"1gb": 3, "4gb": 55})
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "55"


@pytest.mark.parametrize("slice", [MIG, GPU, NVIDIA_MPS, CPU], ids=str)
def test_trap_9_nobody_else_gets_them(slice: Slice) -> None:
    """NVIDIA's own MPS brings a pipe of its own, which ours would hide; on MIG they mean nothing."""
    assert not [name for name in env_of(order(slice)) if "MPS" in name]
    assert "hostIPC" not in pod_of(order(slice))


def test_trap_9_the_pipe_is_mounted_where_the_plugin_does_not_and_read_only() -> None:
    features = Features((1, 17), is_exact=True, flags={HOST_IPC: "enabled", HOST_PATH: "enabled"})
    pod = pod_of(order(NEBULY), features=features, mounts_mps_pipe=True)
    assert {"name": "mps", "hostPath": {"path": "/tmp/nvidia-mps", "type": "Directory"}} in pod["volumes"]
    assert {"name": "mps", "mountPath": "/tmp/nvidia-mps", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    with pytest.raises(LaunchFailed, match=r"needs Knative 1\.17"):
        made(order(NEBULY), features=MPS, mounts_mps_pipe=True)


def test_trap_9_placement_alone_can_be_tried_on_an_old_knative() -> None:
    pod = pod_of(order(NEBULY), host_ipc=False)
    assert "hostIPC" not in pod
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu-4gb": "1"}


def test_trap_10_who_a_server_runs_as_and_which_image_goes_with_it() -> None:
    """Images of TGI from 3.1.1 on run as root only; Nebuly's MPS server admits one user, by default 1000."""
    on_mig, on_mps = container_of(), container_of(order(NEBULY), features=MPS)
    assert on_mig["image"].endswith(":3.3.7")
    assert "runAsUser" not in on_mig["securityContext"]
    assert on_mps["image"].endswith(":3.1.0")
    assert on_mps["securityContext"]["runAsUser"] == 1000
    assert on_mps["securityContext"]["runAsNonRoot"] is True
    assert env_of(order(NEBULY), features=MPS)["HOME"] == "/data"
    assert "HOME" not in env_of()


def test_trap_10_the_user_is_the_operators_to_say_per_slice() -> None:
    uids = {"nebuly": 0, "mig": 65532}
    root = container_of(order(NEBULY), features=MPS, uids=uids)["securityContext"]
    assert (root["runAsUser"], root["runAsNonRoot"]) == (0, False)
    assert container_of(uids=uids)["securityContext"]["runAsUser"] == 65532
    assert container_of(order(GPU), uids={"": 7})["securityContext"]["runAsUser"] == 7


def test_trap_11_tgi_keeps_a_tenth_of_the_slice_free_and_not_of_the_card() -> None:
    assert env_of(order(NEBULY), features=MPS)["TGI_WIGGLE_ROOM"] == "0.9900"
    assert env_of(order(NVIDIA_MPS))["TGI_WIGGLE_ROOM"] == "0.9750"
    assert "TGI_WIGGLE_ROOM" not in env_of()


def test_trap_11_engines_on_a_share_of_a_card_are_told_their_part() -> None:
    shared = slice_of("nvidia.com/gpu.shared", {"nvidia.com/gpu.memory": "40960", "nvidia.com/gpu.replicas": "4"})
    args = container_of(order(shared, engine="sglang"))["args"]
    assert args[args.index("--mem-fraction-static") + 1] == "0.2125"
    mig = slice_of("nvidia.com/mig-3g.20gb.shared", {"nvidia.com/mig-3g.20gb.replicas": "2"})
    args = container_of(order(mig, engine="sglang"))["args"]
    assert args[args.index("--mem-fraction-static") + 1] == "0.4250"


@pytest.mark.parametrize("engine", ["tgi", "vllm", "sglang", "llamacpp"])
def test_trap_13_knative_alone_sets_the_port(engine: str) -> None:
    """``PORT`` and K_… are rejected in a container's env; the server is told the same port as Knative."""
    dirty = dict.fromkeys(("PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"), "1")
    launch = order(engine=engine)
    source = PodSource("org/name", env=tuple(dirty.items()))
    container = container_of(launch, source=source, env=tuple(dirty.items()))
    assert not {each["name"] for each in container["env"]} & RESERVED
    assert container["ports"] == [{"containerPort": 8080}]
    said = [*container.get("args", ()), *(each["value"] for each in container["env"])]
    assert "8080" in said or engine == "tgi"


def test_trap_13_an_engine_with_a_port_of_its_own_keeps_it_unless_it_is_knatives() -> None:
    own = CommandEngine("own", ENGINES["vllm"], command=("serve",), port=9000)
    assert container_of(engine=own, source=PodSource("m", image="own:1"))["ports"] == [{"containerPort": 9000}]
    taken = CommandEngine("own", ENGINES["vllm"], command=("serve",), port=9090)
    with pytest.raises(LaunchFailed, match="port 9090, which Knative uses itself"):
        made(engine=taken, source=PodSource("m", image="own:1"))


def test_the_operators_environment_comes_before_ours_and_after_the_engines() -> None:
    env = env_of(
        env=(("HF_ENDPOINT", "http://hub"), ("HF_HOME", "/elsewhere"), ("MODEL_ID", "other")),
        source=PodSource("org/name", env=(("HF_ENDPOINT", "http://closer"),)),
    )
    assert (env["HF_ENDPOINT"], env["HF_HOME"], env["MODEL_ID"]) == ("http://closer", "/elsewhere", "org/name")


@pytest.mark.parametrize(
    ("engine", "command", "first"),
    [
        ("tgi", None, None),
        ("llamacpp", None, None),
        ("vllm", ["vllm", "serve"], "org/name"),
        ("sglang", ["python3", "-m", "sglang.launch_server"], "--model-path"),
    ],
)
def test_each_engine_is_started_in_its_image(engine: str, command: list[str] | None, first: str | None) -> None:
    container = container_of(order(engine=engine))
    assert container.get("command") == command
    assert container.get("args", [None])[0] == first
    assert container["readinessProbe"]["httpGet"]["path"] == ENGINES[engine].health
    values = [*container.get("args", ()), *(each["value"] for each in container["env"])]
    assert "0.0.0.0" in values  # Knative probes from beside it, the gateway from elsewhere
    assert "127.0.0.1" not in values


def test_the_image_is_the_catalogues_the_operators_or_our_own() -> None:
    images = {"tgi": {"": "mine:1", "gpu": "mine:2"}}
    assert made(source=PodSource("m", image="theirs:1"), images=images).image == "theirs:1"
    assert made(images=images).image == "mine:1"
    assert made(order(GPU), images=images).image == "mine:2"
    assert made(order(NEBULY), images=images, features=MPS).image == "mine:1"
    with pytest.raises(LaunchFailed, match="which image runs openai"):
        made(order(engine="openai"))


@pytest.mark.parametrize(("slice", "image"), [(CPU, "llama.cpp:server"), (MIG, "llama.cpp:server-cuda")])
def test_llama_cpp_has_an_image_with_and_one_without_cuda(slice: Slice, image: str) -> None:
    assert made(order(slice, engine="llamacpp")).image.endswith(f"/{image}")


def test_a_cpu_slice_asks_exactly_its_share_and_sees_no_gpu() -> None:
    shares = (CpuShare(1024, 500), CpuShare(2048, 1500))
    container = container_of(order(CPU, engine="llamacpp"), cpu_shares=shares)
    assert container["resources"] == {
        "requests": {"cpu": "1500m", "memory": "2048Mi"},
        "limits": {"cpu": "1500m", "memory": "2048Mi"},
    }
    env = env_of(order(CPU, engine="llamacpp"), cpu_shares=shares)
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert (env["LLAMA_ARG_N_GPU_LAYERS"], env["LLAMA_ARG_THREADS"]) == ("0", "2")


@pytest.mark.parametrize("count", [2, 4, 8])
def test_several_whole_gpus_of_one_node_share_memory(count: int) -> None:
    launch = order(GPU, count=count, engine="vllm")
    container = container_of(launch)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": str(count)}
    assert container["args"][container["args"].index("--tensor-parallel-size") + 1] == str(count)
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2048Mi"}} in pod_of(launch)["volumes"]
    assert names.marks(launch)[names.SLICE] == f"{count} × nvidia.com/gpu"


@pytest.mark.parametrize(("engine", "shares"), [("vllm", True), ("sglang", True), ("tgi", False), ("llamacpp", False)])
def test_engines_of_several_processes_get_shared_memory_on_one_gpu_too(engine: str, shares: bool) -> None:
    mounts = {mount["mountPath"] for mount in container_of(order(engine=engine))["volumeMounts"]}
    assert ("/dev/shm" in mounts) is shares


def test_vllm_keeps_what_it_compiled_beside_the_weights() -> None:
    env = env_of(order(engine="vllm"))
    assert (env["HF_HOME"], env["VLLM_CACHE_ROOT"]) == ("/data", "/data/vllm")


def test_the_folder_of_the_weights_is_bounded_by_the_model() -> None:
    def limit(size: int | None, **options: Any) -> str:
        (volume,) = pod_of(order(weights=size), **options)["volumes"]
        return str(volume["emptyDir"]["sizeLimit"])

    assert limit(100 * GIB) == f"{210 * 1024}Mi"
    assert limit(None) == f"{200 * 1024}Mi"
    assert limit(100 * GIB, weights=Weights(limit_mib=5)) == "5Mi"


def test_weights_can_lie_in_a_folder_of_the_node_which_is_read_only() -> None:
    weights = Weights(kind=VolumeKind.HOST, source="/srv/models")
    features = Features((1, 17), is_exact=True, flags={HOST_PATH: "allowed"})
    pod = pod_of(weights=weights, features=features)
    assert pod["volumes"] == [{"name": "weights", "hostPath": {"path": "/srv/models", "type": "Directory"}}]
    assert pod["containers"][0]["volumeMounts"] == [{"name": "weights", "mountPath": "/data", "readOnly": True}]
    assert env_of(weights=weights, features=features)["HF_HUB_OFFLINE"] == "1"
    assert env_of(order(engine="llamacpp"), weights=weights, features=features)["LLAMA_ARG_OFFLINE"] == "1"
    with pytest.raises(LaunchFailed, match=r"1\.17 or newer"):
        made(weights=weights)


def test_weights_can_lie_on_a_claim() -> None:
    flags = {CLAIM: "enabled", CLAIM_WRITE: "enabled"}
    weights = Weights(kind=VolumeKind.CLAIM, source="models")
    features = msgspec.structs.replace(OLD, flags=flags)
    pod = pod_of(weights=weights, features=features)
    assert pod["volumes"] == [{"name": "weights", "persistentVolumeClaim": {"claimName": "models"}}]
    assert "HF_HUB_OFFLINE" not in env_of(weights=weights, features=features)
    for flag in flags:
        with pytest.raises(LaunchFailed, match=f"flag {flag};"):
            made(weights=weights, features=msgspec.structs.replace(OLD, flags={**flags, flag: "disabled"}))
    filled = Weights(kind=VolumeKind.CLAIM, source="models", read_only=True)
    pod = pod_of(weights=filled, features=msgspec.structs.replace(OLD, flags={CLAIM: "enabled"}))
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert pod["containers"][0]["volumeMounts"][0]["readOnly"] is True


@pytest.mark.parametrize(
    ("flag", "pins_nodes", "node", "pinned"),
    [
        ("enabled", True, "n", "n.local"),
        ("disabled", True, "n", None),
        ("enabled", False, "n", None),
        ("enabled", True, PENDING, None),
    ],
)
def test_the_node_is_pinned_where_knative_lets_us(flag: str, pins_nodes: bool, node: str, pinned: str | None) -> None:
    features = msgspec.structs.replace(OLD, flags={"kubernetes.podspec-nodeselector": flag})
    pod = pod_of(order(pool=Pool(node, MIG, 1)), features=features, pins_nodes=pins_nodes, hostname="n.local")
    assert pod.get("nodeSelector") == (None if pinned is None else {"kubernetes.io/hostname": pinned})


@pytest.mark.parametrize(
    ("budget", "start", "deadline"),
    [(120.0, 30.0, "180s"), (1800.0, 60.0, "1860s"), (10.0, 5.0, "120s"), (9e9, 1.0, "86400s")],
)
def test_knative_gives_a_start_up_later_than_the_fleet(budget: float, start: float, deadline: str) -> None:
    profile = msgspec.structs.replace(order().profile, start_seconds=start)
    found = written(order(profile=profile, budget=budget))["spec"]["template"]["metadata"]["annotations"]
    assert found["serving.knative.dev/progress-deadline"] == deadline


# What it asks of its node


@pytest.mark.parametrize(
    ("engine", "weights", "cpu", "memory"),
    [
        ("tgi", 2 * GIB, 1120, 2048 + 2048),
        ("vllm", 131 * GIB, 8000, 65536),  # bounded: the whole of it passes, but not at once
        ("llamacpp", 3 * MIB, 1000, 259),
        ("tgi", None, 1000, 4096),
    ],
)
def test_it_asks_by_the_size_of_the_model(engine: str, weights: int | None, cpu: int, memory: int) -> None:
    profile = Profile(ModelFacts(weight_bytes=weights), context=1)
    assert host_request(profile, engine, HostRule()) == (cpu + 25, memory)


def test_the_bounds_are_the_operators() -> None:
    rule = HostRule(cpu_millis=50, cpu_millis_per_gib=0, most_mib=1000, engine_mib={"tgi": 10}, weights_share=0.5)
    assert host_request(Profile(ModelFacts(weight_bytes=100 * MIB), context=1), "tgi", rule, (25, 400)) == (75, 656)
    assert host_request(Profile(ModelFacts(weight_bytes=100 * GIB), context=1), "tgi", rule) == (75, 1000)


def test_what_the_fleet_counted_is_what_the_pod_asks_in_all() -> None:
    """Knative's own container is part of what the profile says, so that the book and the scheduler agree."""
    profile = msgspec.structs.replace(order().profile, host_cpu_millis=500, host_mib=3000)
    features = msgspec.structs.replace(OLD, flags={"queueproxy.resource-defaults": "enabled"})
    requests = container_of(order(profile=profile), features=features)["resources"]["requests"]
    assert (requests["cpu"], requests["memory"]) == ("475m", "2600Mi")


def test_engines_are_told_what_the_plan_says() -> None:
    engine = CommandEngine(
        "own", ENGINES["vllm"], command=("{model}|{served_as}|{context}|{seats}|{memory_mib}|{kv_mib}|{gpus}|{port}",)
    )
    launch = order(model=Model.of("org/name", engine="own", revision="main"))
    container = container_of(launch, engine=engine, source=PodSource("load/this", image="own:1"))
    kv = 4864 - 2048 - 512 - 244
    assert container["command"] == [f"load/this|org/name|4096|8|4864|{kv}|1|8080"]
