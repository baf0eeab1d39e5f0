"""What an engine is to the rest of the program.

An engine is data and pure mappings: how to start it (`Engine.command`, `Engine.environment`), what it answers itself
(`Engine.refusal`), and how a text generation is put to it and read back (`Engine.ask`). Launchers call the first two,
dialects the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.replies import Reader


class Options(msgspec.Struct, frozen=True):
    """What the launcher decided for one server, in the engine's terms.

    ``model`` is what the engine is told to load: a hub id, or a path for engines that load files. ``served_as`` is the
    name under which its OpenAI routes know the model. ``context`` is tokens per seat. ``memory_mib`` is the memory of
    one slice, and ``device_mib`` what the engine sees as its whole device where that is more (an MPS share of a card; 0:
    the slice is all it sees). ``kv_mib`` is what the plan left for the KV cache (0: unknown). ``gpus`` is how many whole
    GPUs are joined, 0 for none. ``arguments`` are the engine arguments of the model's identity, already checked by
    `Engine.environment`.
    """

    model: str
    served_as: str
    host: str
    port: int
    context: int
    seats: int
    memory_mib: int
    gpus: int = 1
    threads: int = 1
    revision: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    device_mib: int = 0
    kv_mib: int = 0


class Command(msgspec.Struct, frozen=True):
    """How to start one server: arguments after the program or image, and environment.

    ``program`` starts the same server where there is no image, but the engine is installed.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    program: tuple[str, ...] = ()


class Ask(msgspec.Struct):
    """A text generation in an engine's own words: what to POST where, and who can read the reply."""

    path: str
    body: bytes
    reader: Reader | None
    """None: the reply is in TGI's own form already."""


class Engine(Protocol):
    """One kind of inference server."""

    name: str
    health: str
    """Path that answers 200 when the server can serve."""
    seats: int
    """The most requests that it works on at once by default."""
    dialects: frozenset[str]
    """Dialects whose requests and replies it speaks itself: ``openai``, ``tgi``."""

    def command(self, options: Options) -> Command:
        """How to start it."""

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The caller's ``env`` as engine arguments (sorted pairs). Raises `Unprocessable` that names the variable and the
        reason for everything that is not allowed or has no meaning for this engine."""

    def refusal(self, method: str, path: str) -> str:
        """Why callers cannot have this route of its HTTP interface, in words for them; "" where they can."""

    def ask(self, generation: Generation, served_as: str) -> Ask:
        """``generation`` as a request to this engine. Raises `Unprocessable` that names the parameter which it cannot do,
        and the reason."""
