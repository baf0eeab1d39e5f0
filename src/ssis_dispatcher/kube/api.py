"""The Kubernetes API: a few verbs on plain dicts, with the waiting and retrying that it asks of its clients.

lightkube finds the cluster and its certificates (`credentials`); requests go through httpx2, on which lightkube is built
too, without its resource classes. Those decode into generated models that convert every object twice for us, who keep a few
fields of each; its watch has no end of its own, so that a connection that died in silence hangs it for ever; and it leaves
Retry-After, half-done writes and the number of connections to its caller. What remains of a client is below.

Every attempt has a time-out, and a call may take ``patience`` seconds with its retries (0: one attempt):

- after 429, or 503 with Retry-After, any call comes again no sooner than it was told, and all calls slow down (`pace`);
- get, list, logs and delete come again after a failure on the way or in the server;
- create, replace and patch do not: they may have happened although the answer was lost. The caller looks and compares.
  `ApiError.transient` says when that is the case. A create that came again after a 503 may find its own object (`exists`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import httpx2
import msgspec

from ssis_dispatcher.kube import credentials
from ssis_dispatcher.kube.credentials import SignInFailed
from ssis_dispatcher.kube.kinds import (
    CONFIGMAPS,
    DEPLOYMENTS,
    EVENTS,
    LEASES,
    NODES,
    PODS,
    QUOTAS,
    REVISIONS,
    SECRETS,
    SERVICES,
    Kind,
)
from ssis_dispatcher.kube.pace import UNSAID, Pace, at_least, backoff
from ssis_dispatcher.kube.refusals import ApiError, failure, told_to_wait

__all__ = (
    "CONFIGMAPS",
    "DEPLOYMENTS",
    "EVENTS",
    "LEASES",
    "MANAGER",
    "NODES",
    "PODS",
    "QUOTAS",
    "REVISIONS",
    "SECRETS",
    "SERVICES",
    "ApiError",
    "Kind",
    "Kube",
    "Object",
)

T = TypeVar("T")

Object = dict[str, Any]
"""An object of the API, as its JSON has it."""

Objects = list[Object]
Printed = list[str]

TIMEOUT = 10.0
"""Seconds for one attempt; a page of a list has three times as long."""

PATIENCE = 30.0
"""Seconds for a call with all its retries, where the caller names no other."""

PAGE = 500
"""Objects per page of a list, as client-go has it: 5,000 pods are ten requests of some 5 MB."""

SILENCE = 5.0
"""Seconds that a watch may last beyond the time at which the server was asked to end it."""

MANAGER = "ssis-dispatcher"
"""Our name: in ``managedFields``, and on what we write."""

_CONNECTIONS = httpx2.Limits(max_connections=128, max_keepalive_connections=16, keepalive_expiry=30.0)
"""Every watch holds a connection of its own; the others are shared by the calls."""

_DECODED_AT_ONCE = 100
"""Objects of a list that are decoded before others on the loop have their turn (some 5 ms of large pods)."""


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    """A page. The objects stay bytes at first, so that decoding them can be done bit by bit."""

    metadata: _Meta
    items: list[msgspec.Raw] | None = None


class Lines:
    """Cuts a stream of bytes into lines; the last, unended one is kept back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        head, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            self._parts.append(chunk)
            return []
        whole = b"".join((*self._parts, head))
        self._parts = [rest]
        return [line for line in whole.split(b"\n") if line.strip()]

    @property
    def rest(self) -> bytes:
        return b"".join(self._parts)


class Kube:
    """One cluster's API.

    ``reachable``: whether the API server answered when it was last asked anything; `returned` is set while it does.
    ``fence``, where set, is asked right before every attempt to write anything but a Lease or an Event: False, and the
    attempt ends as an `ApiError` that is ``fenced``.
    """

    def __init__(
        self,
        base_url: str,
        *,
        verify: ssl.SSLContext | bool = True,
        auth: httpx2.Auth | None = None,
        namespace: str = "default",
        trust_env: bool = False,
    ) -> None:
        self.base_url = base_url
        self.namespace = namespace
        self.reachable = False
        self.returned = asyncio.Event()
        self.fence: Callable[[], bool] | None = None
        self._answered_at = float("-inf")
        self._pace = Pace()
        self._client = httpx2.AsyncClient(
            base_url=base_url,
            verify=verify,
            auth=auth,
            trust_env=trust_env,
            limits=_CONNECTIONS,
            timeout=None,  # ours are for whole calls
            headers={"Accept": "application/json", "User-Agent": MANAGER},
        )

    @staticmethod
    def find(context: str | None = None) -> Kube:
        """The cluster this pod runs in, else the kubeconfig's (of ``context``). Raises `credentials.NoCluster`."""
        found = credentials.find(context)
        return Kube(
            found.server, verify=found.verify, auth=found.auth, namespace=found.namespace, trust_env=found.trust_env
        )

    @staticmethod
    def at(url: str) -> Kube:
        """An API server that asks for no credentials, such as a fake one or ``kubectl proxy``."""
        return Kube(url)

    async def close(self) -> None:
        await self._client.aclose()

    # Reading

    async def get(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> Object:
        path = kind.path(namespace or self.namespace, name)
        return _object(await self._call("GET", path, timeout=timeout, patience=patience, urgent=kind is LEASES))

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        patience: float = PATIENCE,
    ) -> tuple[Objects, str]:
        """All objects (everywhere, without ``namespace``), and the version of the collection to watch from."""
        try:
            return await self._all(kind, namespace, labels, fields, patience, PAGE)
        except ApiError as error:
            if not error.gone:
                raise
        return await self._all(kind, namespace, labels, fields, patience, 0)  # one piece has no rest that can expire

    async def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        patience: float = PATIENCE,
        limit: int = PAGE,
    ) -> AsyncGenerator[tuple[Objects, str], None]:
        """`list` by the page; with ``limit`` 0 all in one. An `ApiError` that is ``gone`` voids the pages before it."""
        parameters = _selected(labels, fields)
        if limit:
            parameters["limit"] = str(limit)
        while True:
            content = await self._call(
                "GET", kind.path(namespace), parameters=parameters, timeout=3 * TIMEOUT, patience=patience
            )
            page = _decoded(content, _List)
            yield await _objects(kind, page.items or []), page.metadata.resource_version
            if not page.metadata.continue_:
                return
            parameters["continue"] = page.metadata.continue_

    async def logs(self, namespace: str, pod: str, container: str, tail: int = 50, previous: bool = False) -> Printed:
        """The last lines of a container, or of the one that ran before it. `ApiError.invalid` where there was none."""
        parameters = {"container": container, "tailLines": str(tail)}
        if previous:
            parameters["previous"] = "true"
        content = await self._call("GET", PODS.path(namespace, pod, "log"), parameters=parameters)
        return content.decode(errors="replace").splitlines()

    async def version(self) -> str:
        """The server's, such as ``1.36``."""
        answer = _object(await self._call("GET", "/version"))
        return ".".join("".join(filter(str.isdigit, str(answer.get(part, "")))) for part in ("major", "minor"))

    # Writing

    async def create(
        self,
        kind: Kind,
        body: Object,
        namespace: str | None = None,
        *,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> Object:
        """The object as created. Only ever one attempt reaches the store; see the head of this module."""
        path = kind.path(self._home(body, namespace))
        content = await self._write("POST", kind, path, _whole(kind, body), timeout, patience)
        return _object(content)

    async def replace(
        self,
        kind: Kind,
        body: Object,
        namespace: str | None = None,
        *,
        status: bool = False,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> Object:
        """The object as stored, if it was still at the ``resourceVersion`` of ``body``; else an `ApiError`, ``conflict``."""
        meta = body["metadata"]
        if not meta.get("resourceVersion"):
            raise ValueError("an object is replaced at a version: one without would overwrite what others wrote")
        path = kind.path(self._home(body, namespace), meta["name"], "status" if status else None)
        return _object(await self._write("PUT", kind, path, _whole(kind, body), timeout, patience))

    async def patch(
        self,
        kind: Kind,
        name: str,
        body: Object,
        namespace: str | None = None,
        *,
        status: bool = False,
        patience: float = PATIENCE,
    ) -> Object:
        """Merge ``body`` into the object (RFC 7396: None removes, lists are replaced); the object as stored."""
        path = kind.path(self._home(body, namespace), name, "status" if status else None)
        return _object(await self._write("PATCH", kind, path, body, TIMEOUT, patience))

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Have the object deleted (it may stay for a while, with a deletionTimestamp). It is no error if it is not there.

        ``uid``: only this one, not another that has its name by now; without, a retry may hit that other. ``grace`` in
        seconds, None for the object's own.
        """
        path = kind.path(namespace or self.namespace, name)
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = max(0, round(grace))
        try:
            await self._write("DELETE", kind, path, options, TIMEOUT, patience)
        except ApiError as error:
            if error.missing or (error.conflict and uid and await self._is_another(kind, name, namespace, uid)):
                return
            raise

    # Watching

    async def stream(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        version: str,
        labels: str = "",
        fields: str = "",
        timeout: float = 50.0,
    ) -> AsyncGenerator[Object, None]:
        """Events since ``version``, ``{"type": …, "object": …}``, bookmarks among them.

        Ends when the server ends it, as it is asked to after ``timeout`` seconds; raises `ApiError` when it breaks, when
        the version is too old (``gone``), and when the server does not end it in time: it, or the way to it, is dead.
        Close it (`contextlib.aclosing`), or its connection stays.
        """
        parameters = _selected(labels, fields)
        parameters |= {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        parameters["timeoutSeconds"] = str(max(1, round(timeout)))
        await self._pace.turn()
        began = _now()
        response = None
        try:
            async with _Answering(self, TIMEOUT):
                request = self._client.build_request("GET", kind.path(namespace), params=parameters)
                response = await self._client.send(request, stream=True)
                if response.status_code != 200:
                    raise self._refusal(response.status_code, response.headers, await response.aread())
            lines, chunks = Lines(), response.aiter_bytes()
            while True:
                async with _Answering(self, began + timeout + SILENCE - _now()):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                for line in lines.feed(chunk):
                    yield _event(line)
            if lines.rest.strip():
                yield _event(lines.rest)
        finally:
            if response is not None:
                await response.aclose()

    # Calls

    async def _all(
        self, kind: Kind, namespace: str | None, labels: str, fields: str, patience: float, limit: int
    ) -> tuple[Objects, str]:
        found: Objects = []
        version = ""
        pages = self.pages(kind, namespace, labels=labels, fields=fields, patience=patience, limit=limit)
        async with aclosing(pages):
            async for objects, version_then in pages:
                found += objects
                version = version_then  # that of the last page counts
        return found, version

    async def _write(self, method: str, kind: Kind, path: str, body: Object, timeout: float, patience: float) -> bytes:
        return await self._call(
            method,
            path,
            body=body,
            timeout=timeout,
            patience=patience,
            urgent=kind is LEASES,
            fence=None if kind in (LEASES, EVENTS) else self.fence,
        )

    async def _call(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        body: Object | None = None,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
        urgent: bool = False,
        fence: Callable[[], bool] | None = None,
    ) -> bytes:
        until, attempt = _now() + patience, 0
        while True:
            await self._pace.turn(urgent)
            if fence is not None and not fence():
                raise ApiError(0, "Fenced", f"{method} {path} was not sent: another may lead by now")
            try:
                return await self._attempt(method, path, parameters, body, timeout)
            except ApiError as error:
                seconds = retry_in(error, attempt, repeatable=method in ("GET", "DELETE"))
                if seconds is None or _now() + seconds > until:
                    raise
            attempt += 1
            await asyncio.sleep(seconds)

    async def _attempt(
        self, method: str, path: str, parameters: Mapping[str, str] | None, body: Object | None, timeout: float
    ) -> bytes:
        content, headers = None, None
        if body is not None:
            content = msgspec.json.encode(body)
            merge = method == "PATCH"
            headers = {"Content-Type": "application/merge-patch+json" if merge else "application/json"}
            if method != "DELETE":
                parameters = {"fieldManager": MANAGER, **(parameters or {})}
        async with _Answering(self, timeout):
            response = await self._client.request(method, path, params=parameters, content=content, headers=headers)
        if response.status_code >= 300:
            raise self._refusal(response.status_code, response.headers, response.content)
        return response.content

    def _refusal(self, status: int, headers: Mapping[str, str], content: bytes) -> ApiError:
        error = failure(status, headers, content)
        if told_to_wait(error):
            self._pace.limited(UNSAID if error.retry_after is None else error.retry_after)
        return error

    def _home(self, body: Object, namespace: str | None) -> str:
        """The namespace of a write."""
        return namespace or body.get("metadata", {}).get("namespace") or self.namespace

    async def _is_another(self, kind: Kind, name: str, namespace: str | None, uid: str) -> bool:
        try:
            found = await self.get(kind, name, namespace)
        except ApiError as error:
            return error.missing
        return bool(found["metadata"]["uid"] != uid)


class _Answering:
    """Bounds what the server takes, makes an `ApiError` of whatever keeps it from answering, and notes which it was."""

    def __init__(self, kube: Kube, seconds: float) -> None:
        self._kube = kube
        self._limit = asyncio.timeout(max(0.0, seconds))
        self._seconds = seconds
        self._began = _now()

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError as late:
            self._unanswered()
            raise ApiError(0, "Timeout", "the API server did not answer in time") from late
        if error is None or isinstance(error, ApiError):
            self._kube.reachable, self._kube._answered_at = True, _now()
            self._kube.returned.set()
        elif isinstance(error, SignInFailed):
            raise ApiError(401, "Unauthorized", str(error)) from error
        elif isinstance(error, httpx2.HTTPError | httpx2.StreamError | OSError):
            self._unanswered()
            what = str(error) or type(error).__name__
            raise ApiError(
                0, "Unreachable", f"the API server at {self._kube.base_url} gave no answer: {what}"
            ) from error

    def _unanswered(self) -> None:
        """No answer to this; but one that came to another call meanwhile is the newer truth."""
        if self._kube._answered_at <= self._began:
            self._kube.reachable = False
            self._kube.returned.clear()


def retry_in(error: ApiError, attempt: int, *, repeatable: bool) -> float | None:
    """Seconds to wait before retry number ``attempt`` (from 0), or None where it must not or need not be tried again.

    ``repeatable``: whether doing it twice is the same as doing it once.
    """
    if told_to_wait(error):
        return at_least(UNSAID if error.retry_after is None else error.retry_after)
    if repeatable and error.transient:
        return max(backoff(attempt), at_least(error.retry_after or 0.0))
    return None


def _event(line: bytes) -> Object:
    event = _object(line)
    if event.get("type") == "ERROR":
        said = event.get("object")
        said = said if isinstance(said, dict) else {}
        code = said.get("code")
        raise failure(code if isinstance(code, int) else 500, {}, msgspec.json.encode(said))
    found = event.get("object")
    if (
        not isinstance(event.get("type"), str)
        or not isinstance(found, dict)
        or not isinstance(found.get("metadata"), dict)
    ):
        raise ApiError(0, "Malformed", "the API server sent an event that is none")
    return event


async def _objects(kind: Kind, items: list[msgspec.Raw]) -> list[Object]:
    """The objects of a page, with the two fields that the API leaves out in lists."""
    found = []
    for number, item in enumerate(items, 1):
        found.append({"apiVersion": kind.api_version, "kind": kind.kind, **_object(item)})
        if number % _DECODED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


def _whole(kind: Kind, body: Object) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **body}


def _object(content: bytes | msgspec.Raw) -> Object:
    return _decoded(content, Object)


def _decoded(content: bytes | msgspec.Raw, form: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=form)
    except msgspec.MsgspecError as error:
        raise ApiError(0, "Malformed", f"the API server's answer cannot be read: {error}") from error


def _selected(labels: str, fields: str) -> dict[str, str]:
    return {name: value for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _now() -> float:
    return asyncio.get_running_loop().time()
