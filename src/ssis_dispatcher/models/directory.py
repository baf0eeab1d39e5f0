"""Everything that is known of models, behind one object: which model a request means, what it needs, where its files are.

`Directory.identify` answers from memory, on the path of every request. The rest belongs to cold starts and operators, and
does its waiting in threads of its own, so that many strange models can neither stall the loop nor each other's downloads.
The dispatcher, the launchers (through `resolve`) and the command line call it; it knows no request and no platform but what
`Served` says of the platform's engines.
"""

from __future__ import annotations

import asyncio
import difflib
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.core.sizing import Profile
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.errors import InvalidRequest, ModelNotServable, Unprocessable
from ssis_dispatcher.models.access import PUBLIC, Access
from ssis_dispatcher.models.catalogue import Catalogue, Entry
from ssis_dispatcher.models.download import Progress
from ssis_dispatcher.models.lessons import Lessons
from ssis_dispatcher.models.naming import is_revision, parse_name
from ssis_dispatcher.models.profiles import GPU_KINDS, Defaults, profile
from ssis_dispatcher.models.sources import Held, Source, Sources

T = TypeVar("T")

_MOST_KNOWN = 4096
_LONGEST_CONTEXT = 1 << 24


class Served(msgspec.Struct, frozen=True):
    """An engine as this platform runs it. ``files`` tells that it loads GGUF files, which are fetched for it; the others
    load models of the hub by themselves. ``kinds`` are the slices it runs on, ``parallel`` the numbers of whole GPUs that
    it can join."""

    engine: Engine
    files: bool
    kinds: tuple[SliceKind, ...] = GPU_KINDS
    parallel: tuple[int, ...] = (2, 4, 8)


class Directory:
    """``engines`` by name, ``default_engine`` one of them; ``running`` tells the keys of the models that have servers: their
    files stay in the cache. Not thread-safe: one event loop uses it, or one command."""

    def __init__(
        self,
        catalogue: Catalogue,
        engines: Mapping[str, Served],
        default_engine: str,
        sources: Sources,
        access: Access,
        lessons: Lessons,
        defaults: Defaults | None = None,
        running: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.catalogue = catalogue
        self._engines = engines
        self._default_engine = default_engine
        self._sources = sources
        self._access = access
        self._lessons = lessons
        self._defaults = defaults
        self._running = running
        self._meant: dict[tuple[object, ...], tuple[Model, Source]] = {}
        self._tokens: dict[str, str] = {}
        self._held: dict[str, Held] = {}
        self._asking = ThreadPoolExecutor(8, thread_name_prefix="models-ask")
        self._fetching = ThreadPoolExecutor(8, thread_name_prefix="models-fetch")

    # Which model a request means

    def identify(
        self,
        id: str,
        *,
        revision: str = "",
        engine: str = "",
        context: int | None = None,
        env: tuple[tuple[str, str], ...] = (),
        token: str | None = None,
    ) -> Model:
        """The model that a request names, with everything it left open filled in. ``env`` are the caller's variables, for the
        engine to map or refuse; ``token`` is the caller's hub token, kept in memory for gated models only.

        Raises `InvalidRequest`, `ModelNotServable`, `Unprocessable`, `Forbidden`. Asks nobody; see `acquainted`.
        """
        wish = (id, revision, engine, context, env)
        known = self._meant.get(wish)
        if known is None:
            known = self._find(id, revision, engine, context, env)
            if len(self._meant) >= _MOST_KNOWN:
                self._meant.clear()
            self._meant[wish] = known
        model, source = known
        if not token or not source.repo:
            return model
        scope = self._access.scope(source.repo, token)
        if scope == PUBLIC:
            return model
        own = Model.of(
            model.id,
            revision=model.revision,
            engine=model.engine,
            arguments=model.arguments,
            scope=scope,
            context=model.context,
        )
        if len(self._tokens) >= _MOST_KNOWN:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[own.key] = token
        return own

    def acquainted(self, id: str, token: str | None) -> bool:
        """Whether `identify` knows what the hub thinks of this token. Where not, it puts the caller into a scope of its own;
        `acquaint` first, and callers of a public model share a server whatever token they show."""
        repo = self._repo(id)
        return not token or not repo or self._access.known(repo, token)

    async def acquaint(self, id: str, token: str) -> None:
        """Ask the hub about this token. Ends within the hub's time-out, and never raises: without an answer all is as
        before."""
        if repo := self._repo(id):
            await self._in_thread(self._asking, self._access.ask, repo, token)

    # What it needs, and where its files are

    async def describe(self, model: Model) -> Profile:
        """What ``model`` needs. Raises `ModelNotServable`, `Forbidden`, `Unprocessable`, `Unavailable`."""
        served, source = self._engines[model.engine], self._source(model)
        token = self.token_of(model)
        facts = await self._in_thread(self._asking, self._sources.facts, source, served.files, token)
        return profile(
            facts,
            context=model.context,
            entry=self._entry(model),
            learned=self._lessons.about(model, served.kinds),
            engine_seats=served.engine.seats,
            kinds=served.kinds,
            parallel=served.parallel,
            defaults=self._defaults,
        )

    async def resolve(self, model: Model, progress: Progress | None = None) -> str:
        """What the engine is told to load: the path of a file that is here now, or the model's id on the hub for engines that
        fetch by themselves. ``progress`` is called on the event loop. Raises as `describe`; cancelling it stops a download.

        The file stays in the cache until `running` names the model no more.
        """
        if not self._engines[model.engine].files:
            return self._sources.loaded_as(self._source(model))
        self._let_go()
        loop, cancelled = asyncio.get_running_loop(), threading.Event()

        def moved(done: int, total: int | None) -> None:
            if progress is not None and not cancelled.is_set():
                loop.call_soon_threadsafe(progress, done, total)

        try:
            held = await self._in_thread(
                self._fetching, self._sources.hold, self._source(model), self.token_of(model), moved, cancelled
            )
        except asyncio.CancelledError:
            cancelled.set()
            raise
        if (before := self._held.pop(model.key, None)) is not None:
            before.release()
        self._held[model.key] = held
        return str(held.path)

    def token_of(self, model: Model) -> str | None:
        """The hub token that came with ``model``; None where it needs none of a caller's."""
        return self._tokens.get(model.key)

    def listing(self) -> list[str]:
        """The names of models that are at hand: the catalogue's, and those in the cache."""
        return list(dict.fromkeys([*self.catalogue.entries, *self._sources.cached_names()]))

    # What changes it

    def remember(self, fact: Remember) -> None:
        """Keep what a launch taught."""
        self._lessons.remember(fact)

    def change_catalogue(self, catalogue: Catalogue) -> list[str]:
        """Use another catalogue from now on; returns the names whose entries changed, came or went."""
        before, self.catalogue = self.catalogue.entries, catalogue
        self._meant.clear()
        return [name for name in {**before, **catalogue.entries} if before.get(name) != catalogue.get(name)]

    def close(self) -> None:
        """Let go of files and threads. Downloads that still run keep what they have for the next time."""
        self._let_go(everything=True)
        self._asking.shutdown(wait=False, cancel_futures=True)
        self._fetching.shutdown(wait=False, cancel_futures=True)

    def _find(
        self, id: str, revision: str, engine: str, context: int | None, env: tuple[tuple[str, str], ...]
    ) -> tuple[Model, Source]:
        """The model of everybody that this wish names, and where it comes from."""
        name = parse_name(id)
        entry = self.catalogue.get(id) or self.catalogue.get(name.id)
        if entry is None and name.bare:
            raise ModelNotServable(
                f"There is no model {id!r} here.{self._alike(name.id)} {self._offer()}", param="model"
            )
        revision = _revision(revision or name.revision or (entry.revision if entry else ""))
        source = Source.of(name, entry, revision)
        if source.path and revision:
            raise Unprocessable(f"{id} is a file of the operator's and has no revisions.", param="revision")
        chosen = self._choose_engine(engine, entry, source)
        served = self._engines[chosen]
        if source.quant and not served.files:
            raise Unprocessable(
                f"{chosen} loads whole models, not one GGUF file of several: leave ':{source.quant}' out."
            )
        if context is not None and not 0 < context <= _LONGEST_CONTEXT:
            raise InvalidRequest(f"A context of {context} tokens makes no sense.", param="context")
        arguments = dict(entry.arguments if entry else ()) | dict(served.engine.environment(dict(env)))
        return (
            Model.of(
                entry.name if entry else name.id,
                revision=revision,
                engine=chosen,
                arguments=tuple(arguments.items()),
                context=None if entry and context == entry.context else context,
            ),
            source,
        )

    def _choose_engine(self, wanted: str, entry: Entry | None, source: Source) -> str:
        """The engine asked for, else the catalogue's, else the one that loads such files, else the default."""
        chosen = wanted or (entry.engine if entry else "")
        if not chosen and source.is_gguf:
            chosen = next((name for name, served in self._engines.items() if served.files), "")
        chosen = chosen or self._default_engine
        if chosen not in self._engines:
            there = ", ".join(sorted(self._engines))
            if wanted:
                raise InvalidRequest(f"There is no engine {wanted!r} here; there are: {there}.", param="engine")
            raise ModelNotServable(
                f"{source.name} needs the engine {chosen}, which does not run here (there are: {there})."
            )
        return chosen

    def _source(self, model: Model) -> Source:
        return Source.of(parse_name(model.id), self._entry(model), model.revision)

    def _entry(self, model: Model) -> Entry | None:
        return self.catalogue.get(model.id)

    def _repo(self, id: str) -> str:
        """The repository on the hub that ``id`` stands for; "" for files and for what is no name."""
        try:
            name = parse_name(id)
        except InvalidRequest:
            return ""
        entry = self.catalogue.get(id) or self.catalogue.get(name.id)
        return "" if entry is None and name.bare else Source.of(name, entry, "").repo

    def _alike(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.catalogue.entries, 1)
        return f" Did you mean {close[0]!r}?" if close else ""

    def _offer(self) -> str:
        """What can be served here, for those who asked for something else."""
        names = list(self.catalogue.entries)
        some = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        files = any(served.files for served in self._engines.values())
        whole = any(not served.files for served in self._engines.values())
        hub = "models of the hub as 'org/name'" if whole else "models of the hub that have GGUF files, as 'org/name'"
        return f"Here are: {some}; and {hub}{' or org/name:Q4_K_M' if files and not whole else ''}."

    def _let_go(self, everything: bool = False) -> None:
        """Give back the files of models that have no server any more."""
        running = () if everything else self._running()
        for key in [key for key in self._held if key not in running]:
            self._held.pop(key).release()

    async def _in_thread(self, pool: ThreadPoolExecutor, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, call, *arguments)


def _revision(text: str) -> str:
    """A revision as it counts for identity: the default one, said aloud, changes nothing."""
    if text and not is_revision(text):
        raise InvalidRequest(
            f"{text[:80]!a} is no revision: a branch, a tag or a commit is expected.", param="revision"
        )
    return "" if text == "main" else text
