"""The file: it survives restarts, damage, full disks, and never ends the process."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.store.base import Place
from ssis_dispatcher.store.sqlite import SqliteStore

KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
store.remember(Remember("r", Model.of("m"), "s", "mig", 1, "ready", 1.0), 1.0)
reader = sqlite3.connect(sys.argv[1])
while not reader.execute("SELECT * FROM learned").fetchall():
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ssis.db"


def fact(number: int = 0, model: str = "org/m") -> Remember:
    return Remember("r", Model.of(model, engine="tgi"), f"slice-{number}", "mig", 4864, "ready", 1.0)


def slices(path: Path) -> list[str]:
    """What is in the file, read by somebody else."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT slice FROM learned ORDER BY slice").fetchall()
    connection.close()
    return [slice for (slice,) in rows]


def kept_again(path: Path, wanted: Callable[[dict[Place, object]], bool] = bool) -> bool:
    store = SqliteStore(path)
    try:
        return wanted(dict(store.load()))
    finally:
        store.close()


def test_a_closed_store_has_written_everything(path: Path) -> None:
    store = SqliteStore(path)
    for number in range(50):
        store.remember(fact(number), 1.0)
    store.close()
    assert len(slices(path)) == 50


def test_the_file_is_synced_with_a_write_ahead_log(path: Path) -> None:
    store = SqliteStore(path)
    assert store._database is not None
    connection = store._database.connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_after_a_kill_what_was_committed_is_there(path: Path) -> None:
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED,
            str(path),
        ],
        check=False,
        timeout=30,
    )
    assert child.returncode == -signal.SIGKILL
    assert kept_again(path)


def test_a_file_that_is_no_database_is_put_aside_and_a_new_one_begun(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = b"this is no database, but long enough to be taken for one" * 100
    path.write_bytes(content)
    store = SqliteStore(path)
    assert store.load() == {}
    store.remember(fact(), 1.0)
    store.close()
    assert kept_again(path)
    [aside] = path.parent.glob("ssis.db.damaged-*")
    assert aside.read_bytes() == content
    assert "database damaged" in caplog.text


def test_a_file_with_a_damaged_page_is_put_aside(path: Path) -> None:
    store = SqliteStore(path)
    for number in range(500):
        store.remember(fact(number), 1.0)
    store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))
    store = SqliteStore(path)
    assert store.load() == {}
    store.close()
    assert list(path.parent.glob("ssis.db.damaged-*"))


def test_damage_while_running_loses_nothing_that_is_known(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(path)
    for number in range(500):
        store.remember(fact(number), 1.0)
    store.close()
    store = SqliteStore(path)
    assert store._database is not None
    store._database.connection.execute("PRAGMA shrink_memory")  # so that the pages are read again
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    store.remember(fact(1000), 1.0)
    store.close()
    assert "database damaged" in caplog.text
    assert len(slices(path)) == 501


def test_a_full_disk_is_logged_once_and_made_good_when_there_is_room(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = SqliteStore(path, max_pages=6)
    for number in range(600):
        store.remember(fact(number), 1.0)
    drained(store)
    assert caplog.text.count("cannot be written") == 1
    assert len(store.load()) == 600
    assert store._database is not None
    store._database.connection.execute("PRAGMA max_page_count = 10000")
    store.remember(fact(5000), 1.0)
    store.close()
    assert len(slices(path)) == 601
    assert "written again" in caplog.text


def drained(store: SqliteStore) -> None:
    """Wait until the writer has tried every change so far, and failed."""
    pause = threading.Event()
    while store._asked or not store._failing:
        pause.wait(0.001)


def test_what_was_forgotten_while_the_disk_was_full_stays_forgotten(path: Path) -> None:
    store = SqliteStore(path, max_pages=6)
    for number in range(600):
        store.remember(fact(number), 1.0)
    drained(store)
    store.forget("org/m")
    store.remember(fact(1, "org/other"), 1.0)
    store.close()
    assert slices(path) == ["slice-1"]


def test_a_folder_that_cannot_be_used_leaves_the_program_running_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = SqliteStore(tmp_path / "file" / "ssis.db")
    store.remember(fact(), 1.0)
    store.forget("org/none")
    assert len(store.load()) == 1
    store.close()
    assert "database cannot be used" in caplog.text


def test_a_file_from_a_later_release_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    store = SqliteStore(path)
    store.remember(fact(), 1.0)
    store.close()
    assert path.read_bytes() == before
    assert "schema version 99" in vars(caplog.records[0])["fields"]["reason"]


def test_remembering_does_not_wait_for_the_disk(path: Path) -> None:
    store = SqliteStore(path)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    store.remember(fact(), 1.0)
    assert len(store.load()) == 1
    assert blocker.execute("SELECT count(*) FROM learned").fetchone() == (0,)
    blocker.execute("ROLLBACK")
    blocker.close()
    store.close()
    assert kept_again(path)


def test_no_thread_is_left_behind(path: Path) -> None:
    before = threading.active_count()
    store = SqliteStore(path)
    store.remember(fact(), 1.0)
    store.close()
    assert threading.active_count() == before
