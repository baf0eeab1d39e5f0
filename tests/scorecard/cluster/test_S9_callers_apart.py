"""S9. Callers with other credentials or variables never share a server."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from tests.assembly.cluster_site import NS, Replica, Site, services
from tests.kube.kinds import PODS, SECRETS, SERVICES

pytestmark = pytest.mark.looptime


async def ask(one: Replica, token: str = "", **env: str) -> httpx2.Response:
    body: dict[str, Any] = {"token": "Hello", "par": {}, "env": {"MODEL_ID": "a", "HF_TOKEN": token, **env}}
    return await one.client.post("/", json=body)


async def test_the_same_token_finds_its_server_again_after_a_restart(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await ask(one, "hf_one")).status_code == 200
        before = services(site)
    async with site.dispatcher() as two:
        await two.leading()
        assert (await ask(two, "hf_one")).status_code == 200
        assert services(site) == before
        assert (await ask(two, "hf_two")).status_code == 200
        assert len(services(site)) == 2


async def test_another_token_and_other_variables_are_another_server(site: Site) -> None:
    """The hub is not there to say that the model is everybody's, so nobody shares it but who shows the same token."""
    async with site.dispatcher() as one:
        await one.leading()
        for token, there in (("hf_one", 1), ("hf_two", 2), ("hf_one", 2), ("hf_two", 2)):
            assert (await ask(one, token)).status_code == 200
            assert len(services(site)) == there
        assert (await ask(one, QUANTIZE="awq")).status_code == 200
        assert len(services(site)) == 3
        secrets = {secret["metadata"]["name"] for secret in site.cluster.all(SECRETS, NS)}
        assert len(secrets) == 2
        for service in site.cluster.all(SERVICES, NS):
            named = {
                variable["valueFrom"]["secretKeyRef"]["name"]
                for variable in service["spec"]["template"]["spec"]["containers"][0]["env"]
                if "secretKeyRef" in variable.get("valueFrom", {})
            }
            assert named <= {service["metadata"]["name"], "hf-token"}, "its own, or the operator's"
        seen = repr([*site.cluster.all(SERVICES, NS), *site.cluster.all(PODS, NS)])
        assert "hf_one" not in seen
        assert "hf_two" not in seen
