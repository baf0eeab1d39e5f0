"""What an engine is to the rest of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Options(msgspec.Struct, frozen=True):
    """What the launcher decided for one server, in the engine's terms.

    ``model`` is what the engine is told to load: a hub id, or a path for engines that load files. ``served_as`` is the
    name under which its OpenAI routes know the model. ``memory_mib`` is the slice's memory, ``gpus`` how many whole GPUs
    are joined. ``arguments`` are the engine arguments of the model's identity, already checked by `Engine.environment`.
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


class Command(msgspec.Struct, frozen=True):
    """How to start one server: arguments after the program or image, and environment."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()


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
