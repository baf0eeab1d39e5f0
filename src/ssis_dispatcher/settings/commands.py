"""Engines that the operator configures: a table ``[engines.NAME]`` of the settings file → `EngineCommand`."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from ssis_dispatcher.settings import kinds

PLACEHOLDERS = (
    "model",
    "served_as",
    "host",
    "port",
    "context",
    "seats",
    "memory_mib",
    "device_mib",
    "kv_mib",
    "gpus",
    "threads",
    "revision",
)
"""What a command or an environment value may contain in braces: what the launcher decides for each server."""

BUILT_IN = ("llamacpp", "openai", "sglang", "tgi", "vllm")
"""Engines that the program knows; a table of such a name changes how that one is started."""

DIALECTS = ("openai", "tgi")
KINDS = ("cpu", "mig", "mps", "gpu")


class Misfit(ValueError):
    """A value of the right shape with something wrong inside; the message says what."""


class EngineCommand(msgspec.Struct, frozen=True):
    """How to start one kind of inference server. What is left empty is as in the built-in engine that it is ``like``.

    ``like`` is never empty: the operator's word, else the engine's own name where that is built in, else ``vllm``, which
    stands for any server of OpenAI's routes. ``command`` is the program and its arguments, ``env`` its environment; both
    may contain `PLACEHOLDERS` in braces. ``port`` 0 means that a free one is chosen for each server; a program that
    cannot be told one has its own here. ``health`` is the path that answers 200 when it can serve, ``dialects`` what it
    speaks, ``seats`` the most requests it works on at once, ``kinds`` the slice kinds it runs on.
    """

    name: str
    like: str
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    port: int = 0
    health: str = ""
    dialects: tuple[Literal["openai", "tgi"], ...] = ()
    seats: int = 0
    kinds: tuple[Literal["cpu", "mig", "mps", "gpu"], ...] = ()


def _filled(text: str) -> str:
    """``text``, after a look at its placeholders."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError:
        raise Misfit("a brace stands alone; one that is meant is written twice") from None
    for name in names:
        if name not in PLACEHOLDERS:
            raise Misfit(f"{{{name}}} is no placeholder; there are {', '.join(PLACEHOLDERS)}")
    return text


def _command(raw: object) -> tuple[str, ...]:
    words = tuple(_filled(word) for word in kinds.read_words(raw))
    if not words:
        raise Misfit("the command is empty")
    return words


def _env(raw: object) -> kinds.Pairs:
    return tuple((name, _filled(value)) for name, value in kinds.read_variables(raw))


def _port(raw: object) -> int:
    return _within(raw, 0, 65535)


def _within(raw: object, least: int, most: int) -> int:
    number = kinds.WHOLE.read(raw)
    if not isinstance(number, int) or not least <= number <= most:
        raise Misfit(f"{raw} is not a whole number from {least} to {most}")
    return number


def _health(raw: object) -> str:
    path = str(kinds.TEXT.read(raw))
    if not path.startswith("/"):
        raise Misfit(f'"{path}" is no path; it begins with /')
    return path


def _like(raw: object) -> str:
    if raw not in BUILT_IN:
        raise Misfit(f"{raw!r} is not one of {', '.join(BUILT_IN)}")
    return str(raw)


def _some_of(words: tuple[str, ...]) -> Callable[[object], tuple[str, ...]]:
    def read(raw: object) -> tuple[str, ...]:
        chosen = kinds.read_list(raw)
        if not chosen or set(chosen) - set(words):
            raise Misfit(f"{raw!r} is not some of {', '.join(words)}")
        return chosen

    return read


_READERS: dict[str, tuple[Callable[[object], Any], str]] = {
    "like": (_like, "a text"),
    "command": (_command, "a list of texts, or one text"),
    "env": (_env, "a table of texts"),
    "port": (_port, "a whole number"),
    "health": (_health, "a path"),
    "dialects": (_some_of(DIALECTS), "a list of texts"),
    "seats": (lambda raw: _within(raw, 1, 100_000), "a whole number"),
    "kinds": (_some_of(KINDS), "a list of texts"),
}
"""Key → how it is read, and what it expects. Errors never quote a command or an environment: they may hold secrets."""


def _engine(name: str, table: object) -> EngineCommand:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
        raise Misfit(f'"{name}" is no name for an engine: up to 32 of a-z, 0-9, - and _, beginning with a letter')
    if not isinstance(table, Mapping):
        raise Misfit(f"[engines.{name}] is a table")
    values = {key: _value(key, raw, f"[engines.{name}]") for key, raw in table.items()}
    like = values.pop("like", name if name in BUILT_IN else "")
    if not like and "command" not in values:
        raise Misfit(f"[engines.{name}] has no command")
    return EngineCommand(name, like or "vllm", **values)


def _value(key: str, raw: object, where: str) -> Any:
    if key not in _READERS:
        near = difflib.get_close_matches(key, _READERS, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(_READERS)}"
        raise Misfit(f'unknown key "{key}" in {where}; {hint}')
    read, expects = _READERS[key]
    try:
        return read(raw)
    except Misfit as error:
        raise Misfit(f"{key} of {where}: {error}") from None
    except (ValueError, TypeError):
        raise Misfit(f"{key} of {where}: expected {expects}") from None


def read_engines(raw: object) -> tuple[EngineCommand, ...]:
    """The table ``[engines]`` as commands, in the order of their names. Raises `Misfit`."""
    if not isinstance(raw, Mapping):
        raise Misfit("engines are tables: [engines.NAME]")
    return tuple(_engine(name, table) for name, table in sorted(raw.items()))


ENGINES = kinds.Kind(
    "tables",
    "tables [engines.NAME]",
    read_engines,
    lambda engines: ",".join(engine.name for engine in engines),
)
