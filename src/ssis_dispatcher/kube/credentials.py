"""Where the cluster is and how to sign in: the pod's service account, else a kubeconfig. Used by `api`.

Kubeconfigs, certificates and basic credentials are read by lightkube (extra ``k8s``), imported here only and only when
asked. Two ways to sign in are our own: the token file, since lightkube reads it again only after a refusal and a projected
token expires while a watch is open; and the exec plugin, since lightkube knows only the beta protocols.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
KUBECONFIG = "~/.kube/config"

FRESH = 60.0
"""Seconds for which a token read from a file is good. The kubelet replaces it at 80 % of its life, by default 48 minutes."""

EXEC_WITHIN = 30.0
"""Seconds that an exec plugin has."""


class NoCluster(Exception):
    """No cluster is configured, or not so that it can be used; the message says what is wrong."""


class SignInFailed(Exception):
    """There is no token to sign in with; the message says why, and never holds the token."""


class Access(msgspec.Struct, frozen=True):
    """A cluster's address, how its certificate is verified, how to sign in, and the namespace meant where none is named.

    ``trust_env``: whether the environment's proxies are used. Never for the service account's cluster, nor for loopback.
    """

    server: str
    verify: ssl.SSLContext
    auth: httpx2.Auth | None
    namespace: str
    trust_env: bool


def find(context: str | None = None, account: str = SERVICE_ACCOUNT) -> Access:
    """The service account's cluster, else the kubeconfig's; with a ``context``, the kubeconfig's. Raises `NoCluster`."""
    try:
        import yaml
        from lightkube.config.client_adapter import user_auth, verify_cluster
        from lightkube.config.models import User
        from lightkube.core.exceptions import ConfigError
    except ImportError as error:
        raise NoCluster("Kubernetes needs the extra: pip install 'ssis-dispatcher[k8s]'.") from error
    try:
        inside, config = _config(context, account)
        user = config.user or User()
        trust_env = not inside and not _is_loopback(config.cluster.server)
        auth: httpx2.Auth | None
        if user.token_file is not None:
            auth = TokenFile(Path(config.abs_file(user.token_file)))
        elif user.exec is not None:
            variables = {variable.name: variable.value for variable in user.exec.env or ()}
            auth = Exec([user.exec.command, *(user.exec.args or ())], user.exec.apiVersion, variables)
        else:
            auth = user_auth(user)
        verify = verify_cluster(config.cluster, user, config.abs_file, trust_env=trust_env)
    except (
        *(AttributeError, LookupError, TypeError, ValueError),  # what lightkube meets in a file that is no kubeconfig
        *(ConfigError, OSError, msgspec.MsgspecError, yaml.YAMLError),
    ) as error:
        raise NoCluster(f"No usable Kubernetes configuration: {error}") from error
    return Access(config.cluster.server, verify, auth, config.namespace, trust_env)


def in_pod() -> bool:
    """Whether this process runs in a pod."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _config(context: str | None, account: str) -> tuple[bool, SingleConfig]:
    """Whether it is the service account's, and it. Of several files in KUBECONFIG the first that knows the context counts."""
    from lightkube.config.kubeconfig import KubeConfig

    if context is None and in_pod() and Path(account, "token").is_file():
        found = KubeConfig.from_service_account(account).get()
        assert found is not None
        return True, found
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    files = named or [Path(KUBECONFIG).expanduser()]
    for config in [KubeConfig.from_file(file) for file in files if file.is_file()]:
        wanted = context or config.current_context
        if wanted in config.contexts and (found := config.get(wanted)) is not None:
            return False, found
    where = ", ".join(map(str, files))
    raise LookupError(f"context {context!r} is not in {where}" if context else f"no current context in {where}")


def _is_loopback(server: str) -> bool:
    host = httpx2.URL(server).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class TokenFile(httpx2.Auth):
    """The token in a file, read again when it is a minute old or was refused. While the file cannot be read the last token
    serves."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self._read_at = 0.0

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        now = asyncio.get_running_loop().time()
        if not self._token or now - self._read_at >= FRESH:
            self._read(now)
        used = self._token
        request.headers["Authorization"] = f"Bearer {used}"
        response = yield request
        if response.status_code == 401:
            self._read(now)
            if self._token != used:
                request.headers["Authorization"] = f"Bearer {self._token}"
                yield request

    def _read(self, now: float) -> None:
        try:
            self._token = self._path.read_text().strip() or self._token
            self._read_at = now
        except OSError as error:
            if not self._token:
                raise SignInFailed(f"the token file {self._path} cannot be read: {error.strerror}") from error


class _Credential(msgspec.Struct):
    """What an exec plugin prints, as far as it is used."""

    status: dict[str, Any]


class Exec(httpx2.Auth):
    """A token from a program (client.authentication.k8s.io), asked for once, and again when the token is refused.

    The program has its own time: a request that may not wait so long leaves it running for the next.
    """

    def __init__(self, command: Sequence[str], version: str, variables: Mapping[str, str]) -> None:
        self._command = command
        self._variables = dict(variables)
        question = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
        self._variables["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(question).decode()
        self._token = ""
        self._asking: asyncio.Task[str] | None = None

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        used = await self._other_than("")
        request.headers["Authorization"] = f"Bearer {used}"
        response = yield request
        if response.status_code == 401:
            request.headers["Authorization"] = f"Bearer {await self._other_than(used)}"
            yield request

    async def _other_than(self, refused: str) -> str:
        """A token that is not the ``refused`` one. However many ask, the program runs once."""
        if self._token == refused:
            if self._asking is None:
                self._asking = asyncio.get_running_loop().create_task(self._ask(), name="exec-plugin")
                self._asking.add_done_callback(self._answered)
            return await asyncio.shield(self._asking)
        return self._token

    def _answered(self, asking: asyncio.Task[str]) -> None:
        self._asking = None
        if not asking.cancelled() and asking.exception() is None:
            self._token = asking.result()

    async def _ask(self) -> str:
        try:
            program = await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, **self._variables},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise SignInFailed(f"{self._command[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(EXEC_WITHIN):
                printed, complaint = await program.communicate()
        except TimeoutError as error:
            raise SignInFailed(f"{self._command[0]} gave no token within {EXEC_WITHIN:.0f} s") from error
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        if program.returncode:
            raise SignInFailed(f"{self._command[0]} failed: {complaint.decode(errors='replace').strip()[-500:]}")
        return _token(printed, self._command[0])


def _token(printed: bytes, program: str) -> str:
    try:
        token = msgspec.json.decode(printed, type=_Credential).status.get("token")
    except msgspec.MsgspecError as error:
        raise SignInFailed(f"{program} printed no credential") from error
    if not isinstance(token, str) or not token:
        raise SignInFailed(f"{program} gave no token (client certificates from a program are not supported)")
    return token
