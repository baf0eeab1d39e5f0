"""`make build`: the dispatcher's image, with whatever builds images here."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kubectl import Kubectl, Problem, is_set, option, say

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "dev.local/ssis-dispatcher"
"""Knative asks no registry for names that begin with dev.local: an image that the nodes have is enough."""

TEST_IMAGE = option("TEST_IMAGE", "dev.local/ssis-test-llamacpp:1")

LAST = ROOT / "build" / "image"
"""Has the name of the image that was built last."""

BUILDERS = (
    ("docker", ("docker", "version", "--format", "{{.Server.Version}}"), ("docker", "build")),
    ("podman", ("podman", "info"), ("podman", "build")),
    ("buildah", ("buildah", "info"), ("buildah", "build")),
)
"""Name, what succeeds when it can build, and how it builds."""


def sources() -> Iterator[Path]:
    """All that the image is made of."""
    yield from (ROOT / name for name in ("Dockerfile", "pyproject.toml", "uv.lock", "README.md", "LICENSE"))
    yield from sorted(path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def version() -> str:
    found = re.search(r'__version__ = "(.+?)"', (ROOT / "src/ssis_dispatcher/__init__.py").read_text())
    assert found is not None
    return found[1]


def digest() -> str:
    """Twelve digits that change with the sources: a new image gets a new name, and an unchanged one does not."""
    whole = hashlib.sha256(option("BASE").encode())
    for path in sources():
        whole.update(f"{path.relative_to(ROOT)}\0".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def image() -> str:
    """IMAGE=, else a name for these sources."""
    return option("IMAGE") or f"{REPOSITORY}:{version()}-{digest()}"


def built() -> str:
    """IMAGE=, else the one that was built last. Raises `Problem`."""
    if option("IMAGE"):
        return option("IMAGE")
    if not LAST.exists():
        raise Problem("no image has been built here: make build first, or name one with IMAGE=")
    name = LAST.read_text().strip()
    if name.startswith(f"{REPOSITORY}:") and name != image():
        say("! The sources have changed since make build: this deploys what was built then.")
    return name


def builder() -> tuple[str, ...]:
    """The command that builds: BUILDER=, else the first that answers. Raises `Problem`."""
    wanted = option("BUILDER")
    if wanted:
        return next((command for name, _, command in BUILDERS if name == wanted), tuple(shlex.split(wanted)))
    for _, probe, command in BUILDERS:
        try:
            if subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0:
                return command
        except (FileNotFoundError, subprocess.TimeoutExpired):
            continue
    raise Problem(
        "neither docker, podman nor buildah can build here. Start or install one, or name a command that takes "
        "-t, -f and --build-arg as they do: make build BUILDER='my-builder build'"
    )


def build(_: Kubectl) -> None:
    """`make build`."""
    name = image()
    _make(name, ROOT / "Dockerfile", {"VERSION": version(), "REVISION": _revision()})
    LAST.parent.mkdir(exist_ok=True)
    LAST.write_text(f"{name}\n")
    load = option("IMAGE_LOAD")
    if not load and not is_set("PUSH") and name.startswith("dev.local/") and not option("BUILDER"):
        say(
            "The cluster's nodes need it: IMAGE_LOAD='kind load docker-image' (or k3d image import, minikube image load), "
            "or a registry: IMAGE=registry.example/ssis-dispatcher:1 PUSH=1"
        )
    say("Next: make deploy")


def build_test_image(_: Kubectl) -> None:
    """The inference server of tests/cluster."""
    runtime = re.search(r'"(xllamacpp==[^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert runtime is not None
    _make(TEST_IMAGE, ROOT / "tests/cluster/images/llamacpp/Dockerfile", {"RUNTIME": runtime[1]})


def _make(name: str, dockerfile: Path, arguments: dict[str, str]) -> None:
    """Build an image, and bring it to where it is to be. Raises `Problem`."""
    command = builder()
    if option("BASE"):
        arguments = arguments | {"BASE": option("BASE")}
    words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    say(f"Building {name} with {' '.join(command)} …")
    _must([*command, "-t", name, "-f", str(dockerfile), *words, str(ROOT)])
    if is_set("PUSH"):
        _must([command[0], "push", name])
    load = option("IMAGE_LOAD")
    if load:
        _must(["sh", "-c", load.replace("{}", name) if "{}" in load else f"{load} {name}"])
    say(f"Built {name}.")


def _revision() -> str:
    found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def _must(words: list[str]) -> None:
    try:
        done = subprocess.run(words, check=False)
    except FileNotFoundError:
        raise Problem(f"{words[0]} is not installed") from None
    if done.returncode:
        raise Problem(f"{' '.join(words[:3])} … ended with {done.returncode}")
