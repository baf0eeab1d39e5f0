"""Where a model comes from, and what can be found out there: a file of the operator's, or the hub with the cache before it.

Everything here blocks and is called in threads, by `ssis_dispatcher.models.directory` and, for the cache, the command line.
Whatever a hub or a file does wrong leaves here as an error for callers: whose turn it is, and what to do.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ssis_dispatcher.core.sizing import ModelFacts
from ssis_dispatcher.errors import Forbidden, ModelNotServable, NotFound, Unavailable
from ssis_dispatcher.models import gguf, hubcache
from ssis_dispatcher.models.cache import Cached, Lease, ModelCache
from ssis_dispatcher.models.catalogue import Entry, demo_path
from ssis_dispatcher.models.download import Asked, Progress
from ssis_dispatcher.models.hub import Hub
from ssis_dispatcher.models.hubwire import Gated, HubOffline, HubUnreachable, NotOnHub
from ssis_dispatcher.models.naming import ModelName, facts_from_name, parse_name
from ssis_dispatcher.models.profiles import completed
from ssis_dispatcher.models.weights import Choice, File, choose_gguf, gguf_choices

DEMO_SHA256 = "0334f9f1c3c8e6dc17c12bfa0d27d39c06f6e8dc40aa62b04e5bce8552f2e6af"
"""Of the packaged model: an installation that was damaged says so instead of answering nonsense."""


class Source(msgspec.Struct, frozen=True):
    """Where one model comes from: ``path`` of the operator's, else ``repo`` on the hub. ``quant`` names one GGUF file of
    several; ``revision`` "" is the main branch. ``name`` is what callers call it."""

    name: str
    path: Path | None = None
    repo: str = ""
    quant: str = ""
    revision: str = ""

    @staticmethod
    def of(name: ModelName, entry: Entry | None, revision: str) -> Source:
        """The source of a name, by its entry in the catalogue where there is one."""
        if entry is None:
            return Source(name.id, None, name.repo, name.quant, revision)
        if entry.path is not None:
            return Source(entry.name, entry.path)
        known = parse_name(entry.id)
        return Source(entry.name, None, known.repo, known.quant, revision)

    @property
    def is_gguf(self) -> bool:
        """Whether the name alone tells that this is a GGUF file."""
        return bool(self.quant) or (self.path is not None and self.path.suffix.lower() == ".gguf")


class Held:
    """Files in use: the path to load, and their leases."""

    def __init__(self, path: Path, leases: list[Lease]) -> None:
        self.path = path
        self._leases = leases

    def release(self) -> None:
        for lease in self._leases:
            lease.release()


class CachedModel(msgspec.Struct, frozen=True):
    """One model of the cache: its name, its first file, the bytes of all, when it was last used, and by whom now."""

    model: str
    path: Path
    bytes: int
    used: float
    busy: bool


class Sources:
    """The operator's files, the hub and the cache. ``token`` is the operator's. Not ``local``: the operator's files are where
    the servers are, and nothing can be read from them here."""

    def __init__(self, hub: Hub, cache: ModelCache, token: str | None = None, *, local: bool = True) -> None:
        self._hub = hub
        self._cache = cache
        self._token = token
        self._local = local
        self._checked_demo = False
        self._names: tuple[float, list[str]] = (float("-inf"), [])

    def facts(self, source: Source, files: bool, token: str | None = None) -> ModelFacts:
        """What is known of a model, for an engine that loads ``files`` or one that loads from the hub.

        Raises `ModelNotServable`, `Forbidden`, `Unavailable`.
        """
        if source.path is not None:
            return _facts_of_path(source, source.path) if self._local else ModelFacts()
        by_name = facts_from_name(ModelName(source.repo, source.quant))
        if not files:
            with _told(source):
                try:
                    return completed(self._hub.facts(source.repo, source.revision, token), by_name)
                except HubUnreachable:
                    return by_name  # the engine may have the model in a cache of its own
        with _told(source):
            choice = self._choose(source, token)
            path = self._cache.find(self._asked(source, choice.parts[0], token))
            if path is not None and len(choice.parts) == 1:
                facts = gguf.file_facts(path)
            else:
                facts = self._hub.facts(source.repo, source.revision, token, choice.parts[0])
            return _noted(completed(facts, by_name), choice)

    def hold(
        self,
        source: Source,
        token: str | None = None,
        progress: Progress | None = None,
        cancelled: threading.Event | None = None,
    ) -> Held:
        """The model's file or files, here and in use until released. Raises as `facts`, and `Cancelled`."""
        if source.path is not None:
            self._check_file(source, source.path)
            return Held(source.path, [])
        leases: list[Lease] = []
        try:
            with _told(source):
                choice = self._choose(source, token)
                moved = _Sum(progress, choice.size) if progress and len(choice.parts) > 1 else progress
                for part in choice.parts:
                    leases.append(self._cache.fetch(self._asked(source, part, token), moved, cancelled))
                    if isinstance(moved, _Sum):
                        moved.next()
        except BaseException:
            for lease in leases:
                lease.release()
            raise
        return Held(leases[0].path, leases)

    @staticmethod
    def loaded_as(source: Source) -> str:
        """What an engine that fetches by itself is told to load."""
        return str(source.path) if source.path is not None else source.repo

    def named(self, source: Source, token: str | None = None) -> str:
        """What a GGUF engine on another machine is told to load: ``org/name:QUANT``, or the path of a file there. Raises as
        `facts`."""
        if source.path is not None:
            return str(source.path)
        with _told(source):
            choice = self._choose(source, token)
        return f"{source.repo}:{choice.quant}" if choice.quant else source.repo

    def cached(self) -> list[CachedModel]:
        """The models of the cache, the most recently used first."""
        by_repo: dict[tuple[str, str], dict[str, Cached]] = {}
        for file in self._cache.list():
            by_repo.setdefault((file.repo, file.commit), {})[file.name] = file
        models = [
            _cached_model(repo, choice, [there[part] for part in choice.parts])
            for (repo, _), there in by_repo.items()
            for choice in gguf_choices((name, file.size) for name, file in there.items())
        ]
        return sorted(models, key=lambda model: -model.used)

    def cached_names(self, fresh: float = 5.0) -> list[str]:
        """Their names, looked up again after ``fresh`` seconds."""
        now = time.monotonic()
        if now - self._names[0] > fresh:
            self._names = (now, [model.model for model in self.cached()])
        return self._names[1]

    def remove(self, name: ModelName) -> int:
        """Remove a model from the cache; returns the bytes freed. Raises `NotFound`, and `Unprocessable` while in use."""
        files = {file.name: file.size for file in self._cache.list() if file.repo == name.repo}
        choices = [choice for choice in gguf_choices(files.items()) if choice.quant.upper() == name.quant.upper()]
        names = {part for choice in choices for part in choice.parts} if name.quant else set(files)
        if not names:
            raise NotFound(f"{name.id} is not in the cache.")
        self._names = (float("-inf"), [])
        return self._cache.remove(name.repo, names)

    def _choose(self, source: Source, token: str | None) -> Choice:
        """The GGUF model to serve; from what is here when the hub cannot be asked. Raises `ModelNotServable`."""
        try:
            files = self._hub.files(source.repo, source.revision, token)
        except HubUnreachable:
            files = self._files_here(source)
            if choose_gguf(files, source.quant) is None:
                raise
        choice = choose_gguf(files, source.quant)
        if choice is None:
            raise ModelNotServable(_no_gguf(source, files), param="model")
        return choice

    def _files_here(self, source: Source) -> tuple[File, ...]:
        revision = source.revision or "main"
        return tuple(
            (file.name, file.size)
            for file in self._cache.list()
            if file.repo == source.repo and revision in (*file.revisions, file.commit)
        )

    def _asked(self, source: Source, name: str, token: str | None) -> Asked:
        return Asked(source.repo, name, source.revision or "main", token or self._token)

    def _check_file(self, source: Source, path: Path) -> None:
        """A file of the operator's must be there, and the packaged one must be what was packaged."""
        if not path.exists():
            raise _missing(source)
        if path == demo_path() and not self._checked_demo:
            if hashlib.sha256(path.read_bytes()).hexdigest() != DEMO_SHA256:
                raise Unavailable(
                    "The packaged model is damaged. The operator must install the program again.", code="model_unusable"
                )
            self._checked_demo = True


class _Sum:
    """The progress of several files as that of one."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total or None
        self._before = self._now = 0

    def __call__(self, done: int, total: int | None) -> None:
        self._now = done
        self._progress(self._before + done, self._total)

    def next(self) -> None:
        self._before += self._now
        self._now = 0


@contextmanager
def _told(source: Source) -> Iterator[None]:
    """The hub's refusals and broken files, in words for callers."""
    try:
        yield
    except NotOnHub as error:
        raise ModelNotServable(str(error), param="model") from None
    except Gated as error:
        raise Forbidden(str(error), code="model_gated", param="model") from None
    except HubOffline as error:
        raise ModelNotServable(
            f"{error} The operator can fetch it where there is a network ('ssis pull {source.name}') and copy the cache, or "
            "put a GGUF file into the catalogue.",
            code="model_not_here",
            param="model",
        ) from None
    except HubUnreachable as error:
        raise Unavailable(
            f"{source.name} cannot be looked up: {error}", code="hub_unreachable", retry_after=10.0
        ) from None
    except gguf.CorruptModel as error:
        raise _unusable(source, error) from None


def _facts_of_path(source: Source, path: Path) -> ModelFacts:
    try:
        if path.is_dir():
            return hubcache.facts(path) or ModelFacts()
        return gguf.file_facts(path) if source.is_gguf else ModelFacts(weight_bytes=path.stat().st_size)
    except FileNotFoundError:
        raise _missing(source) from None
    except (OSError, gguf.CorruptModel) as error:
        raise _unusable(source, error) from None


def _missing(source: Source) -> Unavailable:
    return Unavailable(
        f"The file of the model {source.name} is not there. The operator must correct the catalogue, or bring it back.",
        code="model_unusable",
    )


def _unusable(source: Source, error: Exception) -> Unavailable:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return Unavailable(
        f"The file of the model {source.name} cannot be used: {why}. The operator must replace it.",
        code="model_unusable",
    )


def _no_gguf(source: Source, files: tuple[File, ...]) -> str:
    choices = ", ".join(sorted({choice.quant for choice in gguf_choices(files) if choice.quant}))
    if choices:
        return f"{source.repo} has no GGUF file {source.quant}; it has: {choices}. Name one of these, or none."
    return (
        f"{source.repo} has no GGUF files, and the engine that would serve it here loads nothing else. Name a repository "
        "that has some (often called …-GGUF), or let the operator configure an engine that loads whole models."
    )


def _noted(facts: ModelFacts, choice: Choice) -> ModelFacts:
    """``facts`` with the file that was chosen, for the plan."""
    note = f"file {choice.parts[0]}" + (f" and {len(choice.parts) - 1} more" if len(choice.parts) > 1 else "")
    return msgspec.structs.replace(facts, note=f"{note}; {facts.note}" if facts.note else note)


def _cached_model(repo: str, choice: Choice, files: list[Cached]) -> CachedModel:
    return CachedModel(
        f"{repo}:{choice.quant}" if choice.quant else repo,
        files[0].path,
        choice.size,
        max(file.used for file in files),
        any(file.busy for file in files),
    )
