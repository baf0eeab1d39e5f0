"""What servers are called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.servers import server_name

DNS_1035 = re.compile(r"[a-z][a-z0-9]*")
"""Such a label, without the hyphens that it might have."""

IDS = st.one_of(
    st.text(max_size=60),
    st.from_regex(r"[A-Za-z0-9._-]{1,12}/[A-Za-z0-9._-]{1,60}", fullmatch=True),
    st.sampled_from(["gpt-2", "gpt2", "GPT2", "a/gpt2", "b/gpt2", "", "/", "7b", "-", "İ", "ﬁ", "Ⅷ"]),
)
PLACES = st.tuples(IDS, st.sampled_from(["", "main", "v1"]), st.sampled_from(["public", "a"]), st.integers(0, 40))


def model(place: tuple[str, str, str, int]) -> tuple[Model, int]:
    id, revision, scope, replica = place
    return Model.of(id, revision=revision, scope=scope, engine="vllm"), replica


@settings(max_examples=150)
@given(st.sets(PLACES, min_size=2, max_size=25))
def test_a_name_is_a_label_without_hyphens_and_nobody_elses(places: set[tuple[str, str, str, int]]) -> None:
    names = [server_name(*model(place)) for place in places]
    for name in names:
        assert DNS_1035.fullmatch(name)
        assert 11 <= len(name) <= 30
    assert len(set(names)) == len(places)


def test_a_hundred_thousand_servers_have_as_many_names() -> None:
    names = {server_name(Model(f"org/model-{n // 4}#{n // 4}", f"org/model-{n // 4}"), n % 4) for n in range(100_000)}
    assert len(names) == 100_000


@pytest.mark.parametrize(
    ("id", "slug"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama318binstruct"),
        ("01-ai/7B", "m7b"),
        ("org/" + "n" * 80, "n" * 20),
        ("org/" + "7" * 80, "m" + "7" * 19),
        ("org/模型", "m"),
    ],
)
def test_a_person_recognises_the_model_in_it(id: str, slug: str) -> None:
    name = server_name(Model.of(id), 0)
    assert name[:-10] == slug


def test_models_that_look_alike_have_different_names() -> None:
    assert server_name(Model.of("a/gpt-2"), 0) != server_name(Model.of("b/gpt2"), 0)


def test_the_same_server_always_has_the_same_name() -> None:
    """From one release to the next too: by its name a restarted dispatcher knows a server as its own."""
    assert server_name(Model.of("a/gpt-2", engine="vllm"), 0) == "gpt2c37sc4xxeg"
