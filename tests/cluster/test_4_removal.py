"""`make clean`, `make remove_knative`: what goes, and what does not."""

from __future__ import annotations

from tests.cluster.support import KSVC, NAMESPACE, Site
from tests.live.support import until


def test_clean_takes_the_dispatcher_and_leaves_its_servers_for_the_next_one(site: Site) -> None:
    assert site.ask("one").status == 200
    before = site.ours()
    site.hang_up()
    said = site.cluster.make("clean")
    assert all(name in said for name in before)
    assert site.cluster.get(KSVC, "dispatcher") is None
    assert site.ours() == before
    assert site.cluster.get("configmap", "dispatcher-config") is not None
    site.cluster.make("deploy")
    site.forward()
    until(lambda: "one" in site.servers(), "it has found its server", 15)
    assert site.ask("one").status == 200
    assert site.ours() == before


def test_knative_is_not_removed_while_somebody_uses_it(site: Site) -> None:
    assert site.ask("one").status == 200
    mine = (site.cluster.get("crd", KSVC) or {})["metadata"].get("labels", {}).get("ssis-dispatcher.io/installed-by")
    said = site.cluster.make("remove_knative", fails=bool(mine))
    assert ("would go with Knative" in said) == bool(mine)
    assert site.cluster.get("crd", KSVC) is not None
    assert site.ask("one").status == 200


def test_clean_all_takes_everything_and_nothing_of_others(site: Site) -> None:
    assert site.ask("one").status == 200
    site.cluster.kubectl("create", "configmap", "somebodys", "-n", NAMESPACE)
    site.hang_up()
    said = site.cluster.make("clean", ALL="1")
    assert "1 server included" in said
    assert not site.cluster.list(KSVC, "-n", NAMESPACE)
    assert site.cluster.get("configmap", "dispatcher-config") is None
    assert site.cluster.get("secret", "dispatcher-keys") is None
    assert not [
        one
        for one in site.cluster.list("clusterroles,clusterrolebindings") + site.cluster.list("roles", "-A")
        if NAMESPACE in one["metadata"]["name"] and one["metadata"].get("namespace") != NAMESPACE
    ]
    assert site.cluster.get("configmap", "somebodys") is not None
    assert "nothing" in site.cluster.make("clean", NAMESPACE="not-there", ALL="1")
