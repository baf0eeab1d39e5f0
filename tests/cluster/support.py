"""A dispatcher on a cluster, as its operator deploys it, and what the tests ask of it and of the cluster."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.live.support import JSON, Answer, Call, until

ROOT = Path(__file__).parents[2]
NAMESPACE = "ssis-test"
ENGINE_IMAGE = os.environ.get("TEST_IMAGE") or "dev.local/ssis-test-llamacpp:1"
KSVC = "services.serving.knative.dev"
MAKE = ("make", "--no-print-directory", "--old-file=.venv/installed")
"""The environment is there, and where the tests run there may be no internet to make it anew."""

PODS = "app.kubernetes.io/component=dispatcher"

SLICES = {
    "nvidia.com/mig-1g.5gb": 2,
    "nvidia.com/mig-2g.10gb": 1,
    "nvidia.com/gpu-4gb": 1,
    "nvidia.com/gpu-8gb": 1,
}
"""What the node is made to advertise. In the order of size: gpu-4gb, mig-1g.5gb, gpu-8gb, mig-2g.10gb."""

SETTINGS = {
    "SSIS_HUB_OFFLINE": "true",
    # Nebuly's MPS slices by name alone: what they need for real is refused by Knative before 1.16.
    "SSIS_MPS_HOST_IPC": "false",
    "SSIS_SERVER_CPU": "0.05",
    "SSIS_DWELL": "1s",
    "SSIS_SLICE_WAIT": "20s",
    "SSIS_SERVERS_PER_MODEL": "1",
    "SSIS_HEARTBEAT": "1s",
}

GPT2 = "openai-community/gpt2"


def entry(behaviour: str, **more: object) -> dict[str, object]:
    """A catalogue entry whose server does as ``behaviour`` says (images/llamacpp/serve.py)."""
    return {
        "path": f"/models/{behaviour}",
        "engine": "llamacpp",
        "image": ENGINE_IMAGE,
        "weights": "3MiB",
        "kv_bytes_per_token": 10_000,
        "context": 512,
        "seats": 2,
        **more,
    }


CATALOGUE = {
    GPT2: entry("demo"),
    **{name: entry("demo") for name in ("one", "two", "three", "four", "five", "six")},
    **{f"kept-{number}": entry("demo", pinned=True) for number in range(1, 6)},
    "slow": entry("slow-8"),
    "long": entry("demo", context=8192),
    "crash": entry("crash"),
    "needs-6000": entry("needs-6000"),
    "large": entry("demo", weights="200GiB"),
    "wrong-image": entry("demo", image="dev.local/nobody-made-this:1"),
}


class Cluster:
    """The cluster that kubectl talks to."""

    def __init__(self) -> None:
        self.command = shlex.split(os.environ.get("KUBECTL") or "kubectl")

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True, within: float = 120) -> str:
        done = subprocess.run([*self.command, *words], input=stdin, capture_output=True, text=True, timeout=within)
        assert not check or not done.returncode, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def list(self, kind: str, *words: str) -> list[dict[str, Any]]:
        found = self.kubectl("get", kind, *words, "-o", "json", "--ignore-not-found", check=False)
        return list(json.loads(found)["items"]) if found.strip() else []

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any] | None:
        found = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found", check=False)
        return dict(json.loads(found)) if found.strip() else None

    def make(self, target: str, *, fails: bool = False, **settings: str) -> str:
        """Run a make target as an operator does; what it printed, errors included."""
        words = [f"{name}={value}" for name, value in {"NAMESPACE": NAMESPACE, **settings}.items()]
        done = subprocess.run(
            [*MAKE, target, *words],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
        )  # fmt: skip
        assert bool(done.returncode) == fails, f"make {target}: {done.stdout}"
        return done.stdout

    # Slices

    def node(self) -> str:
        """A node that can be given slices which it does not have."""
        for one in self.list("nodes"):
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in one["status"]["conditions"])
            if ready and not one["spec"].get("taints"):
                return str(one["metadata"]["name"])
        raise AssertionError("no node is ready and without taints")

    def advertise(self, node: str, slices: Mapping[str, int]) -> None:
        """Make a node say that it has exactly these slices; the kubelet passes that on."""
        status = json.loads(self.kubectl("get", "node", node, "-o", "json"))["status"]
        old = {name for name in status["capacity"] if name.startswith("nvidia.com/")}
        wanted = dict.fromkeys(old - slices.keys()) | {name: str(count) for name, count in slices.items()}
        patch = json.dumps({"status": {"capacity": wanted, "allocatable": wanted}})
        self.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)

        def shown() -> bool:
            free = json.loads(self.kubectl("get", "node", node, "-o", "json"))["status"]["allocatable"]
            return all(free.get(name) == str(count) for name, count in slices.items())

        until(shown, "the node advertises the slices", 60)


class Site:
    """A deployed dispatcher, reached by `make forward` on a port of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._forward: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def configure(self, **data: str) -> None:
        """Edit dispatcher-config, and wait until the dispatcher has taken it, or has said that it does not."""
        before = self.edits_seen()
        self.cluster.kubectl(
            "patch", "configmap", "dispatcher-config", "-n", NAMESPACE, "--type=merge", "-p", json.dumps({"data": data})
        )
        until(lambda: self.edits_seen() > before, "the edit is noticed", 10)

    def edits_seen(self) -> int:
        return self.log().count("dispatcher-config")

    def offer(self, *resources: str) -> None:
        """Let only these slices be used; all without any."""
        self.configure(**{"gpu-resource-config": "\n".join(resources) + "\n# " + os.urandom(4).hex()})

    def log(self) -> str:
        pods = sorted(self.pods(), key=lambda pod: pod["metadata"]["creationTimestamp"])
        return self.cluster.kubectl(
            "logs", "-n", NAMESPACE, pods[-1]["metadata"]["name"], "-c", "dispatcher", check=False
        )

    def pods(self) -> list[dict[str, Any]]:
        """The dispatcher's pods that nobody has deleted."""
        found = self.cluster.list("pods", "-n", NAMESPACE, "-l", PODS)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def kill(self, name: str = "") -> None:
        """End the dispatcher's pod (or one of them), as hard as the API allows, and wait until it is gone. (A forced deletion
        only looks harder: the pod is forgotten, and its process goes on for half a minute.)"""
        for pod in self.pods():
            if name in ("", pod["metadata"]["name"]):
                self.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", NAMESPACE, "--grace-period=1")

    # The way there

    def forward(self) -> None:
        """`make forward` in the background, until the dispatcher answers."""
        self.hang_up()
        words = [*MAKE, "forward", f"NAMESPACE={NAMESPACE}", f"PORT={self.port}", "HOST=127.0.0.1"]
        self._forward = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until(self.answers, "the dispatcher answers through make forward", 60)

    def answers(self) -> bool:
        try:
            return self.send("GET", "/readyz").answer().status == 200
        except (OSError, http.client.HTTPException):
            return False

    def hang_up(self) -> None:
        if self._forward is not None:
            os.killpg(self._forward.pid, signal.SIGINT)
            self._forward.wait(20)
            self._forward = None

    # Requests

    @property
    def key(self) -> str:
        words = (
            "get",
            "secret",
            "dispatcher-api-key",
            "-n",
            NAMESPACE,
            "-o",
            'go-template={{index .data "api-key" | base64decode}}',
        )
        return self.cluster.kubectl(*words, check=False)

    def send(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Call:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, data, {**({} if data is None else JSON), **(headers or {})})
        except OSError:
            connection.close()
            raise
        return Call(connection)

    def begin(self, model: str, tokens: int = 4, **more: object) -> Call:
        """Send a request in the original program's format, and read nothing yet."""
        body = {"token": "Once upon a time", "par": {"max_new_tokens": tokens}, "env": {"MODEL_ID": model}, **more}
        return self.send("POST", "/", body, {"Authorization": f"Bearer {self.known_key()}"})

    def begin_long(self) -> Call:
        """A stream of the model ``long`` that goes on for many seconds."""
        body = {"model": "long", "prompt": "Once upon a time", "max_tokens": 7000, "ignore_eos": True, "stream": True}
        return self.send("POST", "/v1/completions", body, {"Authorization": f"Bearer {self.known_key()}"})

    def ask(self, model: str, tokens: int = 4, **more: object) -> Answer:
        return self.begin(model, tokens, **more).answer()

    def look(self, path: str) -> Any:
        """What an operations route says. While the dispatcher's pod is replaced, `make forward` may cut the way there."""
        found: list[Answer] = []

        def answered() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                found.append(self.send("GET", path, None, {"Authorization": f"Bearer {self.known_key()}"}).answer())
            return bool(found)

        until(answered, f"GET {path} is answered", 30)
        return found[0].json

    def known_key(self) -> str:
        if not hasattr(self, "_key"):
            self._key = self.key
        return self._key

    def servers(self) -> dict[str, dict[str, Any]]:
        """By model."""
        return {one["model"]: one for one in self.look("/api/servers")["servers"]}

    def ours(self) -> dict[str, str]:
        """The Knative Services that the dispatcher made: name → uid."""
        selected = ("-n", NAMESPACE, "-l", "app.kubernetes.io/managed-by=ssis-dispatcher")
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in self.cluster.list(KSVC, *selected)}

    def clear(self) -> None:
        """Stop all servers, and wait until the slices are free again."""
        until(self.answers, "the dispatcher answers", 60)
        for one in self.look("/api/servers")["servers"]:
            self.send(
                "DELETE", f"/api/servers/{one['id']}", None, {"Authorization": f"Bearer {self.known_key()}"}
            ).answer()
        until(lambda: not self.servers() and not self.ours(), "no server is left", 60)
        until(lambda: all(one["free"] == one["total"] for one in self.look("/api/slices")["slices"]), "free again", 60)


def catalogue(models: Mapping[str, Mapping[str, object]] = CATALOGUE) -> str:
    return yaml.safe_dump({"models": {name: dict(rules) for name, rules in models.items()}}, sort_keys=False)
