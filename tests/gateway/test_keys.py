"""API keys: made, kept, checked, changed while running."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_dispatcher.errors import InvalidRequest, NotFound, Unauthenticated
from ssis_dispatcher.gateway.keys import KeyFile, Keyless, Keyring, KeysUnreadable


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "ssis" / "keys.jsonl")


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def test_a_created_key_opens_the_door(file: KeyFile) -> None:
    secret = file.create("alice", role="operate", models=["org/*"], in_flight=3)
    key = Keyring([file.path]).check(bearer(secret))
    assert (key.name, key.record.role, key.record.models, key.record.in_flight) == ("alice", "operate", ("org/*",), 3)


def test_the_secret_is_long_random_and_kept_nowhere(file: KeyFile) -> None:
    secrets = [file.create(f"key-{number}") for number in range(5)]
    assert len(set(secrets)) == 5
    assert all(secret.startswith("ssis-") and len(secret) >= 5 + 43 for secret in secrets)
    written = file.path.read_text()
    assert not any(secret.removeprefix("ssis-") in written for secret in secrets)


def test_the_file_is_for_its_owner_only(file: KeyFile) -> None:
    file.create("alice")
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in file.path.parent.iterdir()] == ["keys.jsonl"]


def test_a_file_that_is_there_keeps_its_owner_and_may_be_its_groups_to_read(file: KeyFile) -> None:
    file.create("alice")
    file.path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(file.path, 65_534, 65_534)
    before = file.path.stat()
    file.create("bob")
    after = file.path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode & 0o777) == (before.st_uid, before.st_gid, 0o640)


@pytest.mark.parametrize("spelling", ["Bearer {}", "bearer {}", "BEARER  {} "])
def test_the_scheme_may_be_spelt_in_any_case(file: KeyFile, spelling: str) -> None:
    secret = file.create("alice")
    assert Keyring([file.path]).check(spelling.format(secret).encode()).name == "alice"


def test_x_api_key_will_do_and_authorization_comes_first(file: KeyFile) -> None:
    alice, bob = file.create("alice"), file.create("bob")
    ring = Keyring([file.path])
    assert ring.check(None, alice.encode()).name == "alice"
    assert ring.check(bearer(bob), alice.encode()).name == "bob"
    assert ring.check(b"Basic Zm9v", alice.encode()).name == "alice"


def test_without_a_key_the_answer_says_how_to_send_one(file: KeyFile) -> None:
    for authorization in (None, b"", b"Basic Zm9v", b"Bearer"):
        with pytest.raises(Unauthenticated, match="Authorization: Bearer") as caught:
            Keyring([file.path]).check(authorization)
        assert caught.value.problem.status == 401


def test_a_wrong_key_is_refused_and_not_repeated(file: KeyFile) -> None:
    secret = file.create("alice")
    ring = Keyring([file.path])
    for wrong in (secret[:-1], secret + "x", secret.lower(), "", "ssis-", "x" * 100_000):
        with pytest.raises(Unauthenticated) as caught:
            ring.check(bearer(wrong))
        assert not wrong or wrong == "ssis-" or wrong not in caught.value.problem.message


def test_an_expired_key_is_refused_by_name(file: KeyFile) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    secret = file.create("alice", expires=now + timedelta(days=1))
    clock = now.timestamp()
    ring = Keyring([file.path], lambda: clock)
    assert ring.check(bearer(secret)).name == "alice"
    clock += 86_400
    with pytest.raises(Unauthenticated, match="'alice' has expired"):
        ring.check(bearer(secret))


def test_a_revoked_key_is_refused_after_a_reload_and_others_stay(file: KeyFile) -> None:
    alice, bob = file.create("alice"), file.create("bob")
    ring = Keyring([file.path])
    file.revoke("alice")
    assert ring.refresh(100.0)
    with pytest.raises(Unauthenticated):
        ring.check(bearer(alice))
    assert ring.check(bearer(bob)).name == "bob"


def test_a_reload_keeps_what_is_in_flight(file: KeyFile) -> None:
    secret = file.create("alice")
    ring = Keyring([file.path])
    key = ring.check(bearer(secret))
    key.admit(0.0)
    file.create("bob")
    assert ring.refresh(100.0)
    assert ring.check(bearer(secret)) is key
    assert key.in_flight == 1


def test_changes_are_looked_for_at_most_once_a_second(file: KeyFile) -> None:
    ring = Keyring([file.path])
    assert not ring.refresh(100.0)
    secret = file.create("alice")
    assert not ring.refresh(100.9)
    assert ring.refresh(101.0)
    assert ring.check(bearer(secret)).name == "alice"
    assert not ring.refresh(200.0)


def test_a_broken_file_stops_the_start_but_not_a_running_dispatcher(file: KeyFile) -> None:
    secret = file.create("alice")
    ring = Keyring([file.path])
    with file.path.open("a") as out:
        out.write('{"name": "bob", "hash": "plain text"}\n')
    assert not ring.refresh(100.0)
    assert ring.check(bearer(secret)).name == "alice"
    with pytest.raises(KeysUnreadable, match="line 2"):
        Keyring([file.path])


def test_removing_the_file_removes_its_keys(file: KeyFile) -> None:
    secret = file.create("alice")
    ring = Keyring([file.path])
    file.path.unlink()
    assert ring.refresh(100.0)
    with pytest.raises(Unauthenticated):
        ring.check(bearer(secret))


def test_a_directory_of_files_is_a_source_and_hidden_names_are_not(file: KeyFile, tmp_path: Path) -> None:
    alice, bob = file.create("alice"), file.create("bob")
    lines = file.path.read_text().splitlines()
    mounted, data = tmp_path / "mounted", tmp_path / "mounted" / "..2026_01"
    data.mkdir(parents=True)
    (data / "alice").write_text(lines[0])
    (mounted / "..data").symlink_to("..2026_01")
    (mounted / "alice").symlink_to("..data/alice")
    ring = Keyring([mounted])
    assert len(ring) == 1
    assert ring.check(bearer(alice)).name == "alice"
    other = mounted / "..2026_02"  # the way Kubernetes changes a mounted Secret
    other.mkdir()
    (other / "alice").write_text(lines[1])
    (mounted / "..tmp").symlink_to("..2026_02")
    os.replace(mounted / "..tmp", mounted / "..data")
    assert ring.refresh(100.0)
    assert ring.check(bearer(bob)).name == "bob"
    assert len(ring) == 1


def test_several_sources_are_one_ring_and_a_name_is_taken_once(file: KeyFile, tmp_path: Path) -> None:
    other = KeyFile(tmp_path / "other.jsonl")
    alice, bob = file.create("alice"), other.create("bob")
    ring = Keyring([file.path, other.path])
    assert {ring.check(bearer(alice)).name, ring.check(bearer(bob)).name} == {"alice", "bob"}
    other.create("alice")
    with pytest.raises(KeysUnreadable, match="'alice' occurs twice"):
        Keyring([file.path, other.path])


def test_comments_and_empty_lines_are_passed_over(file: KeyFile) -> None:
    secret = file.create("alice")
    file.path.write_text("# our keys\n\n" + file.path.read_text())
    assert Keyring([file.path]).check(bearer(secret)).name == "alice"


def test_no_file_means_no_keys(file: KeyFile) -> None:
    assert file.list() == []
    assert len(Keyring([file.path])) == 0


def test_list_shows_every_field_but_no_secret(file: KeyFile) -> None:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    file.create("alice", per_minute=5, slices=2, launches_per_minute=3, kinds=["mig"], expires=expires)
    [record] = file.list()
    assert (record.per_minute, record.slices, record.launches_per_minute) == (5, 2, 3)
    assert (record.kinds, record.expires) == (("mig",), expires)
    assert record.created is not None


def test_names_are_unique_and_plain(file: KeyFile) -> None:
    file.create("alice")
    with pytest.raises(InvalidRequest, match="'alice' already"):
        file.create("alice")
    for name in ("", "a b", "../x", "-flag", "x" * 65, "ü"):
        with pytest.raises(InvalidRequest):
            file.create(name)
    assert [record.name for record in file.list()] == ["alice"]


def test_limits_below_one_and_times_without_zone_are_refused(file: KeyFile) -> None:
    with pytest.raises(InvalidRequest, match="in_flight"):
        file.create("alice", in_flight=0)
    with pytest.raises(InvalidRequest, match="expires"):
        file.create("alice", expires=datetime(2030, 1, 1))
    assert not file.path.exists()


def test_revoking_an_unknown_name_says_so(file: KeyFile) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        file.revoke("nobody")


def test_an_unknown_field_is_an_error_not_a_limit_that_is_silently_missing(file: KeyFile) -> None:
    file.create("alice")
    record = json.loads(file.path.read_text()) | {"per_minutes": 5}
    file.path.write_text(json.dumps(record))
    with pytest.raises(KeysUnreadable, match="per_minutes"):
        file.list()


def test_keys_made_at_the_same_time_are_all_kept(file: KeyFile) -> None:
    makers = [threading.Thread(target=file.create, args=(f"key-{number}",)) for number in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sorted(record.name for record in file.list()) == [f"key-{number}" for number in range(8)]


def test_without_keys_callers_are_told_apart_by_address_and_may_do_everything() -> None:
    door = Keyless()
    here, there = door.check(None, None, "127.0.0.1"), door.check(b"Bearer x", None, "::1")
    assert (here.name, there.name) == ("127.0.0.1", "::1")
    assert door.check(None, None, "127.0.0.1") is here
    here.demand("admin")
    here.demand_model("any/thing")
    assert not door.refresh(0.0)


def test_without_keys_many_addresses_take_no_memory() -> None:
    door = Keyless()
    for number in range(10_000):
        door.check(None, None, f"10.0.{number // 256}.{number % 256}")
    assert len(door._keys) <= 4096
