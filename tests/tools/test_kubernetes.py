"""`make setup_knative`, `remove_knative` and `clean`, on a cluster that is a file: whose things they change."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools import fake_kubectl
from tests.tools.fake_kubectl import Object, name_of

ROOT = Path(__file__).parents[2]
KOURIER = "kourier.ingress.networking.knative.dev"
OPTIONS = {"KOURIER", "DOMAIN", "FORCE", "ALL", "NAMESPACE", "KNATIVE_VERSION", "OVERLAY", "KEYS"}
"""Variables that a shell around the tests might have."""


def an(kind: str, name: str, namespace: str = "", api: str = "v1", **more: Any) -> Object:
    """An object; ``labels``, ``annotations`` and ``ownerReferences`` go into its metadata."""
    meta = {key: more.pop(key) for key in ("labels", "annotations", "ownerReferences") if key in more}
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, **place, **meta}, **more}


def a_definition(kind: str, group: str) -> Object:
    return an("CustomResourceDefinition", f"{kind}.{group}", api="apiextensions.k8s.io/v1")


def a_deployment(name: str, namespace: str, **more: Any) -> Object:
    status = {"conditions": [{"type": "Available", "status": "True"}]}
    return an("Deployment", name, namespace, "apps/v1", status=status, **more)


def serving(**network: str) -> list[Object]:
    """Knative as its release files have it, with what config-network says."""
    version = {"app.kubernetes.io/version": "1.15.2"}
    return [
        an("Namespace", "knative-serving"),
        a_deployment("controller", "knative-serving", labels=version),
        an("ConfigMap", "config-network", "knative-serving", data={"_example": "…", **network}),
        an("ConfigMap", "config-domain", "knative-serving", data={"_example": "…"}),
        an("ConfigMap", "config-features", "knative-serving", data={"_example": "…"}),
    ]


def kourier(namespace: str = "kourier-system") -> list[Object]:
    return [
        an("Namespace", namespace),
        a_deployment("3scale-kourier-gateway", namespace),
        an("Service", "kourier-internal", namespace),
        a_deployment("net-kourier-controller", "knative-serving"),
    ]


DEFINITIONS = [
    a_definition("services", "serving.knative.dev"),
    a_definition("routes", "serving.knative.dev"),
    a_definition("configurations", "serving.knative.dev"),
    a_definition("ingresses", "networking.internal.knative.dev"),
]
ISTIO = a_deployment("net-istio-controller", "knative-serving")


class Site:
    """A cluster, and `make` for it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "cluster.json"
        self.manifests = folder
        self.put()
        for name, objects in (
            ("serving-crds", DEFINITIONS),
            ("serving-core", [*DEFINITIONS, *serving()]),
            ("kourier", kourier()),
        ):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(copy.deepcopy(objects)))

    def put(self, *objects: Object) -> list[Object]:
        """What is in the cluster."""
        self.file.write_text(json.dumps({"objects": objects, "changes": []}))
        return self.objects

    @property
    def objects(self) -> list[Object]:
        found: list[Object] = json.loads(self.file.read_text())["objects"]
        return sorted(found, key=name_of)

    @property
    def names(self) -> list[str]:
        return [name_of(one) for one in self.objects]

    @property
    def changes(self) -> list[str]:
        found: list[str] = json.loads(self.file.read_text())["changes"]
        return found

    def data(self, config_map: str) -> dict[str, str]:
        [one] = [one for one in self.objects if name_of(one) == f"ConfigMap knative-serving/{config_map}"]
        return {key: value for key, value in one["data"].items() if key != "_example"}

    def make(self, target: str, fails: bool = False, **options: str) -> str:
        """All that it said, in one line."""
        env = {name: value for name, value in os.environ.items() if name not in OPTIONS} | {
            "KUBECTL": f"{sys.executable} {fake_kubectl.__file__} {self.file}",
            "KNATIVE_MANIFESTS": str(self.manifests),
            **options,
        }
        done = subprocess.run(
            [sys.executable, ROOT / "tools/kubernetes", target], env=env, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == int(fails), done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# setup_knative


def test_a_cluster_without_knative_gets_it_with_kourier_and_the_domain_that_is_wanted(site: Site) -> None:
    said = site.make("setup_knative", DOMAIN="models.example.org")
    assert "Knative Serving 1.15.2 runs." in said
    assert site.data("config-network") == {"ingress-class": KOURIER}
    assert site.data("config-domain") == {"models.example.org": ""}
    assert "changed: " not in said  # all of it is ours
    site.make("remove_knative")
    assert site.objects == []


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (
            [],
            "names no ingress-class, which means Istio to Knative, and neither its net-istio-controller nor Kourier is",
        ),
        (kourier(), "Kourier is in kourier-system, but config-network names no ingress-class"),
        (kourier("knative-serving")[1:], "Kourier is in knative-serving, but config-network names no ingress-class"),
        (["class"], f"names Kourier (ingress-class: {KOURIER}), which is not in this cluster"),
    ],
    ids=["nothing", "no-class", "elsewhere-no-class", "no-kourier"],
)
def test_somebody_elses_knative_without_a_network_layer_is_told_and_not_changed(
    site: Site, there: list[Any], words: str
) -> None:
    network = {"ingress-class": KOURIER} if there == ["class"] else {}
    site.put(*DEFINITIONS, *serving(**network), *(one for one in there if one != "class"))
    said = site.make("setup_knative", fails=True)
    assert "Knative 1.15.2 is here, installed by somebody else: it stays as it is." in said
    assert words in said
    assert "make setup_knative KOURIER=1" in said
    assert site.changes == []


def test_the_command_that_is_shown_is_the_one_that_sets_the_class(site: Site) -> None:
    site.put(*DEFINITIONS, *serving(), *kourier())
    said = site.make("setup_knative", fails=True)
    found = re.search(r"kubectl -n knative-serving patch configmap config-network --type merge -p '(.*?)'", said)
    assert found is not None
    assert json.loads(found[1]) == {"data": {"ingress-class": KOURIER}}


def test_kourier_is_installed_for_somebody_elses_knative_where_that_is_asked_for(site: Site) -> None:
    before = site.put(*DEFINITIONS, *serving())
    said = site.make("setup_knative", KOURIER="1")
    assert "nothing is changed but what KOURIER=1 asks for" in said
    assert f"changed: ConfigMap knative-serving/config-network has ingress-class: {KOURIER}" in said
    assert site.data("config-network") == {"ingress-class": KOURIER}
    assert "Deployment kourier-system/3scale-kourier-gateway" in site.names
    done = site.changes
    assert "Kourier is installed already." in site.make("setup_knative")
    assert site.changes == done
    site.make("remove_knative")
    assert bare(site.objects) == bare(before)


def bare(objects: list[Object]) -> list[Object]:
    """Without annotations that are empty."""
    for one in objects:
        if not one["metadata"].get("annotations", True):
            del one["metadata"]["annotations"]
    return objects


@pytest.mark.parametrize(
    ("network", "there", "words"),
    [
        ({"ingress-class": KOURIER}, kourier(), "Kourier is here, installed by somebody else: it stays as it is."),
        ({"ingress.class": KOURIER}, kourier(), "Kourier is here, installed by somebody else: it stays as it is."),
        (
            {"ingress-class": KOURIER},
            kourier("knative-serving")[1:],
            "SSIS_GATEWAY=kourier-internal.knative-serving.svc.cluster.local:80",
        ),
        ({}, [ISTIO], "Knative uses another gateway here (istio.ingress.networking.knative.dev), so Kourier is not"),
        ({"ingress-class": "contour"}, [], "Knative uses another gateway here (contour), so Kourier is not"),
    ],
    ids=["kourier", "old-key", "kourier-elsewhere", "istio", "another"],
)
def test_somebody_elses_knative_with_a_network_layer_stays_as_it_is(
    site: Site, network: dict[str, str], there: list[Object], words: str
) -> None:
    site.put(*DEFINITIONS, *serving(**network), *there)
    said = site.make("setup_knative")
    assert words in said
    assert "Knative Serving 1.15.2 runs." in said
    assert site.changes == []


def test_somebody_elses_knative_gets_a_domain_only_by_force(site: Site) -> None:
    knative = serving(**{"ingress-class": KOURIER})
    knative[3]["data"]["theirs.example.org"] = ""
    before = site.put(*DEFINITIONS, *knative, *kourier())
    said = site.make("setup_knative", fails=True, DOMAIN="models.example.org")
    assert "its domains are theirs.example.org, and models.example.org is not among them" in said
    assert "make setup_knative DOMAIN=models.example.org FORCE=1" in said
    assert """config-domain --type merge -p '{"data": {"models.example.org": ""}}'""" in said
    assert site.changes == []
    site.make("setup_knative", DOMAIN="theirs.example.org")
    assert site.changes == []
    for domain in ("models.example.org", "more.example.org"):
        said = site.make("setup_knative", DOMAIN=domain, FORCE="1")
        assert f"changed: ConfigMap knative-serving/config-domain has {domain}: (empty)" in said
    assert set(site.changes) == {"patch ConfigMap knative-serving/config-domain"}
    assert site.data("config-domain").keys() == {"theirs.example.org", "models.example.org", "more.example.org"}
    site.make("remove_knative")
    assert bare(site.objects) == bare(before)


def test_all_that_is_refused_is_told_at_once_and_before_anything_is_changed(site: Site) -> None:
    site.put(*DEFINITIONS, *serving())
    said = site.make("setup_knative", fails=True, DOMAIN="models.example.org")
    assert "KOURIER=1" in said
    assert "FORCE=1" in said
    assert "FORCE=1" in site.make("setup_knative", fails=True, DOMAIN="models.example.org", KOURIER="1")
    assert site.changes == []


def test_the_variable_that_asks_for_kourier_is_in_the_help_and_on_the_page() -> None:
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("setup_knative:")]
    assert "KOURIER=1" in line
    assert "`KOURIER=1`" in (ROOT / "docs/kubernetes.md").read_text()


# clean

PLACE = "nthulab"
OURS = {"ssis-dispatcher.io/deployed-by": "make-deploy"}
MANAGED = {"app.kubernetes.io/managed-by": "ssis-dispatcher"}
MINE = {"app.kubernetes.io/name": "ssis-dispatcher"}
KSVC = "serving.knative.dev/v1"


def owned(api: str, kind: str) -> list[Object]:
    return [{"apiVersion": api, "kind": kind, "name": "x", "controller": True}]


TOLD = [
    an("ConfigMap", "dispatcher-env", PLACE),
    an("Secret", "dispatcher-env", PLACE),
    an("Secret", "hf-token", PLACE),
]
"""What docs/kubernetes.md tells the operator to make."""

DEPLOYED = [
    an("Service", "dispatcher", PLACE, KSVC, labels=MINE),
    an("ServiceAccount", "dispatcher", PLACE, labels=MINE),
    an("ConfigMap", "dispatcher-config", PLACE, labels=MINE),
    an("ConfigMap", "dispatcher-learned", PLACE, labels=MANAGED),
    an("Secret", "dispatcher-keys", PLACE, labels=MINE),
    an("Secret", "dispatcher-api-key", PLACE, labels=MINE),
    an("Service", "gpt2", PLACE, KSVC, labels=MANAGED),
]
LEFT = [
    an("Service", "gpt2-00001", PLACE, ownerReferences=owned("networking.internal.knative.dev/v1alpha1", "SKS")),
    a_deployment("gpt2-00001", PLACE, ownerReferences=owned(KSVC, "Revision"), spec={"secretName": "hf-token"}),
    an("Pod", "gpt2-00001-x", PLACE, ownerReferences=owned("apps/v1", "ReplicaSet"), spec={"secretName": "hf-token"}),
]
"""What Kubernetes takes away after a server, in its own time."""

MADE = an("ConfigMap", "kube-root-ca.crt", PLACE)
"""By Kubernetes, in every namespace."""

ELSEWHERE = [an("Namespace", "other"), an("Secret", "hf-token", "other"), an("ConfigMap", "dispatcher-env", "other")]


def nthulab(**annotations: Any) -> Object:
    return an("Namespace", PLACE, annotations=annotations)


def test_clean_all_takes_what_the_page_told_to_make_and_the_namespace(site: Site) -> None:
    site.put(*DEFINITIONS, *ELSEWHERE, nthulab(**OURS), MADE, *DEPLOYED, *LEFT, *TOLD)
    said = site.make("clean", ALL="1")
    assert "Everything is gone, 1 server and the namespace nthulab included." in said
    assert site.names == sorted(name_of(one) for one in [*DEFINITIONS, *ELSEWHERE])
    # Not only with the namespace.
    assert {f"delete {name_of(one)}" for one in TOLD} < set(site.changes)


def test_a_namespace_of_others_stays_and_what_the_page_told_to_make_goes(site: Site) -> None:
    theirs = [nthulab(), MADE, an("Secret", "theirs", PLACE), an("ConfigMap", "env", PLACE)]
    site.put(*DEFINITIONS, *theirs, *DEPLOYED, *TOLD)
    said = site.make("clean", ALL="1")
    assert "The namespace stays, because make deploy did not make it." in said
    assert site.names == sorted(name_of(one) for one in [*DEFINITIONS, *theirs])


@pytest.mark.parametrize(
    ("theirs", "knative"),
    [
        (an("Secret", "theirs", PLACE), DEFINITIONS),
        (an("ConfigMap", "theirs", PLACE), []),
        (a_deployment("theirs", PLACE, spec={"replicas": 0}), DEFINITIONS),
        (an("CronJob", "theirs", PLACE, "batch/v1"), []),
    ],
    ids=["secret", "config-without-knative", "deployment-of-none", "cronjob-without-knative"],
)
def test_our_namespace_stays_while_others_use_it_and_says_who(
    site: Site, theirs: Object, knative: list[Object]
) -> None:
    deployed = DEPLOYED if knative else [one for one in DEPLOYED if one["apiVersion"] != KSVC]
    site.put(*knative, nthulab(**OURS), *deployed, *TOLD, theirs)
    said = site.make("clean", ALL="1")
    assert f"The namespace stays, because others use it: {name_of(theirs)}." in said
    assert site.names == sorted(name_of(one) for one in [*knative, nthulab(), theirs])


def test_a_hub_token_that_others_use_stays(site: Site) -> None:
    theirs = a_deployment("theirs", PLACE, spec={"template": {"spec": {"volumes": [{"secretName": "hf-token"}]}}})
    site.put(*DEFINITIONS, nthulab(**OURS), *DEPLOYED, *TOLD, theirs)
    said = site.make("clean", ALL="1")
    assert "the Secret hf-token stays, because Deployment nthulab/theirs uses it" in said
    kept = [*DEFINITIONS, nthulab(), theirs, an("Secret", "hf-token", PLACE)]
    assert site.names == sorted(name_of(one) for one in kept)


def test_clean_alone_leaves_configuration_keys_and_servers(site: Site) -> None:
    site.put(*DEFINITIONS, nthulab(**OURS), *DEPLOYED, *TOLD)
    site.make("clean")
    assert {name_of(one) for one in [*DEPLOYED, *TOLD]} - set(site.names) == {"Service nthulab/dispatcher"}
