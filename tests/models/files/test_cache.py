"""The model cache: fetched once, bounded, shared between processes, never pulled from under a server."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssis_dispatcher.errors import Unavailable, Unprocessable
from ssis_dispatcher.models.cache import ModelCache
from ssis_dispatcher.models.download import Asked, Cancelled, Fetcher
from ssis_dispatcher.models.hubwire import Gated, HubOffline, HubUnreachable, NotOnHub

BODY = bytes(range(256)) * 8_000  # 2 MB
ASKED = Asked("org/m", "m.gguf")

Make = Callable[..., ModelCache]


@pytest.fixture
def make(hub: Any, tmp_path: Path) -> Make:
    hub.files["org/m/m.gguf"] = BODY

    def build(**options: Any) -> ModelCache:
        fetcher = Fetcher(hub.endpoint, offline=options.pop("offline", False), tries=2, pause=0.001)
        return ModelCache(tmp_path / "models", fetcher, **options)

    return build


def fetched(cache: ModelCache, asked: Asked) -> Path:
    """Where the file lies, without keeping the lease."""
    with cache.fetch(asked) as lease:
        return lease.path


def test_a_file_is_fetched_once_and_then_here(make: Make, hub: Any) -> None:
    for _ in range(3):
        with make().fetch(ASKED) as lease:
            assert lease.path.read_bytes() == BODY
            assert lease.path.name == "m.gguf"
    assert len(hub.gets()) == 1


def test_nothing_but_the_file_and_its_record_is_left(make: Make, tmp_path: Path) -> None:
    make().fetch(ASKED).release()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["m.gguf", "m.gguf.json"]


def test_a_branch_is_asked_for_again_after_a_while_and_a_commit_never(make: Make, hub: Any) -> None:
    now = 1000.0
    cache = make(fresh=60.0, clock=lambda: now)
    cache.fetch(ASKED).release()
    asked = len(hub.asked)
    now += 59
    cache.fetch(ASKED).release()
    assert len(hub.asked) == asked
    now += 2
    cache.fetch(ASKED).release()
    assert len(hub.asked) == asked + 1
    now += 1e6
    cache.fetch(Asked("org/m", "m.gguf", hub.commit)).release()
    assert len(hub.asked) == asked + 1


def test_a_branch_that_moved_gets_its_new_file_and_the_old_one_stays_until_room_is_needed(make: Make, hub: Any) -> None:
    cache = make(fresh=0.0)
    cache.fetch(ASKED).release()
    hub.files["org/m/m.gguf"], hub.commit = BODY[::-1], "2" * 40
    with cache.fetch(ASKED) as lease:
        assert lease.path.read_bytes() == BODY[::-1]
    assert len(cache.list()) == 2


def test_files_of_the_same_name_in_different_repositories_are_different_files(make: Make, hub: Any) -> None:
    hub.files["org/m-2/m.gguf"], hub.files["other/m/m.gguf"] = b"GGUF2", b"GGUF3"
    cache = make()
    found = [fetched(cache, Asked(repo, "m.gguf")).read_bytes() for repo in ("org/m", "org/m-2", "other/m")]
    assert found == [BODY, b"GGUF2", b"GGUF3"]


def test_parts_of_a_split_model_lie_side_by_side(make: Make, hub: Any) -> None:
    names = [f"Q8/x-0000{number}-of-00002.gguf" for number in (1, 2)]
    for name in names:
        hub.files[f"org/big/{name}"] = name.encode()
    first, second = (fetched(make(), Asked("org/big", name)) for name in names)
    assert first.parent == second.parent


def test_list_shows_size_use_and_revisions(make: Make, hub: Any) -> None:
    cache = make()
    lease = cache.fetch(ASKED)
    [file] = cache.list()
    assert (file.repo, file.name, file.commit, file.revisions) == ("org/m", "m.gguf", hub.commit, ("main",))
    assert (file.size, file.busy) == (len(BODY), True)
    lease.release()
    assert not cache.list()[0].busy


def test_a_file_in_use_is_not_removed_and_afterwards_it_is(make: Make) -> None:
    cache = make()
    lease = cache.fetch(ASKED)
    with pytest.raises(Unprocessable, match="in use by a server"):
        cache.remove("org/m")
    assert lease.path.exists()
    lease.release()
    assert cache.remove("org/m") == len(BODY)
    assert cache.list() == []
    assert list(cache.root.iterdir()) == []
    assert cache.remove("org/m") == 0


def test_only_the_named_files_are_removed(make: Make, hub: Any) -> None:
    hub.files["org/m/other.gguf"] = b"GGUF"
    cache = make()
    for name in ("m.gguf", "other.gguf"):
        cache.fetch(Asked("org/m", name)).release()
    assert cache.remove("org/m", {"other.gguf"}) == 4
    assert [file.name for file in cache.list()] == ["m.gguf"]


HOLD = """
import sys
from pathlib import Path
from ssis_dispatcher.models.cache import ModelCache
from ssis_dispatcher.models.download import Asked, Fetcher
lease = ModelCache(Path(sys.argv[1]), Fetcher(sys.argv[2], offline=True)).fetch(Asked("org/m", "m.gguf"))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_in_use_by_another_process_is_not_removed(make: Make, hub: Any) -> None:
    cache = make()
    cache.fetch(ASKED).release()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cache.root), hub.endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Unprocessable):
            cache.remove("org/m")
        other.kill()  # the kernel gives its lease back
    assert cache.remove("org/m") == len(BODY)


def test_the_limit_is_kept_by_removing_what_was_used_longest_ago(make: Make, hub: Any) -> None:
    for letter in "abc":
        hub.files[f"org/{letter}/x.gguf"] = BODY
    cache = make(limit=2 * len(BODY) + 1000)
    first = cache.fetch(Asked("org/a", "x.gguf"))
    first.release()
    cache.fetch(Asked("org/b", "x.gguf")).release()
    backdate(cache, "org/a", 100)
    backdate(cache, "org/b", 200)
    cache.fetch(Asked("org/a", "x.gguf")).release()
    cache.fetch(Asked("org/c", "x.gguf")).release()
    assert {file.repo for file in cache.list()} == {"org/a", "org/c"}


def backdate(cache: ModelCache, repo: str, when: float) -> None:
    for file in cache.list():
        if file.repo == repo:
            os.utime(f"{file.path}.json", (when, when))


def test_what_is_in_use_is_never_removed_for_room_and_the_error_says_what_to_do(make: Make, hub: Any) -> None:
    hub.files["org/b/x.gguf"] = BODY
    cache = make(limit=len(BODY) + 1000)
    lease = cache.fetch(ASKED)
    with pytest.raises(Unavailable, match=r"no room.*in use.*limit") as caught:
        cache.fetch(Asked("org/b", "x.gguf"))
    assert caught.value.problem.code == "cache_full"
    assert lease.path.read_bytes() == BODY
    assert not list(cache.root.rglob("*.part"))
    lease.release()
    cache.fetch(Asked("org/b", "x.gguf")).release()
    assert [file.repo for file in cache.list()] == ["org/b"]


def test_a_file_larger_than_the_limit_is_refused_before_it_is_fetched(make: Make, hub: Any) -> None:
    cache = make(limit=len(BODY) - 1)
    with pytest.raises(Unavailable, match="no room"):
        cache.fetch(ASKED)
    assert hub.gets() == []


class FullDisk:
    """The bytes of a download, as a file system without room takes them."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def look(self, asked: Asked) -> Any:
        return self._fetcher.look(asked)

    def fetch(self, asked: Asked, found: Any, part: Any, progress: Any, cancelled: Any) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        try:
            self._fetcher.fetch(asked, found, part, progress, cancelled)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_becomes_full_is_said_plainly_and_left_clean(hub: Any, tmp_path: Path) -> None:
    hub.files["org/m/m.gguf"] = BODY
    cache = ModelCache(tmp_path / "models", FullDisk(Fetcher(hub.endpoint)))  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match=r"the disk became full while m\.gguf was fetched") as caught:
        cache.fetch(ASKED)
    assert caught.value.problem.code == "cache_full"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written_is_said_plainly(hub: Any, tmp_path: Path) -> None:
    hub.files["org/m/m.gguf"] = BODY
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be written") as caught:
        ModelCache(tmp_path / "models", Fetcher(hub.endpoint)).fetch(ASKED)
    assert caught.value.problem.code == "cache_unusable"


def test_offline_what_is_here_is_served_and_for_the_rest_is_said_what_is_here(make: Make) -> None:
    make().fetch(ASKED).release()
    cache = make(offline=True, fresh=0.0)
    with cache.fetch(ASKED) as lease:
        assert lease.path.read_bytes() == BODY
    with pytest.raises(HubOffline, match=r"offline.*In the cache are: org/m"):
        cache.fetch(Asked("org/other", "x.gguf"))


def test_with_the_hub_down_what_is_here_is_served(make: Make, hub: Any) -> None:
    cache = make(fresh=0.0)
    cache.fetch(ASKED).release()
    hub.down = True
    cache.fetch(ASKED).release()
    with pytest.raises(HubUnreachable, match="503"):
        cache.fetch(Asked("org/other", "x.gguf"))


def test_a_token_that_lost_access_is_refused_although_the_file_is_here(make: Make, hub: Any) -> None:
    hub.readers = {"good"}
    cache = make(fresh=0.0)
    cache.fetch(Asked("org/m", "m.gguf", token="good")).release()
    with pytest.raises(Gated):
        cache.fetch(Asked("org/m", "m.gguf", token="bad"))


def test_the_hubs_own_cache_is_used_where_it_lies_and_never_touched(make: Make, hub: Any, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--m" / "snapshots" / hub.commit
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").write_bytes(BODY)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(hub.commit)
    cache = make(shared=tmp_path / "hub", limit=1)
    with cache.fetch(ASKED) as lease:
        assert lease.path == snapshot / "m.gguf"
    assert make(shared=tmp_path / "hub", offline=True).fetch(ASKED).path == snapshot / "m.gguf"
    assert hub.gets() == []
    assert cache.list() == []
    assert cache.remove("org/m") == 0
    assert (snapshot / "m.gguf").exists()


def test_a_download_that_was_cancelled_goes_on_where_it_stopped(make: Make, hub: Any) -> None:
    hub.stop_at = 1_500_000
    cancelled = threading.Event()
    ended: list[str] = []

    def run() -> None:
        try:
            make().fetch(ASKED, None, cancelled)
        except Cancelled:
            ended.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    assert hub.stopped.wait(5)
    cancelled.set()
    hub.go.set()
    thread.join(5)
    assert ended == ["cancelled"]
    make().fetch(ASKED).release()
    assert all(range.startswith("bytes=") for range in hub.gets()[1:])  # none, if the last byte had just come


def test_two_who_want_the_same_file_fetch_it_once(make: Make, hub: Any) -> None:
    hub.stop_at = 1000
    paths: list[Path] = []

    def run() -> None:
        paths.append(fetched(make(), ASKED))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert hub.stopped.wait(5)
    hub.go.set()
    for thread in threads:
        thread.join(10)
    assert len(set(paths)) == 1
    assert len(hub.gets()) == 1


def test_cancelling_ends_the_wait_for_somebody_elses_download(make: Make, hub: Any) -> None:
    hub.stop_at = 1000
    first = threading.Thread(target=lambda: make().fetch(ASKED).release())
    first.start()
    assert hub.stopped.wait(5)
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    with pytest.raises(Cancelled):
        make().fetch(ASKED, None, cancelled)
    hub.go.set()
    first.join(5)


@pytest.mark.parametrize("name", ["../m.gguf", "/etc/m.gguf", "a/../../m.gguf", "m.txt", "m\n.gguf"])
def test_a_file_name_that_leads_elsewhere_is_refused(make: Make, hub: Any, name: str) -> None:
    with pytest.raises(NotOnHub):
        make().fetch(Asked("org/m", name))
    assert hub.asked == []


def test_a_damaged_record_is_no_record(make: Make, hub: Any) -> None:
    cache = make()
    path = fetched(cache, ASKED)
    Path(f"{path}.json").write_text("{broken")
    assert cache.list() == []
    cache.fetch(ASKED).release()
    assert len(cache.list()) == 1
    assert len(hub.gets()) == 1


def test_a_token_is_in_no_record(make: Make, hub: Any, tmp_path: Path) -> None:
    hub.readers = {"canary-token"}
    make().fetch(Asked("org/m", "m.gguf", token="canary-token")).release()
    assert not any(b"canary" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
