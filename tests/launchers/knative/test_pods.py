"""The truth about a server, from what Kubernetes and Knative say of it: one story after another, as they go by."""

from __future__ import annotations

from typing import Any

import pytest
from tests.launchers.knative.objects import pod

from ssis_dispatcher.core.messages import FailureKind
from ssis_dispatcher.launchers.knative import pods
from ssis_dispatcher.launchers.knative.pods import Verdict, judge

Object = dict[str, Any]

NAME = "somemodel7babcdefghij"
IMAGE = "ghcr.io/huggingface/text-generation-inference:3.3.7"


def service(*conditions: tuple[str, str, str, str], generation: int = 1, observed: int = 1, **metadata: Any) -> Object:
    """A Knative Service; conditions are type, status, reason, message."""
    keys = ("type", "status", "reason", "message")
    return {
        "metadata": {"name": NAME, "uid": "service-1", "generation": generation, **metadata},
        "status": {
            "observedGeneration": observed,
            "conditions": [{key: value for key, value in zip(keys, each, strict=True) if value} for each in conditions],
        },
    }


NEW = service(
    ("ConfigurationsReady", "Unknown", "", ""),
    ("Ready", "Unknown", "RevisionMissing", f'Configuration "{NAME}" is waiting for a Revision to become ready.'),
    ("RoutesReady", "Unknown", "RevisionMissing", f'Configuration "{NAME}" is waiting for a Revision to become ready.'),
)
READY = service(("ConfigurationsReady", "True", "", ""), ("Ready", "True", "", ""), ("RoutesReady", "True", "", ""))


def failed(message: str, reason: str = "RevisionFailed", **more: Any) -> Object:
    """A Knative Service whose revision failed."""
    words = f'Revision "{NAME}-00001" failed with message: {message}.'
    return service(
        ("ConfigurationsReady", "False", reason, words),
        ("Ready", "False", reason, words),
        (
            "RoutesReady",
            "Unknown",
            "RevisionMissing",
            f'Configuration "{NAME}" is waiting for a Revision to become ready.',
        ),
        **more,
    )


def status(
    state: Object, last: Object | None = None, *, name: str = "user-container", ready: bool = False, restarts: int = 0
) -> Object:
    return {
        "name": name,
        "image": IMAGE,
        "ready": ready,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }


RUNNING: Object = {"running": {"startedAt": "2026-11-25T16:00:05Z"}}
PROXY = status(RUNNING, name="queue-proxy", ready=False)


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def ended(code: int, message: str = "", reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def bound(*statuses: Object, conditions: Object | None = None, name: str = "p", **more: Any) -> Object:
    """A pod on node ``n``, with statuses of its containers (beside queue-proxy's)."""
    made = pod(name, on="n", service=NAME, phase=more.pop("phase", "Pending"), **more)
    given = {"PodScheduled": "True", "Ready": "False", "ContainersReady": "False", **(conditions or {})}
    made["status"] |= {
        "podIP": "10.244.0.9",
        "containerStatuses": [PROXY, *statuses],
        "conditions": [{"type": kind, "status": value} for kind, value in given.items()],
    }
    return made


def ready_pod(**more: Any) -> Object:
    return bound(
        status(RUNNING, ready=True), conditions={"Ready": "True", "ContainersReady": "True"}, phase="Running", **more
    )


def dead(reason: str, message: str, name: str = "dead") -> Object:
    """A pod that Kubernetes gave up."""
    made = pod(name, on="n", service=NAME, phase="Failed")
    made["status"] |= {"reason": reason, "message": message}
    return made


def kind_of(verdict: Verdict) -> FailureKind | None:
    return None if verdict.failure is None else verdict.failure.kind


def words_of(verdict: Verdict) -> str:
    assert verdict.failure is not None
    return verdict.failure.message


# A start that goes well


def unscheduled(message: str = "") -> Object:
    made = pod("p", service=NAME, phase="Pending")
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    made["status"]["conditions"] = [condition] if message else []
    return made


NOBODY_HAS_ONE = "0/3 nodes are available: 3 Insufficient nvidia.com/mig-1g.5gb. preemption: 0/3 nodes are available."

STORY = [
    (NEW, [], "scheduling", "waiting for a Revision"),
    (NEW, [unscheduled()], "scheduling", "waiting for the scheduler"),
    (NEW, [unscheduled(NOBODY_HAS_ONE)], "scheduling", NOBODY_HAS_ONE),
    (NEW, [pod("p", on="n", service=NAME, phase="Pending")], "starting", "the node has not begun"),
    (NEW, [bound(status(waiting("ContainerCreating")))], "pulling", ""),
    (NEW, [bound(status(waiting("PodInitializing")))], "pulling", ""),
    (NEW, [bound(status(RUNNING))], "loading", ""),
    (NEW, [ready_pod()], "loading", "its route is not there yet: Configuration"),
    (READY, [ready_pod()], "ready", ""),
]


@pytest.mark.parametrize("step", range(len(STORY)))
def test_a_start_goes_through_its_phases_in_the_platforms_own_words(step: int) -> None:
    said, there, phase, detail = STORY[step]
    verdict = judge(said, there)
    assert (verdict.phase, verdict.failure, verdict.ready) == (phase, None, phase == "ready")
    assert detail in verdict.detail
    assert verdict.node == ("n" if there and there[0]["spec"].get("nodeName") else "")


def test_a_verdict_says_which_pod_where() -> None:
    verdict = judge(READY, [ready_pod()])
    assert verdict == Verdict(True, "ready", node="n", pod="p", ip="10.244.0.9")


def test_straight_to_the_pod_no_route_is_needed() -> None:
    assert judge(NEW, [ready_pod()], needs_route=False).ready
    assert not judge(NEW, [bound(status(RUNNING))], needs_route=False).ready


# Trap 6: Knative tells of a pod's trouble late or never


@pytest.mark.parametrize(
    ("reason", "message", "kind"),
    [
        (
            "ImagePullBackOff",
            'Back-off pulling image "x/y:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack',
            FailureKind.MISCONFIGURED,
        ),
        ("ImagePullBackOff", 'Back-off pulling image "x/y:1"', FailureKind.MISCONFIGURED),
        ("ErrImagePull", "pull access denied, repository does not exist", FailureKind.MISCONFIGURED),
        ("InvalidImageName", 'Failed to apply default image tag "X:y:z"', FailureKind.MISCONFIGURED),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never", FailureKind.MISCONFIGURED),
        ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout: connection refused", None),
        ("ImagePullBackOff", "Back-off: dial tcp: lookup registry: no such host", FailureKind.CRASHED),
        ("ImagePullBackOff", "Back-off: unexpected status: 503 Service Unavailable", FailureKind.CRASHED),
        ("CreateContainerConfigError", 'secret "hf-token" not found', FailureKind.MISCONFIGURED),
        (
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root (pod: …)",
            FailureKind.MISCONFIGURED,
        ),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition", None),
        ("CreateContainerError", "context deadline exceeded", None),
        ("CreateContainerError", "no command specified", FailureKind.MISCONFIGURED),
        (
            "RunContainerError",
            "nvidia-container-cli: device error: MIG-4d806f22: unknown device: unknown",
            FailureKind.LOST,
        ),
    ],
)
def test_trap_6_a_container_that_cannot_be_made(reason: str, message: str, kind: FailureKind | None) -> None:
    verdict = judge(NEW, [bound(status(waiting(reason, message)))])
    assert kind_of(verdict) is kind
    assert verdict.detail == message
    assert verdict.after == 0
    assert verdict.node == "n"
    if kind is not None:
        assert message in words_of(verdict)
    if kind is not None and "mage" in reason:
        assert IMAGE in words_of(verdict)


def test_trap_6_what_only_the_other_container_suffers_counts_too() -> None:
    stuck = bound(status(waiting("ContainerCreating")))
    stuck["status"]["containerStatuses"][0] = status(waiting("ErrImagePull", "not found"), name="queue-proxy")
    assert kind_of(judge(NEW, [stuck])) is FailureKind.MISCONFIGURED
    init = bound(status(waiting("PodInitializing")))
    init["status"]["initContainerStatuses"] = [status(waiting("ImagePullBackOff", "no"), name="init")]
    assert kind_of(judge(NEW, [init])) is FailureKind.MISCONFIGURED


def test_trap_6_waiting_for_a_slice_is_no_failure_while_it_lasts() -> None:
    """Knative's condition says `RevisionFailed` meanwhile, and is wrong about it."""
    verdict = judge(failed(NOBODY_HAS_ONE), [unscheduled(NOBODY_HAS_ONE)])
    assert (verdict.phase, verdict.detail, verdict.failure) == ("scheduling", NOBODY_HAS_ONE, None)


CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 4.75 GiB"


@pytest.mark.parametrize(
    "line",
    [
        CUDA,
        "Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "ValueError: To serve at least one request with the models's max seq len (8192), (1.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (0.4 GiB).",
        "ValueError: Free memory on device cuda:0 (3.2/4.8 GiB) on startup is less than desired GPU memory utilization",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 5000 MiB on device 0: cudaMalloc failed: out of memory",
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 1234567",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)
def test_a_slice_that_is_too_small_is_known_by_what_the_engine_says(line: str) -> None:
    """In the termination message, or in the log where that was asked for; at once, for a second try cannot help."""
    told = bound(status(ended(1, f"INFO loading\n{line}\nINFO exiting\n")))
    verdict = judge(NEW, [told])
    assert kind_of(verdict) is FailureKind.OUT_OF_MEMORY
    assert line[:100] in words_of(verdict)
    looping = bound(status(waiting("CrashLoopBackOff", "back-off 10s"), ended(1), restarts=1))
    assert kind_of(judge(NEW, [looping])) is FailureKind.CRASHED
    assert kind_of(judge(NEW, [looping], log=["INFO", line])) is FailureKind.OUT_OF_MEMORY


def test_so_is_one_that_the_kernel_killed() -> None:
    for end in (ended(137, reason="OOMKilled"), ended(137)):
        for state, last in ((end, {}), (waiting("CrashLoopBackOff"), end), (RUNNING, end)):
            verdict = judge(NEW, [bound(status(state, last, restarts=1))])
            assert kind_of(verdict) is FailureKind.OUT_OF_MEMORY
            assert "exit code 137" in words_of(verdict)


def test_a_crash_is_a_failure_when_it_repeats() -> None:
    """The kubelet starts a container again by itself: the first time at once, from then on with growing pauses."""
    end = ended(1, "INFO starting\nOSError: org/name is not a valid model\nINFO bye")
    first = judge(NEW, [bound(status(end))])
    assert (first.failure, first.phase) == (None, "starting")
    assert first.detail == (
        "the server ended by itself (exit code 1): OSError: org/name is not a valid model; it is started again"
    )
    again = judge(NEW, [bound(status(RUNNING, end, restarts=1))])
    assert (again.failure, again.phase, again.detail) == (None, "loading", "started again once")
    looping = judge(NEW, [bound(status(waiting("CrashLoopBackOff", "back-off 10s restarting"), end, restarts=1))])
    assert kind_of(looping) is FailureKind.CRASHED
    assert words_of(looping) == "the server ended by itself (exit code 1): OSError: org/name is not a valid model"
    third = judge(NEW, [bound(status(RUNNING, end, restarts=2))])
    assert words_of(third).startswith("the server ended by itself 2 times (exit code 1)")


def test_a_program_that_is_not_in_the_image_cannot_be_started() -> None:
    said = 'exec: "vllm": executable file not found in $PATH: unknown'
    verdict = judge(NEW, [bound(status(ended(128, said, "StartError")))])
    assert kind_of(verdict) is FailureKind.MISCONFIGURED
    assert said in words_of(verdict)


def test_a_container_of_knatives_own_that_ends_is_not_the_slices_fault() -> None:
    broken = bound(status(RUNNING))
    proxy = status(waiting("CrashLoopBackOff"), ended(137, "out of memory"), name="queue-proxy", restarts=3)
    broken["status"]["containerStatuses"][0] = proxy
    verdict = judge(NEW, [broken])
    assert kind_of(verdict) is FailureKind.CRASHED
    assert words_of(verdict).startswith("Knative's container beside the server ended by itself 3 times")


def test_what_a_server_suffered_before_it_was_ready_is_past() -> None:
    survivor = ready_pod()
    survivor["status"]["containerStatuses"] = [PROXY, status(RUNNING, ended(137), ready=True, restarts=4)]
    assert judge(READY, [survivor, dead("Evicted", "low on memory")]).ready


# Pods that go away


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("Evicted", "The node was low on resource: memory."),
        ("Evicted", 'Usage of EmptyDir volume "weights" exceeds the limit "20480Mi".'),
        ("NodeLost", "Node n which was running pod p is unresponsive"),
        ("Terminated", "Pod was terminated in response to imminent node shutdown."),
        ("Preempting", "Preempted in order to admit critical pod"),
    ],
)
def test_a_pod_that_was_taken_away(reason: str, message: str) -> None:
    """Its ReplicaSet makes another, somewhere: where to go is the fleet's to say."""
    for others in ([], [unscheduled()], [bound(status(RUNNING), name="next")]):
        verdict = judge(READY, [dead(reason, message), *others])
        assert kind_of(verdict) is FailureKind.LOST
        assert message in words_of(verdict)


def test_a_pod_that_is_drained_or_preempted_away() -> None:
    going = ready_pod(leaving=True)
    going["status"]["conditions"].append(
        {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }
    )
    assert words_of(judge(READY, [going])) == "its pod was taken away: Eviction API: evicting"
    staying = ready_pod()
    staying["status"]["conditions"] += going["status"]["conditions"][-1:]
    assert judge(READY, [staying]).ready


def test_a_pod_that_somebody_deleted_is_replaced() -> None:
    alone = judge(READY, [ready_pod(leaving=True)])
    assert (alone.ready, alone.phase, alone.failure) == (False, "scheduling", None)
    assert "being removed" in alone.detail
    replaced = judge(READY, [ready_pod(leaving=True), bound(status(RUNNING), name="next")])
    assert (replaced.pod, replaced.phase) == ("next", "loading")


def test_a_node_that_stops_answering_is_waited_for_a_little() -> None:
    silent = bound(
        status(RUNNING, ready=True), conditions={"Ready": "False", "ContainersReady": "True"}, phase="Running"
    )
    verdict = judge(READY, [silent])
    assert kind_of(verdict) is FailureKind.LOST
    assert verdict.after == pods.NODE_SILENT
    unknown = pod("p", on="n", service=NAME, phase="Unknown")
    assert kind_of(judge(READY, [unknown])) is FailureKind.LOST


def test_trap_19_pods_that_a_node_refuses_are_counted() -> None:
    """The ReplicaSet makes the next at once, for ever."""
    why = (
        "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, Available: 0"
    )
    refused = [dead("UnexpectedAdmissionError", why, f"dead-{number}") for number in range(pods.FAILED_PODS)]
    patient = judge(NEW, [*refused[1:], unscheduled()])
    assert (patient.failure, patient.phase) == (None, "scheduling")
    verdict = judge(NEW, [*refused, unscheduled()])
    assert kind_of(verdict) is FailureKind.LOST
    assert words_of(verdict) == f"n refused its pod 3 times: {why}"


def test_a_service_that_somebody_deleted() -> None:
    for gone in (None, service(deletionTimestamp="2026-11-25T17:00:00Z")):
        verdict = judge(gone, [ready_pod()])
        assert (verdict.phase, kind_of(verdict), verdict.after) == ("gone", FailureKind.REMOVED, 0)


def test_pods_of_an_older_service_of_the_same_name_are_not_this_ones() -> None:
    old = ready_pod()
    old["metadata"]["labels"]["serving.knative.dev/serviceUID"] = "service-0"
    assert judge(READY, [old]).phase == "scheduling"
    old["metadata"]["labels"]["serving.knative.dev/serviceUID"] = "service-1"
    assert judge(READY, [old]).ready


# What only Knative can say


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        (
            'Unable to fetch image "x/y:1": failed to resolve image to digest: HEAD https://x/v2/y/manifests/1: '
            "unexpected status code 404 Not Found",
            FailureKind.MISCONFIGURED,
            "Unable to fetch image",
        ),
        (
            'Unable to fetch image "x/y:1": failed to resolve image to digest: Get "https://x/v2/": i/o timeout',
            FailureKind.CRASHED,
            "Unable to fetch image",
        ),
        (
            'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 1, limited: 1',
            FailureKind.LOST,
            "the namespace's quota is used up",
        ),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": host namespaces (hostIPC=true)',
            FailureKind.MISCONFIGURED,
            "the cluster does not allow its pod",
        ),
        (NOBODY_HAS_ONE, FailureKind.LOST, "Knative gave up waiting for a node"),
        ("Initial scale was never achieved", FailureKind.TIMED_OUT, "progress deadline"),
        ("Container failed with: boom", FailureKind.CRASHED, "boom"),
        (f"Container failed with: {CUDA}", FailureKind.OUT_OF_MEMORY, "CUDA out of memory"),
    ],
)
def test_where_there_is_no_pod_the_services_condition_tells_why(message: str, kind: FailureKind, said: str) -> None:
    verdict = judge(failed(message), [])
    assert kind_of(verdict) is kind
    assert said in words_of(verdict)


def test_trap_17_conditions_are_believed_when_they_have_stood_for_a_while_and_speak_of_now() -> None:
    words = 'Unable to fetch image "x": 404 Not Found'
    assert judge(failed(words), []).after == pods.SETTLED
    assert judge(failed(words, generation=2, observed=1), []).failure is None
    assert judge(failed(words), [bound(status(RUNNING))]).failure is None  # a pod runs: it was found after all
    assert judge(NEW, []).failure is None
    stale = service(("Ready", "True", "", ""), generation=3, observed=2)
    assert judge(stale, [ready_pod()]).phase == "loading"


def test_trap_7_a_service_that_knative_gave_up_does_not_wait_for_ever() -> None:
    """It is scaled to nothing after its progress deadline, whatever min-scale says."""
    given_up = failed("Initial scale was never achieved")
    for there in ([], [bound(status(RUNNING))]):
        verdict = judge(given_up, there)
        assert (kind_of(verdict), verdict.after) == (FailureKind.TIMED_OUT, pods.SETTLED)
    assert judge(READY, []).failure is None


@pytest.mark.parametrize(
    ("reason", "message", "fails"),
    [
        ("NotOwned", f'There is an existing placeholder Service "{NAME}" that we do not own.', True),
        ("IngressRejected", "Ingress rejected: domain conflict", True),
        ("RevisionMissing", 'Revision "x" referenced in traffic not found.', False),
        ("Uninitialized", "Waiting for load balancer to be ready", False),
    ],
)
def test_trap_12_a_route_that_can_never_be(reason: str, message: str, fails: bool) -> None:
    said = service(("Ready", "False", reason, message), ("RoutesReady", "False", reason, message))
    for there in ([], [unscheduled()], [bound(status(RUNNING))], [ready_pod()]):
        verdict = judge(said, there)
        assert (kind_of(verdict) is FailureKind.MISCONFIGURED) is fails
        assert verdict.after == (pods.SETTLED if fails else 0)


# What is told to callers


def test_secrets_and_novels_are_not_told() -> None:
    said = f"Error: 401 for token=hf_abcdefghijklmnop at https://user:hunter2@hub/\n{'x' * 5000} failed"
    verdict = judge(NEW, [bound(status(waiting("CrashLoopBackOff"), ended(1, said), restarts=1))])
    assert "hf_abc" not in words_of(verdict)
    assert len(words_of(verdict)) <= pods.LONGEST
    long = judge(NEW, [unscheduled("no\n" * 1000)])
    assert len(long.detail) <= pods.LONGEST
    assert "\n" not in long.detail
    secret = judge(NEW, [bound(status(waiting("CreateContainerConfigError", "Authorization: Bearer abcdef bad")))])
    assert "abcdef" not in secret.detail + words_of(secret)


def test_the_server_is_the_pod_that_stays_and_is_ready() -> None:
    leaving, ready, loading = ready_pod(name="a", leaving=True), ready_pod(name="b"), bound(status(RUNNING), name="c")
    unbound = pod("d", service=NAME, phase="Pending", born="2020-01-01T00:00:00Z")
    everyone = [unbound, loading, leaving, dead("Evicted", "x"), ready]
    assert pods.chosen(everyone) is ready
    assert pods.chosen([unbound, loading, leaving]) is loading
    assert pods.chosen([unbound, leaving]) is unbound
    assert pods.chosen([dead("Evicted", "x")]) is None


def test_a_copy_of_a_pod_keeps_what_is_read() -> None:
    """Of other people's, what they ask of which node; of servers, what became of them."""
    for there in ([ready_pod()], [unscheduled(NOBODY_HAS_ONE)], [dead("Evicted", "x")], [bound(status(ended(1)))]):
        assert judge(NEW, map(pods.trim, there)) == judge(NEW, there)
    foreign = pod("x", asks={"cpu": "1"}, on="n", spec={"tolerations": [{"key": "a"}]})
    foreign["metadata"]["labels"] = {"app": "other"}
    foreign["spec"]["containers"][0]["env"] = [{"name": "PASSWORD", "value": "hunter2"}]
    slim = pods.trim(foreign)
    assert "hunter2" not in str(slim)
    assert slim["spec"] == {"nodeName": "n"}
    assert pods.trim(slim)["asks"] == slim["asks"] == {"cpu": 1000}
    assert pods.service_of(slim) == ""
