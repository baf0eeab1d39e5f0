"""The door: who may come in, by the head alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ssis_dispatcher.errors import Forbidden, Unauthenticated
from ssis_dispatcher.gateway.door import Door, NotJson
from ssis_dispatcher.gateway.keys import KeyFile, Keyless, Keyring
from ssis_dispatcher.http.server import Exchange

JSON = "application/json"


def head(method: str = "GET", **headers: str) -> Exchange:
    """As much of an exchange as the door looks at. Underscores in names of headers stand for dashes."""
    index = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return cast(Exchange, SimpleNamespace(method=method, header=index.get, peer="127.0.0.1"))


@pytest.fixture
def guarded() -> Door:
    return Door(Keyless(), origins=("https://chat.example.org",))


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "127.0.0.1", "127.0.0.2", "[::1]"])
@pytest.mark.parametrize("port", ["", ":8080"])
def test_without_keys_the_machines_own_names_are_answered_with_and_without_a_port(
    guarded: Door, name: str, port: str
) -> None:
    assert guarded.admit(head(host=name + port)).record.role == "admin"


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", ""]
)
def test_without_keys_a_foreign_name_is_refused_so_that_no_dns_name_can_be_pointed_here(
    guarded: Door, name: str
) -> None:
    with pytest.raises(Forbidden, match=r"only to localhost.*ssis keys create"):
        guarded.admit(head(host=name))


def test_without_keys_a_head_without_a_host_is_refused(guarded: Door) -> None:
    with pytest.raises(Forbidden):
        guarded.admit(head())


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "http://localhost:3000", "https://127.0.0.1:1", "http://[::1]:5", "https://chat.example.org"],
)
def test_without_keys_pages_of_this_machine_and_of_allowed_origins_may_call(guarded: Door, origin: str) -> None:
    assert guarded.admit(head(host="localhost", origin=origin))


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://localhost.evil.example", "https://chat.example.org.evil", "localhost"],
)
def test_without_keys_pages_of_other_origins_may_not_call(guarded: Door, origin: str) -> None:
    with pytest.raises(Forbidden, match="other origins"):
        guarded.admit(head(host="localhost", origin=origin))


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none", ""])
def test_without_keys_what_browsers_say_of_this_machines_own_pages_is_no_matter(guarded: Door, site: str) -> None:
    assert guarded.admit(head(host="localhost", sec_fetch_site=site))


def test_without_keys_no_page_of_another_site_can_point_here(guarded: Door) -> None:
    """An image or a link sends no Origin."""
    with pytest.raises(Forbidden, match="other origins"):
        guarded.admit(head(host="localhost", sec_fetch_site="cross-site"))
    assert guarded.admit(head(host="localhost", sec_fetch_site="cross-site", origin="https://chat.example.org"))


def test_with_any_origin_allowed_every_page_may_call() -> None:
    door = Door(Keyless(), origins=("*",))
    assert door.admit(head(host="localhost", origin="https://anywhere.example"))


@pytest.mark.parametrize("kind", [JSON, "Application/JSON", f"{JSON}; charset=utf-8", f"{JSON} ;charset=utf-8"])
def test_without_keys_json_may_be_posted(guarded: Door, kind: str) -> None:
    assert guarded.admit(head("POST", host="localhost", content_type=kind))


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", f"text/plain; {JSON}", ""],
)
def test_without_keys_what_a_page_could_post_unasked_is_refused(guarded: Door, kind: str) -> None:
    with pytest.raises(NotJson, match="Content-Type: application/json") as caught:
        guarded.admit(head("POST", host="localhost", content_type=kind))
    assert (caught.value.problem.status, caught.value.problem.code) == (415, "unsupported_media_type")


def test_without_keys_a_post_that_does_not_say_what_it_is_is_refused(guarded: Door) -> None:
    with pytest.raises(NotJson):
        guarded.admit(head("POST", host="localhost"))


def test_insecure_lets_anybody_in_by_whatever_name() -> None:
    door = Door(Keyless(), open=True)
    assert door.admit(head("POST", host="gpu.example.org", origin="https://evil.example", content_type="text/plain"))


def test_keys_are_asked_for_and_then_names_and_origins_do_not_matter(keyfile: Path) -> None:
    secret = KeyFile(keyfile).create("ana")
    door = Door(Keyring([keyfile]))
    known = head(
        "POST",
        host="gpu.example.org",
        origin="https://x.example",
        authorization=f"Bearer {secret}",
        content_type="text/plain",
    )
    assert door.admit(known).name == "ana"


def test_a_key_may_come_as_bearer_in_any_case_or_as_x_api_key(keyfile: Path) -> None:
    secret = KeyFile(keyfile).create("ana")
    door = Door(Keyring([keyfile]))
    assert door.admit(head(authorization=f"bEARER  {secret}")).name == "ana"
    assert door.admit(head(x_api_key=secret)).name == "ana"
    # Basic credentials are somebody else's business, and do not hide the key beside them
    assert door.admit(head(authorization="Basic eDp5", x_api_key=secret)).name == "ana"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Basic eDp5"}, "missing_api_key"),
        ({"authorization": "Bearer ssis-wrong"}, "invalid_api_key"),
        ({"x_api_key": ""}, "invalid_api_key"),
    ],
)
def test_without_a_known_key_nobody_comes_in_even_from_this_machine(
    keyfile: Path, headers: dict[str, str], code: str
) -> None:
    KeyFile(keyfile).create("ana")
    with pytest.raises(Unauthenticated) as caught:
        Door(Keyring([keyfile])).admit(head(host="localhost", **headers))
    assert caught.value.problem.code == code


def test_a_key_made_while_it_runs_is_known_after_a_refresh(keyfile: Path) -> None:
    KeyFile(keyfile).create("ana")
    door = Door(Keyring([keyfile]))
    secret = KeyFile(keyfile).create("ben")
    with pytest.raises(Unauthenticated):
        door.admit(head(x_api_key=secret))
    door.refresh(10.0)
    assert door.admit(head(x_api_key=secret)).name == "ben"
