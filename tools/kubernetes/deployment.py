"""`make deploy` and `make clean`."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import images
from kubectl import MANAGED, Kubectl, Object, Problem, condition, is_set, named, option, say, until
from rendering import NAMESPACE, render

from ssis_dispatcher.gateway.keys import KeyFile

CONFIG = "dispatcher-config"
KEYS = "dispatcher-keys"
"""Hashes of keys; mounted into the dispatcher."""
KEY = "dispatcher-api-key"
"""One key in clear text, for `test/test.py` and `ssis`; nothing of the dispatcher reads it."""
LEARNED = "dispatcher-learned"
ENVIRONMENT = "dispatcher-env"
"""Settings, in a ConfigMap and a Secret that docs/kubernetes.md tells the operator to make."""
TOKEN = "hf-token"
"""The operator's hub token for servers, as that page and SSIS_TOKEN_SECRET have it."""
PODS = "app.kubernetes.io/name=ssis-dispatcher,app.kubernetes.io/component=dispatcher"
KSVC = "services.serving.knative.dev"
OURS = "ssis-dispatcher.io/deployed-by"
IN_USE = (
    "pods", "replicasets", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs", KSVC,
    "configurations.serving.knative.dev", "routes.serving.knative.dev", "services", "ingresses.networking.k8s.io",
    "persistentvolumeclaims", "configmaps", "secrets",
)  # fmt: skip
"""As long as one of these is there and is somebody else's, the namespace stays."""
OWNERS = {
    "apps", "batch", "serving.knative.dev", "networking.internal.knative.dev", "autoscaling.internal.knative.dev",
}  # fmt: skip
"""API groups of owners that are among `IN_USE`, or have an owner there themselves."""


def namespace() -> str:
    return option("NAMESPACE", NAMESPACE)


def chosen() -> list[str]:
    """OVERLAY=, one or more; KEYS=off is one too."""
    names = option("OVERLAY", "mig").replace(",", " ").split()
    return [*names, "keys-off"] if option("KEYS", "on") == "off" else names


def deploy(kubectl: Kubectl) -> None:
    """`make deploy`."""
    place, image = namespace(), images.built()
    objects = render(kubectl, chosen(), place, image)
    if kubectl.get("crd", KSVC) is None:
        raise Problem("Knative is not in this cluster: make setup_knative first")
    say(f"Deploying {image} to namespace {place} ({' '.join(chosen())}) …")
    kept = _kept(kubectl, objects)
    for one in kept:
        say(
            f"  kept as it is: {named(one)}" + (" (RESET_CONFIG=1 overwrites it)" if one["kind"] == "ConfigMap" else "")
        )
    wanted = [one for one in objects if one not in kept]
    for one in wanted:
        one["metadata"].setdefault("annotations", {})[OURS] = "make-deploy"
    kubectl.apply([one for one in wanted if one["kind"] == "Namespace"])
    secret = "" if "keys-off" in chosen() else _make_key(kubectl, place)
    _give_way(kubectl, place, objects)
    kubectl.apply([one for one in wanted if one["kind"] != "Namespace"])
    await_serving(kubectl, place)
    _retire(kubectl, place)
    _report(kubectl, place, secret)


def _kept(kubectl: Kubectl, objects: list[Object]) -> list[Object]:
    """What is there and is not ours to overwrite: the operator's configuration, and a namespace that others made."""
    kept = []
    for one in objects:
        if one["kind"] == "ConfigMap" and not is_set("RESET_CONFIG"):
            if kubectl.get("configmap", one["metadata"]["name"], one["metadata"]["namespace"]):
                kept.append(one)
        elif one["kind"] == "Namespace":
            there = kubectl.get("namespace", one["metadata"]["name"])
            if there is not None and OURS not in there["metadata"].get("annotations", {}):
                kept.append(one)
    return kept


def _make_key(kubectl: Kubectl, place: str) -> str:
    """The secret of a new key; empty where there are keys already."""
    if kubectl.get("secret", KEYS, place):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "keys.jsonl")
        secret = KeyFile(file).create("operator", role="admin")
        hashes = file.read_text()
    # The clear text first: a run that is cut off here is followed by one that makes both anew.
    for name, data in ((KEY, {"api-key": secret}), (KEYS, {"keys.jsonl": hashes})):
        kubectl.apply([_secret(name, place, data)])
    return secret


def _secret(name: str, place: str, data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": place, "labels": {"app.kubernetes.io/name": "ssis-dispatcher"}},
        "stringData": data,
    }


def _give_way(kubectl: Kubectl, place: str, objects: list[Object]) -> None:
    """The other form of the dispatcher holds the name of the Service: it goes first. Its servers stay."""
    wanted = {(one["apiVersion"].partition("/")[0], one["kind"]) for one in objects}
    for api, kind, resource in (
        ("serving.knative.dev", "Service", KSVC),
        ("apps", "Deployment", "deployment"),
        ("v1", "Service", "service"),
        ("policy", "PodDisruptionBudget", "poddisruptionbudget"),
    ):
        there = kubectl.get(resource, "dispatcher", place)
        if (api, kind) not in wanted and there and not there["metadata"].get("ownerReferences"):
            say(f"  {named(there)} gives way to the other form of the dispatcher")
            kubectl.delete([there])


def await_serving(kubectl: Kubectl, place: str, within: float = 180) -> None:
    """Until the dispatcher that was applied last is ready. Raises `Problem` with what its pod says."""
    hopeless = ""

    def look() -> bool:
        nonlocal hopeless
        hopeless = _is_hopeless(kubectl, place)
        return bool(hopeless) or _is_serving(kubectl, place)

    try:
        until("the dispatcher to be ready", look, within)
    except Problem as problem:
        hopeless = str(problem)
    if hopeless:
        raise Problem(f"{hopeless}\n{_last_words(kubectl, place)}")


def _retire(kubectl: Kubectl, place: str) -> None:
    """End the dispatchers that this one follows: Knative would keep one for minutes, and it would lead for as long."""
    service = kubectl.get(KSVC, "dispatcher", place)
    if service is None:
        return
    latest = service["status"]["latestReadyRevisionName"]
    revisions = kubectl.list(
        "revisions.serving.knative.dev", "-n", place, "-l", "serving.knative.dev/service=dispatcher"
    )
    old = [one["metadata"]["name"] for one in revisions if one["metadata"]["name"] != latest]
    if old:
        kubectl.run("delete", "revisions.serving.knative.dev", *old, "-n", place, "--ignore-not-found", "--wait=false")
        say("  the one before leads until it has drained, in half a minute or when its last answer has ended")


def _is_hopeless(kubectl: Kubectl, place: str) -> str:
    """Why waiting longer would not help: the newest pod's image cannot be had, or the program ends time and again."""
    pods = kubectl.list("pods", "-n", place, "-l", PODS)
    newest = max(pods, key=lambda one: str(one["metadata"]["creationTimestamp"]), default={})
    for one in newest.get("status", {}).get("containerStatuses", ()):
        reason = one["state"].get("waiting", {}).get("reason", "")
        if reason in {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}:
            return f"the nodes cannot get {one['image']} ({reason}): make build with IMAGE_LOAD= or PUSH=1 brings it to them"
        if reason == "CrashLoopBackOff" and one["restartCount"] >= 2:
            return "the dispatcher ends as soon as it starts"
    return ""


def _is_serving(kubectl: Kubectl, place: str) -> bool:
    service = kubectl.get(KSVC, "dispatcher", place)
    if service is not None:
        status = service.get("status", {})
        ready = condition(service, "Ready")
        if ready.get("status") == "False":
            raise Problem(str(ready.get("message", "")))
        return (
            ready.get("status") == "True" and status["latestReadyRevisionName"] == status["latestCreatedRevisionName"]
        )
    deployment = kubectl.get("deployment", "dispatcher", place) or {"metadata": {}}
    status, spec = deployment.get("status", {}), deployment.get("spec", {})
    return (
        status.get("observedGeneration") == deployment["metadata"].get("generation", 0)
        and status.get("updatedReplicas") == spec.get("replicas")
        and condition(deployment, "Available").get("status") == "True"
    )


def _last_words(kubectl: Kubectl, place: str) -> str:
    lines = []
    for pod in kubectl.list("pods", "-n", place, "-l", PODS):
        state = [
            f"{kind} {what.get('reason', '')} {what.get('message', '')}".strip()
            for one in pod.get("status", {}).get("containerStatuses", ())
            for kind, what in one["state"].items()
            if kind != "running"
        ]
        waits = condition(pod, "PodScheduled").get("message", "")
        lines.append(
            f"pod {pod['metadata']['name']}: {'; '.join([*state, waits]).strip('; ') or pod['status']['phase']}"
        )
        words = ("logs", "-n", place, pod["metadata"]["name"], "-c", "dispatcher", "--tail=15")
        lines += [kubectl.run(*words, *which) for which in ((), ("--previous",)) if kubectl.ok(*words, *which)]
    return "\n".join(lines) or f"no pod was made: kubectl -n {place} describe ksvc dispatcher"


def _report(kubectl: Kubectl, place: str, secret: str) -> None:
    service = kubectl.get(KSVC, "dispatcher", place)
    where = service["status"].get("url", "") if service else f"http://dispatcher.{place}.svc.cluster.local"
    say(f"The dispatcher serves at {where}")
    show = f"kubectl -n {place} get secret {KEY} -o jsonpath='{{.data.api-key}}' | base64 -d"
    if "keys-off" in chosen():
        say("  without keys: whoever reaches it may use the GPUs")
    elif secret:
        say(f"  API key: {secret}\n  (also: {show})")
    else:
        say(f"  API key: {show}")
    say(f"  settings: kubectl -n {place} edit configmap {CONFIG}")
    say("Next: make forward, and in another terminal: cd test; pip install -r requirements.txt; python test.py")


def key(kubectl: Kubectl, place: str) -> str:
    """The API key in the cluster; empty where there is none."""
    found = kubectl.get("secret", KEY, place)
    return base64.b64decode(found["data"]["api-key"]).decode() if found else ""


def clean(kubectl: Kubectl) -> None:
    """`make clean`: the dispatcher; with ALL=1 its servers, keys, configuration and what it learned, too."""
    place, everything = namespace(), is_set("ALL")
    if kubectl.get("namespace", place) is None:
        say(f"There is no namespace {place}: nothing to clean.")
        return
    objects = render(kubectl, ["ha"], place, "none") + render(kubectl, [], place, "none")
    keep = {"Namespace", "ConfigMap"}
    mine = [one for one in kubectl.existing(one for one in objects if one["kind"] not in keep) if _is_mine(one)]
    # The dispatcher before its rights, and both before its servers: nothing is started while they go.
    first = [one for one in mine if one["kind"] in {"Service", "Deployment", "PodDisruptionBudget"}]
    kubectl.delete(first, within=900)
    until("the dispatcher's pods to end", lambda: not kubectl.list("pods", "-n", place, "-l", PODS), within=900)
    kubectl.delete([one for one in mine if one not in first and one["kind"] != "ServiceAccount"])
    servers = kubectl.list(KSVC, "-n", place, "-l", MANAGED)
    if not everything:
        say(f"The dispatcher is gone from {place}. Its configuration and keys stay, and {_count(servers)}:")
        for one in servers:
            say(f"  {named(one)}")
        say("make deploy takes them over again; make clean ALL=1 removes them, too.")
        return
    kubectl.delete(servers, within=700)
    kubectl.delete(kubectl.list("secrets,configmaps", "-n", place, "-l", MANAGED))
    names = [
        ("secret", KEYS),
        ("secret", KEY),
        ("configmap", CONFIG),
        ("configmap", LEARNED),
        ("configmap", ENVIRONMENT),
        ("secret", ENVIRONMENT),
        ("lease.coordination.k8s.io", "ssis-dispatcher"),
    ]
    # The name is not ours alone: a Secret that others' pods use is theirs, too.
    if users := [named(one) for one in _others(kubectl, place) if _uses_secret(one, TOKEN)]:
        say(f"  the Secret {TOKEN} stays, because {users[0]} uses it")
    else:
        names.append(("secret", TOKEN))
    kubectl.delete([found for kind, name in names if (found := kubectl.get(kind, name, place))])
    kubectl.delete([one for one in mine if one["kind"] == "ServiceAccount"])
    there = kubectl.get("namespace", place)
    is_own = there is not None and OURS in there["metadata"].get("annotations", {})
    rest = _others(kubectl, place) if is_own else []
    if there and is_own and not rest:
        kubectl.delete([there], within=700)
        say(f"Everything is gone, {_count(servers)} and the namespace {place} included.")
    else:
        some = ", ".join(named(one) for one in rest[:5])
        why = f"others use it: {some}{' …' if len(rest) > 5 else ''}" if is_own else "make deploy did not make it"
        say(
            f"Everything of the dispatcher is gone from {place}, {_count(servers)} included. The namespace stays, "
            f"because {why}."
        )
    say("Next: make remove_knative, if nobody else needs it")


def _is_mine(one: Object) -> bool:
    return one["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "ssis-dispatcher"


def _others(kubectl: Kubectl, place: str) -> list[Object]:
    """What is in the namespace and is somebody else's, once the dispatcher and its servers are gone."""
    # Kind by kind: of several, kubectl lists none when the cluster lacks one, as it does without Knative.
    return [one for kind in IN_USE for one in kubectl.list(kind, "-n", place) if _is_others(one)]


def _is_others(one: Object) -> bool:
    """What has an owner is judged by that: Kubernetes takes what is left of a Knative Service away after it."""
    meta = one["metadata"]
    is_owned = any(owner["apiVersion"].partition("/")[0] in OWNERS for owner in meta.get("ownerReferences", ()))
    return not (is_owned or meta.get("deletionTimestamp") or meta["name"] == "kube-root-ca.crt")


def _uses_secret(one: Object, name: str) -> bool:
    return f'"{name}"' in json.dumps(one.get("spec", {}))


def _count(servers: list[Object]) -> str:
    return f"{len(servers)} server{'' if len(servers) == 1 else 's'}"
