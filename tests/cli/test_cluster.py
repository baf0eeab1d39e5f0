"""`ssis … --cluster`: to a dispatcher in a cluster, through the API server, with nothing but a kubeconfig."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube.calls import Call
from tests.kube.fake import FakeCluster
from tests.kube.kinds import PODS, SECRETS
from tests.kube.wire import Exchange

Ssis = Callable[..., Any]

NS = "nthulab"
KEY = "ssis-of-the-operator"
LABELS = {"app.kubernetes.io/name": "ssis-dispatcher", "app.kubernetes.io/component": "dispatcher"}


class Site:
    """A fake API server that a kubeconfig leads to, and a dispatcher behind it; ``asked`` is what came to the dispatcher."""

    def __init__(self, cluster: FakeCluster, kubeconfig: Path, ssis: Ssis) -> None:
        self.cluster = cluster
        self.kubeconfig = kubeconfig
        self.asked: list[Call] = []
        self.gone = asyncio.Event()
        self.replies: dict[str, tuple[int, Any]] = {"/api/servers": (200, {"servers": []})}
        self.requests: dict[str, Any] = {}
        self.answering: Callable[[Exchange], None] = lambda exchange: exchange.end()
        self._ssis = ssis
        cluster.front.to_pod = self.answer

    async def ssis(self, *arguments: str) -> Any:
        """In a thread: the command blocks, and the fake lives on this loop."""
        return await asyncio.to_thread(self._ssis, *arguments)

    def configure(self, user: dict[str, Any], server: str = "", contexts: tuple[str, ...] = ("here",)) -> None:
        """The kubeconfig; the first context is the current one."""
        written = {
            "clusters": [{"name": "c", "cluster": {"server": server or self.cluster.url}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in contexts],
            "current-context": contexts[0],
        }
        self.kubeconfig.write_text(yaml.safe_dump(written))

    def deploy(self, name: str, *, ready: bool = True, namespace: str = NS) -> None:
        """A pod of a dispatcher, as Knative makes them."""
        containers = [
            {"name": "queue-proxy", "image": "q", "ports": [{"containerPort": 8012}]},
            {"name": "dispatcher", "image": "d", "ports": [{"containerPort": 8080}]},
        ]
        # Another scheduler's: nothing but this test says how it is.
        spec = {"containers": containers, "schedulerName": "nobody"}
        body = {"metadata": {"name": name, "labels": LABELS}, "spec": spec}
        self.cluster.create(PODS, body, namespace)
        status = {"type": "Ready", "status": str(ready)}
        self.cluster.edit(PODS, name, namespace, lambda pod: pod["status"].update(conditions=[status]), status=True)

    def answer(self, call: Call, exchange: Exchange) -> None:
        self.asked.append(call)
        _, _, rest = call.path.partition("/proxy")
        if rest.startswith("/v1/"):
            exchange.on_gone = self.gone.set
            exchange.start(200, "text/event-stream")
            self.answering(exchange)
        elif rest.startswith("/api/requests/") and self.requests:
            exchange.answer(200, json.dumps(self.requests).encode(), "application/json")
        else:
            status, body = self.replies.get(rest, (404, {"title": "Not Found", "detail": f"There is no {rest} here."}))
            exchange.answer(status, json.dumps(body).encode(), "application/json")


@pytest.fixture
async def site(ssis: Ssis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("SSIS_API_KEY", raising=False)
    async with FakeCluster(namespaces=(NS, "elsewhere")) as cluster:
        cluster.front.token = "of-the-kubeconfig"
        site = Site(cluster, kubeconfig, ssis)
        site.configure({"token": "of-the-kubeconfig"})
        secret = {
            "metadata": {"name": "dispatcher-api-key"},
            "data": {"api-key": base64.b64encode(KEY.encode()).decode()},
        }
        cluster.create(SECRETS, secret, NS)
        yield site


async def test_a_kubeconfig_is_all_it_takes(site: Site) -> None:
    site.deploy("dispatcher-1", ready=False)
    site.deploy("dispatcher-2")
    result = await site.ssis("ps", "--cluster")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("SERVER  MODEL")
    (call,) = site.asked
    assert call.path == f"/api/v1/namespaces/{NS}/pods/http:dispatcher-2:8080/proxy/api/servers"
    assert call.headers["x-api-key"] == KEY
    assert call.headers["authorization"] == "Bearer of-the-kubeconfig"


async def test_a_key_of_ones_own_goes_before_that_of_the_deployment(site: Site) -> None:
    site.deploy("dispatcher-1")
    assert (await site.ssis("ps", "--cluster", "--api-key", "mine")).exit_code == 0
    assert site.asked[0].headers["x-api-key"] == "mine"
    assert all(call.resource != "secrets" for call in site.cluster.log)


async def test_without_keys_none_is_sent(site: Site) -> None:
    site.deploy("dispatcher-1")
    site.cluster.delete(SECRETS, "dispatcher-api-key", NS)
    assert (await site.ssis("ps", "--cluster")).exit_code == 0
    assert "x-api-key" not in site.asked[0].headers


async def test_context_and_namespace_can_be_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.configure({"token": "of-the-kubeconfig"}, contexts=("here", "there"))
    site.deploy("dispatcher-1", namespace="elsewhere")
    monkeypatch.setenv("SSIS_NAMESPACE", "elsewhere")
    assert (await site.ssis("ps", "--kube-context", "there")).exit_code == 0
    assert site.asked[0].namespace == "elsewhere"


async def test_an_answer_streams(site: Site, say: Any) -> None:
    """What comes after a piece is only written when the command has shown that it has the piece: it watches the request no
    longer."""
    site.deploy("dispatcher-1")

    def begin(exchange: Exchange) -> None:
        exchange.send(say.delta("Once upon").encode())
        asyncio.get_running_loop().call_later(0.6, finish, exchange)

    def finish(exchange: Exchange) -> None:
        looked.extend(call for call in site.asked if "/api/requests/" in call.path)
        exchange.send((say.delta(" a time", finish_reason="stop") + say.done).encode())
        exchange.end()

    looked: list[Call] = []
    site.answering = begin
    result = await site.ssis("ask", "--cluster", "demo", "Tell")
    assert (result.exit_code, result.stdout) == (0, "Once upon a time\n")
    assert looked == []
    (call,) = [call for call in site.asked if call.path.endswith("/v1/chat/completions")]
    assert json.loads(call.body)["model"] == "demo"
    assert call.headers["x-api-key"] == KEY


async def test_the_phases_of_a_request_are_shown_meanwhile(site: Site, say: Any) -> None:
    """A second request, by the watching thread, with the same signature."""
    site.deploy("dispatcher-1")
    waiting: list[Exchange] = []
    site.answering = waiting.append
    looks: list[Call] = []

    def answer(call: Call, exchange: Exchange) -> None:
        site.answer(call, exchange)
        if "/api/requests/" in call.path:
            looks.append(call)
        if len(looks) > 2 and waiting:  # what the first looks brought has been shown then
            waiting[0].send((say.delta("Here") + say.done).encode())
            waiting.pop().end()

    site.cluster.front.to_pod = answer
    site.requests = say.waiting
    result = await site.ssis("ask", "--cluster", "demo", "Tell")
    assert (result.exit_code, result.stdout) == (0, "Here\n")
    assert "demo: waiting for a slice" in result.stderr


async def test_leaving_reaches_the_dispatcher(site: Site, say: Any) -> None:
    site.deploy("dispatcher-1")
    site.answering = lambda exchange: exchange.send(say.event(error={"message": "the model has gone"}).encode())
    result = await site.ssis("ask", "--cluster", "demo", "Tell")
    assert (result.exit_code, result.stderr) == (1, "ssis: the model has gone\n")
    await asyncio.wait_for(site.gone.wait(), 5)


async def test_steering_uses_the_verbs_that_are_documented(site: Site, say: Any) -> None:
    site.deploy("dispatcher-1")
    site.replies = {
        "/api/servers": (200, {"servers": [say.server]}),
        "/api/servers/demoabc": (202, {"server": "demoabc", "state": "stopping"}),
        "/api/models/pin": (200, {}),
    }
    assert (await site.ssis("stop", "--cluster", "demo")).exit_code == 0
    assert (await site.ssis("pin", "--cluster", "demo")).exit_code == 0
    assert {call.rule for call in site.asked} == {("", "pods/proxy", verb) for verb in ("get", "create", "delete")}


async def test_what_the_dispatcher_refuses_is_in_its_own_words(site: Site) -> None:
    site.deploy("dispatcher-1")
    site.cluster.delete(SECRETS, "dispatcher-api-key", NS)
    site.replies["/api/servers"] = 401, {"detail": "An API key is needed.", "code": "missing_api_key"}
    result = await site.ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert result.stderr == (
        "ssis: An API key is needed; give an API key with --api-key or SSIS_API_KEY "
        "(the Secret dispatcher-api-key is not there)\n"
    )


@pytest.mark.parametrize(
    ("verb", "resource", "granted"),
    [("list", "pods", "list"), ("get", "pods/proxy", "get,create,delete")],
)
async def test_the_right_that_is_missing_is_named(site: Site, verb: str, resource: str, granted: str) -> None:
    site.deploy("dispatcher-1")
    site.cluster.faults.add("forbidden", verb=verb, resource=resource)
    result = await site.ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert f"the right `{verb}` on `{resource}` is missing" in result.stderr
    assert f"--verb={granted} --resource={resource}\n" in result.stderr


async def test_who_may_not_read_the_secret_is_told_when_a_key_is_wanted(site: Site) -> None:
    site.deploy("dispatcher-1")
    site.cluster.faults.add("forbidden", verb="get", resource="secrets")
    assert (await site.ssis("ps", "--cluster")).exit_code == 0
    site.replies["/api/servers"] = 401, {"detail": "An API key is needed."}
    assert (
        "the Secret dispatcher-api-key cannot be read: no right to get secrets in nthulab)"
        in (await site.ssis("ps", "--cluster")).stderr
    )


@pytest.mark.parametrize(
    ("ready", "words"),
    [
        (None, "no dispatcher is deployed in namespace nthulab of http://127.0.0.1:"),
        (False, "the dispatcher in namespace nthulab is not ready; `ssis doctor --cluster` and"),
    ],
)
async def test_no_dispatcher_is_told_from_one_that_is_not_ready(site: Site, ready: bool | None, words: str) -> None:
    if ready is not None:
        site.deploy("dispatcher-1", ready=ready)
    result = await site.ssis("plan", "demo", "--cluster")
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr


async def test_a_pod_that_does_not_listen_is_told(site: Site) -> None:
    site.deploy("dispatcher-1")
    site.cluster.faults.add("unavailable", resource="pods/proxy")
    result = await site.ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert result.stderr.startswith("ssis: the pod dispatcher-1 cannot be reached (the server is currently unable")


async def test_credentials_that_are_not_accepted_are_told(site: Site) -> None:
    site.configure({"token": "old"})
    result = await site.ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert "does not accept these credentials" in result.stderr
    assert "old" not in result.stderr.replace("kubeconfig", "")


async def test_an_api_server_that_is_away_is_told(site: Site) -> None:
    site.configure({"token": "t"}, server="http://127.0.0.1:1")
    result = await site.ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert "the API server at http://127.0.0.1:1 gave no answer" in result.stderr


async def test_a_program_that_signs_in_runs_once_for_all_requests(site: Site, tmp_path: Path) -> None:
    program, ran = tmp_path / "sign-in", tmp_path / "ran"
    credential = {"kind": "ExecCredential", "status": {"token": "of-the-kubeconfig"}}
    program.write_text(f"#!/bin/sh\necho x >> {ran}\necho '{json.dumps(credential)}'\n")
    program.chmod(0o755)
    site.configure({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}})
    site.deploy("dispatcher-1")
    result = await site.ssis("stop", "nobody", "--cluster")
    assert result.stderr == "ssis: no server or model nobody is running; `ssis ps` lists them\n"
    assert ran.read_text() == "x\n"

    program.write_text("#!/bin/sh\necho who are you >&2\nexit 1\n")
    result = await site.ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert "who are you" in result.stderr


async def test_a_token_file_will_do(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-kubeconfig\n")
    site.configure({"tokenFile": str(tmp_path / "token")})
    site.deploy("dispatcher-1")
    assert (await site.ssis("ps", "--cluster")).exit_code == 0


def test_without_a_kubeconfig_it_is_said_where_it_was_looked_for(
    ssis: Ssis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert result.stderr == f"ssis: No usable Kubernetes configuration: no current context in {tmp_path / 'none'}\n"
    assert f"context 'x' is not in {tmp_path / 'none'}" in ssis("ps", "--kube-context", "x").stderr


def test_without_the_extra_it_is_said_what_to_install(ssis: Ssis, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightkube"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    result = ssis("ps", "--cluster")
    assert result.exit_code == 1
    assert result.stderr == "ssis: Kubernetes needs the extra: pip install 'ssis-dispatcher[k8s]'.\n"


def test_an_address_and_a_cluster_exclude_each_other(ssis: Ssis) -> None:
    result = ssis("ps", "--cluster", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "--url and --cluster exclude each other" in result.stderr


async def test_a_cluster_that_is_asked_for_goes_before_an_address_of_the_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSIS_URL", "http://127.0.0.1:1")
    site.deploy("dispatcher-1")
    assert (await site.ssis("ps", "--cluster")).exit_code == 0
