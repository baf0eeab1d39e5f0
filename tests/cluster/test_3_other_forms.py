"""Other ways to deploy it: without keys, with two replicas, and with MPS on a Knative that does not know it."""

from __future__ import annotations

import pytest
from tests.cluster.support import KSVC, NAMESPACE, Cluster, Site
from tests.live.support import until


def knative(cluster: Cluster) -> tuple[int, int]:
    """1.15, as (1, 15)."""
    config = cluster.get("configmap", "config-features", "knative-serving")
    assert config is not None
    release = config["metadata"]["labels"]["app.kubernetes.io/version"].removeprefix("v").split(".")
    return (1, int(release[1]) - 27) if release[0] == "0" else (1, int(release[1]))


def leader(cluster: Cluster) -> str:
    """Who holds the Lease."""
    found = cluster.get("lease", "ssis-dispatcher")
    return str(found["spec"].get("holderIdentity") or "") if found else ""


def test_a_missing_flag_is_named_with_the_reason(site: Site) -> None:
    if knative(site.cluster) >= (1, 16):
        pytest.skip("this Knative lets pods have the host's IPC namespace")
    for value in ("true", "false"):
        site.cluster.kubectl(
            "patch", "configmap", "dispatcher-env", "-n", NAMESPACE, "--type=merge",
            "-p", f'{{"data":{{"SSIS_MPS_HOST_IPC":"{value}"}}}}',
        )  # fmt: skip
        before = {pod["metadata"]["uid"] for pod in site.pods()}
        site.kill()
        until(lambda: site.pods() and not before & {pod["metadata"]["uid"] for pod in site.pods()}, "another", 60)  # noqa: B023
        until(site.answers, "it serves", 60)
        if value == "true":
            site.offer("nvidia.com/gpu-4gb", "nvidia.com/gpu-8gb")
            refused = site.ask("one")
            assert refused.status in {422, 503}
            assert "1.16" in refused.json["detail"] or "hostipc" in refused.json["detail"].lower()
            site.offer()


def test_without_keys_the_original_programs_client_is_served(site: Site) -> None:
    site.cluster.make("deploy", KEYS="off")
    site.forward()
    body = {
        "token": "What is Deep Learning?",
        "par": {"max_new_tokens": "20"},
        "env": {"MODEL_ID": "one", "HF_TOKEN": None},
    }
    headers = {"Host": f"dispatcher.{NAMESPACE}.svc.cluster.local"}
    # The one with keys leads until it has drained, and requests are handed over to it.
    until(lambda: site.send("POST", "/", body, headers).answer().status != 401, "nobody asks for a key", 90)
    answer = site.send("POST", "/", body, headers).answer()
    assert answer.status == 200
    assert answer.json[0]["generated_text"]


def test_two_replicas_serve_as_one_and_outlive_the_leader(site: Site) -> None:
    assert site.ask("one").status == 200
    before = site.ours()
    site.cluster.make("deploy", OVERLAY="mig ha")
    assert site.cluster.get(KSVC, "dispatcher") is None
    until(lambda: len(site.pods()) == 2, "two replicas", 60)
    site.forward()
    # While the lead changes hands, some are told to try again.
    until(lambda: site.ask("one").status == 200, "it serves", 90)
    names = [pod["metadata"]["name"] for pod in site.pods()]
    # The Knative Service's pod leads until it has drained.
    until(lambda: any(name in leader(site.cluster) for name in names), "one of the two leads", 90)
    [first] = [name for name in names if name in leader(site.cluster)]
    site.kill(first)
    until(lambda: first not in leader(site.cluster), "another leads", 20)
    until(lambda: site.answers() and site.ask("one").status == 200, "it serves", 60)
    assert site.ours() == before


def test_and_back_to_a_knative_service(site: Site) -> None:
    site.cluster.make("deploy")
    assert site.cluster.get("deployment", "dispatcher") is None
    site.forward()
    # While the lead changes hands, some are told to try again.
    until(lambda: site.ask("one").status == 200, "it serves", 90)
