"""GGUF files of the hub on this machine's disk: fetched once, kept within a limit, never taken from under a server.

Theory of operation. Files lie under ``root`` as ``org--name/commit/file.gguf``, each with a record beside it
(``file.gguf.json``) whose time of change says when the file was last used. Whoever uses a file holds a lease: a shared
``flock`` on the file. Whoever wants to remove it must get the exclusive one, and does not wait for it. Locks work
between processes (the dispatcher, ``ssis pull``, ``ssis rm``), and the kernel gives them back however a process ends.
A file on its way (``….part``) is locked by the one who fetches it; others wait for it, and whoever comes after a crash
goes on where it stopped.

What other tools have put into the hub's own cache is used where it lies, and never removed.

Everything here blocks, and is called from threads: by `ssis_dispatcher.models.directory` and the command line.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from ssis_dispatcher.errors import Unavailable, Unprocessable
from ssis_dispatcher.models import hubcache
from ssis_dispatcher.models.download import Asked, Cancelled, DiskFull, Fetcher, Found, Progress
from ssis_dispatcher.models.hubwire import HubUnreachable, NotOnHub
from ssis_dispatcher.telemetry.logs import log

RESERVE = 64 << 20
"""Bytes of the file system that are left free, whatever the limit."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Cached(msgspec.Struct, frozen=True):
    """One file in the cache. ``used`` is seconds since the epoch; ``busy`` tells whether somebody holds a lease."""

    repo: str
    name: str
    commit: str
    revisions: tuple[str, ...]
    size: int
    used: float
    path: Path
    busy: bool


class Lease:
    """The right to use ``path``: as long as it is held, the file stays. Files that are not ours need none."""

    def __init__(self, path: Path, file: IO[bytes] | None = None) -> None:
        self.path = path
        self._file = file

    def release(self) -> None:
        """Give it back; more than once does no harm."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ModelCache:
    """The files under ``root``, at most ``limit`` bytes of them (None: as many as the disk takes).

    ``shared`` is the hub's own cache directory (``$HF_HOME/hub``), read only. A branch is asked for again on the hub
    when ``fresh`` seconds have passed since the last time.
    """

    def __init__(
        self,
        root: Path,
        fetcher: Fetcher,
        *,
        limit: int | None = None,
        shared: Path | None = None,
        fresh: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self.limit = limit
        self._fetcher = fetcher
        self._shared = shared
        self._fresh = fresh
        self._clock = clock
        self._room = threading.Lock()
        self._promised: dict[Path, int] = {}

    def fetch(self, asked: Asked, progress: Progress | None = None, cancelled: threading.Event | None = None) -> Lease:
        """The file, from here or from the hub, with a lease on it.

        Raises `HubError` when the hub says no or cannot be asked, `Unavailable` (``cache_full``, ``cache_unusable``)
        when there is no room, and `Cancelled` soon after ``cancelled`` is set.
        """
        _check_name(asked)
        cancelled = cancelled or threading.Event()
        while True:
            if cancelled.is_set():
                raise Cancelled
            path = self._locate(asked, progress, cancelled)
            lease = Lease(path) if self._is_foreign(path) else _lease(path)
            if lease is not None:  # else it was removed in between
                self._touch(path)
                return lease

    def find(self, asked: Asked) -> Path | None:
        """Where the file lies, without asking the hub; None when it is not here."""
        record = self._newest(asked)
        return self._path(record) if record else self._foreign(asked.repo, asked.name, asked.revision)

    def list(self) -> Files:
        """Every file here, the most recently used first."""
        found = [self._cached(record) for record in self._records()]
        return sorted(found, key=lambda file: -file.used)

    def remove(self, repo: str, names: Collection[str] | None = None) -> int:
        """Remove the files ``names`` of ``repo`` (None: all of them); returns the bytes freed. Raises `Unprocessable` when
        one is in use; the others are gone then."""
        freed, busy = 0, []
        for file in self.list():
            if file.repo == repo and (names is None or file.name in names):
                if _remove(file.path):
                    freed += file.size
                else:
                    busy.append(file.name)
        if busy:
            raise Unprocessable(f"{', '.join(busy)} of {repo} is in use by a server. Stop it first: ssis stop {repo}")
        return freed

    def _locate(self, asked: Asked, progress: Progress | None, cancelled: threading.Event) -> Path:
        """Where the file lies, after fetching it if need be."""
        record = self._newest(asked)
        if record is not None and (_COMMIT.fullmatch(asked.revision) or self._clock() - record.checked < self._fresh):
            return self._path(record)
        try:
            found = self._fetcher.look(asked)
        except HubUnreachable as error:
            path = self.find(asked)
            if path is None:
                raise type(error)(f"{error} {self._what_is_here()}") from None
            return path
        same = next((known for known in self._records(asked.repo) if _is(known, asked, found)), None)
        if same is None:
            foreign = self._foreign(asked.repo, asked.name, found.commit)
            if foreign is not None:
                return foreign
            with self._explained():
                self._download(asked, found, progress, cancelled)
            same = Record(asked.repo, asked.name, found.commit, (), found.etag, 0.0)
        revisions = tuple(sorted({*same.revisions, asked.revision}))
        return self._note(msgspec.structs.replace(same, revisions=revisions, checked=self._clock()))

    def _download(self, asked: Asked, found: Found, progress: Progress | None, cancelled: threading.Event) -> None:
        target = self._path(Record(asked.repo, asked.name, found.commit, (), found.etag, 0.0))
        part = target.with_name(f"{target.name}.{hashlib.sha256(found.etag.encode()).hexdigest()[:12]}.part")
        with _claimed(part, target, cancelled) as file:
            if file is None:
                return
            self._make_room(part, found.size or 0)
            log("download began", model=asked.repo, file=asked.name, bytes=found.size)
            began = time.monotonic()
            try:
                self._fetcher.fetch(asked, found, file, progress, cancelled)
            except DiskFull:
                part.unlink(missing_ok=True)
                raise self._full(f"the disk became full while {asked.name} was fetched") from None
            finally:
                with self._room:
                    self._promised.pop(part, None)
            part.replace(target)
            log("download complete", model=asked.repo, file=asked.name, seconds=time.monotonic() - began)

    def _make_room(self, part: Path, size: int) -> None:
        """Remove what was used longest ago until ``size`` bytes for ``part`` fit, and promise them to it."""
        with self._room:
            there = _size(part)
            sizes = {path: max(_size(path), self._promised.get(path, 0)) for path in self._files() if path != part}
            over = size - there + RESERVE - shutil.disk_usage(part.parent).free
            if self.limit is not None:
                over = max(over, sum(sizes.values()) + size - self.limit)
            for path in sorted(sizes, key=_used):
                if over <= 0:
                    break
                if _remove(path):
                    log("model file removed to make room", file=path.name, bytes=sizes[path])
                    over -= sizes[path]
            if over > 0:
                part.unlink(missing_ok=True)
                name = part.name.rsplit(".", 2)[0]
                raise self._full(
                    f"{_shown(over)} are missing for {name} ({_shown(size)}), and what is left in it is in use"
                )
            self._promised[part] = size

    def _full(self, what: str) -> Unavailable:
        limit = "" if self.limit is None else f" Its limit is {_shown(self.limit)}."
        return Unavailable(
            f"The model cache has no room: {what}.{limit} The operator can make room on the disk, raise the limit, or stop "
            "servers.",
            code="cache_full",
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"The model cache cannot be written: {error.strerror}. The operator must set a directory that can.",
                code="cache_unusable",
            ) from error

    def _what_is_here(self) -> str:
        here = sorted({record.repo for record in self._records()})
        return f"In the cache are: {', '.join(here)}." if here else "The cache is empty."

    def _newest(self, asked: Asked) -> Record | None:
        """The record for this file and revision that was last checked."""
        known = [
            record
            for record in self._records(asked.repo)
            if record.name == asked.name and asked.revision in (*record.revisions, record.commit)
        ]
        return max(known, key=lambda record: record.checked, default=None)

    def _records(self, repo: str = "*") -> Iterator[Record]:
        """Every record whose file is there."""
        for path in self.root.glob(f"{_folder(repo)}/*/**/*.json"):
            try:
                record = _decode(path.read_bytes())
            except (OSError, msgspec.DecodeError):
                continue
            if self._path(record).is_file():
                yield record

    def _note(self, record: Record) -> Path:
        """Write ``record`` down, in one step; returns where its file lies."""
        path = self._path(record)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        with self._explained():
            draft.write_bytes(msgspec.json.encode(record))
            draft.replace(_record_path(path))
        return path

    def _touch(self, path: Path) -> None:
        try:
            os.utime(_record_path(path))
        except OSError:  # not ours, or a disk that takes nothing: then it counts as used when it came
            pass

    def _cached(self, record: Record) -> Cached:
        path = self._path(record)
        return Cached(
            record.repo, record.name, record.commit, record.revisions, _size(path), _used(path), path, _is_busy(path)
        )

    def _files(self) -> Iterator[Path]:
        """Every model file, whole or on its way."""
        for path in self.root.glob("*/*/**/*"):
            if path.suffix != ".json" and not path.name.startswith(".") and path.is_file():
                yield path

    def _path(self, record: Record) -> Path:
        folder = record.commit
        if not _COMMIT.fullmatch(folder):
            folder = hashlib.sha256(folder.encode()).hexdigest()[:40]
        return self.root / _folder(record.repo) / folder / record.name

    def _foreign(self, repo: str, name: str, revision: str) -> Path | None:
        if self._shared is None:
            return None
        snapshot = hubcache.snapshot(self._shared, repo, revision)
        path = snapshot / name if snapshot else None
        return path if path and path.is_file() else None

    def _is_foreign(self, path: Path) -> bool:
        return not path.is_relative_to(self.root)


Files = list[Cached]


class Record(msgspec.Struct, frozen=True):
    """What is written beside a file: where it came from, under which revisions it was asked for, and when the hub last
    said that those are still this file (seconds since the epoch)."""

    repo: str
    name: str
    commit: str
    revisions: tuple[str, ...]
    etag: str
    checked: float


_decode = msgspec.json.Decoder(Record).decode


def _check_name(asked: Asked) -> None:
    """A file name comes from the hub's listing, and must not lead out of the cache."""
    path = PurePosixPath(asked.name)
    if path.is_absolute() or not asked.name.endswith(".gguf") or not asked.name.isprintable() or ".." in path.parts:
        raise NotOnHub(f"{asked.repo} has no GGUF file {asked.name!a}.")


def _is(known: Record, asked: Asked, found: Found) -> bool:
    return known.name == asked.name and known.commit == found.commit and known.etag == found.etag


def _folder(repo: str) -> str:
    return repo.replace("/", "--")


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _lease(path: Path) -> Lease | None:
    """A lease on ``path``; None when it is not there any more."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if _is_at(file, path):
        return Lease(path, file)
    file.close()
    return None


@contextmanager
def _claimed(part: Path, target: Path, cancelled: threading.Event) -> Iterator[IO[bytes] | None]:
    """``part``, open and locked; None when somebody else has completed ``target``. Waits for one who is at it."""
    part.parent.mkdir(parents=True, exist_ok=True)
    while not target.exists():
        file = part.open("a+b")
        try:
            if _lock(file) and _is_at(file, part):
                yield file
                return
        finally:
            _close(file)
        if cancelled.wait(0.1):
            raise Cancelled
    yield None


def _remove(path: Path) -> bool:
    """Remove a file and its record, unless somebody uses it."""
    try:
        with path.open("rb") as file:
            if not _lock(file):
                return False
            path.unlink()
    except FileNotFoundError:
        pass
    _record_path(path).unlink(missing_ok=True)
    try:
        path.parent.rmdir()
        path.parent.parent.rmdir()
    except OSError:  # there are other files
        pass
    return True


def _is_busy(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not _lock(file)
    except OSError:
        return False


def _lock(file: IO[bytes]) -> bool:
    """Take the exclusive lock if nobody has any."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the open ``file`` is still what ``path`` names: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _close(file: IO[bytes]) -> None:
    try:
        file.close()
    except OSError:  # the rest of a write for which there is no room
        pass


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _used(path: Path) -> float:
    """When a file was last used, or when its last part came."""
    for mark in (_record_path(path), path):
        try:
            return mark.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
