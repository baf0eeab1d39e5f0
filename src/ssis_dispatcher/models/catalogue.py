"""The operator's catalogue: models that are files, names of one's own, and what to do differently for some models.

A YAML or TOML file::

    models:
      tiny:                              # a name of one's own, for a file …
        path: /models/tiny-Q4_K_M.gguf   # (relative paths begin at the catalogue)
        context: 4096
      assistant:                         # … or for a model of the hub
        id: meta-llama/Llama-3.1-8B-Instruct
        revision: main
        engine: vllm
        keep_alive: 1h
        pinned: true
      Qwen/Qwen2.5-0.5B-Instruct:        # a model of the hub under its own name, with its own rules
        seats: 8                         # requests at once, at most
        floor: 6GiB                      # smallest slice, and
        ceiling: 24GiB                   # largest slice it may take
        arguments: {DTYPE: bfloat16}     # engine arguments

`Entry` lists all keys. The packaged model ``demo`` is part of every catalogue. Called by the model resolver, which also
notices when the file changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import msgspec

from ssis_dispatcher.errors import InvalidRequest
from ssis_dispatcher.files import BadFile, as_table, as_type, parse_yaml, suggestion
from ssis_dispatcher.files import load as load_file
from ssis_dispatcher.models.naming import is_revision, parse_name

DEMO = "demo"
"""Name of the packaged model."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the catalogue. None or "" where the catalogue does not say.

    ``id`` is a model of the hub, ``path`` a file or folder; one of them is set. ``context`` is tokens per seat, ``seats``
    the most requests at once. Sizes are in MiB (``floor_mib`` and ``ceiling_mib`` bound the slice, ``weights_mib`` says
    how large the model is where nothing else can), ``kv_bytes_per_token`` in bytes, times in seconds. ``image`` is the
    container image on platforms that have them. ``arguments`` are engine arguments as sorted pairs.
    """

    name: str
    id: str = ""
    path: Path | None = None
    revision: str = ""
    engine: str = ""
    context: int | None = None
    seats: int | None = None
    floor_mib: int = 0
    ceiling_mib: int | None = None
    weights_mib: int | None = None
    kv_bytes_per_token: int | None = None
    keep_alive: float | None = None
    pinned: bool = False
    max_servers: int | None = None
    image: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    start_seconds: float | None = None
    description: str = ""


class Catalogue(msgspec.Struct, frozen=True):
    """Entries by name, in the order of the file."""

    entries: Mapping[str, Entry]

    def get(self, name: str) -> Entry | None:
        """The entry called ``name``, else None."""
        return self.entries.get(name)


def demo_path() -> Path:
    """The packaged demonstration model: a real, tiny language model."""
    return Path(str(files("ssis_dispatcher") / "data" / "demo.gguf"))


def built_in() -> Catalogue:
    """The catalogue of those who have none: the packaged model."""
    return _with_demo({})


def load(path: Path | None, engines: Collection[str] = ()) -> Catalogue:
    """The catalogue in the file ``path`` (None: `built_in`); entries may name only ``engines``, where any are given.

    Raises `BadFile` that names the file, the model and the key. Whether a model's own file exists is found out when the
    model is asked for.
    """
    if path is None:
        return built_in()
    return _with_demo(_entries(load_file(path), path, engines))


def parse(text: str, file: str, engines: Collection[str] = ()) -> Catalogue:
    """The catalogue in YAML ``text``, whose models are on other machines: the packaged one is none of them. ``file`` is its
    name in errors. Raises as `load`."""
    return Catalogue(MappingProxyType(_entries(parse_yaml(text, file), Path(file), engines)))


def _entries(data: object, path: Path, engines: Collection[str]) -> dict[str, Entry]:
    models = as_table({} if data is None else data, str(path), ("models",)).get("models")
    written = as_table({} if models is None else models, f"{path}: models")
    return {name: _entry(name, each, path, engines) for name, each in written.items()}


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An entry as it is written. Sizes are MiB or text (``6GiB``), times seconds or text (``10m``)."""

    id: str | None = None
    path: str | None = None
    revision: str = ""
    engine: str = ""
    context: int | None = None
    seats: int | None = None
    floor: int | str | None = None
    ceiling: int | str | None = None
    weights: int | str | None = None
    kv_bytes_per_token: int | None = None
    keep_alive: int | float | str | None = None
    pinned: bool = False
    max_servers: int | None = None
    image: str = ""
    arguments: dict[str, str | int | float | bool] = {}
    start_seconds: int | float | str | None = None
    description: str = ""


def _entry(name: str, written: object, file: Path, engines: Collection[str]) -> Entry:
    where = f"{file}: {name}"
    as_table({} if written is None else written, where, _Written.__struct_fields__)
    spec = as_type({} if written is None else written, _Written, where)
    _check(name, spec, where, engines)
    return Entry(
        name=name,
        id=(spec.id or name) if spec.path is None else "",
        path=None if spec.path is None else _path(spec.path, file, where),
        revision=spec.revision,
        engine=spec.engine,
        context=spec.context,
        seats=spec.seats,
        floor_mib=_mib(spec.floor, f"{where}, floor") or 0,
        ceiling_mib=_mib(spec.ceiling, f"{where}, ceiling"),
        weights_mib=_mib(spec.weights, f"{where}, weights"),
        kv_bytes_per_token=spec.kv_bytes_per_token,
        keep_alive=_seconds(spec.keep_alive, f"{where}, keep_alive"),
        pinned=spec.pinned,
        max_servers=spec.max_servers,
        image=spec.image,
        arguments=tuple(sorted((key, _text(value)) for key, value in spec.arguments.items())),
        start_seconds=_seconds(spec.start_seconds, f"{where}, start_seconds"),
        description=spec.description,
    )


def _check(name: str, spec: _Written, where: str, engines: Collection[str]) -> None:
    """What types alone do not say."""
    _check_name(name, where, "this name cannot be requested")
    if spec.id is not None and spec.path is not None:
        raise BadFile(f"{where}: give `id` (a model of the hub) or `path` (a file), not both")
    if spec.path is None:
        if spec.id is None and "/" not in name:
            raise BadFile(f"{where}: give `path` (a file) or `id` (a model of the hub, `org/name`)")
        _check_name(spec.id or name, where, "`id` is no model of the hub")
    if spec.revision and not is_revision(spec.revision):
        raise BadFile(f"{where}, revision: `{spec.revision}` is no branch, tag or commit")
    if engines and spec.engine and spec.engine not in engines:
        raise BadFile(f"{where}, engine: there is no engine `{spec.engine}`.{suggestion(spec.engine, engines)}")
    for key in ("context", "seats", "max_servers", "kv_bytes_per_token"):
        value = getattr(spec, key)
        if value is not None and value < 1:
            raise BadFile(f"{where}, {key}: must be at least 1, not {value}")
    floor, ceiling = _mib(spec.floor, f"{where}, floor"), _mib(spec.ceiling, f"{where}, ceiling")
    if floor is not None and ceiling is not None and ceiling < floor:
        raise BadFile(f"{where}: `ceiling` ({ceiling} MiB) is below `floor` ({floor} MiB)")


def _path(text: str, file: Path, where: str) -> Path:
    """``text`` as an absolute path; a relative one begins at the catalogue's folder."""
    try:
        path = file.parent.absolute() / Path(text).expanduser()
    except RuntimeError as error:
        raise BadFile(f"{where}, path: {error}") from None
    if not text.strip() or "\0" in text:
        raise BadFile(f"{where}, path: {text!r} is no path")
    return path


def _check_name(name: str, where: str, what: str) -> None:
    try:
        parsed = parse_name(name)
    except InvalidRequest as error:
        raise BadFile(f"{where}: {what}: {error}") from None
    if parsed.revision:
        raise BadFile(f"{where}: {what}: a revision goes into `revision`")


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _mib(value: int | str | None, where: str) -> int | None:
    """A size in MiB, or as text with its unit (``6GiB``, ``6000MB``), rounded up."""
    if value is None:
        return None
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if not match:
            raise BadFile(f"{where}: `{value}` is no size; write `6GiB`, or a number of MiB")
        unit: int = (1024 if match[3] else 1000) ** ("KMGT".index(match[2].upper()) + 1)
        mib = math.ceil(float(match[1]) * unit / (1 << 20))
    else:
        mib = value
    if not 0 < mib < 1 << 40:
        raise BadFile(f"{where}: a size of {mib} MiB makes no sense")
    return mib


def _seconds(value: int | float | str | None, where: str) -> float | None:
    """A time in seconds, or as text with its unit (``90s``, ``10m``, ``1h``)."""
    if value is None:
        return None
    if isinstance(value, str):
        match = _TIME.fullmatch(value.strip())
        if not match:
            raise BadFile(f"{where}: `{value}` is no time; write `90s`, `10m`, `1h`, or a number of seconds")
        value = float(match[1]) * _TIMES[match[2]]
    if not (math.isfinite(value) and value >= 0):
        raise BadFile(f"{where}: a time of {value} seconds makes no sense")
    return float(value)


def _text(value: str | int | float | bool) -> str:
    """An engine argument as the environment would have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_demo(entries: dict[str, Entry]) -> Catalogue:
    demo = Entry(name=DEMO, path=demo_path(), engine="llamacpp", description="the packaged demonstration model")
    return Catalogue(MappingProxyType(entries if DEMO in entries else {DEMO: demo} | entries))
