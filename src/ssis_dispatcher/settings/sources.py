"""Where settings come from, in order: flag > environment > file > default."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from ssis_dispatcher.settings.commands import Misfit
from ssis_dispatcher.settings.declared import CONFIG_FILE, Place, Settings
from ssis_dispatcher.settings.fields import PREFIX, Field, fields

CONFIG_VARIABLE = "SSIS_CONFIG"

# Kubernetes describes every Service of a namespace in every pod's environment. A Service named `ssis…` would make its
# pods fail over variables nobody wrote, and `SSIS_PORT` would be an address.
_SERVICE_LINK = re.compile(
    r"SSIS(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(Exception):
    """Some settings are wrong; ``problems`` has one sentence for each, with the place and what is expected."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Origin(msgspec.Struct, frozen=True):
    """Where a value came from; ``place`` is the flag, the variable or the file ("" for a default)."""

    source: Literal["flag", "env", "file", "default"]
    place: str = ""


class Loaded(msgspec.Struct, frozen=True):
    """The settings, the origin of each by name, and the file that was read, if one was."""

    settings: Settings
    origins: dict[str, Origin]
    file: Path | None


_Layer = dict[str, tuple[Any, Origin]]


def load(
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Loaded:
    """Read all the places.

    ``flags`` are values by setting name (None: not given), ``environ`` is this process's environment where it is left
    out, ``config`` the file of ``--config``. Raises `SettingsError` with everything that is wrong.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    file = _file(config, environ, problems)
    layers = (
        _from_flags(flags or {}, problems),
        _from_environment(environ, problems),
        _from_file(file, problems) if file else {},
        {name: (_default(field, environ), Origin("default")) for name, field in fields().items()},
    )
    found = {name: next(layer[name] for layer in layers if name in layer) for name in fields()}
    settings = Settings(**{name: value for name, (value, _) in found.items()})
    problems += _contradictions(settings)
    if problems:
        raise SettingsError(problems)
    return Loaded(settings, {name: origin for name, (_, origin) in found.items()}, file)


def _default(field: Field, environ: Mapping[str, str]) -> Any:
    return field.default.under(environ) if isinstance(field.default, Place) else field.default


def _read(layer: _Layer, field: Field, raw: object, origin: Origin, written: str, problems: list[str]) -> None:
    """Put one value into ``layer``, or what is wrong with it into ``problems``; ``written`` leads the sentence."""
    try:
        layer[field.name] = field.read(raw), origin
    except Misfit as error:
        problems.append(f"{written}: {error}")
    except (ValueError, TypeError, OverflowError, RuntimeError):  # the last: `~name` of nobody
        problems.append(f"{written}: expected {field.kind.expects}{field.bounds}")


def _quoted(field: Field, raw: object) -> str:
    return "********" if field.about.secret else f'"{raw}"' if isinstance(raw, str) else str(raw).lower()


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> _Layer:
    layer: _Layer = {}
    for name, raw in flags.items():
        field = fields()[name]
        if raw is not None:
            _read(layer, field, raw, Origin("flag", field.flag), f"{field.flag} {_quoted(field, raw)}", problems)
    return layer


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    """An empty variable counts as not set. Variables of other programs (`HF_TOKEN`) count after ours."""
    layer: _Layer = {}
    ours = {field.variable: field for field in fields().values() if not field.about.table}
    for variable, raw in _own_variables(environ):
        if variable in ours:
            field = ours[variable]
            _read(layer, field, raw, Origin("env", variable), f"{variable}={_quoted(field, raw)}", problems)
        elif variable != CONFIG_VARIABLE:
            meant = _nearest(
                variable.removeprefix(PREFIX), (known.removeprefix(PREFIX) for known in ours), "SSIS_{}".format
            )
            problems.append(f"unknown variable {variable} in the environment; {meant}")
    for field in fields().values():
        for variable in field.about.also:
            raw = environ.get(variable, "")
            if raw and environ.get(field.variable, "") == "":
                _read(layer, field, raw, Origin("env", variable), f"{variable}={_quoted(field, raw)}", problems)
                break
    return layer


def _own_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, raw in sorted(environ.items()):
        service = _SERVICE_LINK.fullmatch(variable) or (variable.endswith("_PORT") and _SERVICE_PORT.match(raw))
        if variable.startswith(PREFIX) and raw and not service:
            yield variable, raw


def _file(config: Path | None, environ: Mapping[str, str], problems: list[str]) -> Path | None:
    """The file to read: the one that is asked for, which must be there, or the usual one, if it is."""
    asked = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if asked is None:
        usual = CONFIG_FILE.under(environ)
        return usual if os.path.isfile(usual) else None  # Path.is_file raises where it may not look
    if not os.path.isfile(asked):
        problems.append(f"there is no settings file {asked} (asked for by {'--config' if config else CONFIG_VARIABLE})")
        return None
    return asked


def _from_file(file: Path, problems: list[str]) -> _Layer:
    """The settings of a TOML file; its relative paths are relative to the file."""
    layer: _Layer = {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}")
        return layer
    for name, raw in table.items():
        if name not in fields():
            problems.append(_unknown_key(name, raw, file))
            continue
        field = fields()[name]
        written = f"{name} in {file}" if isinstance(raw, dict) else f"{name} = {_quoted(field, raw)} in {file}"
        _read(layer, field, raw, Origin("file", str(file)), written, problems)
        value = layer[name][0] if name in layer else None
        if isinstance(value, Path):
            layer[name] = file.parent / value, layer[name][1]
        elif name == "inventory" and isinstance(value, str) and (file.parent / value).is_file():  # or it is a name
            layer[name] = str(file.parent / value), layer[name][1]
    return layer


def _unknown_key(name: str, raw: object, file: Path) -> str:
    inside = [key for key in raw if key in fields()] if isinstance(raw, dict) else []
    if inside:
        return (
            f'unknown table [{name}] in {file}: settings stand at the top of the file, so "{inside[0]}" goes above it'
        )
    return f'unknown key "{name}" in {file}; ' + _nearest(name, fields(), '"{}"'.format)


def _nearest(name: str, known: Iterable[str], quote: Callable[[str], str]) -> str:
    """The suggestion that ends a sentence about an unknown name."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {quote(near[0])}?" if near else "`ssis config` lists all there are"


def _contradictions(settings: Settings) -> Iterator[str]:
    if settings.tls_cert and not settings.tls_key:
        yield "tls_cert is set and tls_key is not: HTTPS needs both"
    if settings.tls_key and not settings.tls_cert:
        yield "tls_key is set and tls_cert is not: HTTPS needs both"
    if settings.retry_pause > settings.retry_pause_limit:
        yield "retry_pause is longer than retry_pause_limit"
