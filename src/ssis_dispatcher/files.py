"""Files that operators write: YAML or TOML → plain data, strictly, with errors that say where and what to do.

For inventories and catalogues. What a person wrote twice, misspelt or put in the wrong place is an error: a setting that
is silently ignored is found out only when it is missed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

T = TypeVar("T")

_LARGEST = 4 << 20
"""Bytes: hundreds of thousands of lines, and still read in seconds."""


class BadFile(Exception):
    """A file that an operator wrote cannot be used. The message names the file and the place."""


def load(path: Path) -> object:
    """The contents of ``path``: TOML where its name says so, else YAML. Raises `BadFile`."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
        text = raw.decode()
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"{path}: not UTF-8 text (byte {error.start})") from error
    if len(raw) > _LARGEST:
        raise BadFile(f"{path}: larger than {_LARGEST >> 20} MiB")
    return parse_toml(text, str(path)) if path.suffix == ".toml" else parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> object:
    """``text`` as plain data. Raises `BadFile` that names ``file`` and the line, also for a key that occurs twice."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BadFile(f"{file}{line}: {error.problem or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadFile(f"{file}: not readable as YAML: {error}") from error


def parse_toml(text: str, file: str) -> object:
    """``text`` as plain data. Raises `BadFile`."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(f"{file}: {error}") from error


def as_table(value: object, where: str, known: Iterable[str] | None = None) -> Mapping[str, object]:
    """``value`` as a mapping with text keys, all of them among ``known``. Raises `BadFile` with the nearest known key."""
    if not isinstance(value, dict):
        raise BadFile(f"{where}: expected a mapping of names to values, not {_named(value)}")
    known = None if known is None else tuple(known)
    for key in value:
        if not isinstance(key, str):
            raise BadFile(f"{where}: the key {key!r} must be text (put it in quotes)")
        if known is not None and key not in known:
            raise BadFile(f"{where}: unknown key `{key}`.{suggestion(key, known)}")
    return value


def as_type(value: object, type: type[T], where: str) -> T:
    """``value`` as ``type``, without coercion. Raises `BadFile`."""
    try:
        return msgspec.convert(value, type, strict=True)
    except msgspec.ValidationError as error:
        words = str(error).replace("`", "").replace("Expected", "expected", 1).replace(" - at $.", " at ")
        raise BadFile(f"{where}: {words}") from None


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` Did you mean …?`` or `` Known are: …``, to be added to an error."""
    known = tuple(known)
    close = difflib.get_close_matches(word, known, 1)
    return f" Did you mean `{close[0]}`?" if close else f" Known are: {', '.join(known)}."


class _Loader(yaml.SafeLoader):
    """Plain YAML, without aliases (a few lines of them expand to gigabytes) and without keys that occur twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # the stubs do not type it
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not supported here", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                what = f"`{key.value}` occurs twice" if isinstance(key, yaml.ScalarNode) else "a key must be plain text"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _named(value: object) -> str:
    return {type(None): "nothing", list: "a list", str: "text"}.get(type(value), type(value).__name__)
