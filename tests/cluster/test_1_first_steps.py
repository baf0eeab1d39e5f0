"""The steps of the original README, one after the other."""

from __future__ import annotations

import os
import subprocess

from tests.cluster.support import GPT2, KSVC, NAMESPACE, ROOT, Cluster, Site
from tests.live.support import until


def client(site: Site, *words: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    """`python test.py`, in the folder test and in an environment that has its requirements."""
    env = dict(os.environ) | ({} if key is None else {"SSIS_API_KEY": key})
    return subprocess.run(
        [str(ROOT / "build/client/bin/python"), "test.py", "--url", site.url, "--namespace", NAMESPACE, *words],
        cwd=ROOT / "test", env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_setup_knative_may_be_run_again(cluster: Cluster) -> None:
    before = {one["metadata"]["name"]: one["metadata"]["generation"] for one in cluster.list("deployments", "-A")}
    said = cluster.make("setup_knative")
    assert "runs" in said
    assert "hostipc" in said  # what MPS needs is told
    assert {
        one["metadata"]["name"]: one["metadata"]["generation"] for one in cluster.list("deployments", "-A")
    } == before


def test_the_dispatcher_is_a_knative_service_with_an_address(deployed: Site) -> None:
    service = deployed.cluster.get(KSVC, "dispatcher")
    assert service is not None
    assert service["status"]["url"].startswith(f"http://dispatcher.{NAMESPACE}.")
    [ready] = [one for one in service["status"]["conditions"] if one["type"] == "Ready"]
    assert ready["status"] == "True"


def test_deploying_again_changes_nothing_and_keeps_the_configuration(deployed: Site) -> None:
    before = deployed.cluster.get("configmap", "dispatcher-config"), deployed.cluster.get("secret", "dispatcher-keys")
    revision = (deployed.cluster.get(KSVC, "dispatcher") or {})["status"]["latestReadyRevisionName"]
    said = deployed.cluster.make("deploy")
    assert "kept as it is: ConfigMap" in said
    after = deployed.cluster.get("configmap", "dispatcher-config"), deployed.cluster.get("secret", "dispatcher-keys")
    assert [one and one["data"] for one in before] == [one and one["data"] for one in after]
    assert (deployed.cluster.get(KSVC, "dispatcher") or {})["status"]["latestReadyRevisionName"] == revision


def test_the_test_client_gets_the_models_answer(site: Site) -> None:
    done = client(site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('[{"generated_text":"What is Deep Learning?')
    [server] = site.servers().values()
    assert (server["model"], server["slice"]) == (GPT2, "nvidia.com/gpu-4gb")


def test_the_test_client_streams(site: Site) -> None:
    done = client(site, "--stream")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 20


def test_the_test_client_says_what_is_wrong_and_fails(site: Site) -> None:
    done = client(site, key="ssis-nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "401" in done.stderr
    done = client(site, "--model", "nobody/has-this")
    assert done.returncode == 1
    assert "nobody/has-this" in done.stderr


def test_an_edit_of_the_configuration_counts_without_a_restart(site: Site) -> None:
    pods = site.pods()
    site.offer("nvidia.com/mig-2g.10gb")
    until(
        lambda: {one["name"] for one in site.look("/api/slices")["slices"]} == {"nvidia.com/mig-2g.10gb"}, "only that"
    )
    site.offer()
    until(lambda: len(site.look("/api/slices")["slices"]) == 4, "all again")
    assert [pod["metadata"]["uid"] for pod in site.pods()] == [pod["metadata"]["uid"] for pod in pods]


def test_a_bad_edit_is_refused_with_an_event_and_the_last_good_one_stays(site: Site) -> None:
    site.offer("nvidia.com/gpu-8gb")
    site.configure(**{"gpu-resource-config": "not a resource name\n"})
    until(
        lambda: any(
            "gpu-resource-config" in one.get("message", "") for one in site.cluster.list("events", "-n", NAMESPACE)
        ),
        "an event tells",
    )
    assert {one["name"] for one in site.look("/api/slices")["slices"]} == {"nvidia.com/gpu-8gb"}
    site.offer()


def test_deleting_the_pod_restarts_it_with_the_configuration_as_it_is(site: Site) -> None:
    assert site.ask(GPT2).status == 200
    before = site.ours()
    [pod] = site.pods()
    site.cluster.kubectl("delete", "pod", "-n", NAMESPACE, pod["metadata"]["name"], "--wait=false")
    until(lambda: [one["metadata"]["uid"] for one in site.pods()] != [pod["metadata"]["uid"]], "another pod", 30)
    until(lambda: site.answers() and GPT2 in site.servers(), "it serves, and knows its server", 90)
    assert site.ask(GPT2).status == 200
    assert site.ours() == before
