"""What the manifests let the dispatcher do, as data: for comparing with what it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

Object = dict[str, Any]

EVERYWHERE = "*"


class Right(NamedTuple):
    """One verb on one kind of object. ``namespace`` is `EVERYWHERE` or a namespace, ``name`` "" for every name."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str = ""


def objects(path: Path) -> list[Object]:
    """The objects of a file, or of all files of a folder."""
    files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
    return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]


def check_privileges(spec: Object) -> None:
    """A pod takes nothing of its node, and no container of it has more rights than it needs."""
    assert not spec.keys() & {"hostIPC", "hostNetwork", "hostPID"}
    assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume]
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def rights(found: list[Object], account: str = "dispatcher") -> frozenset[Right]:
    """All that the bindings in ``found`` give to a service account."""
    return frozenset(right for one in found if _binds(one, account) for right in _given(found, one))


def dispatcher_rights() -> frozenset[Right]:
    """Of the dispatcher as it is deployed, in whichever form. Its namespace is called ``nthulab`` here."""
    return rights(objects(DEPLOY / "base" / "rbac.yaml"))


def allows(given: frozenset[Right], right: Right) -> bool:
    """Whether the API server would let ``right`` through."""
    return any(
        (one.verb, one.group, one.resource) == (right.verb, right.group, right.resource)
        and one.namespace in {EVERYWHERE, right.namespace}
        and one.name in {"", right.name}
        for one in given
    )


def _binds(one: Object, account: str) -> bool:
    return one["kind"] in {"RoleBinding", "ClusterRoleBinding"} and any(
        subject["kind"] == "ServiceAccount" and subject["name"] == account for subject in one["subjects"]
    )


def _given(found: list[Object], binding: Object) -> Iterator[Right]:
    namespace = binding["metadata"].get("namespace", EVERYWHERE)
    [role] = [
        one
        for one in found
        if one["kind"] == binding["roleRef"]["kind"]
        and one["metadata"]["name"] == binding["roleRef"]["name"]
        and one["metadata"].get("namespace", EVERYWHERE) in {EVERYWHERE, namespace}
    ]
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", [""]):
                        yield Right(verb, group, resource, namespace, name)
