"""Folders and the hub: what can be written, what can be reached."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.doctor import places
from ssis_dispatcher.settings import Settings

NewSettings = Callable[..., Settings]


def test_a_folder_that_does_not_exist_yet_will_be_made(
    settings: NewSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "LITTLE_ROOM", 1)
    check = places.cache_dir(settings(cache_dir=tmp_path / "a" / "b"))

    assert check.ok is True
    assert check.detail.endswith("made when it is needed")
    assert not (tmp_path / "a").exists()


def test_a_folder_where_nothing_can_be_written_is_named(settings: NewSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = places.state_dir(settings(state_dir=tmp_path / "file" / "state"))

    assert check.ok is False
    assert "nothing can be written" in check.detail
    assert "SSIS_STATE_DIR" in check.fix


def test_little_room_is_worth_a_word(settings: NewSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LITTLE_ROOM", 2**80)
    check = places.cache_dir(settings())

    assert check.ok is None
    assert "ssis rm" in check.fix


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_hub_that_says_anything_is_reached(settings: NewSettings, listener: socket.socket) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    check = places.hub(settings(hub_offline=False, hub_endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}"))
    thread.join()

    assert check.ok is True


def test_a_hub_that_is_not_there_is_no_failure(settings: NewSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    check = places.hub(settings(hub_offline=False, hub_endpoint=f"http://127.0.0.1:{port}"))

    assert check.ok is None
    assert "ConnectError" in check.detail
    assert "SSIS_HUB_OFFLINE=1" in check.fix


def test_a_hub_that_keeps_silent_does_not_hold_the_doctor_up(
    settings: NewSettings, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "HUB_SECONDS", 0.1)
    begun = time.monotonic()
    check = places.hub(settings(hub_offline=False, hub_endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}"))

    assert check.ok is None
    assert time.monotonic() - begun < 10


def test_offline_by_choice_nothing_is_asked(settings: NewSettings) -> None:
    check = places.hub(settings(hub_endpoint="http://192.0.2.1"))

    assert (check.ok, check.fix) == (None, "")
    assert "hub_offline is set" in check.detail
