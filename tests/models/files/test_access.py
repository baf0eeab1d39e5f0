"""Who may share a server."""

from __future__ import annotations

from typing import Any

import pytest

from ssis_dispatcher.errors import Forbidden
from ssis_dispatcher.models.access import Access
from ssis_dispatcher.models.hub import Hub


@pytest.fixture
def access(hub: Any) -> Access:
    hub.files["org/m/m.gguf"] = b"GGUF"
    return Access(Hub(hub.endpoint), b"secret")


def test_what_everybody_may_read_is_shared_whatever_token_is_shown(access: Access) -> None:
    access.ask("org/m", "any")
    assert access.known("org/m", "any")
    assert access.known("org/m", "other")
    assert access.scope("org/m", "any") == access.scope("org/m", "other") == "public"


def test_a_gated_model_is_shared_by_those_whose_own_token_is_accepted(hub: Any, access: Access) -> None:
    hub.readers = {"good", "fine"}
    for token in ("good", "fine", "bad"):
        assert not access.known("org/m", token)
        access.ask("org/m", token)
    assert access.scope("org/m", "good") == access.scope("org/m", "fine") == "gated"
    with pytest.raises(Forbidden, match="does not give org/m to this token"):
        access.scope("org/m", "bad")


def test_without_the_hubs_word_everybody_is_alone(hub: Any, access: Access) -> None:
    hub.down = True
    access.ask("org/m", "mine")
    scopes = {access.scope("org/m", token) for token in ("mine", "yours")}
    assert len(scopes) == 2
    assert all(scope.startswith("token:") and "mine" not in scope and "yours" not in scope for scope in scopes)
    assert access.scope("org/m", "mine") in scopes


def test_a_scope_cannot_be_guessed_from_the_token(access: Access, hub: Any) -> None:
    other = Access(Hub(hub.endpoint), b"other")
    assert other.scope("org/m", "mine") != access.scope("org/m", "mine")
    other.take_secret(b"secret")
    assert other.scope("org/m", "mine") == access.scope("org/m", "mine")


def test_who_loses_access_is_refused_within_five_minutes(hub: Any) -> None:
    now = 0.0
    hub.files["org/m/m.gguf"], hub.readers = b"GGUF", {"good"}
    access = Access(Hub(hub.endpoint, clock=lambda: now), clock=lambda: now)
    access.ask("org/m", "good")
    asked = len(hub.asked)
    access.ask("org/m", "good")
    assert len(hub.asked) == asked
    hub.readers = set()
    now += 300
    assert not access.known("org/m", "good")
    access.ask("org/m", "good")
    with pytest.raises(Forbidden):
        access.scope("org/m", "good")
