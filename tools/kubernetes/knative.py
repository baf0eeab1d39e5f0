"""`make setup_knative` and `make remove_knative`: Knative Serving and Kourier, as much of it as is missing.

What is installed carries a label, and only what carries it is removed. Nothing is installed over what somebody else
installed, and a Knative of somebody else's is changed only where that is asked for: KOURIER=1, or DOMAIN= with FORCE=1.
"""

from __future__ import annotations

import json
import re
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import yaml
from kubectl import Kubectl, Object, Problem, condition, is_set, named, option, say, until

VERSIONS = tomllib.loads(Path(__file__).with_name("versions.toml").read_text())

LABEL = "ssis-dispatcher.io/installed-by"
VALUE = "setup_knative"
DONE = "ssis-dispatcher.io/installed-version"
"""On the namespace knative-serving, when all of that version has been applied."""
PATCHED = "ssis-dispatcher.io/patched-by"
"""On a ConfigMap of somebody else's Knative, when keys of it were set here: ``setup_knative:one,another``."""

SERVING, GATEWAY = "knative-serving", "kourier-system"
CORE = ("serving-crds.yaml", "serving-core.yaml")
INGRESS = "kourier.yaml"
CLASS = "kourier.ingress.networking.knative.dev"
ISTIO = "istio.ingress.networking.knative.dev"
"""What Knative takes where config-network names no class."""
INSIDE = "kourier-internal"
"""Kourier's Service that the dispatcher calls."""

MPS_FLAGS = (
    ("kubernetes.podspec-hostipc", (1, 16), "MPS slices of the Nebuly plugin (nvidia.com/gpu-4gb and the like)"),
    (
        "kubernetes.podspec-volumes-hostpath",
        (1, 17),
        "its newest plugin only, which does not mount /tmp/nvidia-mps itself",
    ),
)


def minor(text: str) -> tuple[int, int]:
    """``1.15.1`` → (1, 15). Raises `Problem`."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    if not found:
        raise Problem(f"{text!r} is no version like 1.15 or 1.15.1")
    return int(found[1]), int(found[2])


def of_serving(version: str) -> str:
    """Knative's release for a version of Serving as its labels have it: 0.42.2 → 1.15.2; 1.15.2 stays."""
    found = re.match(r"v?0\.(\d+)\.(\d+)", version)
    return f"1.{int(found[1]) - 27}.{found[2]}" if found else version.removeprefix("v")


def choose(kubernetes: tuple[int, int], wanted: str) -> str:
    """The release to install: the one that is wanted, else the newest that starts on this Kubernetes. Raises `Problem`."""
    if wanted:
        if minor(wanted) < minor(VERSIONS["oldest"]):
            raise Problem(
                f"KNATIVE_VERSION={wanted} is older than {VERSIONS['oldest']}, the oldest that the dispatcher knows"
            )
        if minor(wanted) > minor(VERSIONS["newest"]):
            say(f"! Knative {wanted} is newer than {VERSIONS['newest']}, the newest that the dispatcher was made for")
        listed = (one["version"] for one in VERSIONS["knative"] if minor(one["version"]) == minor(wanted))
        return wanted.removeprefix("v") if wanted.count(".") == 2 else next(listed, f"{wanted.removeprefix('v')}.0")
    for one in VERSIONS["knative"]:
        if minor(one["kubernetes"]) <= kubernetes:
            return str(one["version"])
    raise Problem(f"this cluster's Kubernetes {kubernetes[0]}.{kubernetes[1]} is too old: 1.28 is the least")


def read(name: str, version: str, folder: str) -> list[Object]:
    """The objects of one release file, from ``folder`` or from the internet. Raises `Problem`."""
    if folder:
        path = Path(folder, name)
        if not path.is_file():
            raise Problem(f"there is no {path}; KNATIVE_MANIFESTS= needs {', '.join(VERSIONS['files'])}")
        text = path.read_text()
    else:
        url = VERSIONS["files"][name].format(version=version)
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError) as error:
            raise Problem(
                f"{url} cannot be had ({error}). Without internet: fetch {', '.join(VERSIONS['files'])} of one release "
                "elsewhere, and run make setup_knative KNATIVE_MANIFESTS=their-folder"
            ) from None
    return [one for one in yaml.safe_load_all(text) if one]


def is_ours(one: Object | None) -> bool:
    return one is not None and one["metadata"].get("labels", {}).get(LABEL) == VALUE


class Cluster:
    """What of Knative is in the cluster, and whose it is."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl
        self.definition = kubectl.get("crd", "services.serving.knative.dev")
        self.controller = kubectl.get("deployment", "controller", SERVING)
        self.namespace = kubectl.get("namespace", SERVING)
        self.gateway = kubectl.get("deployment", "3scale-kourier-gateway", GATEWAY)
        # Knative's operator, for one, puts Kourier elsewhere.
        services = kubectl.list("services", "-A", f"--field-selector=metadata.name={INSIDE}") if self.is_foreign else []
        self.elsewhere = [one["metadata"]["namespace"] for one in services if one["metadata"]["namespace"] != GATEWAY]
        """Namespaces with a Kourier that somebody else's Knative uses."""

    @property
    def version(self) -> str:
        """Knative's version here; empty without one."""
        labels = (self.controller or {}).get("metadata", {}).get("labels", {})
        return of_serving(labels.get("app.kubernetes.io/version", ""))

    @property
    def is_foreign(self) -> bool:
        return self.definition is not None and not is_ours(self.definition)

    @property
    def has_kourier(self) -> bool:
        return self.gateway is not None or bool(self.elsewhere)

    @property
    def ingress(self) -> str:
        """The class that config-network names as it is now; empty without one."""
        data = (self.kubectl.get("configmap", "config-network", SERVING) or {}).get("data", {})
        return str(data.get("ingress-class") or data.get("ingress.class", ""))

    @property
    def domains(self) -> set[str]:
        """Those that config-domain names as it is now."""
        return set((self.kubectl.get("configmap", "config-domain", SERVING) or {}).get("data", {})) - {"_example"}

    @property
    def finished(self) -> str:
        """The version that was installed here, from the first to the last object."""
        return (self.namespace or {}).get("metadata", {}).get("annotations", {}).get(DONE, "")


def install(kubectl: Kubectl, objects: list[Object]) -> None:
    """Apply ``objects``, marked as ours; those that somebody else made are left as they are."""
    foreign = {named(one) for one in kubectl.existing(objects) if not is_ours(one)}
    fresh = [one for one in objects if named(one) not in foreign]
    for one in fresh:
        one["metadata"].setdefault("labels", {})[LABEL] = VALUE
    for name in sorted(foreign):
        say(f"! {name} is there already and is not ours: left as it is")
    # A kind may be so new that the API server does not know it yet, and a webhook so new that nobody answers for it.
    until("the objects to be taken", lambda: kubectl.apply(fresh) or True, within=90)


def set_key(kubectl: Kubectl, config_map: str, key: str, value: str) -> None:
    """Set a key of one of Knative's ConfigMaps; its webhook may not answer yet."""
    there = kubectl.get("configmap", config_map, SERVING)
    patch: Object = {"data": {key: value}}
    if not is_ours(there):
        marks = ",".join(sorted({key, *patched(there or {"metadata": {}})}))
        patch["metadata"] = {"annotations": {PATCHED: f"{VALUE}:{marks}"}}
    until(
        f"Knative to take {key}",
        lambda: kubectl.run(
            "patch", "configmap", config_map, "-n", SERVING, "--type=merge", "-p", yaml.safe_dump(patch)
        ),
        within=180,
    )
    if "metadata" in patch:
        say(
            f"! changed: ConfigMap {SERVING}/{config_map} has {key}: {value or '(empty)'}; make remove_knative takes it away"
        )


def patched(config_map: Object) -> list[str]:
    """The keys that were set here, of a ConfigMap that is not ours."""
    who, _, keys = config_map["metadata"].get("annotations", {}).get(PATCHED, "").partition(":")
    return keys.split(",") if who == VALUE else []


def setup(kubectl: Kubectl) -> None:
    """`make setup_knative`."""
    folder, wanted = option("KNATIVE_MANIFESTS"), option("KNATIVE_VERSION")
    kubernetes = kubectl.server_version()
    here = Cluster(kubectl)
    if here.is_foreign:
        may = " and ".join(f"{name}=1" for name in ("KOURIER", "FORCE") if is_set(name))
        say(
            f"Knative {here.version or '(version unknown)'} is here, installed by somebody else: "
            + (f"nothing is changed but what {may} asks for." if may else "it stays as it is.")
        )
        _check_foreign(here)
    else:
        version = _install_serving(kubectl, here, kubernetes, wanted, folder)
        if version != here.finished:
            kubectl.run("annotate", "namespace", SERVING, f"{DONE}={version}", "--overwrite")
    version = Cluster(kubectl).version
    _install_gateway(kubectl, here, version, folder)
    wait(kubectl)
    _set_domain(kubectl, here)
    _report(kubectl, version)


def _check_foreign(here: Cluster) -> None:
    """Raises `Problem` with all that somebody else's Knative would have to be changed for, and nobody asked to."""
    wanted = option("DOMAIN", "auto")
    lacks = [] if is_set("KOURIER") else [_missing_layer(here)]
    if wanted != "auto" and wanted not in here.domains and not is_set("FORCE"):
        lacks.append(
            f"its domains are {', '.join(sorted(here.domains)) or 'none'}, and {wanted} is not among them. Adding it may "
            "change the addresses of everybody's Knative Services: of domains without a selector the first in the alphabet "
            f"counts.\n{_or_by_hand('config-domain', wanted, '', f'DOMAIN={wanted} FORCE=1')}"
        )
    if any(lacks):
        raise Problem(
            "nothing was changed, because this Knative is not ours:\n" + "\n".join(f"- {one}" for one in lacks if one)
        )


def _missing_layer(here: Cluster) -> str:
    """Why no request would reach a Knative Service here, and what helps; empty where there is a network layer."""
    ingress = here.ingress
    if ingress not in {"", CLASS} or (ingress == CLASS and here.has_kourier) or (not ingress and _has_istio(here)):
        return ""
    if ingress:
        there = f"config-network names Kourier (ingress-class: {CLASS}), which is not in this cluster"
    elif here.has_kourier:
        there = (
            f"Kourier is in {', '.join(here.elsewhere) or GATEWAY}, but config-network names no ingress-class. That means "
            "Istio to Knative, whose net-istio-controller is not here"
        )
    else:
        there = (
            "config-network names no ingress-class, which means Istio to Knative, and neither its net-istio-controller nor "
            "Kourier is here"
        )
    other = "  Or install another gateway, and tell the dispatcher: docs/kubernetes.md, “Another gateway”."
    if here.has_kourier:
        way = _or_by_hand("config-network", "ingress-class", CLASS, "KOURIER=1")
    else:
        sets = "" if ingress else ", and sets ingress-class in config-network"
        way = (
            f"    make setup_knative KOURIER=1\n"
            f"  installs Kourier into {GATEWAY} and its controller into {SERVING}{sets}; make remove_knative takes it away."
        )
    return f"{there}: no Knative Service would become ready.\n{way}\n{other}"


def _or_by_hand(config_map: str, key: str, value: str, words: str) -> str:
    """The two commands that set a key."""
    patch = json.dumps({"data": {key: value}})
    return (
        f"    make setup_knative {words}\n"
        f"  sets it all the same, and make remove_knative takes it away; or, by hand,\n"
        f"    kubectl -n {SERVING} patch configmap {config_map} --type merge -p '{patch}'"
    )


def _has_istio(here: Cluster) -> bool:
    return here.kubectl.get("deployment", "net-istio-controller", SERVING) is not None


def _install_serving(kubectl: Kubectl, here: Cluster, kubernetes: tuple[int, int], wanted: str, folder: str) -> str:
    """The version that is there in the end."""
    if here.finished and f"{here.finished}.".startswith(f"{wanted.removeprefix('v')}." if wanted else ""):
        say(f"Knative Serving {here.finished} is installed already.")
        return here.finished
    if here.finished and wanted and minor(wanted)[1] - minor(here.finished)[1] not in (0, 1):
        raise Problem(
            f"Knative {here.finished} cannot become {wanted} in one step: it goes up one minor version at a time, never down"
        )
    version = choose(kubernetes, wanted)
    files = {name: read(name, version, folder) for name in CORE}
    if folder:
        version = next(
            of_serving(label)
            for one in files["serving-core.yaml"]
            if (label := one["metadata"].get("labels", {}).get("app.kubernetes.io/version"))
        )
    say(f"Installing Knative Serving {version} on Kubernetes {kubernetes[0]}.{kubernetes[1]} …")
    definitions = files["serving-crds.yaml"]
    install(kubectl, definitions)
    names = [f"crd/{one['metadata']['name']}" for one in definitions if one["kind"] == "CustomResourceDefinition"]
    # Tried again: on a definition so new that it has no conditions, `kubectl wait` fails.
    until(
        "the resource definitions",
        lambda: kubectl.run("wait", "--for=condition=Established", "--timeout=60s", *names),
    )
    core = files["serving-core.yaml"]
    install(kubectl, [one for one in core if one["kind"] == "Namespace"])
    # The file has the definitions once more.
    install(kubectl, [one for one in core if one["kind"] not in {"Namespace", "CustomResourceDefinition"}])
    return version


def _install_gateway(kubectl: Kubectl, here: Cluster, version: str, folder: str) -> None:
    ingress = here.ingress
    stays = here.is_foreign and not is_set("KOURIER")  # then `_check_foreign` has seen a network layer
    if stays and not ingress:
        ingress = ISTIO
    if ingress and ingress != CLASS:
        say(
            f"! Knative uses another gateway here ({ingress}), so Kourier is not installed. Tell the dispatcher its address "
            "within the cluster: docs/kubernetes.md, “Another gateway”."
        )
        return
    if here.gateway is None and here.elsewhere:
        say(
            f"! Kourier is here, installed by somebody else into {', '.join(here.elsewhere)}. Tell the dispatcher: "
            f"SSIS_GATEWAY={INSIDE}.{here.elsewhere[0]}.svc.cluster.local:80; docs/kubernetes.md, “Another gateway”."
        )
    elif here.gateway is not None and not is_ours(here.gateway):
        say("Kourier is here, installed by somebody else: it stays as it is.")
    elif here.gateway is not None and (stays or here.finished == version):
        say("Kourier is installed already.")
    else:
        say("Installing Kourier …")
        objects = read(INGRESS, version, folder)
        install(kubectl, [one for one in objects if one["kind"] == "Namespace"])
        install(kubectl, [one for one in objects if one["kind"] != "Namespace"])
    if ingress != CLASS:
        set_key(kubectl, "config-network", "ingress-class", CLASS)


def wait(kubectl: Kubectl) -> None:
    """Until everything runs. Raises `Problem` with what does not."""
    say("Waiting until everything runs …")
    for namespace in (SERVING, GATEWAY):
        until(f"the deployments in {namespace}", lambda namespace=namespace: _all_run(kubectl, namespace), within=600)


def _all_run(kubectl: Kubectl, namespace: str) -> bool:
    late = [
        one["metadata"]["name"]
        for one in kubectl.list("deployments", "-n", namespace)
        if condition(one, "Available").get("status") != "True"
    ]
    if late:
        raise Problem(f"{', '.join(late)} in {namespace}: kubectl -n {namespace} get pods")
    return True


def _set_domain(kubectl: Kubectl, here: Cluster) -> None:
    """DOMAIN=, or what the gateway's outside address gives, on a Knative of our own that has none."""
    wanted, domains = option("DOMAIN", "auto"), here.domains
    if wanted != "auto":
        if wanted not in domains:  # on somebody else's, `_check_foreign` has seen FORCE=1
            set_key(kubectl, "config-domain", wanted, "")
    elif not domains and not here.is_foreign and (address := _outside(kubectl)):
        set_key(kubectl, "config-domain", f"{address}.sslip.io", "")


def _outside(kubectl: Kubectl) -> str:
    """The gateway's address outside the cluster, where it has one."""
    service = kubectl.get("service", "kourier", GATEWAY) or {}
    points = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
    return points[0].get("ip", "")


def _report(kubectl: Kubectl, version: str) -> None:
    say(f"Knative Serving {version} runs.")
    if kubectl.get("service", INSIDE, GATEWAY):
        address = _outside(kubectl)
        say(
            f"  gateway inside   http://{INSIDE}.{GATEWAY}.svc.cluster.local\n"
            f"  gateway outside  {'http://' + address if address else 'none: the Service kourier has no external address'}"
        )
    flags = (kubectl.get("configmap", "config-features", SERVING) or {}).get("data", {})
    say("MIG slices and whole GPUs need no feature flag of Knative.")
    for flag, since, why in MPS_FLAGS:
        if minor(version) < since:
            say(f"- {flag}: only in Knative {since[0]}.{since[1]} and newer, for {why}")
        elif flags.get(flag, "disabled").lower() == "disabled":
            patch = f'{{"data":{{"{flag}":"enabled"}}}}'
            say(
                f"- {flag}: off; for {why}:\n"
                f"    kubectl -n {SERVING} patch configmap config-features --type merge -p '{patch}'"
            )
        else:
            say(f"- {flag}: {flags[flag]}")
    say("Next: make build")


def remove(kubectl: Kubectl) -> None:
    """`make remove_knative`: what carries our label, and nothing else."""
    here = Cluster(kubectl)
    if is_ours(here.definition):
        services = kubectl.list("services.serving.knative.dev", "-A")
        if services and not is_set("FORCE"):
            some = ", ".join(f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in services[:5])
            raise Problem(
                f"{len(services)} Knative Services would go with Knative: {some}{' …' if len(services) > 5 else ''}. "
                "Delete them first (make clean ALL=1 for the dispatcher and its servers), or say FORCE=1"
            )
        kubectl.delete(services, within=300)
        # Their remains have finalizers, which only running controllers take off.
        for kind in ("routes.serving.knative.dev", "ingresses.networking.internal.knative.dev"):
            until(f"the {kind} to go", lambda kind=kind: not kubectl.list(kind, "-A"), within=180)
    gone = 0
    for kinds in REMOVED:
        ours = [one for kind in kinds for one in kubectl.list(kind, "-A", "-l", f"{LABEL}={VALUE}")]
        if kinds == ("namespaces",):
            _await_pods(kubectl, ours)
        kubectl.delete(ours, within=300)
        gone += len(ours)
    for one in kubectl.list("configmaps", "-n", SERVING):
        if keys := patched(one):
            patch = {"data": dict.fromkeys(keys), "metadata": {"annotations": {PATCHED: None}}}
            kubectl.run(
                "patch",
                "configmap",
                one["metadata"]["name"],
                "-n",
                SERVING,
                "--type=merge",
                "-p",
                yaml.safe_dump(patch),
            )
            gone += 1
    if here.is_foreign:
        say("Knative Serving was installed by somebody else: it stays.")
    say(
        f"Removed {gone} objects, all of what make setup_knative installed."
        if gone
        else "Nothing here was installed by make setup_knative."
    )


def _await_pods(kubectl: Kubectl, namespaces: Iterable[Object]) -> None:
    """Wait until no pod is left there. At a namespace that is deleted before, Kubernetes looks again after half of their
    grace period, and the activator's is ten minutes."""
    for name in (one["metadata"]["name"] for one in namespaces):
        until(f"the pods of {name} to go", lambda name=name: not kubectl.list("pods", "-n", name), within=300)


REMOVED = (
    # Webhooks first: without their pods they would refuse everything that follows.
    ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"),
    ("horizontalpodautoscalers", "poddisruptionbudgets", "deployments", "services", "images.caching.internal.knative.dev",
     "certificates.networking.internal.knative.dev", "secrets", "configmaps", "rolebindings", "roles", "serviceaccounts"),
    ("customresourcedefinitions",),
    ("clusterrolebindings", "clusterroles"),
    ("namespaces",),
)  # fmt: skip
"""In this order."""
