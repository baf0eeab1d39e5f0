"""Finding a cluster, and signing in while tokens come and go."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from tests.kube.fake import FakeCluster

from ssis_dispatcher.kube import credentials
from ssis_dispatcher.kube.api import CONFIGMAPS, ApiError, Kube
from ssis_dispatcher.kube.credentials import Exec, NoCluster, TokenFile, find

from .support import clustered

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUNc1Ukv2Scm3ZKVbbPVEmBXTky5AwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjUxNzIwMDRaGA8yMTI2MTEwMTE3MjAw
NFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHnr
HXt7AsUApuMnQrrYNDseN8e/xM/aOmgxiClOgZYW66cGpUrEUM3AEbLwQi1pPvtH
nEaUWLrotFqcVTmcFh6jUzBRMB0GA1UdDgQWBBQG6eysetb/N99UVPmbqqrSAA+8
SDAfBgNVHSMEGDAWgBQG6eysetb/N99UVPmbqqrSAA+8SDAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0cAMEQCIFZCHPhBxy19lDFxcB7kEh9W1NweV03+cJJm
g1txQyshAiB2YySwk0hUct/8G7oqk38dXm8nqRuUXcIUW3SoODUbJQ==
-----END CERTIFICATE-----
"""


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(credentials, "KUBECONFIG", str(tmp_path / "no-kubeconfig"))


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a service account, in a pod."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("of-the-pod")
    (folder / "namespace").write_text("models")
    (folder / "ca.crt").write_text(AUTHORITY)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return str(folder)


def kubeconfig(path: Path, user: dict[str, Any], server: str = "https://cluster.example:6443", **cluster: Any) -> Path:
    """A kubeconfig with one context, named as its file."""
    name = path.name
    content = {
        "current-context": name,
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def authorization(auth: httpx2.Auth | None) -> str:
    request = httpx2.Request("GET", "https://cluster.example")
    assert auth is not None
    return str(next(auth.sync_auth_flow(request)).headers["Authorization"])


# Where


async def test_in_a_pod_it_is_the_service_accounts_cluster_past_any_proxy(account: str) -> None:
    found = find(account=account)
    assert (found.server, found.namespace) == ("https://[fd00::1]:443", "models")
    assert not found.trust_env
    assert found.verify.get_ca_certs()[0]["subject"] == ((("commonName", "test"),),)
    assert authorization(found.auth) == "Bearer of-the-pod"


def test_a_context_means_the_kubeconfig_even_in_a_pod(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "here", {"token": "t"})))
    found = find("here", account=account)
    assert (found.server, found.namespace, found.trust_env) == ("https://cluster.example:6443", "models", True)
    assert authorization(found.auth) == "Bearer t"


def test_of_several_files_the_one_that_knows_the_context_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = kubeconfig(tmp_path / "one", {"token": "first"})
    two = kubeconfig(tmp_path / "two", {"token": "second"})
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, (tmp_path / "none", one, two))))
    assert authorization(find("two").auth) == "Bearer second"
    assert authorization(find().auth) == "Bearer first"
    with pytest.raises(NoCluster, match="'three' is not in"):
        find("three")


def test_the_authority_may_be_in_the_file_or_waived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, Any] = {"certificate-authority-data": base64.b64encode(AUTHORITY.encode()).decode()}
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "a", {"token": "t"}, **written)))
    assert len(find().verify.get_ca_certs()) == 1
    waived: dict[str, Any] = {"insecure-skip-tls-verify": True}
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "b", {"token": "t"}, **waived)))
    assert find().verify.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize("server", ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"])
def test_loopback_is_asked_past_any_proxy(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "a", {"token": "t"}, server)))
    assert not find().trust_env


def test_users_sign_in_in_the_way_their_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "a", {"username": "me", "password": "secret"})))
    assert authorization(find().auth).startswith("Basic ")
    kubeconfig(tmp_path / "a", {"tokenFile": "token"})  # beside the kubeconfig
    found = find().auth
    assert isinstance(found, TokenFile)
    kubeconfig(tmp_path / "a", {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws"}})
    assert isinstance(find().auth, Exec)
    kubeconfig(tmp_path / "a", {})
    assert find().auth is None


@pytest.mark.parametrize(
    "content", ["", "[]", "clusters: 3", "{", "{clusters: [], contexts: [], current-context: a}", "a: !!python/x 1"]
)
def test_a_broken_kubeconfig_is_said_to_be_one(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "a"))
    with pytest.raises(NoCluster, match="No usable Kubernetes configuration"):
        Kube.find()


def test_nothing_at_all_is_said_too() -> None:
    with pytest.raises(NoCluster, match=r"no current context in .*no-kubeconfig"):
        find()


def test_without_the_extra_the_package_works_and_says_what_is_missing() -> None:
    program = (
        "import sys; sys.modules['lightkube'] = None\n"
        "from ssis_dispatcher.kube.api import Kube\n"
        "from ssis_dispatcher.kube.credentials import NoCluster\n"
        "try: Kube.find()\n"
        "except NoCluster as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'ssis-dispatcher[k8s]'" in said.stdout


# A token in a file


def client(cluster: FakeCluster, auth: httpx2.Auth) -> Kube:
    return Kube(cluster.url, auth=auth)


@pytest.mark.looptime
async def test_a_token_that_was_replaced_is_read_when_the_old_one_is_refused(tmp_path: Path) -> None:
    async with clustered() as (cluster, _):
        (tmp_path / "token").write_text("old\n")
        cluster.front.token = "old"
        kube = client(cluster, TokenFile(tmp_path / "token"))
        await kube.list(CONFIGMAPS)
        (tmp_path / "token").write_text("new\n")
        cluster.front.token = "new"
        before = len(cluster.log)
        await kube.list(CONFIGMAPS)
        assert len(cluster.log) - before == 2
        cluster.front.token = "unknown"
        with pytest.raises(ApiError) as caught:
            await kube.list(CONFIGMAPS)
        assert (caught.value.status, caught.value.transient) == (401, False)
        assert len(cluster.log) - before == 3  # the file says nothing new
        await kube.close()


@pytest.mark.looptime
async def test_a_token_is_read_again_every_minute(tmp_path: Path) -> None:
    async with clustered() as (cluster, _):
        (tmp_path / "token").write_text("old")
        kube = client(cluster, TokenFile(tmp_path / "token"))
        await kube.list(CONFIGMAPS)
        (tmp_path / "token").write_text("new")
        await asyncio.sleep(60.0)
        await kube.list(CONFIGMAPS)
        (tmp_path / "token").unlink()
        await asyncio.sleep(60.0)
        await kube.list(CONFIGMAPS)
        shown = [call.headers["authorization"] for call in cluster.log]
        assert shown == ["Bearer old", "Bearer new", "Bearer new"]
        await kube.close()


async def test_a_token_that_was_never_there_is_no_answer_of_the_server(tmp_path: Path) -> None:
    async with clustered() as (cluster, _):
        kube = client(cluster, TokenFile(tmp_path / "token"))
        with pytest.raises(ApiError, match="cannot be read: No such file") as caught:
            await kube.list(CONFIGMAPS)
        assert (caught.value.status, kube.reachable, cluster.log) == (401, False, [])
        await kube.close()


# A token from a program


def plugin(tmp_path: Path, body: str, version: str = "client.authentication.k8s.io/v1") -> Exec:
    """A program that counts its runs in a file and goes on with ``body``."""
    script = f"echo run >> {tmp_path / 'runs'}\n{body}"
    return Exec(["/bin/sh", "-c", script], version, {"TOKEN": "from-the-plugin"})


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text().splitlines())


CREDENTIAL = """printf '{"status": {"token": "%s"}}' """


async def test_many_calls_ask_the_program_once(tmp_path: Path) -> None:
    async with clustered() as (cluster, _):
        cluster.front.token = "from-the-plugin"
        kube = client(cluster, plugin(tmp_path, f"sleep 0.1; {CREDENTIAL} $TOKEN"))
        await asyncio.gather(*(kube.list(CONFIGMAPS) for _ in range(10)))
        await kube.list(CONFIGMAPS)
        assert runs(tmp_path) == 1
        await kube.close()


async def test_a_refused_token_is_asked_for_anew_once(tmp_path: Path) -> None:
    async with clustered() as (cluster, _):
        cluster.front.token = "2"
        kube = client(cluster, plugin(tmp_path, f"{CREDENTIAL} $(wc -l < {tmp_path / 'runs'})"))
        await asyncio.gather(*(kube.list(CONFIGMAPS) for _ in range(5)))
        assert runs(tmp_path) == 2
        await kube.close()


async def test_the_program_is_told_what_is_asked_of_it(tmp_path: Path) -> None:
    auth = plugin(tmp_path, f'printf %s "$KUBERNETES_EXEC_INFO" > {tmp_path / "asked"}; {CREDENTIAL} x')
    assert await auth._other_than("") == "x"
    assert '"apiVersion":"client.authentication.k8s.io/v1"' in (tmp_path / "asked").read_text()


async def test_a_caller_that_cannot_wait_leaves_the_program_running(tmp_path: Path) -> None:
    auth = plugin(tmp_path, f"sleep 0.3; {CREDENTIAL} x")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await auth._other_than("")
    assert await auth._other_than("") == "x"
    assert runs(tmp_path) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo 'not logged in' >&2; exit 1", "failed: not logged in"),
        ("echo hello", "printed no credential"),
        ('echo \'{"status": {"clientCertificateData": "x"}}\'', "gave no token"),
        ("exec sleep 10", "gave no token within"),
    ],
)
async def test_a_program_without_a_token_is_told_of(
    body: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "EXEC_WITHIN", 0.3)
    async with clustered() as (cluster, _):
        kube = client(cluster, plugin(tmp_path, body))
        with pytest.raises(ApiError, match=why) as caught:
            await kube.list(CONFIGMAPS)
        assert caught.value.status == 401
        await kube.close()


async def test_a_program_that_is_not_there_is_told_of() -> None:
    auth = Exec(["/nowhere/plugin"], "client.authentication.k8s.io/v1", {})
    with pytest.raises(credentials.SignInFailed, match="/nowhere/plugin cannot be run"):
        await auth._other_than("")
