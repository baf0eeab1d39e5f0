"""`make forward`: the dispatcher at localhost:8080, for as long as it runs."""

from __future__ import annotations

import subprocess
import tempfile
import time

from deployment import KSVC, PODS, namespace
from kubectl import Kubectl, Object, Problem, condition, option, say, until


def forward(kubectl: Kubectl) -> None:
    """Straight to the dispatcher's pod, and to the next one when that goes; VIA=gateway through Kourier."""
    place, port, address = namespace(), option("PORT", "8080"), option("ADDRESS", "127.0.0.1")
    if kubectl.get(KSVC, "dispatcher", place) is None and kubectl.get("deployment", "dispatcher", place) is None:
        raise Problem(f"there is no dispatcher in namespace {place}: make deploy first")
    if option("VIA") == "gateway":
        say(
            f"Kourier is at http://{address}:{port} until Ctrl-C, "
            f"and goes by the header Host: dispatcher.{place}.svc.cluster.local"
        )
    else:
        say(f"The dispatcher is at http://{address}:{port} until Ctrl-C.")
    say("Next, in another terminal: cd test; pip install -r requirements.txt; python test.py")
    while True:
        pod = None
        if option("VIA") == "gateway":
            target = ["-n", "kourier-system", "service/kourier-internal", f"{port}:80"]
        else:
            pod = until("a ready dispatcher", lambda: _ready_pod(kubectl, place), within=600, every=0.5)
            target = ["-n", place, f"pod/{pod['metadata']['name']}", f"{port}:8080"]
        complaint = _forward(kubectl, ["--address", address, *target], pod)
        if "in use" in complaint:
            raise Problem(f"port {port} is in use here: make forward PORT=…")
        say("The connection ended; looking for the next pod …")


def _forward(kubectl: Kubectl, words: list[str], pod: Object | None) -> str:
    """Forward until that ends by itself, or ``pod`` is no longer ready; what it complained of."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*kubectl.command, "port-forward", *words], stdout=subprocess.DEVNULL, stderr=log)
        try:
            while process.poll() is None and (pod is None or _is_still_ready(kubectl, pod)):
                time.sleep(2)
        finally:
            process.terminate()
            process.wait()
        log.seek(0)
        return log.read()


def _is_still_ready(kubectl: Kubectl, pod: Object) -> bool:
    """True, too, while the cluster does not answer."""
    try:
        found = kubectl.get("pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
    except Problem:
        return True
    return found is not None and condition(found, "Ready").get("status") == "True"


def _ready_pod(kubectl: Kubectl, place: str) -> Object | None:
    """The newest ready pod of the dispatcher."""
    pods = [
        one
        for one in kubectl.list("pods", "-n", place, "-l", PODS)
        if "deletionTimestamp" not in one["metadata"] and condition(one, "Ready").get("status") == "True"
    ]
    return max(pods, key=lambda one: str(one["metadata"]["creationTimestamp"]), default=None)
