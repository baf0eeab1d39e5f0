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
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.core.sizing import Profile
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.errors import InvalidRequest, ModelNotServable, Unprocessable
from ssis_dispatcher.models.access import PUBLIC, Access
from ssis_dispatcher.models.catalogue import Catalogue, Entry
from ssis_dispatcher.models.download import Progress
from ssis_dispatcher.models.naming import is_revision, parse_name
from ssis_dispatcher.models.profiles import GPU_KINDS, Defaults, Learned, profile
from ssis_dispatcher.models.sources import Held, Source, Sources
from ssis_dispatcher.models.threads import Threads

_MOST_KNOWN = 4096
_LONGEST_CONTEXT = 1 << 24


class Served(msgspec.Struct, frozen=True):
    """An engine as this platform runs it. ``files`` tells that it loads GGUF files, which are fetched for it unless
    ``remote``; the others load models of the hub by themselves. ``kinds`` are the slices it runs on, ``parallel`` the
    numbers of whole GPUs that it can join. ``remote`` tells that it runs on another machine, and fetches what it loads."""

    engine: Engine
    files: bool
    kinds: tuple[SliceKind, ...] = GPU_KINDS
    parallel: tuple[int, ...] = (2, 4, 8)
    remote: bool = False


class Lessons(Protocol):
    """What launches taught."""

    def outcomes(self, model: Model, kinds: Collection[str]) -> Iterable[tuple[str, int, float]]:
        """How launches on slices of these kinds went: ``ready`` or ``out_of_memory``, the slices' MiB, the seconds."""

    def remember(self, fact: Remember) -> None:
        """Keep one more."""

    def forget(self, id: str) -> None:
        """Drop what is known of the model id."""


class Directory:
    """``engines`` by name, ``default_engine`` one of them; ``running`` tells the keys of the models that have servers: their
    files stay in the cache. Not thread-safe: one event loop uses it."""

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
        self._scoped: dict[tuple[str, str], Model] = {}
        self._tokens: dict[str, str] = {}
        self._held: dict[str, Held] = {}
        self._asking = Threads(8, "models-ask")
        self._fetching = Threads(8, "models-fetch")
        self._downloads: set[threading.Event] = set()

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
        embeds: bool = False,
    ) -> Model:
        """The model that a request names, with everything it left open filled in. ``env`` are the caller's variables, for the
        engine to map or refuse; ``token`` is the caller's hub token, kept in memory for gated models only. ``embeds`` asks
        for an engine that makes embeddings, where the choice is ours.

        Raises `InvalidRequest`, `ModelNotServable`, `Unprocessable`, `Forbidden`. Asks nobody; see `acquainted`.
        """
        wish = (id, revision, engine, context, env, embeds)
        known = self._meant.get(wish)
        if known is None:
            known = self._meant[wish] = self._find(id, revision, engine, context, env, embeds)
            _bound(self._meant)
        model, source = known
        if not token or not source.repo:
            return model
        scope = self._access.scope(source.repo, token)
        if scope == PUBLIC:
            return model
        own = self._scoped.get((model.key, scope))
        if own is None:
            own = self._scoped[model.key, scope] = _in_scope(model, scope)
            _bound(self._scoped)
        self._tokens[own.key] = token
        _bound(self._tokens)
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
            await self._asking.run(lambda: self._access.ask(repo, token))

    # What it needs, and where its files are

    async def describe(self, model: Model) -> Profile:
        """What ``model`` needs. Raises `ModelNotServable`, `Forbidden`, `Unprocessable`, `Unavailable`."""
        served, source = self._engines[model.engine], self._source(model)
        token = self.token_of(model)
        facts = await self._asking.run(lambda: self._sources.facts(source, served.files, token))
        return profile(
            facts,
            context=model.context,
            entry=self._entry(model),
            learned=Learned.of(self._lessons.outcomes(model, served.kinds)),
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
        source, token = self._source(model), self.token_of(model)
        served = self._engines[model.engine]
        if not served.files:
            return self._sources.loaded_as(source)
        if served.remote:
            return await self._asking.run(lambda: self._sources.named(source, token))
        self._let_go(set(self._running()))
        loop, cancelled = asyncio.get_running_loop(), threading.Event()

        def moved(done: int, total: int | None) -> None:
            if progress is not None and not cancelled.is_set():
                loop.call_soon_threadsafe(progress, done, total)

        self._downloads.add(cancelled)
        try:
            held = await self._fetching.run(lambda: self._sources.hold(source, token, moved, cancelled), Held.release)
        finally:
            cancelled.set()
            self._downloads.discard(cancelled)
        self._let_go(self._held.keys() - {model.key})
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

    def forget(self, id: str) -> None:
        """Drop what launches of the model id taught."""
        self._lessons.forget(id)

    def change_catalogue(self, catalogue: Catalogue) -> list[str]:
        """Use another catalogue from now on; returns the names whose entries changed, came or went."""
        before, self.catalogue = self.catalogue.entries, catalogue
        self._meant.clear()
        return [name for name in {**before, **catalogue.entries} if before.get(name) != catalogue.get(name)]

    def change_default_engine(self, name: str) -> None:
        """Use another engine for models of which nobody says otherwise."""
        if name != self._default_engine:
            self._default_engine = name
            self._meant.clear()

    def close(self) -> None:
        """Let go of files and end downloads; what they have is kept for the next time."""
        for cancelled in self._downloads:
            cancelled.set()
        self._let_go(())

    def _find(
        self, id: str, revision: str, engine: str, context: int | None, env: tuple[tuple[str, str], ...], embeds: bool
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
        chosen = self._choose_engine(engine, entry, source, embeds)
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

    def _choose_engine(self, wanted: str, entry: Entry | None, source: Source, embeds: bool) -> str:
        """The engine asked for, else the catalogue's, else the one that loads such files, else one that makes embeddings
        where those are asked for, else the default."""
        chosen = wanted or (entry.engine if entry else "")
        if not chosen and source.is_gguf:
            chosen = next((name for name, served in self._engines.items() if served.files), "")
        if not chosen and embeds and not self._makes_embeddings(self._default_engine):
            whole = (name for name, served in self._engines.items() if not served.files)
            chosen = next((name for name in whole if self._makes_embeddings(name)), "")
        chosen = chosen or self._default_engine
        if chosen not in self._engines:
            there = ", ".join(sorted(self._engines))
            if wanted:
                raise InvalidRequest(f"There is no engine {wanted!r} here; there are: {there}.", param="engine")
            raise ModelNotServable(
                f"{source.name} needs the engine {chosen}, which does not run here (there are: {there})."
            )
        return chosen

    def _makes_embeddings(self, engine: str) -> bool:
        served = self._engines.get(engine)
        return served is not None and not served.engine.refusal("POST", "/v1/embeddings")

    def _source(self, model: Model) -> Source:
        """Where ``model`` comes from, by the catalogue of now: a name that is gone from it is never looked for elsewhere."""
        name, entry = parse_name(model.id), self._entry(model)
        if entry is None and name.bare:
            raise ModelNotServable(f"There is no model {model.id!r} here any more. {self._offer()}", param="model")
        return Source.of(name, entry, model.revision)

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

    def _let_go(self, kept: Collection[str]) -> None:
        """Give back all files but those of the models with these keys."""
        for key in [key for key in self._held if key not in kept]:
            self._held.pop(key).release()


def _in_scope(model: Model, scope: str) -> Model:
    return Model.of(
        model.id,
        revision=model.revision,
        engine=model.engine,
        arguments=model.arguments,
        scope=scope,
        context=model.context,
    )


def _bound(known: dict[Any, Any]) -> None:
    """Keep what callers can make grow within bounds: the oldest goes."""
    if len(known) > _MOST_KNOWN:
        del known[next(iter(known))]


def _revision(text: str) -> str:
    """A revision as it counts for identity: the default one, said aloud, changes nothing."""
    if text and not is_revision(text):
        raise InvalidRequest(
            f"{text[:80]!a} is no revision: a branch, a tag or a commit is expected.", param="revision"
        )
    return "" if text == "main" else text
