"""The way to a dispatcher in a cluster for whoever has a kubeconfig and nothing else: the API server hands requests on to
its pod (``pods/proxy``). No port has to be forwarded, and no address of the dispatcher be known. Called by the command line.

On this way the header ``Authorization`` is the API server's; the dispatcher's own key goes as ``X-API-Key``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import threading
from collections.abc import Awaitable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from ssis_dispatcher.errors import DispatchError

if TYPE_CHECKING:
    from ssis_dispatcher.kube.api import ApiError, Kube
    from ssis_dispatcher.settings import Settings

LABELS = "app.kubernetes.io/name=ssis-dispatcher,app.kubernetes.io/component=dispatcher"
"""Of the dispatcher's pods, in either form of its deployment."""

KEY_SECRET, KEY_FIELD = "dispatcher-api-key", "api-key"
"""Where `make deploy` keeps a key in clear text for operators."""

PORT = 8080
"""Where the dispatcher listens in a pod that does not say."""

PATIENCE = 2.0
"""Seconds, retries included, for each question to the API server: a person waits."""

_PROXY = "queue-proxy"
"""Knative's container beside the dispatcher's. Past it goes whoever asks about the dispatcher, not a model."""

_VERBS = {"GET": "get", "POST": "create", "DELETE": "delete"}
"""Methods as the rules of a Role call them."""


_FORBIDDEN = re.compile(
    r'cannot (?P<verb>\S+) resource "(?P<resource>\S+)" in API group "\S*"(?: in the namespace "(?P<place>\S+)")?'
)


@dataclass(frozen=True)
class Passage:
    """``url`` is the dispatcher's root as the API server has it, ``pod`` its pod's name. ``auth`` can be used without an
    event loop. ``api_key`` is None where none was given or found; ``key_note`` says why none was found."""

    url: str
    pod: str
    namespace: str
    server: str
    verify: ssl.SSLContext
    auth: Ashore | None = field(repr=False)
    trust_env: bool
    api_key: str | None = field(repr=False)
    key_note: str = ""

    def close(self) -> None:
        if self.auth is not None:
            self.auth.close()

    def refusal(self, method: str, status: int, content: bytes) -> str:
        """What the API server means that did not let a request through, and what to do; "" where the dispatcher itself
        has answered."""
        try:
            said = json.loads(content)
        except ValueError:
            return ""
        if not isinstance(said, dict) or (said.get("kind"), said.get("apiVersion")) != ("Status", "v1"):
            return ""
        if status == 401:
            return f"{_unknown(self.server)}: sign in again, or choose another context with --kube-context"
        if status == 403:
            return _unallowed(_VERBS.get(method, method.lower()), "pods/proxy", self.namespace)
        message = str(said.get("message") or f"it answered {status}").rstrip(".")
        if status in (404, 503):
            return f"the pod {self.pod} cannot be reached ({message}); if it has just been replaced, try again"
        return f"the API server at {self.server} did not let it through: {message}"


def find_passage(settings: Settings) -> Passage:
    """The way to the dispatcher of ``settings.namespace`` in the cluster of ``settings.kube_context``. Blocks for some
    seconds at most. Raises `DispatchError`, which says what is missing."""
    from ssis_dispatcher.kube import credentials
    from ssis_dispatcher.kube.api import Kube

    try:
        access = credentials.find(settings.kube_context)
    except credentials.NoCluster as error:
        raise DispatchError(str(error)) from error

    async def looked() -> tuple[str, int, str | None, str]:
        kube = Kube(access.server, verify=access.verify, auth=access.auth, trust_env=access.trust_env)
        try:
            pod, port = await _pod(kube, settings.namespace)
            key, note = (settings.api_key, "") if settings.api_key else await _key(kube, settings.namespace)
        finally:
            await kube.close()
        return pod, port, key, note

    pod, port, key, note = asyncio.run(looked())
    return Passage(
        f"{access.server.rstrip('/')}/api/v1/namespaces/{settings.namespace}/pods/http:{pod}:{port}/proxy",
        pod,
        settings.namespace,
        access.server,
        access.verify,
        Ashore(access.auth) if access.auth is not None else None,
        access.trust_env,
        key,
        note,
    )


async def _pod(kube: Kube, namespace: str) -> tuple[str, int]:
    """A dispatcher's pod that is ready, and its port. Which one is all the same: those that do not lead hand over."""
    from ssis_dispatcher.kube.api import PODS, ApiError

    try:
        pods, _ = await kube.list(PODS, namespace, labels=LABELS, patience=PATIENCE)
    except ApiError as error:
        if error.forbidden:
            raise DispatchError(_unallowed("list", "pods", namespace)) from error
        if error.status == 401:
            raise DispatchError(f"{_unknown(kube.base_url)} ({error.message})") from error
        raise DispatchError(error.message) from error
    if not pods:
        raise DispatchError(
            f"no dispatcher is deployed in namespace {namespace} of {kube.base_url}; `make deploy` deploys one, and "
            "SSIS_NAMESPACE says where it is if it has another namespace"
        )
    ready = sorted(filter(is_ready, pods), key=lambda pod: str(pod["metadata"]["name"]))
    if not ready:
        raise DispatchError(
            f"the dispatcher in namespace {namespace} is not ready; `ssis doctor --cluster` and "
            f"`kubectl -n {namespace} describe pod {pods[0]['metadata']['name']}` say why"
        )
    return ready[0]["metadata"]["name"], port_of(ready[0])


async def _key(kube: Kube, namespace: str) -> tuple[str | None, str]:
    """The operators' key, or None and why: without keys there is none, and not everybody may read Secrets."""
    from ssis_dispatcher.kube.api import SECRETS, ApiError

    try:
        secret = await kube.get(SECRETS, KEY_SECRET, namespace, patience=PATIENCE)
    except ApiError as error:
        why = "is not there" if error.missing else f"cannot be read: {in_words(error)}"
        return None, f"the Secret {KEY_SECRET} {why}"
    try:
        return base64.b64decode(secret["data"][KEY_FIELD]).decode().strip(), ""
    except (KeyError, TypeError, ValueError):
        return None, f"the Secret {KEY_SECRET} has no {KEY_FIELD}"


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod takes requests, and goes on doing so."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return "deletionTimestamp" not in pod["metadata"] and any(
        one.get("type") == "Ready" and one.get("status") == "True" for one in conditions
    )


def port_of(pod: Mapping[str, Any]) -> int:
    """Where the dispatcher listens in its pod."""
    containers = pod.get("spec", {}).get("containers") or ()
    ports = [one for container in containers if container["name"] != _PROXY for one in container.get("ports") or ()]
    return int(ports[0]["containerPort"]) if ports else PORT


def in_words(error: ApiError) -> str:
    """What the API server's refusal comes to; its own words where they are no refusal for want of rights."""
    found = _FORBIDDEN.search(error.message) if error.forbidden else None
    if found is None:
        return error.message
    return f"no right to {found['verb']} {found['resource']} " + (
        f"in {found['place']}" if found["place"] else "everywhere"
    )


def _unknown(server: str) -> str:
    return f"the API server at {server} does not accept these credentials"


def _unallowed(verb: str, resource: str, namespace: str) -> str:
    verbs = ",".join(_VERBS.values()) if resource == "pods/proxy" else verb
    return (
        f"you may not do this in namespace {namespace}: the right `{verb}` on `{resource}` is missing. Whoever administers "
        f"the cluster grants it with a rolebinding to what this makes: kubectl -n {namespace} create role "
        f"ssis-{resource.replace('/', '-')} --verb={verbs} --resource={resource}"
    )


class Ashore(httpx2.Auth):
    """A way to sign in that needs an event loop, for clients that have none: it gets one of its own, for itself alone. May
    be used by several threads."""

    def __init__(self, auth: httpx2.Auth) -> None:
        self._auth = auth
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        from ssis_dispatcher.kube.credentials import SignInFailed

        flow = self._auth.async_auth_flow(request)
        try:
            signed = self._wait(anext(flow))
            while True:
                response = yield signed
                signed = self._wait(flow.asend(response))
        except StopAsyncIteration:
            return
        except SignInFailed as error:
            raise DispatchError(f"signing in to the cluster failed: {error}") from error
        finally:
            self._wait(flow.aclose())

    def _wait(self, step: Awaitable[Any]) -> Any:
        with self._lock:
            return self._loop.run_until_complete(step)

    def close(self) -> None:
        with self._lock:
            self._loop.close()
