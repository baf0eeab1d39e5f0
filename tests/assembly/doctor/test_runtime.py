"""What is missing of the runtime is found, with the command that installs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.doctor import runtime
from ssis_dispatcher.models import catalogue
from ssis_dispatcher.settings import Settings

NewSettings = Callable[..., Settings]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the looks find another interpreter, one that does what a shell script says."""

    def be(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return be


def test_a_python_that_is_too_old_is_said_to_be(settings: NewSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "OLDEST", (99, 1))
    check = runtime.python(settings())

    assert check.ok is False
    assert "99.1 is needed" in check.detail
    assert check.fix == "install Python 99.1 or newer"


def test_without_httptools_nothing_works(settings: NewSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    check = runtime.httptools(settings())

    assert (check.ok, check.fix) == (False, f"{sys.executable} -m pip install httptools")


def test_without_uvloop_it_is_only_slower(settings: NewSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    check = runtime.uvloop(settings())

    assert (check.ok, check.fix) == (None, f"{sys.executable} -m pip install uvloop")
    assert "slower loop" in check.detail


@pytest.mark.parametrize(
    ("installer", "command"),
    [("apt-get", "apt-get install libgomp1"), ("dnf", "dnf install libgomp"), ("apk", "apk add libgomp")],
)
def test_a_missing_libgomp_names_the_package_of_this_distribution(
    settings: NewSettings,
    child: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    installer: str,
    command: str,
) -> None:
    child("echo 'OSError: libgomp.so.1: cannot open shared object file' >&2; exit 1")
    tool = tmp_path / installer
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    check = runtime.libgomp(settings())

    assert (check.ok, check.fix) == (False, command)
    assert check.detail == "OSError: libgomp.so.1: cannot open shared object file"


def test_libgomp_is_a_matter_of_linux(settings: NewSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    assert runtime.libgomp(settings()).ok is None


def test_an_engine_that_cannot_be_imported_is_installed_as_it_is_pinned(
    settings: NewSettings, child: Callable[[str], None]
) -> None:
    child("echo Traceback >&2; echo \"ModuleNotFoundError: No module named 'xllamacpp'\" >&2; exit 1")
    check = runtime.xllamacpp(settings())

    assert (check.ok, check.detail) == (False, "ModuleNotFoundError: No module named 'xllamacpp'")
    assert "-m pip install 'xllamacpp==" in check.fix


def test_an_engine_that_lacks_libgomp_needs_libgomp(settings: NewSettings, child: Callable[[str], None]) -> None:
    child("echo 'ImportError: libgomp.so.1: cannot open shared object file' >&2; exit 1")
    check = runtime.xllamacpp(settings())

    assert check.ok is False
    assert "libgomp" in check.fix


def test_an_engine_that_kills_its_process_is_not_for_this_processor(
    settings: NewSettings, child: Callable[[str], None]
) -> None:
    child("kill -ILL $$")
    check = runtime.xllamacpp(settings())

    assert check.ok is False
    assert check.detail.startswith("ended by signal 4")


def test_an_engine_that_never_comes_back_does_not_hold_the_doctor_up(
    settings: NewSettings, child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    child("exec sleep 60")
    monkeypatch.setattr(runtime, "_CHILD_SECONDS", 0.1)
    check = runtime.xllamacpp(settings())

    assert check.ok is False
    assert check.detail.startswith("did not come to an end")


def test_another_version_of_the_engine_is_worth_a_word(settings: NewSettings, child: Callable[[str], None]) -> None:
    child("echo 1.0")
    check = runtime.xllamacpp(settings())

    assert check.ok is None
    assert check.detail.startswith("1.0; this program was made for xllamacpp==")


def test_a_damaged_demo_model_is_found(settings: NewSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "demo.gguf").write_bytes(b"GGUF, but not all of it")
    monkeypatch.setattr(catalogue, "demo_path", lambda: tmp_path / "demo.gguf")
    check = runtime.demo_model(settings())

    assert check.ok is False
    assert "is damaged" in check.detail
    assert "--force-reinstall" in check.fix


def test_a_missing_demo_model_is_found(settings: NewSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalogue, "demo_path", lambda: tmp_path / "demo.gguf")
    check = runtime.demo_model(settings())

    assert check.ok is False
    assert "No such file" in check.detail
