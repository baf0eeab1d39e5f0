"""Fetching one file: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ssis_dispatcher.models.download import Asked, Cancelled, DiskFull, Fetcher
from ssis_dispatcher.models.hubwire import Gated, HubOffline, HubUnreachable, NotOnHub

BODY = bytes(range(256)) * 12_000  # 3 MB: three chunks
ASKED = Asked("org/m", "m.gguf")


@pytest.fixture
def fetcher(hub: Any) -> Fetcher:
    hub.files["org/m/m.gguf"] = BODY
    return Fetcher(hub.endpoint, tries=3, pause=0.001, read_timeout=5.0)


def fetch(fetcher: Fetcher, path: Path, asked: Asked = ASKED, **options: Any) -> bytes:
    """Fetch into ``path``, which may hold the beginning already; returns what is there afterwards."""
    with path.open("a+b") as part:
        fetcher.fetch(
            asked, fetcher.look(asked), part, options.get("progress"), options.get("cancelled", threading.Event())
        )
    return path.read_bytes()


def test_the_hub_tells_commit_size_and_hash(hub: Any, fetcher: Fetcher) -> None:
    found = fetcher.look(ASKED)
    assert (found.commit, found.size) == (hub.commit, len(BODY))
    assert found.sha256 == found.etag


def test_a_file_arrives_whole(fetcher: Fetcher, tmp_path: Path) -> None:
    assert fetch(fetcher, tmp_path / "part") == BODY


def test_progress_begins_and_ends_and_only_grows(fetcher: Fetcher, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetch(fetcher, tmp_path / "part", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.cuts = [1_500_000, 1_000_000, 10]
    assert fetch(fetcher, tmp_path / "part") == BODY
    ranges = hub.gets()
    assert ranges[0] == ""
    assert len(ranges) == 4
    assert all(range.startswith("bytes=") for range in ranges[1:])


def test_what_is_there_from_last_time_is_not_fetched_again(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(BODY[:2_000_000])
    assert fetch(fetcher, tmp_path / "part") == BODY
    assert hub.gets() == ["bytes=2000000-"]


def test_a_file_that_is_there_already_is_checked_and_not_fetched(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(BODY)
    assert fetch(fetcher, tmp_path / "part") == BODY
    assert hub.gets() == []


@pytest.mark.parametrize("there", [b"x" * 1000, BODY + b"more"])
def test_what_does_not_belong_there_is_never_passed_on(fetcher: Fetcher, tmp_path: Path, there: bytes) -> None:
    (tmp_path / "part").write_bytes(there)
    try:
        fetch(fetcher, tmp_path / "part")
    except HubUnreachable as error:
        assert "wrong content" in str(error)  # noqa: PT017 - either end is right, a wrong file is not
        assert (tmp_path / "part").read_bytes() == b""
    assert fetch(fetcher, tmp_path / "part") == BODY


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.ranges = False
    hub.cuts = [1_500_000]
    assert fetch(fetcher, tmp_path / "part") == BODY


@pytest.mark.parametrize("status", [429, 500, 503, 403])
def test_a_passing_refusal_is_tried_again(hub: Any, fetcher: Fetcher, tmp_path: Path, status: int) -> None:
    hub.statuses = [status, status]
    assert fetch(fetcher, tmp_path / "part") == BODY


def test_too_many_tries_without_a_byte_are_given_up_with_the_reason(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.statuses = [503] * 10
    with pytest.raises(HubUnreachable, match="answers 503"):
        fetch(fetcher, tmp_path / "part")
    assert len(hub.gets()) == 3


def test_wrong_bytes_are_thrown_away(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.wrong = True
    with pytest.raises(HubUnreachable, match="wrong content"):
        fetch(fetcher, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b""


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.readers, hub.elsewhere = {"secret"}, True
    assert fetch(fetcher, tmp_path / "part", Asked("org/m", "m.gguf", token="secret")) == BODY
    assert [(method, token) for method, _, token in hub.asked] == [("HEAD", "secret"), ("GET", "")]


def test_the_token_is_sent_when_the_hub_itself_gives_the_file(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.readers = {"secret"}
    assert fetch(fetcher, tmp_path / "part", Asked("org/m", "m.gguf", token="secret")) == BODY


def test_no_token_is_taken_from_the_environment(hub: Any, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine")
    fetcher.look(ASKED)
    assert hub.asked == [("HEAD", "", "")]


def test_a_gated_model_says_what_to_do(hub: Any, fetcher: Fetcher) -> None:
    hub.readers = {"secret"}
    with pytest.raises(Gated, match="gated"):
        fetcher.look(ASKED)


@pytest.mark.parametrize(
    ("asked", "missing"),
    [(Asked("org/m", "other.gguf"), "no file other.gguf"), (Asked("org/none", "m.gguf"), "no model org/none")],
)
def test_what_the_hub_does_not_have_is_named(fetcher: Fetcher, asked: Asked, missing: str) -> None:
    with pytest.raises(NotOnHub, match=missing):
        fetcher.look(asked)


def test_a_hub_that_is_down_or_gone_is_unreachable(hub: Any, fetcher: Fetcher) -> None:
    hub.down = True
    with pytest.raises(HubUnreachable, match="503"):
        fetcher.look(ASKED)
    with pytest.raises(HubUnreachable, match="no connection"):
        Fetcher("http://127.0.0.1:1").look(ASKED)


def test_offline_nobody_is_asked(hub: Any) -> None:
    with pytest.raises(HubOffline, match="offline"):
        Fetcher(hub.endpoint, offline=True).look(ASKED)
    assert hub.asked == []


def test_a_cancelled_download_ends_and_keeps_what_it_has(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.stop_at = 2_500_000
    cancelled = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            fetch(fetcher, tmp_path / "part", cancelled=cancelled)
        except Cancelled as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert hub.stopped.wait(5)
    cancelled.set()
    hub.go.set()
    thread.join(5)
    assert failed
    kept = (tmp_path / "part").read_bytes()
    assert kept
    assert BODY.startswith(kept)


def test_cancelling_ends_a_pause_between_two_tries(hub: Any, tmp_path: Path) -> None:
    hub.files["org/m/m.gguf"] = BODY
    hub.statuses = [503]
    cancelled = threading.Event()
    patient = Fetcher(hub.endpoint, pause=60.0)
    hub_answered = threading.Timer(0.0, cancelled.set)
    found = patient.look(ASKED)
    hub_answered.start()
    with (tmp_path / "part").open("a+b") as part, pytest.raises(Cancelled):
        patient.fetch(ASKED, found, part, None, cancelled)
    hub_answered.join()


def test_a_full_disk_is_told_apart(fetcher: Fetcher) -> None:
    with open("/dev/full", "r+b", buffering=0) as full:

        class Empty:
            """``/dev/full`` for writing, with nothing in it to read."""

            def read(self, size: int) -> bytes:
                return b""

            def __getattr__(self, name: str) -> Any:
                return (lambda *_: 0) if name in ("seek", "truncate") else getattr(full, name)

        with pytest.raises(DiskFull):
            fetcher.fetch(ASKED, fetcher.look(ASKED), Empty(), None, threading.Event())  # type: ignore[arg-type]


def test_addresses_with_signatures_are_in_no_error(hub: Any, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.elsewhere = True
    hub.statuses = [503] * 10
    with pytest.raises(HubUnreachable) as caught:
        fetch(fetcher, tmp_path / "part")
    assert "cdn" not in str(caught.value)
    assert os.sep + "m.gguf" not in str(caught.value)
