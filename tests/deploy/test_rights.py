"""S7: the dispatcher may do what it needs, and nothing else."""

from __future__ import annotations

import pytest
from tests.deploy.rules import DEPLOY, EVERYWHERE, Right, allows, dispatcher_rights, objects, rights

RULES = [rule for one in objects(DEPLOY) if one["kind"] in {"Role", "ClusterRole"} for rule in one["rules"]]


@pytest.mark.parametrize("key", ["apiGroups", "resources", "verbs"])
def test_no_rule_is_for_everything(key: str) -> None:
    assert RULES
    assert not any("*" in word for rule in RULES for word in rule[key])


def test_nobody_can_give_more_rights_than_these() -> None:
    granted = {(verb, resource) for rule in RULES for verb in rule["verbs"] for resource in rule["resources"]}
    assert not {verb for verb, _ in granted} & {"escalate", "bind", "impersonate", "deletecollection"}
    assert not {resource for _, resource in granted} & {
        "roles",
        "rolebindings",
        "clusterroles",
        "serviceaccounts/token",
    }
    assert not {resource for _, resource in granted} & {"pods/exec", "pods/attach", "pods/portforward", "nodes/proxy"}


def test_secrets_are_known_by_name_and_never_listed() -> None:
    verbs = {right.verb for right in dispatcher_rights() if right.resource == "secrets"}
    assert verbs == {"get", "create", "patch", "delete"}


def test_cluster_wide_it_only_looks_at_nodes_and_pods() -> None:
    wide = {(right.verb, right.resource) for right in dispatcher_rights() if right.namespace == EVERYWHERE}
    assert wide == {(verb, resource) for verb in ("get", "list", "watch") for resource in ("nodes", "pods")}


def test_of_knative_it_reads_two_config_maps_by_name() -> None:
    there = {right for right in dispatcher_rights() if right.namespace == "knative-serving"}
    assert there == {
        Right("get", "", "configmaps", "knative-serving", name) for name in ("config-features", "config-defaults")
    }


def test_servers_have_no_rights_and_no_token() -> None:
    found = objects(DEPLOY)
    [account] = [one for one in found if one["kind"] == "ServiceAccount" and one["metadata"]["name"] == "model-server"]
    assert account["automountServiceAccountToken"] is False
    assert not rights(objects(DEPLOY / "base" / "rbac.yaml"), "model-server")


def test_a_right_holds_where_it_was_given_and_nowhere_else() -> None:
    given = dispatcher_rights()
    services = "serving.knative.dev"
    assert allows(given, Right("create", services, "services", "nthulab", "gpt2abc"))
    assert not allows(given, Right("create", services, "services", "default", "gpt2abc"))
    assert allows(given, Right("list", "", "pods", "default"))
    assert not allows(given, Right("delete", "", "pods", "default", "somebodys"))
    assert allows(given, Right("get", "", "configmaps", "knative-serving", "config-features"))
    assert not allows(given, Right("get", "", "configmaps", "knative-serving", "config-domain"))
