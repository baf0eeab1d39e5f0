"""What the commands share: kubectl, and talking to the person who runs them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import yaml

Object = dict[str, Any]
Found = TypeVar("Found")

MANAGER = "ssis-dispatcher"
"""Field manager of what these commands apply, and who says so on what the dispatcher makes."""

MANAGED = f"app.kubernetes.io/managed-by={MANAGER}"
"""Selects what a dispatcher made in the cluster: its servers' Knative Services and their Secrets."""


class Problem(Exception):
    """Something that the person can do something about; printed without a traceback."""


def say(text: str) -> None:
    print(text, flush=True)


def option(name: str, default: str = "") -> str:
    """A variable of the make command line."""
    return os.environ.get(name, "").strip() or default


def is_set(name: str) -> bool:
    return option(name, "0").lower() not in {"0", "no", "false", "off"}


class Kubectl:
    """The cluster that kubectl talks to. KUBECTL= names the command, which may be several words."""

    def __init__(self) -> None:
        self.command = shlex.split(option("KUBECTL", "kubectl"))

    def run(self, *words: str, stdin: str | None = None, within: float = 300) -> str:
        """What ``kubectl words…`` prints. Raises `Problem` with what it complained of."""
        try:
            done = subprocess.run(
                [*self.command, *words], input=stdin, capture_output=True, text=True, timeout=within, check=False
            )
        except FileNotFoundError:
            raise Problem(f"{self.command[0]} is not installed; KUBECTL= names another command") from None
        except subprocess.TimeoutExpired:
            raise Problem(f"kubectl {' '.join(words[:4])} … took longer than {within:.0f} s") from None
        if done.returncode:
            raise Problem(f"kubectl {' '.join(words[:4])} …: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def ok(self, *words: str) -> bool:
        try:
            self.run(*words)
        except Problem:
            return False
        return True

    def server_version(self) -> tuple[int, int]:
        """Kubernetes, as (1, 36)."""
        found = json.loads(self.run("version", "-o", "json")).get("serverVersion")
        if found is None:
            raise Problem("kubectl reaches no cluster: check the current context, or set KUBECONFIG")
        return int(found["major"]), int("".join(c for c in found["minor"] if c.isdigit()))

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """One object, None where there is none (or no such kind)."""
        place = ["-n", namespace] if namespace else []
        try:
            found = self.run("get", kind, name, *place, "-o", "json", "--ignore-not-found")
        except Problem as problem:
            if "doesn't have a resource type" in str(problem):
                return None
            raise
        return json.loads(found) if found.strip() else None

    def list(self, kinds: str, *words: str) -> list[Object]:
        """All objects; none where there is no such kind."""
        try:
            found = self.run("get", kinds, *words, "-o", "json", "--ignore-not-found")
        except Problem as problem:
            if "doesn't have a resource type" in str(problem):
                return []
            raise
        return json.loads(found)["items"] if found.strip() else []

    def existing(self, objects: Iterable[Object]) -> list[Object]:
        """Those of ``objects`` that the cluster has, as it has them."""
        found = []
        groups: dict[tuple[str, str], set[str]] = {}
        for one in objects:
            groups.setdefault((resource(one), one["metadata"].get("namespace", "")), set()).add(one["metadata"]["name"])
        for (kind, namespace), names in groups.items():
            place = ["-n", namespace] if namespace else []
            found += [one for one in self.list(kind, *place) if one["metadata"]["name"] in names]
        return found

    def apply(self, objects: Sequence[Object], *words: str) -> None:
        """Server-side: it needs no annotation with the whole object, which large definitions would burst."""
        if not objects:
            return
        self.run(
            "apply", "--server-side", "--force-conflicts", f"--field-manager={MANAGER}", *words, "-f", "-",
            stdin=yaml.safe_dump_all(objects),
        )  # fmt: skip

    def delete(self, objects: Iterable[Object], within: int = 180) -> None:
        """Delete, and wait until they are gone. Those that are gone already are fine."""
        gone = yaml.safe_dump_all(
            [
                {
                    "apiVersion": one["apiVersion"],
                    "kind": one["kind"],
                    "metadata": {key: one["metadata"][key] for key in ("name", "namespace") if key in one["metadata"]},
                }
                for one in objects
            ]
        )
        if gone:
            self.run(
                "delete", "--ignore-not-found", "--wait", f"--timeout={within}s", "-f", "-", stdin=gone, within=within + 30
            )  # fmt: skip


def resource(one: Object) -> str:
    """How kubectl is asked for the kind of ``one`` without guessing: ``Service.v1.serving.knative.dev``."""
    group, slash, version = one["apiVersion"].rpartition("/")
    return f"{one['kind']}.{version}.{group}" if slash else f"{one['kind']}.{version}."


def named(one: Object) -> str:
    """For people: ``Deployment nthulab/dispatcher``."""
    place = one["metadata"].get("namespace")
    return f"{one['kind']} {place + '/' if place else ''}{one['metadata']['name']}"


def until(what: str, look: Callable[[], Found], within: float = 120, every: float = 1.0) -> Found:
    """The first true thing that ``look`` returns. A `Problem` of its is tried again until the time is over."""
    deadline = time.monotonic() + within
    last = ""
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except Problem as problem:
            last = str(problem)
        time.sleep(every)
    raise Problem(f"waited {within:.0f} s in vain for {what}" + (f": {last}" if last else ""))


def condition(one: Object, kind: str) -> Object:
    """A condition of an object's status; empty when it has none, or one of an earlier generation."""
    status = one.get("status", {})
    if status.get("observedGeneration", one["metadata"].get("generation")) != one["metadata"].get("generation"):
        return {}
    return next((found for found in status.get("conditions", ()) if found["type"] == kind), {})
