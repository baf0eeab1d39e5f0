"""S7. The dispatcher has the rights that it uses: every call of a life in which everything happens is allowed, and no right
is there that no call needs."""

from __future__ import annotations

import pytest
from tests.assembly.cluster_site import NS, Site, services, until
from tests.deploy.rules import DEPLOY, EVERYWHERE, Right, allows, dispatcher_rights, objects
from tests.kube.calls import Call
from tests.kube.kinds import CONFIGMAPS, EVENTS


def test_the_manifests_give_no_more_than_names_can_tell() -> None:
    rules = [rule for one in objects(DEPLOY) if one["kind"] in {"Role", "ClusterRole"} for rule in one["rules"]]
    assert not any("*" in word for rule in rules for key in ("apiGroups", "resources", "verbs") for word in rule[key])
    assert not any({"escalate", "bind", "impersonate"} & set(rule["verbs"]) for rule in rules)
    given = dispatcher_rights()
    assert not {right.verb for right in given if right.resource == "secrets"} & {"list", "watch"}
    wide = {(right.verb, right.resource) for right in given if right.namespace == EVERYWHERE}
    assert wide <= {(verb, resource) for verb in ("get", "list", "watch") for resource in ("nodes", "pods")}


@pytest.mark.looptime
async def test_every_call_has_its_right_and_every_right_its_call(site: Site) -> None:
    site.cluster.behave("*org/b*", fail="Error", exit_code=3)
    async with site.dispatcher() as one, site.dispatcher():
        await one.leading()
        token = {"X-SSIS-HF-Token": "hf_canary"}
        body = {"model": "a", "messages": [{"role": "user", "content": "Hello"}]}
        with site.cluster.faults.add("done-reset", verb="create", resource="secrets", count=1):
            assert (await one.client.post("/v1/chat/completions", json=body, headers=token)).status_code == 200
        assert (await one.chat("b")).status_code == 503
        await until(lambda: site.cluster.get(CONFIGMAPS, "dispatcher-learned", NS))
        assert (await one.chat("c")).status_code == 200
        site.cluster.edit(CONFIGMAPS, "dispatcher-config", NS, lambda item: item["data"].update(nonsense="x"))
        await until(lambda: site.cluster.all(EVENTS, NS))
        for name in services(site):
            assert (await one.client.get(f"/api/servers/{name}/logs")).status_code == 200
            assert (await one.client.delete(f"/api/servers/{name}")).status_code < 300
        await until(lambda: not services(site))
    given, used = dispatcher_rights(), {right(call) for call in site.cluster.log if call.verb}
    assert not {each for each in used if not allows(given, each)}
    unused = {each for each in given if not any(allows(frozenset({each}), one) for one in used)}
    reading = {(verb, resource) for verb in ("get", "list", "watch") for resource in ("nodes", "pods")}
    assert {(each.verb, each.resource) for each in unused} <= reading, "to read is one right, as everywhere"


def right(call: Call) -> Right:
    """What a Role must give for this call."""
    group, resource, verb = call.rule
    return Right(verb, group, resource, call.namespace or EVERYWHERE, call.name)
