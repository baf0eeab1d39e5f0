"""A cluster with Knative, slices that do not exist, and the dispatcher: set up once, and taken away afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.support import KSVC, NAMESPACE, SETTINGS, SLICES, Cluster, Site, catalogue

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))
            if os.environ.get("SSIS_TEST_CLUSTER") != "1":
                item.add_marker(pytest.mark.skip(reason="needs a cluster: make test-cluster"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """With Knative; what had to be installed for that is removed at the end."""
    found = Cluster()
    if not found.list("nodes"):
        pytest.skip("kubectl reaches no cluster")
    was_bare = found.get("crd", KSVC) is None
    found.make("clean", ALL="1")  # what a run that was cut off has left
    found.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", within=500)
    found.make("setup_knative")
    yield found
    found.make("clean", ALL="1")
    if was_bare:
        found.make("remove_knative")


@pytest.fixture(scope="session")
def slices(cluster: Cluster) -> Iterator[None]:
    node = cluster.node()
    cluster.advertise(node, SLICES)
    yield
    cluster.advertise(node, {})


@pytest.fixture(scope="session")
def deployed(cluster: Cluster, slices: None) -> Iterator[Site]:
    """The dispatcher, with the tests' settings and catalogue."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    words = [f"--from-literal={name}={value}" for name, value in SETTINGS.items()]
    cluster.kubectl("create", "configmap", "dispatcher-env", "-n", NAMESPACE, *words)
    cluster.make("deploy")
    site = Site(cluster)
    site.forward()
    site.configure(**{"catalogue": catalogue(), "gpu-resource-config": ""})
    yield site
    site.hang_up()
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", "--ignore-not-found")


@pytest.fixture
def site(deployed: Site) -> Site:
    """It, without a server."""
    deployed.clear()
    return deployed
