"""The API as it is on the wire: paths, bodies, status codes, watches and logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from tests.kube import calls, selectors
from tests.kube.api import APPLY, JSON_PATCH, MERGE, Api, Deletion, Page
from tests.kube.calls import Call
from tests.kube.faults import DONE, Fault, Faults, Rule
from tests.kube.kinds import PODS, Kind
from tests.kube.status import Refusal, bad_request, expired, invalid_option, unknown_resource, wrong_method
from tests.kube.store import Entry, Json
from tests.kube.watches import Watch, error_line
from tests.kube.wire import Exchange

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
ONLY_METADATA = "as=PartialObjectMetadata"

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}

WATCH_LASTS = 1800.0
"""Seconds, for a watch that does not say how long it wants to last."""

Logs = Callable[[Json, str, bool], list[str] | None]
"""(pod, container, of the container before this one) → the lines it printed, None when there is no container yet."""


ToPod = Callable[[Call, Exchange], None]

REVIEWS = [("authorization.k8s.io", f"{whose}subjectaccessreviews", "create") for whose in ("self", "")]


def _nobody(call: Call, exchange: Exchange) -> None:
    raise Refusal(503, "ServiceUnavailable", "error trying to reach service: dial tcp: connection refused")


class Front:
    """Reads requests, asks the `Api`, writes answers."""

    def __init__(self, api: Api, faults: Faults, logs: Logs) -> None:
        self.api = api
        self.faults = faults
        self.log: list[Call] = []
        self.watches: set[Watch] = set()
        self.token: str | None = None
        """When set, requests need it as their bearer token."""
        self.release = "v1.36.3"
        self.watch_lists = True
        """Whether watches may ask for ``sendInitialEvents``, which older servers refuse."""
        self.gone_at_once = False
        """Whether a watch from too old a version is answered with HTTP 410, rather than with an event that says so."""
        self.allowed: Callable[[Json], bool] = lambda attributes: True
        """What a (Self)SubjectAccessReview says of these resourceAttributes."""
        self.to_pod: ToPod = _nobody
        """Who answers requests that the API server hands on to a pod (``pods/proxy``)."""
        self._logs = logs

    def handle(self, exchange: Exchange) -> None:
        at = asyncio.get_running_loop().time()
        call = calls.read(exchange.method, exchange.target, exchange.headers, exchange.body, at)
        self.log.append(call)
        self.api.warnings = []
        if self.token is not None and exchange.headers.get("authorization") != f"Bearer {self.token}":
            self._refuse(exchange, Refusal(401, "Unauthorized", "Unauthorized"))
            return
        rule = self.faults.strike(call)
        if rule is None:
            self._carry_out(call, exchange)
        else:
            self._fail(rule, call, exchange)

    def _fail(self, rule: Rule, call: Call, exchange: Exchange) -> None:
        if rule.kind is Fault.SLOW:
            asyncio.get_running_loop().call_later(rule.delay, self._carry_out, call, exchange)
            return
        if rule.kind in DONE:
            self._carry_out(call, Unheard(exchange))
        refusal = rule.refusal(call)
        if refusal is not None:
            self._refuse(exchange, refusal)
        elif rule.kind in (Fault.RESET, Fault.DONE_RESET):
            exchange.cut()

    def _carry_out(self, call: Call, exchange: Exchange | Unheard) -> None:
        try:
            self._answer(call, exchange)
        except Refusal as refusal:
            self._refuse(exchange, refusal)

    def _refuse(self, exchange: Exchange | Unheard, refusal: Refusal) -> None:
        headers = {"retry-after": str(refusal.retry_after)} if refusal.retry_after is not None else {}
        headers |= self._warnings()
        exchange.answer(refusal.code, msgspec.json.encode(refusal.body), JSON, headers)

    # Routes

    def _answer(self, call: Call, exchange: Exchange | Unheard) -> None:
        plain = self._plain(call)
        if plain is not None:
            body, content_type = plain
            exchange.answer(200, body, content_type)
            return
        if call.rule in REVIEWS:
            self._review(call, exchange)
            return
        if call.rule[:2] == ("", "pods/proxy") and isinstance(exchange, Exchange):
            self.to_pod(call, exchange)
            return
        kind = self._kind(call, exchange)
        if kind is None:
            return
        _check_dry_run(call)
        if call.subresource == "log":
            self._pod_log(call, exchange)
            return
        if call.subresource and not (call.subresource == "status" and kind.status):
            raise unknown_resource()
        match call.verb:
            case "get":
                self._send(exchange, 200, self.api.get(kind, call.name, call.namespace), call)
            case "list":
                self._list(kind, call, exchange)
            case "watch":
                self._watch(kind, call, exchange)
            case "create":
                self._create(kind, call, exchange)
            case "update" | "patch":
                self._write(kind, call, exchange)
            case "delete":
                self._delete(kind, call, exchange)
            case "deletecollection":
                self._delete_all(kind, call, exchange)
            case _:
                raise wrong_method()

    def _kind(self, call: Call, exchange: Exchange | Unheard) -> Kind | None:
        """The resource of a call; None when it has been answered that there is nothing of that kind."""
        shelf = self.api.store.shelves.get((call.group, call.resource))
        if shelf is not None and shelf.kind.version == call.version:
            kind = shelf.kind
            if kind.namespaced and not call.namespace and call.verb not in ("list", "watch"):
                raise unknown_resource()
            of_one = call.verb in ("get", "update", "patch", "delete")
            if of_one != bool(call.name):
                raise wrong_method()
            return kind
        groups = {(other.kind.group, other.kind.version) for other in self.api.store}
        if (call.group, call.version) in groups:
            raise unknown_resource()
        exchange.answer(404, b"404 page not found\n", TEXT)
        return None

    def _plain(self, call: Call) -> tuple[bytes, str] | None:
        """What is no resource: versions, discovery, health."""
        path = call.path.rstrip("/")
        if path in ("/healthz", "/readyz", "/livez"):
            return b"ok", TEXT
        found: Any = None
        if path == "/version":
            major, minor, *_ = self.release.lstrip("v").split(".")
            found = {"major": major, "minor": minor, "gitVersion": self.release, "platform": "linux/amd64"}
        elif path == "/api":
            found = {"kind": "APIVersions", "versions": ["v1"]}
        elif path == "/apis":
            found = self._groups()
        elif not call.resource and (call.group or path == "/api/v1"):
            found = self._resources(call.group, call.version)
        return None if found is None else (msgspec.json.encode(found), JSON)

    def _groups(self) -> Json:
        groups = []
        for name, version in sorted({(shelf.kind.group, shelf.kind.version) for shelf in self.api.store}):
            if name:
                place = {"groupVersion": f"{name}/{version}", "version": version}
                groups.append({"name": name, "versions": [place], "preferredVersion": place})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _resources(self, group: str, version: str) -> Json | None:
        found: list[Json] = []
        for shelf in self.api.store:
            kind = shelf.kind
            if (kind.group, kind.version) == (group, version):
                verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
                found.append(
                    {
                        "name": kind.plural,
                        "namespaced": kind.namespaced,
                        "kind": kind.kind,
                        "singularName": "",
                        "verbs": verbs,
                    }
                )
        api_version = f"{group}/{version}" if group else version
        body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}
        return body if found else None

    def _review(self, call: Call, exchange: Exchange | Unheard) -> None:
        body = _decoded(call)
        attributes = (body.get("spec") or {}).get("resourceAttributes") or {}
        body["status"] = {"allowed": self.allowed(attributes)}
        exchange.answer(201, msgspec.json.encode(body), JSON)

    # Verbs

    def _send(self, exchange: Exchange | Unheard, code: int, answer: Entry | Json, call: Call) -> None:
        raw = answer.raw if isinstance(answer, Entry) else msgspec.json.encode(answer)
        if ONLY_METADATA in call.headers.get("accept", "") and isinstance(answer, Entry) and call.verb == "get":
            raw = msgspec.json.encode(_metadata_of(answer))
        exchange.answer(code, raw, JSON, self._warnings())

    def _warnings(self) -> dict[str, str]:
        """What the write that is being answered was warned of."""
        return {"warning": ", ".join(f'299 - "{text}"' for text in self.api.warnings)} if self.api.warnings else {}

    def _list(self, kind: Kind, call: Call, exchange: Exchange | Unheard) -> None:
        limit, token = _number(call, "limit"), call.query.get("continue", "")
        self._check_version(call)
        page = self.api.list_page(kind, call.namespace, _selection(kind, call), limit=limit, token=token)
        only_metadata = ONLY_METADATA in call.headers.get("accept", "")
        exchange.answer(200, list_body(kind, page, only_metadata=only_metadata), JSON)

    def _check_version(self, call: Call) -> None:
        version = call.query.get("resourceVersion", "")
        if not version and "resourceVersionMatch" in call.query and "sendInitialEvents" not in call.query:
            why = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
            raise invalid_option("ListOptions", "resourceVersionMatch", why)
        if version and not version.isdigit():
            why = f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
            if call.verb == "watch":
                raise Refusal(500, "", why)
            raise bad_request(f"invalid resource version: {why}")
        current = self.api.store.version
        if version and int(version) > current and call.verb == "list":
            causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            message = f"Timeout: Too large resource version: {version}, current: {current}"
            raise Refusal(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": 1}, 1)

    def _watch(self, kind: Kind, call: Call, exchange: Exchange | Unheard) -> None:
        self._check_version(call)
        initial = call.query.get("sendInitialEvents") in ("1", "true")
        if initial and call.query.get("resourceVersionMatch") != "NotOlderThan":
            why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid_option("ListOptions", "resourceVersionMatch", why)
        if initial and not self.watch_lists:
            why = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            raise invalid_option("ListOptions", "sendInitialEvents", why)
        match, timeout = _selection(kind, call), _number(call, "timeoutSeconds") or WATCH_LASTS
        if isinstance(exchange, Unheard):
            return
        shelf = self.api.store.shelf(kind)
        version = int(call.query.get("resourceVersion") or 0)
        if version and version < shelf.oldest:
            refusal = expired(f"too old resource version: {version} ({shelf.oldest})")
            if self.gone_at_once:
                raise refusal
            exchange.start(200, JSON)
            exchange.send(error_line(refusal.body))
            exchange.end()
            return
        bookmarks = call.query.get("allowWatchBookmarks") in ("1", "true")
        watch = Watch(
            shelf,
            call.namespace,
            match,
            self.faults,
            exchange,
            bookmarks=bookmarks,
            version=lambda: self.api.store.version,
        )
        exchange.start(200, JSON)
        self.watches.add(watch)
        watch.on_leave = lambda: self.watches.discard(watch)
        exchange.on_gone = watch.leave
        present = shelf.sorted(call.namespace) if not version else []
        watch.begin(shelf.since(version) if version else [], present, timeout, initial=initial and bookmarks)

    def _create(self, kind: Kind, call: Call, exchange: Exchange | Unheard) -> None:
        body = _body(kind, call)
        self._send(exchange, 201, self.api.create(kind, body, call.namespace, dry=_dry(call)), call)

    def _write(self, kind: Kind, call: Call, exchange: Exchange | Unheard) -> None:
        status, dry = call.subresource == "status", _dry(call)
        before = self.api.store.find(kind, call.name, call.namespace)
        if call.verb == "update":
            body = _body(kind, call)
            entry = self.api.replace(kind, call.name, body, call.namespace, status=status, dry=dry)
        else:
            how = call.headers.get("content-type", "").partition(";")[0].strip()
            entry = self._patch(kind, call, how, status=status, dry=dry)
        self._send(exchange, 200 if before else 201, entry, call)

    def _patch(self, kind: Kind, call: Call, how: str, *, status: bool, dry: bool) -> Entry:
        if how == APPLY:
            manager, force = call.query.get("fieldManager", ""), call.query.get("force") in ("1", "true")
            body = _body(kind, call)
            return self.api.apply(
                kind, call.name, body, call.namespace, manager=manager, force=force, status=status, dry=dry
            )
        if how not in (MERGE, JSON_PATCH):
            raise Refusal(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        patch = _decoded(call)
        return self.api.patch(kind, call.name, patch, call.namespace, how=how, status=status, dry=dry)

    def _delete(self, kind: Kind, call: Call, exchange: Exchange | Unheard) -> None:
        self._send(exchange, 200, self.api.delete(kind, call.name, call.namespace, _deletion(call)), call)

    def _delete_all(self, kind: Kind, call: Call, exchange: Exchange | Unheard) -> None:
        page = self.api.list_page(kind, call.namespace, _selection(kind, call))
        for entry in page.entries:
            self.api.delete(kind, entry.object["metadata"]["name"], call.namespace, _deletion(call))
        exchange.answer(200, list_body(kind, Page(page.entries, self.api.store.version)), JSON)

    def _pod_log(self, call: Call, exchange: Exchange | Unheard) -> None:
        pod = self.api.get(PODS, call.name, call.namespace).object
        names = [container["name"] for container in pod["spec"]["containers"]]
        container = call.query.get("container") or (names[0] if len(names) == 1 else "")
        if not container:
            choice = " ".join(names)
            raise bad_request(f"a container name must be specified for pod {call.name}, choose one of: [{choice}]")
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {call.name}")
        lines = self._logs(pod, container, call.query.get("previous") in ("1", "true"))
        if lines is None:
            exchange.answer(204, b"", "")
            return
        tail = call.query.get("tailLines")
        if tail is not None:
            lines = lines[-int(tail) :] if int(tail) else []
        text = "".join(f"{text}\n" for text in lines).encode()
        most = _number(call, "limitBytes")
        exchange.answer(200, text[:most] if most else text, "text/plain")


class Unheard:
    """Takes the answer of a request whose caller will not get it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def answer(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        pass


def list_body(kind: Kind, page: Page, *, only_metadata: bool = False) -> bytes:
    """A list as the API writes it: items of built-in kinds do not say their kind, custom resources do."""
    metadata: Json = {"resourceVersion": str(page.version)}
    if page.more or kind.custom:
        metadata["continue"] = page.more
    if page.remaining is not None:
        metadata["remainingItemCount"] = page.remaining
    if only_metadata:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        items = b",".join(msgspec.json.encode(_metadata_of(entry)) for entry in page.entries)
    else:
        head = {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata}
        skip = 0 if kind.custom else len(msgspec.json.encode({"kind": kind.kind, "apiVersion": kind.api_version}))
        items = b",".join(b"{" + entry.raw[skip:] if skip else entry.raw for entry in page.entries)
    return msgspec.json.encode(head)[:-1] + b',"items":[' + items + b"]}"


def _metadata_of(entry: Entry) -> Json:
    metadata = entry.object["metadata"]
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}


def _selection(kind: Kind, call: Call) -> selectors.Match:
    by_label = selectors.labels(call.query.get("labelSelector", ""))
    return selectors.both(by_label, selectors.fields(call.query.get("fieldSelector", ""), kind))


def _number(call: Call, name: str) -> int:
    text = call.query.get(name, "") or "0"
    try:
        return int(text)
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _decoded(call: Call) -> Any:
    try:
        return msgspec.json.decode(call.body)
    except msgspec.DecodeError as error:
        text = call.body.decode("utf-8", "replace")
        raise bad_request(f"the object provided is unrecognized: json parse error: {error} ({text[:200]})") from None


def _body(kind: Kind, call: Call) -> Json:
    """The object that a write brings."""
    body = _decoded(call)
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {kind.kind})")
    theirs = (body.get("apiVersion") or kind.api_version, body.get("kind") or kind.kind)
    if theirs != (kind.api_version, kind.kind):
        named = f'{theirs[1]} in version "{theirs[0].rpartition("/")[2]}" cannot be handled as a {kind.kind}'
        raise bad_request(f"{named}: the API version in the data ({theirs[0]}) or its kind does not match")
    if kind.custom and not (body.get("apiVersion") and body.get("kind")):
        raise bad_request(
            f"the object provided is unrecognized (must be of type {kind.kind}): couldn't get version/kind"
        )
    return body


def _dry(call: Call) -> bool:
    return call.query.get("dryRun") == "All"


def _check_dry_run(call: Call) -> None:
    if call.query.get("dryRun", "All") != "All":
        options = OPTIONS.get(call.verb, "DeleteOptions")
        why = f'Unsupported value: ["{call.query["dryRun"]}"]: supported values: "All"'
        raise invalid_option(options, "dryRun", why, "FieldValueNotSupported")


def _deletion(call: Call) -> Deletion:
    options: Json = _decoded(call) if call.body else {}
    given = options.get("preconditions") or {}
    grace = options.get("gracePeriodSeconds")
    if grace is None and "gracePeriodSeconds" in call.query:
        grace = _number(call, "gracePeriodSeconds")
    propagation = options.get("propagationPolicy") or call.query.get("propagationPolicy") or "Background"
    dry = _dry(call) or options.get("dryRun") == ["All"]
    return Deletion(grace, given.get("uid", ""), given.get("resourceVersion", ""), propagation, dry)
