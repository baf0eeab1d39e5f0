"""All kubelets of the cluster in one: what happens to pods once they are bound, written into their status as kubelets do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.kube.api import Api
from tests.kube.behaviour import CRASHES, ENDS, WAITING, Behaviour, Behaviours
from tests.kube.kinds import PODS, SECRETS
from tests.kube.nodes import Nodes
from tests.kube.status import Refusal, bad_request
from tests.kube.store import Change, Entry, Json, Key

DRAIN = 30.0
"""Seconds that queue-proxy keeps a pod after its deletion."""

QUICK = 0.5
"""Seconds that a pod without queue-proxy, or one that never ran, takes to end."""

BACKOFF, BACKOFF_MOST = 10.0, 300.0
"""Seconds until a container that ended is started again: after the second time, doubling each time, and at most."""

IMAGE_BACKOFF = 20.0
"""Seconds between two tries to pull an image."""

SECRET_RETRY = 1.0

LAST = 0.1
"""Seconds between a pod's last status and its removal."""


@dataclass
class Run:
    """A pod on its node."""

    key: Key
    uid: str
    node: str
    behaviour: Behaviour
    names: tuple[str, ...]
    """Its containers; the first is the one that behaves."""
    address: str
    started: str = ""
    phase: str = "Pending"
    state: Json = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: Json = field(default_factory=dict)
    sandbox: bool = False
    restarts: int = 0
    failures: int = 0
    """How often its container has ended by itself."""
    ready: bool = False
    draining: bool = False
    reason: str = ""
    message: str = ""
    lines: list[str] = field(default_factory=list)
    before: list[str] | None = None
    """What the container before this one printed."""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def knative(self) -> bool:
        return "queue-proxy" in self.names

    @property
    def running(self) -> bool:
        return "running" in self.state

    def forget(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class Kubelet:
    """Watches pods, and runs them."""

    def __init__(self, api: Api, behaviours: Behaviours, nodes: Nodes) -> None:
        self._api = api
        self._behaviours = behaviours
        self._nodes = nodes
        self.runs: dict[str, Run] = {}
        """By the pod's uid."""
        self._count = 0
        api.store.shelf(PODS).follow(self._see)

    def _see(self, changes: list[Change]) -> None:
        for change in changes:
            pod = change.last.object
            uid = pod["metadata"]["uid"]
            run = self.runs.get(uid)
            if change.new is None:
                if run is not None:
                    run.forget()
                    del self.runs[uid]
                continue
            if run is None:
                if not pod["spec"].get("nodeName") or pod["status"].get("phase") in ("Succeeded", "Failed"):
                    continue
                run = self._admit(change.last)
            if "deletionTimestamp" in pod["metadata"]:
                self._terminate(run, pod["metadata"].get("deletionGracePeriodSeconds") or 0)

    def _later(self, run: Run, delay: float, what: Any, *args: Any) -> None:
        def call() -> None:
            if self.runs.get(run.uid) is run:
                what(run, *args)

        run.timers.append(self._api.clock.later(delay, call))

    # Starting

    def _admit(self, entry: Entry) -> Run:
        pod = entry.object
        self._count += 1
        containers = pod["spec"]["containers"]
        names = tuple(container["name"] for container in containers)
        address = f"10.{64 + (self._count >> 16)}.{self._count >> 8 & 255}.{self._count & 255}"
        metadata = pod["metadata"]
        key = (metadata["namespace"], metadata["name"])
        run = Run(key, metadata["uid"], pod["spec"]["nodeName"], self._behaviours.of(pod), names, address)
        run.started = self._api.clock.stamp()
        self.runs[run.uid] = run
        if run.behaviour.fail in ENDS or run.behaviour.fail.startswith("OutOf"):
            self.finish(run, run.behaviour.fail, run.behaviour.message or "Pod was rejected")
            return run
        self._write(run)
        self._later(run, run.behaviour.pull, self._start)
        return run

    def _start(self, run: Run) -> None:
        """The image is there: start the container, or say why not."""
        run.sandbox = True
        pod = self._api.get(PODS, run.key[1], run.key[0]).object
        behaviour = run.behaviour
        missing = next(self._missing(pod), "")
        if missing:
            run.state = {"waiting": {"reason": "CreateContainerConfigError", "message": missing}}
            self._later(run, SECRET_RETRY, self._start)
        elif behaviour.fail == "ImagePullBackOff" or (behaviour.fail in WAITING and self._fails(run)):
            run.failures += 1
            self._refuse_to_start(run, pod)
        else:
            self._run(run)
            return
        self._write(run)

    def _fails(self, run: Run) -> bool:
        return run.behaviour.times is None or run.failures < run.behaviour.times

    def _refuse_to_start(self, run: Run, pod: Json) -> None:
        behaviour = run.behaviour
        reason = "ErrImagePull" if behaviour.fail == "ImagePullBackOff" else behaviour.fail
        message = behaviour.message or WAITING[reason]
        run.state = {"waiting": {"reason": reason, "message": message}}
        if reason == "ErrImagePull":
            image = pod["spec"]["containers"][0].get("image", "")
            self._later(run, 1.0, self._back_off, f'Back-off pulling image "{image}": ErrImagePull: {message}')
        else:
            self._later(run, BACKOFF, self._start)

    def _back_off(self, run: Run, message: str) -> None:
        run.state = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
        self._write(run)
        self._later(run, IMAGE_BACKOFF, self._start)

    def _missing(self, pod: Json) -> Iterator[str]:
        """What the containers' variables refer to and what is not there, as the kubelet says it."""
        namespace = pod["metadata"]["namespace"]
        for container in pod["spec"]["containers"]:
            for variable in container.get("env") or ():
                wanted = (variable.get("valueFrom") or {}).get("secretKeyRef")
                if not wanted or wanted.get("optional"):
                    continue
                secret = self._api.store.find(SECRETS, wanted["name"], namespace)
                if secret is None:
                    yield f'secret "{wanted["name"]}" not found'
                elif wanted["key"] not in (secret.object.get("data") or {}):
                    yield f"couldn't find key {wanted['key']} in Secret {namespace}/{wanted['name']}"

    def _run(self, run: Run) -> None:
        run.phase = "Running"
        run.state = {"running": {"startedAt": self._api.clock.stamp()}}
        run.ready = False
        run.lines = list(run.behaviour.logs)
        behaviour = run.behaviour
        crashes = behaviour.fail in CRASHES and self._fails(run)
        if crashes:
            self._later(run, behaviour.fail_after, self.crash)
        if not behaviour.stuck and not (crashes and behaviour.fail_after <= behaviour.ready_after):
            self._later(run, behaviour.ready_after, self._become_ready)
        self._write(run)

    def _become_ready(self, run: Run) -> None:
        if run.running and not run.draining:
            run.ready = True
            self._write(run)

    # Failing

    def crash(self, run: Run, reason: str = "", code: int | None = None, message: str | None = None) -> None:
        """The container ends by itself, and is started again: at once the first time, later each time after."""
        behaviour = run.behaviour
        run.failures += 1
        run.ready = False
        why = reason or ("OOMKilled" if behaviour.fail == "OOMKilled" else "Error")
        code = code if code is not None else CRASHES.get(reason, behaviour.code)
        told = behaviour.message if message is None else message
        if told:
            run.lines.append(told)
        ended = {"exitCode": code, "reason": why} | ({"message": told} if told else {})
        ended |= {"startedAt": run.state["running"]["startedAt"]} if run.running else {}
        ended |= {"finishedAt": self._api.clock.stamp()}
        run.state, run.last = {"terminated": ended}, run.last
        self._write(run)
        if run.restarts == 0:
            self._later(run, 0.05, self._restart)
            return
        wait = min(BACKOFF * 2 ** (run.restarts - 1), BACKOFF_MOST)
        self._later(run, 0.5, self._loop, ended, wait)
        self._later(run, wait, self._restart)

    def _loop(self, run: Run, ended: Json, wait: float) -> None:
        name = f"{run.names[0]} pod={run.key[1]}_{run.key[0]}({run.uid})"
        message = f"back-off {_duration(wait)} restarting failed container={name}"
        run.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        run.last = {"terminated": ended}
        self._write(run)

    def _restart(self, run: Run) -> None:
        if "terminated" in run.state:
            run.last = {"terminated": run.state["terminated"]}
        run.before = run.lines
        run.restarts += 1
        self._run(run)

    def finish(self, run: Run, reason: str, message: str = "") -> None:
        """The whole pod has failed, for good."""
        run.forget()
        run.phase, run.reason, run.message, run.ready = "Failed", reason, message, False
        run.state = {"terminated": {"exitCode": 137, "reason": "Error"}} if run.running else {}
        self._write(run)

    # Ending

    def _terminate(self, run: Run, grace: float) -> None:
        """It was told to go: it does within its grace period.

        queue-proxy takes its time even if what it serves never ran; and a kubelet that has begun to wait for it is not
        hurried by a second order, whatever grace period that one says."""
        if self._nodes.lost(run.node) or run.draining:
            return
        usual = DRAIN if run.knative and run.sandbox else QUICK
        drain = usual if run.behaviour.drain is None else run.behaviour.drain
        wait = min(drain, grace)
        if run.ready and wait > 5.0:
            self._later(run, 3.0, self._unready)
        run.draining = True
        self._api.clock.later(wait, self._ended, run, wait < drain)

    def _unready(self, run: Run) -> None:
        run.ready = False
        self._write(run)

    def _ended(self, run: Run, killed: bool) -> None:
        if self.runs.get(run.uid) is not run:
            return
        if self._nodes.lost(run.node):
            run.draining = False
            return
        run.forget()
        run.ready = False
        if run.phase == "Running":
            failed = killed or not run.running
            run.phase = "Failed" if failed else "Succeeded"
            if run.running:
                how: Json = {"exitCode": 137, "reason": "Error"} if killed else {"exitCode": 0, "reason": "Completed"}
                run.state = {"terminated": how | {"finishedAt": self._api.clock.stamp()}}
            self._write(run)
        self._api.clock.later(LAST, self._remove, run)

    def _remove(self, run: Run) -> None:
        if self.runs.get(run.uid) is run and self._api.store.find(PODS, run.key[1], run.key[0]) is not None:
            self._api.remove(PODS, run.key, deletionGracePeriodSeconds=0)

    # Saying so

    def _write(self, run: Run) -> None:
        def write(pod: Json) -> None:
            pod["status"] = self._status(run, pod)

        if not self._nodes.lost(run.node):
            try:
                self._api.edit(PODS, run.key[1], run.key[0], write, status=True)
            except Refusal:
                pass  # removed by force

    def _status(self, run: Run, pod: Json) -> Json:
        before = pod["status"]
        status: Json = {"phase": run.phase}
        if run.reason:
            status |= {"reason": run.reason, "message": run.message, "startTime": run.started}
            if not run.sandbox:
                return status  # it was never admitted
        containers = [
            self._container(run, place, container) for place, container in enumerate(pod["spec"]["containers"])
        ]
        status["conditions"] = self._conditions(run, containers, before.get("conditions") or [])
        status |= {"hostIP": "10.0.0.1", "startTime": run.started}
        status |= {"podIP": run.address, "podIPs": [{"ip": run.address}]} if run.sandbox else {}
        status |= {"containerStatuses": containers, "qosClass": before.get("qosClass", "Burstable")}
        return status

    def _container(self, run: Run, place: int, container: Json) -> Json:
        mine = place == 0
        state: Json = run.state
        if not mine:
            state = {"running": {"startedAt": run.started}} if run.sandbox else state
            state = run.state if run.phase in ("Succeeded", "Failed") else state
        up = "running" in state
        # Knative moves the probe of the user's container to queue-proxy: it is the one that is not ready yet.
        probed = not mine or not run.knative
        return {
            "name": container["name"],
            "state": state,
            "lastState": run.last if mine else {},
            "ready": up and (run.ready if probed else True),
            "restartCount": run.restarts if mine else 0,
            "image": container.get("image", ""),
            "imageID": "",
            "started": up,
        }

    def _conditions(self, run: Run, containers: list[Json], before: list[Json]) -> list[Json]:
        unready = [container["name"] for container in containers if not container["ready"]]
        if run.phase == "Succeeded":
            why: Json = {"reason": "PodCompleted"}
        elif run.phase == "Failed":
            why = {"reason": "PodFailed"}
        else:
            why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
        down = {"status": "False"} | why
        conditions: list[Json] = [
            {"type": "PodReadyToStartContainers", "status": "True" if run.sandbox else "False"},
            {"type": "Initialized", "status": "True"},
            {"type": "Ready"} | (down if unready else {"status": "True"}),
            {"type": "ContainersReady"} | (down if unready else {"status": "True"}),
            {"type": "PodScheduled", "status": "True"},
        ]
        return dated(conditions, before, self._api.clock.stamp())

    # Logs

    def logs(self, pod: Json, container: str, previous: bool) -> list[str] | None:
        """The lines a container printed; None while there is nothing to ask. Raises `Refusal` (400)."""
        run = self.runs.get(pod["metadata"]["uid"])
        name = pod["metadata"]["name"]
        if run is None:
            return None
        mine = container == run.names[0]
        if previous:
            if not mine or run.before is None:
                raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
            return run.before
        if not mine:
            return ["Starting queue-proxy"] if run.sandbox else []
        waiting = run.state.get("waiting")
        if (waiting and run.before is None and not run.failures) or (waiting and run.restarts == 0):
            reason = waiting["reason"]
            if reason in ("ErrImagePull", "ImagePullBackOff"):
                reason = "trying and failing to pull image"
            raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {reason}')
        return run.lines


def dated(conditions: list[Json], before: list[Json], now: str) -> list[Json]:
    """Conditions with the time since which they have been as they are."""
    was = {condition["type"]: condition for condition in before}
    for condition in conditions:
        old = was.get(condition["type"], {})
        same = old.get("status") == condition["status"]
        condition["lastTransitionTime"] = old["lastTransitionTime"] if same else now
    return conditions


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
