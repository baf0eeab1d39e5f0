"""The manifests of one deployment: deploy/ as kustomize renders it, with its namespace, image and keys put in."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import yaml
from kubectl import Kubectl, Object, Problem

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
NAMESPACE = "nthulab"
"""The namespace that the files under deploy/ name."""


def overlays() -> list[str]:
    return sorted(path.parent.name for path in DEPLOY.glob("components/*/kustomization.yaml"))


def render(kubectl: Kubectl, chosen: list[str], namespace: str, image: str) -> list[Object]:
    """Raises `Problem` for a component that there is not."""
    for name in chosen:
        if name not in overlays():
            raise Problem(f"there is no overlay {name!r}; there are {', '.join(overlays())}")
    # Below deploy/, because kustomize leads out of a folder by relative paths only.
    with tempfile.TemporaryDirectory(dir=DEPLOY, prefix=".render-") as folder:
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../base"],
            # What `ha` brings, the others change.
            "components": [f"../components/{name}" for name in sorted(chosen, key=lambda name: name != "ha")],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(content))
        text = kubectl.run("kustomize", os.path.relpath(folder, Path.cwd()))
    return [_place(one, namespace, image) for one in yaml.safe_load_all(text) if one]


def _place(one: Object, namespace: str, image: str) -> Object:
    """Put the namespace in where it is meant, and the image."""
    meta = one["metadata"]
    if meta.get("namespace") == NAMESPACE:
        meta["namespace"] = namespace
    # Cluster-wide names, and those in Knative's namespace, carry ours, so that two deployments do not share them.
    meta["name"] = meta["name"].replace(NAMESPACE, namespace)
    if "roleRef" in one:
        one["roleRef"]["name"] = one["roleRef"]["name"].replace(NAMESPACE, namespace)
    for subject in one.get("subjects", ()):
        subject["namespace"] = namespace
    if one["kind"] == "ConfigMap" and one["data"].get("service-namespace") == NAMESPACE:
        one["data"]["service-namespace"] = namespace
    for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
        container["image"] = image
        for variable in container.get("env", ()):
            if variable.get("value") == NAMESPACE:
                variable["value"] = namespace
    return one
