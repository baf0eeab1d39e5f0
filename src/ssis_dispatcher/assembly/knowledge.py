"""What is known of models: engines, catalogue, hub, cache and learned facts, put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.models import catalogue
from ssis_dispatcher.models.access import Access
from ssis_dispatcher.models.cache import ModelCache
from ssis_dispatcher.models.directory import Directory, Served
from ssis_dispatcher.models.download import Fetcher
from ssis_dispatcher.models.hub import Hub
from ssis_dispatcher.models.profiles import GPU_KINDS, Defaults
from ssis_dispatcher.models.sources import Sources
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.store.base import LearnedStore
from ssis_dispatcher.store.lessons import Lessons
from ssis_dispatcher.store.memory import MemoryStore
from ssis_dispatcher.store.sqlite import SqliteStore
from ssis_dispatcher.telemetry.logs import ERROR, log

EMBEDDED = "llamacpp"
"""The engine that comes with this program; it runs on a machine's own cores."""


class Knowledge:
    """Everything that can be asked about models. ``running`` tells the keys of the models that have servers now; ``engines``
    and ``default_engine`` take the place of this machine's; ``lasting`` facts are kept for the next start, in ``store`` where
    one is given. Models of ``engines`` on other machines are files there, not here."""

    def __init__(
        self,
        settings: Settings,
        running: Callable[[], Collection[str]] = tuple,
        *,
        engines: Mapping[str, Served] | None = None,
        default_engine: str | None = None,
        lasting: bool = True,
        store: LearnedStore | None = None,
    ) -> None:
        self.served = engines if engines is not None else served(settings)
        self.engines: Mapping[str, Engine] = {name: each.engine for name, each in self.served.items()}
        self.hub_token = settings.hub_token
        self._catalogue = settings.catalogue
        self._seen = _stamp(settings.catalogue) if settings.catalogue is not None else None
        hub = Hub(
            settings.hub_endpoint,
            settings.hub_token,
            cache_dir=shared_cache(),
            offline=settings.hub_offline,
            timeout=settings.hub_timeout,
        )
        local = not any(each.remote for each in self.served.values())
        self.sources = Sources(hub, cache(settings), settings.hub_token, local=local)
        self._store = store or _store(settings, lasting)
        self.lessons = Lessons(self._store)
        self.access = Access(hub)
        known = catalogue.load(settings.catalogue, self.served)
        if settings.default_engine and settings.default_engine not in self.served:
            there = ", ".join(sorted(self.served))
            raise BadFile(f"default_engine: there is no engine {settings.default_engine!r} here; there are {there}")
        self.directory = Directory(
            known if local or settings.catalogue is not None else catalogue.Catalogue({}),
            self.served,
            default_engine or settings.default_engine or EMBEDDED,
            self.sources,
            self.access,
            self.lessons,
            Defaults(
                context=settings.default_context,
                ceiling_factor=settings.slice_ceiling_factor,
                ceiling_free_mib=settings.slice_ceiling_free >> 20,
            ),
            running,
        )

    def catalogue_changes(self) -> dict[str, bool | None]:
        """Take in the catalogue's file where it was edited; the names that changed, and whether they are pinned now, where
        that changed, too. A bad edit is logged, and the last good one stays."""
        if self._catalogue is None or (stamp := _stamp(self._catalogue)) == self._seen:
            return {}
        self._seen = stamp
        try:
            changed = self._change(catalogue.load(self._catalogue, self.served))
        except BadFile as error:
            log("catalogue refused: the one from before stays in force", ERROR, reason=str(error))
            return {}
        log("catalogue reloaded", changed=list(changed))
        return changed

    def take_choices(self, chosen: catalogue.Catalogue | None, default_engine: str) -> dict[str, bool | None]:
        """Take in a catalogue that is no file (None: the file's) and the engine for models that name none; tells as
        `catalogue_changes` does."""
        self.directory.change_default_engine(default_engine)
        if chosen is None:
            chosen = catalogue.load(self._catalogue, self.served) if self._catalogue else catalogue.Catalogue({})
        return self._change(chosen)

    def _change(self, chosen: catalogue.Catalogue) -> dict[str, bool | None]:
        before = self.directory.catalogue
        changed = self.directory.change_catalogue(chosen)
        pinned = {id: _pins(chosen, id) for id in changed}
        return {id: now if now != _pins(before, id) else None for id, now in pinned.items()}

    def close(self) -> None:
        self.directory.close()
        self._store.close()


def _pins(known: catalogue.Catalogue, id: str) -> bool:
    entry = known.get(id)
    return entry is not None and entry.pinned


def _store(settings: Settings, lasting: bool) -> LearnedStore:
    return SqliteStore(settings.state_dir / "learned.sqlite") if lasting else MemoryStore()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def cache(settings: Settings) -> ModelCache:
    """The files that were downloaded, here or by other tools."""
    fetcher = Fetcher(settings.hub_endpoint, offline=settings.hub_offline)
    return ModelCache(settings.cache_dir / "models", fetcher, limit=settings.cache_limit, shared=shared_cache())


def shared_cache() -> Path:
    """Where the hub's own tools keep what they have downloaded (huggingface_hub's rule)."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def served(settings: Settings) -> dict[str, Served]:
    """The engines that run here: the embedded one, and those that the operator has configured."""
    return {
        EMBEDDED: Served(ENGINES[EMBEDDED], files=True, kinds=(SliceKind.CPU,), parallel=()),
        **configured(settings),
    }


def configured(settings: Settings) -> dict[str, Served]:
    """The engines that the operator has configured. Raises `DispatchError` for one that cannot work."""
    engines = {}
    for table in settings.engines:
        try:
            engine = CommandEngine(
                table.name,
                ENGINES[table.like],
                command=table.command,
                env=table.env,
                port=table.port,
                health=table.health,
                dialects=table.dialects,
                seats=table.seats,
            )
        except ValueError as error:
            raise DispatchError(f"The engine {table.name} of the settings cannot work: {error}.") from None
        kinds = tuple(SliceKind(kind) for kind in table.kinds) or GPU_KINDS
        engines[table.name] = Served(engine, files=table.like == EMBEDDED, kinds=kinds)
    return engines
