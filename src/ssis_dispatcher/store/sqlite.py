"""Learned facts in a SQLite file.

Theory of operation. `remember` and `forget` put a change on a list and wake the one writer thread, which applies the
whole list in one transaction: the caller never waits for a disk. A change leaves the list only after its commit, so a
disk that is full (or gone, or locked) costs nothing but time: the list is tried again with the next change and once
more at the end, and it cannot grow beyond the facts there are, because a later change of the same fact replaces the
earlier one. If the file turns out to be damaged, a new one is written from what is in memory.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import msgspec

from ssis_dispatcher.core.messages import Remember
from ssis_dispatcher.store.base import Lesson, Place, learned
from ssis_dispatcher.store.database import Database, SchemaTooNew, is_damage
from ssis_dispatcher.telemetry.logs import ERROR, log

MIGRATIONS = (
    """
    CREATE TABLE learned (
        model TEXT NOT NULL, revision TEXT NOT NULL, engine TEXT NOT NULL, arguments TEXT NOT NULL,
        context INTEGER NOT NULL, slice TEXT NOT NULL, kind TEXT NOT NULL,
        outcome TEXT NOT NULL, memory_mib INTEGER NOT NULL, seconds REAL NOT NULL, noted REAL NOT NULL,
        PRIMARY KEY (model, revision, engine, arguments, context, slice, kind)
    ) WITHOUT ROWID, STRICT
    """,
)

_ALL = """
    SELECT model, revision, engine, arguments, context, slice, kind, outcome, memory_mib, seconds, noted FROM learned
"""

_arguments = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


class SqliteStore:
    """`LearnedStore` in the file at ``path``; ``max_pages`` (of 4 KiB) bounds the file.

    When the file cannot be opened at all, that is logged and facts are kept in memory only.
    """

    def __init__(self, path: Path, max_pages: int | None = None) -> None:
        self._wake = threading.Condition()
        self._asked = self._closing = self._failing = False
        self._changed: dict[Place, Lesson] = {}
        self._forgotten: set[str] = set()
        self._database = _open(path, max_pages)
        self._lessons = _read(self._database) if self._database else {}
        self._writer = threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True)
        if self._database:
            self._writer.start()

    def load(self) -> dict[Place, Lesson]:
        with self._wake:
            return dict(self._lessons)

    def remember(self, fact: Remember, when: float) -> None:
        place, lesson = learned(fact, when)
        with self._wake:
            self._lessons[place] = self._changed[place] = lesson
            self._ask()

    def forget(self, model: str) -> None:
        with self._wake:
            self._lessons = _without(self._lessons, {model})
            self._changed = _without(self._changed, {model})
            self._forgotten.add(model)
            self._ask()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._ask()
        if self._database:
            self._writer.join()
            self._database.close()

    def _ask(self) -> None:
        self._asked = True
        self._wake.notify()

    def _write_until_closed(self) -> None:
        """The writer thread."""
        closing = False
        while not closing:
            with self._wake:
                self._wake.wait_for(lambda: self._asked)
                self._asked, closing = False, self._closing
                forgotten, self._forgotten = self._forgotten, set()
                changed, self._changed = self._changed, {}
            if (forgotten or changed) and not self._write(forgotten, changed):
                with self._wake:
                    self._changed = _without(changed, self._forgotten) | self._changed
                    self._forgotten |= forgotten

    def _write(self, forgotten: set[str], changed: dict[Place, Lesson]) -> bool:
        """Apply one list of changes, what is forgotten first; False when it has to be tried again."""
        assert self._database
        try:
            try:
                _apply(self._database.connection, forgotten, changed)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._database.start_anew(str(error))
                _apply(self._database.connection, set(), self.load())
        except (sqlite3.Error, OSError) as error:
            if not self._failing:
                log("learned facts cannot be written: kept in memory and tried again", ERROR, reason=str(error))
            self._failing = True
            return False
        if self._failing:
            log("learned facts are written again")
        self._failing = False
        return True


def _open(path: Path, max_pages: int | None) -> Database | None:
    try:
        return Database(path, MIGRATIONS, max_pages)
    except (sqlite3.Error, OSError, SchemaTooNew) as error:
        log("database cannot be used: what is learned is lost at the end", ERROR, path=path, reason=str(error))
        return None


def _apply(connection: sqlite3.Connection, forgotten: set[str], changed: dict[Place, Lesson]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("DELETE FROM learned WHERE model = ?", [(model,) for model in forgotten])
        connection.executemany(
            "INSERT OR REPLACE INTO learned VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(place, lesson) for place, lesson in changed.items()],
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _row(place: Place, lesson: Lesson) -> tuple[object, ...]:
    arguments = msgspec.json.encode(place.arguments).decode()
    return (
        *(place.model, place.revision, place.engine, arguments, place.context or 0, place.slice, place.kind),
        *(lesson.outcome, lesson.memory_mib, lesson.seconds, lesson.when),
    )


def _read(database: Database) -> dict[Place, Lesson]:
    """Every row; none when they cannot be read, in which case the file is put aside."""
    try:
        return {
            Place(model, revision, engine, _arguments(arguments), context or None, slice, kind): Lesson(*lesson)
            for model, revision, engine, arguments, context, slice, kind, *lesson in database.connection.execute(_ALL)
        }
    except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
        database.start_anew(str(error))
        return {}


def _without(lessons: dict[Place, Lesson], models: set[str]) -> dict[Place, Lesson]:
    return {place: lesson for place, lesson in lessons.items() if place.model not in models}
