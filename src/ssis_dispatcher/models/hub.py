"""The model hub: what it says about a model, which files a model has, and who may read them.

`Hub` is synchronous and meant for a worker thread: nothing here belongs on the path of a request. Every call ends within
the hub's time-out; answers are kept for a while, refusals for a shorter one; offline, or when the hub cannot be reached,
what lies in the local cache answers. Requests go through ``huggingface_hub``'s own session, so that its settings
(proxies, offline mode) hold here too; its import takes a tenth of a second and is left to the first call.

Called by the model resolver.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ssis_dispatcher.core.formulas import facts_from_config, weight_bytes
from ssis_dispatcher.core.sizing import ModelFacts
from ssis_dispatcher.models import gguf, hubcache
from ssis_dispatcher.models.ggufs import File, gguf_choices
from ssis_dispatcher.models.memo import Memo

_LARGEST_ANSWER = 16 << 20
_LARGEST_HEADER = 64 << 20
_KEPT, _REFUSED, _UNREACHED = 3600.0, 60.0, 10.0
"""Seconds for which an answer, a refusal and a failure to reach the hub are remembered."""


class HubError(Exception):
    """The hub gives no answer that helps. The message says whose turn it is."""


class NotOnHub(HubError):
    """There is no such model or revision, or it is private and the token may not see it."""


class Gated(HubError):
    """The model exists, but not for this token: its licence must be accepted, or the token is not good."""


class HubUnreachable(HubError):
    """The hub does not answer (in time), or answers nonsense: it may be asked again later."""


class HubOffline(HubUnreachable):
    """The hub must not be asked, and the local cache does not have the answer."""


class Hub:
    """A hub at ``endpoint``. ``token`` is the dispatcher's own; ``cache_dir`` the local cache in the hub's layout.

    Every method takes the caller's ``token``: None for the dispatcher's own, "" for none. Raises `NotOnHub`, `Gated`,
    `HubUnreachable` and nothing else. Safe to call from several threads.
    """

    def __init__(
        self,
        endpoint: str = "https://huggingface.co",
        token: str | None = None,
        cache_dir: Path | None = None,
        offline: bool = False,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.host = urlsplit(self.endpoint).netloc
        self.offline = offline
        self._token = token or ""
        self._cache = cache_dir
        self._timeout = timeout
        self._clock = clock
        self._known: Memo[Any] = Memo(clock)

    def __repr__(self) -> str:
        return f"<Hub {self.endpoint}{' (offline)' if self.offline else ''}>"

    def facts(self, id: str, revision: str = "", token: str | None = None, file: str = "") -> ModelFacts:
        """What the hub tells about the model ``id``; about its GGUF file ``file`` where one is named."""
        return self._ask("facts", (id, revision, file), token, lambda ask: self._facts(ask, id, revision, file))

    def files(self, id: str, revision: str = "", token: str | None = None) -> tuple[File, ...]:
        """The model's files: name, and size in bytes (0 where the hub does not say)."""
        return self._ask("files", (id, revision), token, lambda ask: _files(self._info(ask, id, revision)))

    def may_read(self, id: str, token: str | None = None) -> bool:
        """Whether the hub lets this token read the model's files. With ``token`` "": whether anybody may."""
        return self._ask("may_read", (id,), token, lambda ask: self._may_read(ask, id))

    def forget(self) -> None:
        """Ask everything anew from now on."""
        self._known.clear()

    def _ask(self, what: str, key: tuple[str, ...], token: str | None, find: Callable[[_Asking], Any]) -> Any:
        """The remembered answer to ``what`` about ``key``, or a new one, or that of the local cache."""
        token = self._token if token is None else token
        full = (what, *key, hashlib.sha256(token.encode()).hexdigest() if token else "")
        found, value = self._known.get(full)
        if not found:
            value, seconds = self._find(what, key, token, find)
            self._known.put(full, value, seconds)
        if isinstance(value, HubError):
            raise value.with_traceback(None)
        return value

    def _find(
        self, what: str, key: tuple[str, ...], token: str, find: Callable[[_Asking], Any]
    ) -> tuple[object, float]:
        """An answer or a `HubError`, and for how long it is good."""
        try:
            if self.offline:
                raise HubOffline(f"{key[0]} is not in the local cache, and {self.host} must not be asked (offline).")
            return find(_Asking(self.endpoint, token, self._clock() + self._timeout, self._clock)), _KEPT
        except HubUnreachable as error:
            return self._cached(what, key) or error, _UNREACHED
        except HubError as error:
            return error, _REFUSED

    def _cached(self, what: str, key: tuple[str, ...]) -> object:
        snapshot = self._cache and hubcache.snapshot(self._cache, key[0], key[1] if len(key) > 1 else "")
        if not snapshot:
            return None
        if what == "facts":
            return hubcache.facts(snapshot, key[2])
        return hubcache.files(snapshot) if what == "files" else None

    def _facts(self, ask: _Asking, id: str, revision: str, file: str) -> ModelFacts:
        info = self._info(ask, id, revision)
        files = _files(info)
        if file:
            return self._gguf_facts(ask, id, revision, info, file)
        counts = _table(info.get("safetensors")).get("parameters")
        counts = {str(dtype): n for dtype, n in _table(counts).items() if isinstance(n, int) and n >= 0}
        stored = weight_bytes(counts) if counts else hubcache.stored_bytes(files)
        if not stored and gguf_choices(files):
            return ModelFacts(note="has GGUF files only: one of them must be chosen")
        config = self._config(ask, id, revision) if any(name == "config.json" for name, _ in files) else {}
        facts = facts_from_config(config or _table(info.get("config")), stored=stored, parameters=sum(counts.values()) or None)
        return facts

    def _gguf_facts(self, ask: _Asking, id: str, revision: str, info: dict[str, Any], file: str) -> ModelFacts:
        """From the header of the file itself, of which only the beginning is fetched."""
        choice = next((choice for choice in gguf_choices(_files(info)) if file in choice.parts), None)
        if choice is None:
            raise NotOnHub(f"{id} has no GGUF file {file} on {self.host}.")
        try:
            header = gguf.read_header(ask.stream(_file_path(id, revision, choice.parts[0])), name=file)
        except gguf.CorruptModel as error:
            raise HubUnreachable(f"{self.host}: {error}") from error
        facts = gguf.facts_of(header)
        return facts if choice.size == 0 else _with_size(facts, choice.size)

    def _info(self, ask: _Asking, id: str, revision: str) -> dict[str, Any]:
        path = f"/api/models/{id}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
        return _table(ask.json(f"{path}?blobs=true", id, revision))

    def _config(self, ask: _Asking, id: str, revision: str) -> dict[str, Any]:
        return _table(ask.json(_file_path(id, revision, "config.json"), id, revision))

    def _may_read(self, ask: _Asking, id: str) -> bool:
        try:
            ask.get(f"/api/models/{id}/auth-check", id, "")
        except (NotOnHub, Gated):
            return False
        return True
