"""An engine as the operator starts it: a command of theirs around one of the built-in engines.

The built-in engine goes on telling how to talk to it (dialects, parameters, replies); how to start it is what was
configured. Made by the assembly from the settings; the launcher for one machine asks it for `CommandEngine.port`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

from ssis_dispatcher.engines.base import Ask, Command, Engine, Options
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.errors import Unprocessable

PLACEHOLDERS = tuple(name for name in Options.__struct_fields__ if name != "arguments")
"""What a command or a variable may hold in braces: the fields of `Options`."""

_ARGUMENTS_BY_FLAG = ("openai", "sglang", "vllm")
"""Engines whose settings are flags, which a command of the operator's would drop; the others read them as variables."""


class CommandEngine:
    """``like`` is the engine that it is otherwise the same as. What is left empty is as there.

    ``command`` is the program and its arguments, each of which may hold `PLACEHOLDERS` in braces, and so may the values of
    ``env``; there is no shell between. ``port`` 0 means that a free one is chosen for each server, which the command must
    then be told (``{port}``).

    Raises `ValueError` for a placeholder that there is not, and for a command that nobody tells its port.
    """

    def __init__(
        self,
        name: str,
        like: Engine,
        *,
        command: tuple[str, ...] = (),
        env: tuple[tuple[str, str], ...] = (),
        port: int = 0,
        health: str = "",
        dialects: tuple[str, ...] = (),
        seats: int = 0,
    ) -> None:
        self.name = name
        self.port = port
        self.health = health or like.health
        self.seats = seats or like.seats
        self.dialects = frozenset(dialects) or like.dialects
        self.has_command = bool(command)
        self._like = like
        self._command = command
        self._env = env
        texts = (*command, *(value for _, value in env))
        used = {name for text in texts for name in _placeholders(text)}
        if command and not port and "port" not in used:
            raise ValueError(
                f"the command of {name} must be told its port: write {{port}} in it, or set the port it has"
            )

    def command(self, options: Options) -> Command:
        """The operator's command where there is one, else the engine's own; the operator's variables beside the engine's."""
        own = self._like.command(options)
        values = {name: str(getattr(options, name)) for name in PLACEHOLDERS}
        env = dict(own.env) | {name: value.format_map(values) for name, value in self._env}
        if not self._command:
            return Command(own.argv, tuple(env.items()), own.program)
        return Command((), tuple(env.items()), tuple(word.format_map(values) for word in self._command))

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        arguments = self._like.environment(env)
        if arguments and self._command and self._like.name in _ARGUMENTS_BY_FLAG:
            name = next(iter(env))
            raise Unprocessable(
                f"{self.name} is started by the operator's own command, which takes no settings of callers: "
                f"leave {name} out.",
                param=f"env.{name}",
            )
        return arguments

    def refusal(self, method: str, path: str) -> str:
        return self._like.refusal(method, path)

    def ask(self, generation: Generation, served_as: str) -> Ask:
        return self._like.ask(generation, served_as)


def _placeholders(text: str) -> set[str]:
    """The names in braces; a brace that is meant is written twice. Raises `ValueError`."""
    names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    if strange := names.difference(PLACEHOLDERS):
        shown = ", ".join(f"{{{name}}}" for name in sorted(strange))
        raise ValueError(f"{shown} is no placeholder; there are {', '.join(PLACEHOLDERS)}")
    return names
