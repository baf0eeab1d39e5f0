"""The model hub: what it says about a model, which files a model has, and who may read them.

`Hub` is synchronous and meant for a worker thread: nothing here belongs on the path of a request. Every question is
answered within the hub's time-out (name resolution excepted, which the operating system bounds). Answers are remembered
for a while, refusals for a shorter one; offline, or when the hub cannot be reached, what lies in the local cache answers.
Called by the model resolver.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from ssis_dispatcher.core.formulas import facts_from_config, weight_bytes
from ssis_dispatcher.core.sizing import ModelFacts
from ssis_dispatcher.models import gguf, hubcache
from ssis_dispatcher.models.hubwire import Gated, HubError, HubOffline, HubUnreachable, Inquiry, NotOnHub, host_of
from ssis_dispatcher.models.memo import Memo
from ssis_dispatcher.models.weights import Choice, File, gguf_choices, stored_bytes

__all__ = ["Gated", "Hub", "HubError", "HubOffline", "HubUnreachable", "NotOnHub"]

T = TypeVar("T")

_KEPT, _REFUSED, _UNREACHED = 3600.0, 60.0, 10.0
"""Seconds for which an answer, a refusal and a failure to reach the hub are remembered."""


class Hub:
    """A hub at ``endpoint``. ``token`` is the dispatcher's own; ``cache_dir`` the local cache in the hub's layout;
    ``timeout`` the seconds that one question may take.

    Every method takes the caller's ``token``: None for the dispatcher's own, "" for none. Raises `NotOnHub`, `Gated`,
    `HubUnreachable` and nothing else. Safe to use from several threads.
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
        self.offline = offline
        self._token = token or ""
        self._cache = cache_dir
        self._timeout = timeout
        self._clock = clock
        self._known: Memo[object] = Memo(clock)

    def __repr__(self) -> str:
        return f"<Hub {self.endpoint}{' (offline)' if self.offline else ''}>"

    def facts(self, id: str, revision: str = "", token: str | None = None, file: str = "") -> ModelFacts:
        """What the hub tells about the model ``id``; about its GGUF file ``file`` where one is named."""

        def ask(inquiry: Inquiry) -> ModelFacts:
            return _gguf_facts(inquiry, file) if file else _facts(inquiry)

        def look(snapshot: Path) -> ModelFacts | None:
            return hubcache.facts(snapshot, file)

        return self._answer(f"facts {file}", id, revision, token, ask, look)

    def files(self, id: str, revision: str = "", token: str | None = None) -> tuple[File, ...]:
        """The model's files: paths, and bytes (0 where the hub does not say)."""

        def ask(inquiry: Inquiry) -> tuple[File, ...]:
            return _files(_table(inquiry.metadata()))

        return self._answer("files", id, revision, token, ask, hubcache.files)

    def may_read(self, id: str, token: str | None = None) -> bool:
        """Whether the hub lets this token read the model's files; with "" for a token, whether everybody may. It is not
        remembered: for how long it holds is for the one to say who acts on it."""

        def ask(inquiry: Inquiry) -> bool:
            try:
                inquiry.check_access()
            except (NotOnHub, Gated):
                return False
            return True

        return self._answer("may_read", id, "", token, ask, lambda snapshot: None, kept=0.0)

    def forget(self) -> None:
        """Ask everything anew from now on."""
        self._known.clear()

    def _answer(
        self,
        what: str,
        id: str,
        revision: str,
        token: str | None,
        ask: Callable[[Inquiry], T],
        look: Callable[[Path], T | None],
        kept: float = _KEPT,
    ) -> T:
        """The remembered answer to ``what``, else a new one from the hub (``ask``), else from the cache (``look``). The hub's
        is remembered for ``kept`` seconds."""
        token = self._token if token is None else token
        key = what, id, revision, hashlib.sha256(token.encode()).hexdigest() if token else ""
        known = self._known.get(key)
        if known is None:
            known, seconds = self._find(id, revision, token, ask, look, kept)
            self._known.put(key, known, seconds)
        if isinstance(known, HubError):
            raise known.__class__(*known.args)
        return cast(T, known)

    def _find(
        self,
        id: str,
        revision: str,
        token: str,
        ask: Callable[[Inquiry], T],
        look: Callable[[Path], T | None],
        kept: float,
    ) -> tuple[object, float]:
        """An answer or a `HubError`, and for how many seconds it is good."""
        try:
            if self.offline:
                host = host_of(self.endpoint)
                raise HubOffline(f"{id} is not in the local cache, and {host} must not be asked (offline).")
            return ask(Inquiry(self.endpoint, id, revision, token, self._timeout, self._clock)), kept
        except HubUnreachable as error:
            snapshot = self._cache and hubcache.snapshot(self._cache, id, revision)
            found = look(snapshot) if snapshot else None
            return (error if found is None else found), _UNREACHED
        except HubError as error:
            return error, _REFUSED


def _facts(inquiry: Inquiry) -> ModelFacts:
    """From the tensors that the hub counted (else the sizes of the files) and the model's configuration."""
    info = _table(inquiry.metadata())
    files = _files(info)
    counts = {
        dtype: count
        for dtype, count in _table(_table(info.get("safetensors")).get("parameters")).items()
        if isinstance(count, int) and count > 0
    }
    stored = weight_bytes(counts) if counts else stored_bytes(files)
    if stored is None and gguf_choices(files):
        return ModelFacts(note="GGUF files only: one of them must be chosen")
    if any(name == "config.json" for name, _ in files):
        config = _table(inquiry.json_file("config.json"))
    else:
        config = _table(info.get("config"))
    return facts_from_config(config, stored=stored, parameters=sum(counts.values()) or None)


def _gguf_facts(inquiry: Inquiry, file: str) -> ModelFacts:
    """From the header of the GGUF file itself, of which no more is fetched."""
    info = _table(inquiry.metadata())
    choice = next((choice for choice in gguf_choices(_files(info)) if file in choice.parts), None)
    if choice is None:
        raise NotOnHub(f"{inquiry.id} has no GGUF file {file} on {inquiry.host}.")
    summary = _table(info.get("gguf"))
    try:
        with inquiry.beginning(choice.parts[0]) as beginning:
            facts = gguf.facts_of(gguf.read_header(beginning, name=file))
    except (HubUnreachable, gguf.CorruptModel) as error:
        facts = ModelFacts(source="gguf", context=_count(summary.get("context_length")), note=f"no header: {error}")
    return _whole(facts, choice, _count(summary.get("total")))


def _whole(facts: ModelFacts, choice: Choice, parameters: int | None) -> ModelFacts:
    """``facts`` of a file's own header, completed for a model in several files or without a header."""
    if facts.weight_bytes is not None and len(choice.parts) == 1:
        return facts
    return msgspec.structs.replace(facts, weight_bytes=choice.size or None, parameters=parameters)


def _files(info: dict[str, object]) -> tuple[File, ...]:
    """``siblings`` of the hub's answer; whatever does not look like a file is left out."""
    siblings = info.get("siblings")
    found = [_table(sibling) for sibling in (siblings if isinstance(siblings, list) else [])]
    return tuple(
        (name, _count(sibling.get("size")) or _count(_table(sibling.get("lfs")).get("size")) or 0)
        for sibling in found
        if isinstance(name := sibling.get("rfilename"), str) and name
    )


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
