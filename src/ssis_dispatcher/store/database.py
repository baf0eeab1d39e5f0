"""One SQLite file, opened with care: write-ahead log, synced commits, a schema with a version, damage put aside.

Stores share it: each brings its migrations and its statements, and runs them from one thread. Nothing here knows what
the tables mean.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from ssis_dispatcher.telemetry.logs import ERROR, log

Migrations = Sequence[str]
"""Scripts, the n-th of which takes the schema from version n to n + 1. They are only ever added to."""


class SchemaTooNew(Exception):
    """The file was written by a later release of this program."""


class Database:
    """The file at ``path``, created if need be; ``max_pages`` (of 4 KiB) bounds its size. Used from one thread at a
    time.

    A damaged file is renamed to ``….damaged-<time>`` and a new one is started: what is kept here makes the program
    better, and must never keep it from starting. Raises `SchemaTooNew` and `sqlite3.Error` (no such directory, disk
    full).
    """

    def __init__(self, path: Path, migrations: Migrations, max_pages: int | None = None) -> None:
        self.path = path
        self._migrations = migrations
        self._max_pages = max_pages
        try:
            self.connection = self._open()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.start_anew(str(error))

    def start_anew(self, reason: str) -> None:
        """Put the damaged file aside and begin an empty one."""
        self.close()
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{self.path}{suffix}")
            if part.exists():
                part.replace(aside + suffix)
        log(
            "database damaged: put aside, starting with an empty one", ERROR, path=self.path, aside=aside, reason=reason
        )
        self.connection = self._open()

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Autocommit: transactions begin and end where the code says so. The thread that opens is not the one that
        # writes.
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """FULL, because with NORMAL a commit in WAL mode is not yet on disk when it returns
        (sqlite.org/pragma.html)."""
        if self._max_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {self._max_pages:d}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"malformed: {found}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(self._migrations):
            raise SchemaTooNew(
                f"{self.path} has schema version {version}, this release knows {len(self._migrations)}: it was written by a "
                "later one. Use that, or another file."
            )
        for number in range(version, len(self._migrations)):
            connection.executescript(
                f"BEGIN IMMEDIATE; {self._migrations[number]}; PRAGMA user_version = {number + 1:d}; COMMIT"
            )


def is_damage(error: sqlite3.Error) -> bool:
    """Whether ``error`` means that the file's content is broken, as opposed to a full disk, a lock or a missing
    folder."""
    code = getattr(error, "sqlite_errorcode", None)
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "malformed" in str(error)
