"""`ssis doctor --cluster` on a fake cluster: nothing to say when all is well, and one line for each thing that is not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube.fake import FakeCluster
from tests.kube.kinds import (
    CONFIGMAPS,
    CORE_SERVICES,
    DEPLOYMENTS,
    LEASES,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICES,
    Kind,
)

from ssis_dispatcher.assembly.doctor import Check
from ssis_dispatcher.assembly.doctor import cluster as clusters
from ssis_dispatcher.assembly.doctor.sight import RIGHTS, service_of
from ssis_dispatcher.settings import Settings

NS = "nthulab"
RBAC = Path(__file__).parents[3] / "deploy" / "base" / "rbac.yaml"
ENDPOINTS = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
KOURIER = "kourier.ingress.networking.knative.dev"
LABELS = {"app.kubernetes.io/name": "ssis-dispatcher", "app.kubernetes.io/component": "dispatcher"}


class Site:
    """A cluster on which a dispatcher is deployed and all is well, until a test changes it."""

    def __init__(self, cluster: FakeCluster, settings: Settings) -> None:
        self.cluster = cluster
        self.settings = settings

    async def doctor(self, **changes: Any) -> list[Check]:
        """In a thread: it runs a loop of its own, and the fake lives on this one."""
        settings = Settings(**{"hub_offline": True, "kube_context": None, **changes})
        return await asyncio.to_thread(clusters.doctor, settings)

    async def wrong(self, **changes: Any) -> dict[str, Check]:
        """What is not well, the hub and names of the cluster aside: neither can be asked from a test."""
        usual = ("model hub", "gateway address")
        return {one.name: one for one in await self.doctor(**changes) if one.ok is not True and one.name not in usual}

    def label(self, **labels: str) -> None:
        def change(item: Any) -> None:
            item["metadata"].setdefault("labels", {}).update(labels)

        self.cluster.edit(NAMESPACES, NS, "", change)

    def configure(self, name: str, namespace: str = "knative-serving", **data: str) -> None:
        data = {key.replace("__", "-"): value for key, value in data.items()}
        self.cluster.edit(CONFIGMAPS, name, namespace, lambda item: item["data"].update(data))

    async def deploy(self, *, goes_well: bool = True, **env: str) -> str:
        """The Knative Service of the dispatcher; once it stands as it will, the name of its pod, which leads."""
        how = {} if goes_well else {"fail": "ContainerMissing"}
        self.cluster.behave("*", pull=0.0, ready_after=0.0, **how)
        container: dict[str, Any] = {"name": "dispatcher", "image": "dispatcher:1"}
        container["env"] = [{"name": name, "value": value} for name, value in env.items()]
        container["envFrom"] = [{"configMapRef": {"name": "dispatcher-env", "optional": True}}]
        pod = {"serviceAccountName": "dispatcher", "containers": [container]}
        notes = {f"autoscaling.knative.dev/{name}": "1" for name in ("min-scale", "max-scale")}
        spec = {"template": {"metadata": {"labels": LABELS, "annotations": notes}, "spec": pod}}
        self.cluster.create(SERVICES, {"metadata": {"name": "dispatcher"}, "spec": spec}, NS)
        wanted = "True" if goes_well else "False"
        await self.cluster.until(lambda: self._told(SERVICES, "dispatcher") == wanted, 5)
        if not goes_well:  # no pod, and nobody leads
            return ""
        (found,) = self.cluster.pods("dispatcher", NS)
        name: str = found["metadata"]["name"]
        await self.cluster.until(lambda: self._told(PODS, name) == "True", 5)
        lease = {"metadata": {"name": "ssis-dispatcher"}, "spec": {"holderIdentity": name}}
        self.cluster.create(LEASES, lease, NS)
        return name

    def _told(self, kind: Kind, name: str) -> str:
        item = self.cluster.get(kind, name, NS) or {}
        conditions = item.get("status", {}).get("conditions", ())
        return next((str(one["status"]) for one in conditions if one["type"] == "Ready"), "")


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with FakeCluster(namespaces=(NS,), knative="1.20") as cluster:
        cluster.define(ENDPOINTS)
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig(cluster.url)))
        cluster.nodes.add("node-a", {"nvidia.com/mig-1g.5gb": 4, "nvidia.com/mig-2g.10gb": 1})
        service = {"metadata": {"name": "kourier-internal"}, "spec": {"ports": [{"port": 80}]}}
        cluster.create(CORE_SERVICES, service, "kourier-system")
        labels = {"kubernetes.io/service-name": "kourier-internal"}
        points = [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}]
        cluster.create(
            ENDPOINTS, {"metadata": {"name": "k-1", "labels": labels}, "endpoints": points}, "kourier-system"
        )
        cluster.create(CONFIGMAPS, {"metadata": {"name": "dispatcher-config"}, "data": {"service-namespace": NS}}, NS)
        cluster.create(SECRETS, {"metadata": {"name": "dispatcher-keys"}, "data": {}}, NS)
        site = Site(cluster, Settings())
        site.configure("config-network", ingress__class=KOURIER)
        yield site


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


async def test_where_all_is_well_every_line_says_so(site: Site) -> None:
    pod = await site.deploy()
    checks = await site.doctor()
    assert [one.name for one in checks if one.ok is not True] == ["gateway address", "model hub"]
    told = {one.name: one.detail for one in checks}
    assert told["kubernetes"].startswith("1.36 at http://127.0.0.1:")
    assert told["knative"] == "1.20"
    assert told["gateway"] == "kourier-internal in kourier-system: 1 pod ready"
    assert told["configuration"] == "dispatcher-config: every slice that nodes have, engine tgi"
    assert told["slices"] == "free: 4 of 4 nvidia.com/mig-1g.5gb, 1 of 1 nvidia.com/mig-2g.10gb"
    assert told["rights"] == "ServiceAccount dispatcher may do all that is needed"
    assert told["dispatcher"] == "1 pod ready, at http://dispatcher.nthulab.svc.cluster.local"
    assert told["leader"] == pod
    assert "as is usual outside the cluster" in told["gateway address"]


async def test_it_changes_nothing(site: Site) -> None:
    await site.deploy()
    before = site.cluster.api.store.version
    await site.doctor()
    assert site.cluster.api.store.version == before
    wrote = {call.resource for call in site.cluster.log if call.verb not in ("get", "list", "")}
    assert wrote == {"subjectaccessreviews"}


async def test_an_empty_cluster_is_told_what_to_do_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with FakeCluster(knative=None) as cluster:
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig(cluster.url)))
        found = {one.name: one for one in await asyncio.to_thread(clusters.doctor, Settings(hub_offline=True))}
    assert (found["knative"].ok, found["knative"].fix) == (False, "make setup_knative")
    assert (found["gateway"].ok, found["namespace"].ok, found["slices"].ok) == (False, False, False)
    assert found["namespace"].fix == "make deploy, or kubectl create namespace nthulab"
    assert found["dispatcher"].detail == "none is deployed in nthulab"
    assert "pod security" not in found


async def test_old_and_very_new_versions_are_told(site: Site) -> None:
    site.cluster.front.release = "v1.27.9"
    labels = {"app.kubernetes.io/version": "1.14.0"}
    for name in ("config-features", "config-defaults"):
        site.cluster.edit(CONFIGMAPS, name, "knative-serving", lambda item: item["metadata"].update(labels=labels))
    wrong = await site.wrong()
    assert (wrong["kubernetes"].ok, wrong["knative"].ok) == (False, False)
    assert "1.28 or newer" in wrong["kubernetes"].detail
    labels = {"app.kubernetes.io/version": "1.31.0"}
    for name in ("config-features", "config-defaults"):
        site.cluster.edit(CONFIGMAPS, name, "knative-serving", lambda item: item["metadata"].update(labels=labels))
    assert (await site.wrong())["knative"].ok is None


@pytest.mark.parametrize(
    ("written", "gateway", "ok"),
    [
        ("", None, False),
        ("istio.ingress.networking.knative.dev", None, False),
        ("istio.ingress.networking.knative.dev", "pods", True),
        ("istio.ingress.networking.knative.dev", "istio.istio-system.svc.cluster.local:80", True),
    ],
)
async def test_another_gateway_than_kourier_must_be_named(
    site: Site, written: str, gateway: str | None, ok: bool
) -> None:
    site.configure("config-network", ingress__class=written)
    changes = {"gateway": gateway} if gateway else {}
    checks = {one.name: one for one in await site.doctor(**changes)}
    assert checks["ingress class"].ok is ok
    if gateway == "pods":
        assert checks["gateway"].ok is True
        assert "gateway address" not in checks


async def test_a_gateway_without_pods_is_found(site: Site) -> None:
    site.cluster.edit(
        ENDPOINTS, "k-1", "kourier-system", lambda item: item["endpoints"][0]["conditions"].update(ready=False)
    )
    gateway = (await site.wrong())["gateway"]
    assert gateway == Check(
        "gateway", False, "kourier-internal in kourier-system: 0 pods ready", "kubectl -n kourier-system get pods"
    )


async def test_an_address_that_can_be_reached_is_tried(site: Site, unused_port: int) -> None:
    here = site.cluster.gateway_url.removeprefix("http://")
    checks = {one.name: one for one in await site.doctor(gateway=here)}
    assert checks["gateway address"] == Check("gateway address", True, f"{here} answers")
    checks = {one.name: one for one in await site.doctor(gateway=f"127.0.0.1:{unused_port}")}
    assert checks["gateway address"].ok is False
    assert "refused" in checks["gateway address"].detail


@pytest.fixture
def unused_port() -> int:
    """Of loopback, where nobody listens: the discard service's."""
    return 9


@pytest.mark.parametrize(
    ("level", "ok", "fix"), [("privileged", True, ""), ("baseline", True, ""), ("restricted", None, "baseline")]
)
async def test_pod_security_must_admit_servers(site: Site, level: str, ok: bool | None, fix: str) -> None:
    site.label(**{"pod-security.kubernetes.io/enforce": level})
    (check,) = [one for one in await site.doctor() if one.name == "pod security"]
    assert check.ok is ok
    assert fix in check.fix


async def test_mps_slices_need_a_flag_and_a_namespace_that_admits_host_ipc(site: Site) -> None:
    site.label(**{"pod-security.kubernetes.io/enforce": "baseline"})
    site.cluster.nodes.add("node-b", {"nvidia.com/gpu-4gb": 10})
    wrong = await site.wrong()
    assert wrong["flags"].ok is None, "there are MIG slices besides"
    assert wrong["flags"].fix == (
        "kubectl patch configmap/config-features -n knative-serving --type merge "
        """-p '{"data":{"kubernetes.podspec-hostipc":"enabled"}}'"""
    )
    assert wrong["pod security"].ok is False
    site.cluster.feature("kubernetes.podspec-hostipc")
    site.label(**{"pod-security.kubernetes.io/enforce": "privileged"})
    assert {"flags", "pod security"}.isdisjoint(await site.wrong())


async def test_flags_that_the_deployed_settings_need_are_asked_for(site: Site) -> None:
    """The settings of the deployment count, not those of the machine that asks: both of its places for them."""
    site.cluster.create(
        CONFIGMAPS, {"metadata": {"name": "dispatcher-env"}, "data": {"SSIS_RUNTIME_CLASS": "nvidia"}}, NS
    )
    await site.deploy(SSIS_TOLERATIONS="gpu=yes:NoSchedule", SSIS_DEFAULT_ENGINE="vllm")
    checks = await site.doctor()
    asked = [one.detail for one in checks if one.name == "flags"]
    assert len(asked) == 2
    assert "runtimeclassname" in asked[0]
    assert "tolerations" in asked[1]
    assert "engine vllm" in next(one.detail for one in checks if one.name == "configuration")


async def test_a_setting_that_is_no_choice_is_told_once(site: Site) -> None:
    await site.deploy(SSIS_TOLERATIONS="gpu=yes:Never")
    wrong = await site.wrong()
    assert list(wrong) == ["configuration"]
    assert wrong["configuration"].detail.startswith("tolerations: 'Never' is no effect of a taint")
    assert wrong["configuration"].fix == "mend that setting, then make deploy"


async def test_settings_of_the_deployment_that_are_wrong_are_told(site: Site) -> None:
    await site.deploy(SSIS_LAUNCH_PENDING="many")
    check = (await site.wrong())["configuration"]
    assert check.ok is False
    assert 'SSIS_LAUNCH_PENDING="many"' in check.detail


async def test_a_mistake_in_the_configmap_is_told_before_the_dispatcher_reads_it(site: Site) -> None:
    site.configure("dispatcher-config", NS, gpu__resource__config="what is this?")
    check = (await site.wrong())["configuration"]
    assert check.ok is False
    assert check.detail.startswith("gpu-resource-config: 'what is this?' is no resource name")
    assert check.fix == "kubectl -n nthulab edit configmap dispatcher-config"
    site.cluster.delete(CONFIGMAPS, "dispatcher-config", NS)
    assert (await site.wrong())["configuration"].ok is None


async def test_what_others_hold_is_not_free(site: Site) -> None:
    containers = [{"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/mig-1g.5gb": "3"}}}]
    spec = {"nodeName": "node-a", "containers": containers}
    site.cluster.create(PODS, {"metadata": {"name": "theirs"}, "spec": spec}, "default")
    checks = {one.name: one.detail for one in await site.doctor()}
    assert checks["slices"].startswith("free: 1 of 4 nvidia.com/mig-1g.5gb")


async def test_slices_that_nobody_may_use_are_told(site: Site) -> None:
    site.configure("dispatcher-config", NS, gpu__resource__config="nvidia.com/mig-7g.40gb")
    assert (await site.wrong())["slices"].detail == (
        "nodes have nvidia.com/mig-1g.5gb, nvidia.com/mig-2g.10gb, and nothing of it may be used"
    )


async def test_nodes_that_take_no_server_are_told_with_the_reason(site: Site) -> None:
    mig = {"nvidia.com/mig-1g.5gb": 1}
    site.cluster.nodes.add("b", mig, labels={"nvidia.com/mig.config.state": "pending"})
    taints = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}, {"key": "team", "effect": "NoExecute"}]
    site.cluster.nodes.add("c", mig, taints=taints)
    site.cluster.nodes.add("plain")
    site.cluster.nodes.cordon("node-a")
    found = [one for one in await site.doctor() if one.name == "nodes"]
    assert [(one.ok, one.detail, one.fix) for one in found] == [
        (None, "b takes no server: its MIG devices are being changed (pending)", "kubectl describe node b"),
        (
            None,
            "c takes no server: it is tainted with gpu, team",
            "SSIS_TOLERATIONS=gpu=yes:NoSchedule,team:NoExecute, with Knative's flag kubernetes.podspec-tolerations",
        ),
        (None, "node-a takes no server: it is cordoned", "kubectl uncordon node-a"),
    ]
    for number in range(9):
        site.cluster.nodes.add(f"d{number}", mig, taints=[{"key": "gpu", "effect": "NoSchedule"}])
    found = [one for one in await site.doctor() if one.name == "nodes"]
    assert len(found) == clusters.SHOWN + 1
    assert found[-1].detail == "and 7 more nodes that take no server"


async def test_strategy_single_and_names_of_several_sizes_are_told(site: Site) -> None:
    card = {"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.memory": "4864"}
    site.cluster.nodes.add(
        "b", {"nvidia.com/gpu": 7}, labels=card | {"nvidia.com/gpu.product": "NVIDIA-A100-MIG-1g.5gb"}
    )
    found = [one for one in await site.doctor() if one.name == "slices"]
    assert found[1].detail == "MIG strategy single: nvidia.com/gpu means a MIG slice on b (4864 MiB)"
    whole = {"nvidia.com/gpu.memory": "40960", "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}
    site.cluster.nodes.add("c", {"nvidia.com/gpu": 1}, labels=whole)
    flag = (await site.wrong())["flags"]
    assert "nvidia.com/gpu has several sizes, and the smallest counts" in flag.detail
    assert "kubernetes.podspec-nodeselector" in flag.fix


@pytest.mark.parametrize("deployed", [True, False])
async def test_rights_that_are_missing_are_named(site: Site, deployed: bool) -> None:
    """Those of the dispatcher's account where it is deployed, else one's own: a dispatcher may run outside, too."""
    if deployed:
        await site.deploy()
    refused = [("create", "leases"), ("get", "pods"), ("list", "pods"), ("get", "configmaps")]
    site.cluster.front.allowed = lambda wish: (wish["verb"], wish["resource"]) not in refused
    check = (await site.wrong())["rights"]
    assert check.ok is (False if deployed else None)
    assert check.detail == (
        f"{'ServiceAccount dispatcher' if deployed else 'you'} may not: get,list pods everywhere; get pods/log in nthulab; "
        "get configmaps in nthulab; create leases.coordination.k8s.io in nthulab; "
        "get configmaps config-features config-defaults in knative-serving"
    )
    asked = {call.resource for call in site.cluster.log if call.group == "authorization.k8s.io"}
    assert asked == {"subjectaccessreviews" if deployed else "selfsubjectaccessreviews"}


def test_the_rights_are_those_that_are_deployed() -> None:
    written = set()
    for one in yaml.safe_load_all(RBAC.read_text()):
        place = "" if one["kind"] == "ClusterRole" else one["metadata"].get("namespace")
        for rule in one.get("rules", ()):
            written |= {
                (place, group, resource, verb, name)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
                for name in rule.get("resourceNames", [""])
            }
    asked = {
        (NS if right.place is None else right.place, right.group, right.resource, verb, name)
        for right in RIGHTS
        for verb in right.verbs
        for name in right.only or ("",)
    }
    assert asked == written


async def test_a_dispatcher_that_is_not_ready_says_why(site: Site) -> None:
    await site.deploy(goes_well=False)
    site.cluster.delete(SECRETS, "dispatcher-keys", NS)
    wrong = await site.wrong()
    assert wrong["dispatcher"].ok is False
    assert "dispatcher:1" in wrong["dispatcher"].detail
    assert (wrong["leader"].ok, wrong["leader"].detail) == (None, "no dispatcher leads")
    assert (wrong["keys"].ok, wrong["keys"].fix) == (False, "make deploy")


async def test_a_lead_that_nobody_alive_holds_is_told(site: Site) -> None:
    await site.deploy()
    site.cluster.edit(LEASES, "ssis-dispatcher", NS, lambda item: item["spec"].update(holderIdentity="gone"))
    assert (await site.wrong())["leader"].detail.startswith("gone, which is none of the dispatcher's pods")
    site.cluster.edit(LEASES, "ssis-dispatcher", NS, lambda item: item["spec"].update(holderIdentity=""))
    assert (await site.wrong())["leader"].ok is False


async def test_the_form_with_two_replicas_is_known(site: Site) -> None:
    spec = {"template": {"spec": {"serviceAccountName": "dispatcher", "containers": [{"name": "dispatcher"}]}}}
    site.cluster.create(DEPLOYMENTS, {"metadata": {"name": "dispatcher"}, "spec": spec}, NS)
    available = {"conditions": [{"type": "Available", "status": "True"}]}
    site.cluster.edit(DEPLOYMENTS, "dispatcher", NS, lambda item: item.update(status=available), status=True)
    checks = {one.name: one for one in await site.doctor()}
    assert checks["dispatcher"].detail == "0 pods ready, at http://dispatcher.nthulab.svc.cluster.local"


async def test_who_may_see_little_is_told_what_could_not_be_seen(site: Site) -> None:
    """A pod's own account, say: no failure, and no line about what it does not know."""
    for resource in ("namespaces", "nodes", "pods", "secrets", "subjectaccessreviews", "endpointslices", "configmaps"):
        site.cluster.faults.add("forbidden", resource=resource)
    wrong = await site.wrong()
    assert {one.ok for one in wrong.values()} == {None}
    for name in ("namespace", "pod security", "slices", "keys", "gateway", "ingress class", "flags", "configuration"):
        assert wrong[name].detail.startswith("cannot be told: no right to "), name
    assert wrong["slices"].detail == "cannot be told: no right to list nodes everywhere"
    assert wrong["flags"].detail == "cannot be told: no right to get configmaps in knative-serving"


async def test_inside_a_pod_its_own_rights_count_and_names_must_resolve(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    await site.deploy()
    checks = {one.name: one for one in await site.doctor()}
    assert checks["rights"].detail == "this pod may do all that is needed"
    assert (checks["gateway address"].ok, "the name is not known" in checks["gateway address"].detail) == (False, True)


async def test_an_api_server_that_cannot_be_asked_is_one_line(site: Site, tmp_path: Path) -> None:
    site.cluster.front.token = "another"
    (check,) = await site.doctor()
    assert (check.ok, check.fix) == (False, "sign in again")
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig("http://127.0.0.1:9")))
    (check,) = await site.doctor()
    assert check.ok is False
    assert "http://127.0.0.1:9 gave no answer" in check.detail
    (check,) = await site.doctor(kube_context="nowhere")
    assert "context 'nowhere' is not in" in check.detail


def test_without_the_extra_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightkube"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    (check,) = clusters.doctor(Settings())
    assert check == Check("cluster", False, "Kubernetes needs the extra: pip install 'ssis-dispatcher[k8s]'")


async def test_a_look_that_fails_hides_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(sight: object) -> Check:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(clusters, "rights", broken)
    checks = {one.name: one for one in await site.doctor()}
    assert checks["rights"].detail == "could not be looked at: RuntimeError: the disk is on fire"
    assert checks["keys"].ok is True


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("kourier-internal.kourier-system.svc.cluster.local:80", ("kourier-internal", "kourier-system")),
        ("a.b.svc:8080", ("a", "b")),
        ("gateway.example.org:80", None),
        ("10.0.0.1:80", None),
        ("pods", None),
    ],
)
def test_the_service_behind_an_address(address: str, found: tuple[str, str] | None) -> None:
    assert service_of(address) == found
