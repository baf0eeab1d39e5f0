"""The programs and libraries that a dispatcher and its embedded engine are made of."""

from __future__ import annotations

import hashlib
import importlib
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from ssis_dispatcher.assembly.doctor.check import Check

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Settings

OLDEST = (3, 11)

_CHILD_SECONDS = 30.0
"""Far more than any import takes; a look must end."""

_REINSTALL = f"{sys.executable} -m pip install --force-reinstall ssis-dispatcher"

_LIBGOMP_BY_INSTALLER = {
    "apt-get": "apt-get install libgomp1",
    "dnf": "dnf install libgomp",
    "zypper": "zypper install libgomp1",
    "apk": "apk add libgomp",
    "pacman": "pacman -S gcc-libs",
}


def python(settings: Settings) -> Check:
    version = platform.python_version()
    if sys.version_info[:2] >= OLDEST:
        return Check("python", True, f"{version} ({sys.executable})")
    wanted = ".".join(map(str, OLDEST))
    return Check("python", False, f"{version} is too old: {wanted} is needed", f"install Python {wanted} or newer")


def httptools(settings: Settings) -> Check:
    """Without it no HTTP is spoken."""
    return _module("httptools", ok_without=False, without="it parses every request")


def uvloop(settings: Settings) -> Check:
    """Without it the standard library's loop does, at a lower rate."""
    return _module("uvloop", ok_without=None, without="the slower loop of the standard library is used")


def _module(name: str, *, ok_without: bool | None, without: str) -> Check:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return Check(name, ok_without, f"{error}: {without}", f"{sys.executable} -m pip install {name}")
    return Check(name, True, metadata.version(name))


def libgomp(settings: Settings) -> Check:
    """The OpenMP runtime that xllamacpp is linked with; part of the system, not of any Python package."""
    if sys.platform != "linux":
        return Check("libgomp", None, f"not needed on {sys.platform}")
    failed = _child("import ctypes; ctypes.CDLL('libgomp.so.1')")
    if isinstance(failed, str):
        return Check("libgomp", True, "libgomp.so.1 loads")
    return Check("libgomp", False, failed.reason, _install_libgomp())


def _install_libgomp() -> str:
    """The command for this machine's packages."""
    found = (command for installer, command in _LIBGOMP_BY_INSTALLER.items() if shutil.which(installer))
    return next(found, _LIBGOMP_BY_INSTALLER["apt-get"])


def xllamacpp(settings: Settings) -> Check:
    """The embedded engine. Imported in a child: a native library that does not fit this CPU ends its process."""
    said = _child("import xllamacpp; from importlib.metadata import version; print(version('xllamacpp'))")
    wanted = _pinned("xllamacpp")
    install = f"{sys.executable} -m pip install '{wanted or 'xllamacpp'}'"
    if not isinstance(said, str):
        missing_library = "libgomp" in said.reason
        return Check("xllamacpp", False, said.reason, _install_libgomp() if missing_library else install)
    if wanted and wanted != f"xllamacpp=={said}":
        return Check("xllamacpp", None, f"{said}; this program was made for {wanted}", install)
    return Check("xllamacpp", True, said)


def _pinned(name: str) -> str:
    """The requirement on ``name`` that this program's own metadata states; "" without metadata."""
    try:
        stated = metadata.requires("ssis-dispatcher") or []
    except metadata.PackageNotFoundError:
        return ""
    return next((line for line in stated if re.match(rf"{name}\s*==", line)), "")


def demo_model(settings: Settings) -> Check:
    """The packaged model, so that the first answer needs no download."""
    from ssis_dispatcher.models.catalogue import demo_path
    from ssis_dispatcher.models.sources import DEMO_SHA256

    file = demo_path()
    try:
        data = file.read_bytes()
    except OSError as error:
        return Check("demo model", False, f"{file}: {error.strerror}", _REINSTALL)
    if hashlib.sha256(data).hexdigest() != DEMO_SHA256:
        return Check("demo model", False, f"{file} is damaged: its SHA-256 is not the expected one", _REINSTALL)
    return Check("demo model", True, f"{len(data) / 2**20:.1f} MiB, SHA-256 as expected")


class _Failed:
    """Why a child did not end well, in one line."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _child(code: str) -> str | _Failed:
    """Run ``code`` in a Python of its own; what it printed. The working directory is not on its path."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, timeout=_CHILD_SECONDS, text=True
        )
    except subprocess.TimeoutExpired:
        return _Failed(f"did not come to an end within {_CHILD_SECONDS:.0f} s")
    if done.returncode < 0:
        return _Failed(f"ended by signal {-done.returncode}: it is probably not made for this processor")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return _Failed(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout.strip()
