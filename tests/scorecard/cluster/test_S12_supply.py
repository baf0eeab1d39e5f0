"""S12. What is deployed has no more than it needs, in every form; what it is built of is pinned by its hash."""

from __future__ import annotations

import tomllib

import pytest
from tests.deploy.rules import DEPLOY, ROOT, Object, check_privileges, objects

WORKLOADS = [one for one in objects(DEPLOY) if "template" in one.get("spec", {})]


@pytest.mark.parametrize("one", WORKLOADS, ids=lambda one: one["kind"])
def test_the_dispatcher_runs_without_privileges(one: Object) -> None:
    check_privileges(one["spec"]["template"]["spec"])


def test_both_forms_are_there() -> None:
    assert sorted(one["kind"] for one in WORKLOADS) == ["Deployment", "Service"]


def test_every_package_is_locked_by_hash() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    files = [file for one in packages for file in (*one.get("wheels", ()), *([one["sdist"]] if "sdist" in one else ()))]
    assert len(files) > len(packages) > 10
    assert all(file["hash"].startswith("sha256:") for file in files)
    assert all(one["source"].keys() & {"registry", "editable", "virtual"} for one in packages)


def test_the_image_runs_as_nobody_in_particular() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1].partition(":")[0] not in {"root", "0"}
