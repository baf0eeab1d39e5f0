"""An engine as the operator starts it: a command of theirs around one of the built-in engines.

The built-in engine goes on telling how to talk to it (dialects, parameters, replies); how to start it is what was
configured. Made by the assembly from the settings; the launcher for one machine asks it for `CommandEngine.port`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ssis_dispatcher.engines.base import Ask, Command, Engine, Options
from ssis_dispatcher.engines.generation import Generation

PLACEHOLDERS = tuple(name for name in Options.__struct_fields__ if name != "arguments")
"""What a command or a variable may hold in braces: the fields of `Options`."""


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
        for text in texts:
            _fill(text, dict.fromkeys(PLACEHOLDERS, ""))
        if command and not port and not any("{port" in text for text in texts):
            raise ValueError(
                f"the command of {name} must be told its port: write {{port}} in it, or set the port it has"
            )

    def command(self, options: Options) -> Command:
        """The operator's command where there is one, else the engine's own; the operator's variables beside the engine's."""
        own = self._like.command(options)
        values = {name: str(getattr(options, name)) for name in PLACEHOLDERS}
        env = dict(own.env) | {name: _fill(value, values) for name, value in self._env}
        if not self._command:
            return Command(own.argv, tuple(env.items()), own.program)
        return Command((), tuple(env.items()), tuple(_fill(word, values) for word in self._command))

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return self._like.environment(env)

    def refusal(self, method: str, path: str) -> str:
        return self._like.refusal(method, path)

    def ask(self, generation: Generation, served_as: str) -> Ask:
        return self._like.ask(generation, served_as)


def _fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with each ``{name}`` replaced; a brace that is meant is written twice. Raises `ValueError`."""
    try:
        return text.format_map(values)
    except (KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{error} is no placeholder; there are {', '.join(PLACEHOLDERS)}") from None
