"""A kubectl whose cluster is a file: `KUBECTL="python fake_kubectl.py cluster.json"`.

It knows what tools/kubernetes asks of kubectl, and notes everything that changes the cluster.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Object = dict[str, Any]

BASE = Path(__file__).parents[2] / "deploy" / "base"
SHORT = {"crd": "customresourcedefinition", "ingresses": "ingress"}


def name_of(one: Object) -> str:
    """``ConfigMap nthulab/dispatcher-env``."""
    place = one["metadata"].get("namespace")
    return f"{one['kind']} {place + '/' if place else ''}{one['metadata']['name']}"


def group_of(one: Object) -> str:
    group, slash, _ = one["apiVersion"].partition("/")
    return str(group) if slash else ""


def kind_of(word: str) -> tuple[str, str | None]:
    """``services.serving.knative.dev``, ``Service.v1.serving.knative.dev``, ``deployments`` → kind and group."""
    kind, dot, group = word.partition(".")
    if kind[0].isupper():  # the version, too
        return kind.lower(), group.partition(".")[2]
    return SHORT.get(kind, kind.removesuffix("s")), group if dot else None


class Cluster:
    def __init__(self, file: Path) -> None:
        self.file = file
        state = json.loads(file.read_text())
        self.objects: list[Object] = state["objects"]
        self.changes: list[str] = state["changes"]

    def save(self) -> None:
        self.file.write_text(json.dumps({"objects": self.objects, "changes": self.changes}))

    def of(self, word: str, namespace: str | None) -> list[Object]:
        kind, group = kind_of(word)
        if group and group.endswith("knative.dev"):
            definition = f"{kind}s.{group}"
            if not any(one["metadata"]["name"] == definition for one in self.of("crd", None)):
                sys.exit(f'error: the server doesn\'t have a resource type "{word.partition(".")[0]}"')
        return [
            one
            for one in self.objects
            if one["kind"].lower() == kind
            # Without a group it is Kubernetes' own.
            and (group_of(one) == group if group is not None else not group_of(one).endswith("knative.dev"))
            and namespace in {None, one["metadata"].get("namespace")}
        ]

    def get(self, words: list[str]) -> None:
        names = positional(words)
        found = [one for kind in names[0].split(",") for one in self.of(kind, value(words, "-n"))]
        for pair in (value(words, "-l") or "").split(","):
            key, equals, wanted = pair.partition("=")
            found = [one for one in found if not equals or one["metadata"].get("labels", {}).get(key) == wanted]
        field = next((word for word in words if word.startswith("--field-selector=")), "")
        wanted = names[1] if names[1:] else field.rpartition("=")[2]
        found = [one for one in found if not wanted or one["metadata"]["name"] == wanted]
        if names[1:]:
            print(json.dumps(found[0]) if found else "")
        else:
            print(json.dumps({"items": found}))

    def apply(self, objects: list[Object]) -> None:
        for one in objects:
            self.changes.append(f"apply {name_of(one)}")
            self.objects = [other for other in self.objects if key(other) != key(one)]
            if one["kind"] == "Deployment":
                one["status"] = {"conditions": [{"type": "Available", "status": "True"}]}
            self.objects.append(one)

    def delete(self, objects: list[Object]) -> None:
        for one in objects:
            self.changes.append(f"delete {name_of(one)}")
            gone = one["metadata"]["name"] if one["kind"] == "Namespace" else None
            self.objects = [
                other
                for other in self.objects
                if key(other) != key(one) and not (gone and other["metadata"].get("namespace") == gone)
            ]

    def patch(self, words: list[str], patch: Object) -> None:
        kind, name = positional(words)
        [one] = [one for one in self.of(kind, value(words, "-n")) if one["metadata"]["name"] == name]
        self.changes.append(f"patch {name_of(one)}")
        print(f"{name} patched")
        merge(one, patch)

    def annotate(self, words: list[str]) -> None:
        kind, name, pair = positional(words)
        [one] = [one for one in self.of(kind, None) if one["metadata"]["name"] == name]
        self.changes.append(f"annotate {name_of(one)}")
        merge(one, {"metadata": {"annotations": dict([pair.split("=", 1)])}})


def key(one: Object) -> tuple[str, str]:
    return group_of(one), name_of(one)


def merge(one: Object, patch: Object) -> None:
    """A JSON merge patch."""
    for name, new in patch.items():
        if new is None:
            one.pop(name, None)
        elif isinstance(new, dict):
            merge(one.setdefault(name, {}), new)
        else:
            one[name] = new


def value(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def positional(words: list[str]) -> list[str]:
    """What is neither a flag nor the value of one."""
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if word[0] != "-" and before not in {"-n", "-l", "-o", "-p", "-f"}]


def main(file: str, command: str, *rest: str) -> None:
    cluster, words = Cluster(Path(file)), list(rest)
    if command == "get":
        cluster.get(words)
        return
    import yaml  # slow, and nearly all calls are the one above

    if command == "version":
        print(json.dumps({"serverVersion": {"major": "1", "minor": "36"}}))
    elif command == "kustomize":
        names = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
        print("\n---\n".join((BASE / name).read_text() for name in names))
    elif command in {"apply", "delete"}:
        objects = [one for one in yaml.safe_load_all(sys.stdin.read()) if one]
        cluster.apply(objects) if command == "apply" else cluster.delete(objects)
    elif command == "patch":
        cluster.patch(words, yaml.safe_load(value(words, "-p") or ""))
    elif command == "annotate":
        cluster.annotate(words)
    elif command == "wait":
        print("condition met")
    else:
        sys.exit(f"error: the fake kubectl does not know {command}")
    cluster.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
