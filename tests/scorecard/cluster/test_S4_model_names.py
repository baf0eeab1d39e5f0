"""S4. What a request calls a model is a name and nothing else; what a server is called is valid, and its own."""

from __future__ import annotations

import itertools
import random
import re
import string

import pytest
from tests.assembly.cluster_site import Site, services
from tests.scorecard.cluster.support import calls

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.servers import server_name

BAD = (
    *(
        "../x",
        "/etc",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://example.com/org/name",
        "-flag",
        "--model",
        "org/-x",
    ),
    *("org/náme", "模型", "o" * 300, "org/" + "n" * 300, "org/../name", "org/a/b", "org/$(id)", "C:\\x", " "),
)


@pytest.mark.looptime
async def test_what_is_no_name_is_refused_and_nothing_is_asked_of_the_cluster(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        for name in BAD:
            assert (await one.chat(name)).status_code == 400, name
            seed = {"token": "Hello", "par": {}, "env": {"MODEL_ID": name}}
            assert (await one.client.post("/", json=seed)).status_code == 400, name
        assert calls(site, "create") == []


@pytest.mark.looptime
async def test_names_that_are_alike_have_servers_of_their_own(site: Site) -> None:
    """The original program dropped what is no letter, so that ``a/gpt-2`` and ``b/gpt2`` met in one server."""
    async with site.dispatcher() as one:
        await one.leading()
        for name in ("a/gpt-2-1b", "b/gpt2-1b"):
            assert (await one.chat(name)).status_code == 200
        assert len(services(site)) == 2
        assert len({name[:-10] for name in services(site)}) == 1, "they do look alike"


def test_of_a_hundred_thousand_pairs_no_two_share_a_name() -> None:
    models = [model(number) for number in range(500)]
    named = [(one, server_name(one, replica)) for one in models for replica in (0, 1)]
    assert len(list(itertools.combinations(range(len(named)), 2))) > 1e5
    assert len({name for _, name in named}) == 2 * len(set(models)) == 1000
    assert all(re.fullmatch(r"[a-z][a-z0-9]{10,29}", name) for _, name in named)


def model(number: int) -> Model:
    """Few letters and few values, so that much is nearly the same; all are different in at least one field."""
    chance = random.Random(number)
    name = "".join(chance.choices("aA1-_.", k=chance.randint(1, 30))) + chance.choice(string.ascii_letters)
    return Model.of(
        f"{chance.choice('ab')}/{name}",
        revision=chance.choice(("", "main")),
        engine=chance.choice(("tgi", "vllm")),
        arguments=(("seed", str(number)),),
        scope=chance.choice(("public", "gated")),
        context=chance.choice((None, 1024)),
    )
