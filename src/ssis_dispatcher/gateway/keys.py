"""Who is calling: API keys, where they are kept, and how they are checked.

`Keyring` is asked once for each request; `Keyless` takes its place where no keys are needed (a listener bound to
loopback). `KeyFile` is what the command line edits. A file holds one JSON record a line; a directory (a mounted
Kubernetes Secret) holds such files.

Only hashes are stored. A plain SHA-256 is right here, where a slow password hash would be wrong: a secret is 256
random bits made by us, so there is no dictionary to try it against, and the hash is computed for every request.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from typing import Protocol

import msgspec

from ssis_dispatcher.errors import DispatchError, InvalidRequest, NotFound, Unauthenticated
from ssis_dispatcher.gateway.limits import Key, KeyRecord, Role
from ssis_dispatcher.telemetry.logs import WARNING, log

PREFIX = "ssis-"
_RANDOM_BYTES = 32
_LONGEST = 256
"""Bytes of a presented key that are looked at; ours have 48."""

_RELOAD_SECONDS = 1.0

_NEEDED = (
    "An API key is needed: send it as 'Authorization: Bearer ssis-…' or as 'X-Api-Key'. "
    "An operator makes one with 'ssis keys create'."
)
_UNKNOWN = (
    "This API key is not known here. Check that it is complete and made for this dispatcher, "
    "or ask an operator for a new one."
)

Records = list[KeyRecord]

_sha256 = hashlib.sha256
_decode = msgspec.json.Decoder(KeyRecord).decode
_encode = msgspec.json.encode


class KeysUnreadable(DispatchError):
    """The keys cannot be read."""

    code = "keys_unreadable"


class Callers(Protocol):
    """What the gateway asks about each request."""

    def check(self, authorization: bytes | None, x_api_key: bytes | None = None, peer: str = "") -> Key:
        """Who is calling, by the two headers and the peer's address. Raises `Unauthenticated`."""

    def refresh(self, now: float) -> bool:
        """Look for changes, at most once a second; True when something changed. Cheap enough for a request path."""


class Keyless:
    """Everybody may do everything, and is told apart by address."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}

    def check(self, authorization: bytes | None, x_api_key: bytes | None = None, peer: str = "") -> Key:
        key = self._keys.get(peer)
        if key is None:
            if len(self._keys) >= 4096:
                self._keys.clear()  # nothing is lost: without limits there is nothing to remember
            key = self._keys[peer] = Key(KeyRecord(name=peer or "local", hash="sha256:" + "0" * 64, role="admin"))
        return key

    def refresh(self, now: float) -> bool:
        return False


class Keyring:
    """The keys of ``sources`` (files, or directories of such files), in memory.

    A source that is gone holds no keys. A source that cannot be read raises `KeysUnreadable` at first; later it is
    logged, and the keys stay as they were, so that a slip in an editor locks nobody out.
    """

    def __init__(self, sources: Sequence[Path], clock: Callable[[], float] = time.time) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._by_digest: dict[bytes, Key] = {}
        self._looked = -_RELOAD_SECONDS
        self._seen = _fingerprint(self._sources)
        self._take(read_keys(self._sources))

    def __len__(self) -> int:
        return len(self._by_digest)

    def check(self, authorization: bytes | None, x_api_key: bytes | None = None, peer: str = "") -> Key:
        if authorization is not None and authorization[:7].lower() == b"bearer ":
            secret = authorization[7:].strip()
        elif x_api_key is not None:
            secret = x_api_key.strip()
        else:
            raise Unauthenticated(_NEEDED, code="missing_api_key")
        digest = _sha256(secret[:_LONGEST]).digest()
        key = self._by_digest.get(digest)
        # The look-up is by hash, which nobody can steer; comparing in constant time costs 50 ns and ends the
        # discussion.
        if key is None or not compare_digest(key.digest, digest):
            raise Unauthenticated(_UNKNOWN)
        if key.expires is not None and key.expires <= self._clock():
            raise Unauthenticated(
                f"The API key {key.name!r} has expired. Ask an operator for a new one.", code="expired_api_key"
            )
        return key

    def refresh(self, now: float) -> bool:
        if now - self._looked < _RELOAD_SECONDS:
            return False
        self._looked = now
        seen = _fingerprint(self._sources)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self._take(read_keys(self._sources))
        except KeysUnreadable as error:
            log("keys not reloaded: those from before stay in force", WARNING, reason=str(error))
            return False
        log("keys reloaded", keys=len(self))
        return True

    def _take(self, records: Iterable[KeyRecord]) -> None:
        fresh: dict[bytes, Key] = {}
        for record in records:
            key = self._by_digest.get(record.digest)
            if key is None:
                key = Key(record)
            else:
                key.update(record)
            fresh[record.digest] = key
        for digest, key in self._by_digest.items():
            if digest not in fresh:
                key.revoke()
        self._by_digest = fresh


class KeyFile:
    """One file of keys, for the command line: every change is one atomic rewrite, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(
        self,
        name: str,
        *,
        role: Role = "use",
        models: Sequence[str] = ("*",),
        in_flight: int | None = None,
        per_minute: int | None = None,
        slices: int | None = None,
        launches_per_minute: int | None = None,
        kinds: Sequence[str] = (),
        expires: datetime | None = None,
    ) -> str:
        """Add a key and return its secret, which is kept nowhere else. ``expires`` needs a time zone. Raises
        `InvalidRequest` when the name is taken or a value is not allowed."""
        secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        fields = {
            "name": name,
            "hash": "sha256:" + _sha256(secret.encode()).hexdigest(),
            "role": role,
            "models": list(models),
            "in_flight": in_flight,
            "per_minute": per_minute,
            "slices": slices,
            "launches_per_minute": launches_per_minute,
            "kinds": list(kinds),
            "expires": expires,
            "created": datetime.now(UTC).replace(microsecond=0),
        }
        try:
            record = msgspec.convert(fields, KeyRecord)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"This key cannot be made: {error}.") from None
        with self._locked() as records:
            if any(known.name == name for known in records):
                raise InvalidRequest(
                    f"There is a key named {name!r} already. Choose another name, or revoke that one first."
                )
            records.append(record)
        return secret

    def list(self) -> Records:
        """Every record, oldest first; none when there is no file."""
        return read_keys([self.path])

    def revoke(self, name: str) -> None:
        """Remove a key. Raises `NotFound` when there is none of this name."""
        with self._locked() as records:
            kept = [record for record in records if record.name != name]
            if len(kept) == len(records):
                raise NotFound(f"There is no key named {name!r} in {self.path}.")
            records[:] = kept

    @contextmanager
    def _locked(self) -> Iterator[Records]:
        """The records, to be changed in place; written back when the block ends well. One editor at a time: the lock
        is on the directory, because the file itself is replaced."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            records = self.list()
            yield records
            _replace(self.path, b"".join(_encode(record) + b"\n" for record in records))
            os.fsync(directory)
        finally:
            os.close(directory)


def read_keys(sources: Iterable[Path]) -> Records:
    """The records of all ``sources``. Raises `KeysUnreadable` with file and line."""
    records: dict[str, KeyRecord] = {}
    for path in (file for source in sources for file in _files(source)):
        for record in _read(path):
            if record.name in records:
                raise KeysUnreadable(
                    f"{path}: the key name {record.name!r} occurs twice. Rename or remove one of them."
                )
            records[record.name] = record
    return list(records.values())


def _read(path: Path) -> Iterator[KeyRecord]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise KeysUnreadable(f"{path} cannot be read: {error.strerror}.") from error
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith(b"#"):
            try:
                yield _decode(line)
            except msgspec.DecodeError as error:
                raise KeysUnreadable(f"{path}, line {number}: {error}. One JSON record a line is expected.") from None


def _files(source: Path) -> list[Path]:
    """The files of one source. Names that begin with a dot are how Kubernetes swaps a mounted Secret."""
    if not source.is_dir():
        return [source]
    try:
        return sorted(path for path in source.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError as error:
        raise KeysUnreadable(f"{source} cannot be read: {error.strerror}.") from error


def _fingerprint(sources: Iterable[Path]) -> tuple[object, ...]:
    """Changes whenever the content of ``sources`` may have changed."""
    marks: list[object] = []
    for source in sources:
        try:
            for path in _files(source):
                stat = path.stat()
                marks.append((path.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        except (OSError, KeysUnreadable) as error:
            marks.append(type(error).__name__)
    return tuple(marks)


def _replace(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step: a reader sees the old file or the new one. Mode 0600; a file that is there
    keeps its owner, and may be its group's to read, so that root may make keys for a service of another user."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(OSError):  # no file yet, or not ours to give away
                before = path.stat()
                os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, before.st_mode & 0o640)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
