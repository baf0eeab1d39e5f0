"""S12, and that names agree: the files as they are and, where there is kubectl, what kustomize renders for every overlay."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.rules import DEPLOY, ROOT, Object, check_privileges, objects

from ssis_dispatcher import settings

OVERLAYS = sorted(path.parent for path in DEPLOY.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent for path in DEPLOY.glob("components/*/kustomization.yaml"))
WORKLOADS = [one for one in objects(DEPLOY) if "template" in one.get("spec", {})]


def kubectl() -> list[str]:
    words = shlex.split(os.environ.get("KUBECTL") or "kubectl")
    if not shutil.which(words[0]):
        pytest.skip("needs kubectl, or KUBECTL=, to render with")
    return words


def rendered(overlay: Path) -> list[Object]:
    done = subprocess.run(
        [*kubectl(), "kustomize", str(overlay.relative_to(ROOT))], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert not done.returncode, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def pod(one: Object) -> dict[str, Any]:
    spec: dict[str, Any] = one["spec"]["template"]["spec"]
    return spec


def check_restricted(spec: dict[str, Any]) -> None:
    """Pod Security `restricted`, and more: the root filesystem is read-only, and nothing of the node is used."""
    check_privileges(spec)
    assert all({"emptyDir", "secret", "configMap", "projected"} & volume.keys() for volume in spec["volumes"])
    for container in spec["containers"]:
        context = container["securityContext"]
        assert spec.get("securityContext", context)["runAsUser"] == 65532
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("one", WORKLOADS, ids=lambda one: one["kind"])
def test_the_dispatcher_keeps_to_restricted_pod_security(one: Object) -> None:
    check_restricted(pod(one))


@pytest.mark.parametrize("one", WORKLOADS, ids=lambda one: one["kind"])
def test_every_variable_is_a_setting_with_a_value_that_it_takes(one: Object) -> None:
    environ = {item["name"]: item["value"] for item in pod(one)["containers"][0]["env"]}
    loaded = settings.load(environ=environ)
    assert (loaded.settings.platform, loaded.settings.namespace) == ("knative", "nthulab")


def test_requests_end_before_knative_would_cut_them() -> None:
    [service] = [one for one in WORKLOADS if one["apiVersion"] == "serving.knative.dev/v1"]
    spec = pod(service)
    assert spec["timeoutSeconds"] == spec["responseStartTimeoutSeconds"] == 600
    assert spec["containerConcurrency"] == 0
    environ = {item["name"]: item["value"] for item in spec["containers"][0]["env"]}
    deadline = settings.load(environ=environ).settings.request_timeout
    assert deadline == spec["timeoutSeconds"] - 15
    scale = service["spec"]["template"]["metadata"]["annotations"]
    assert {key.rpartition("/")[2]: value for key, value in scale.items()} == {
        "min-scale": "1", "max-scale": "1", "target-burst-capacity": "0",
    }  # fmt: skip


def test_a_replica_has_time_to_drain() -> None:
    [deployment] = [one for one in WORKLOADS if one["kind"] == "Deployment"]
    environ = {item["name"]: item["value"] for item in pod(deployment)["containers"][0]["env"]}
    found = settings.load(environ=environ).settings
    assert found.drain_quiet > 0
    assert pod(deployment)["terminationGracePeriodSeconds"] > found.drain_quiet + found.drain_grace + found.stop_grace


def test_no_secret_is_in_a_file() -> None:
    assert not [one for one in objects(DEPLOY) if one["kind"] == "Secret"]
    for path in (path for path in DEPLOY.rglob("*") if path.is_file()):
        assert not re.search(r"ssis-[A-Za-z0-9_-]{40,}|hf_[A-Za-z0-9]{20,}|sha256:[0-9a-f]{64}", path.read_text()), path


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_renders_to_one_dispatcher_whose_names_agree(overlay: Path) -> None:
    found = rendered(overlay)
    keys = [
        (one["apiVersion"], one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in found
    ]
    assert len(keys) == len(set(keys))
    [dispatcher] = [one for one in found if "template" in one.get("spec", {})]
    check_restricted(pod(dispatcher))
    accounts = {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"}
    assert pod(dispatcher)["serviceAccountName"] in accounts
    environ = {item["name"]: item["value"] for item in pod(dispatcher)["containers"][0]["env"]}
    assert environ["SSIS_SERVER_ACCOUNT"] in accounts
    settings.load(environ=environ)
    for binding in (one for one in found if one["kind"].endswith("RoleBinding") or one["kind"] == "RoleBinding"):
        assert {subject["name"] for subject in binding["subjects"]} <= accounts
    labels = dispatcher["spec"]["template"]["metadata"]["labels"]
    for one in found:
        selector = one.get("spec", {}).get("selector")
        if selector:
            assert selector.get("matchLabels", selector).items() <= labels.items()
    [namespace] = [one["metadata"]["name"] for one in found if one["kind"] == "Namespace"]
    assert {one["metadata"].get("namespace", namespace) for one in found} <= {namespace, "knative-serving"}


def test_every_component_has_an_overlay_or_is_a_choice_of_its_own() -> None:
    assert {path.name for path in COMPONENTS} - {path.name for path in OVERLAYS} == {"keys-off"}
