"""`ssis serve` up to the assembly, and what comes back from it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssis_dispatcher.errors import Unavailable
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.settings import Settings

Ssis = Callable[..., Any]


def test_the_settings_are_handed_over_and_the_exit_code_comes_back(ssis: Ssis, assembly: SimpleNamespace) -> None:
    served: list[Settings] = []

    def serve(settings: Settings, *, ready: Callable[[str], None]) -> int:
        served.append(settings)
        ready("http://127.0.0.1:4711")
        return 3

    assembly.serve = serve
    result = ssis("serve", "--port", "0", "--keep-alive", "1h", "--insecure")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "listens on http://127.0.0.1:4711\n" in result.stderr
    assert "programs of this machine, without a key" in result.stderr
    assert (served[0].port, served[0].keep_alive, served[0].insecure) == (0, 3600, True)
    assert ssis("serve", "-q").stderr == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "those with a key of "),
        (["--host", "0.0.0.0", "--insecure"], "anybody, without a key (--insecure)"),
        (["--host", "localhost"], "programs of this machine"),
        (["--host", "localhost", "--require-keys"], "those with a key of "),
        (["--host", "0.0.0.0"], "listens on all addresses, here as http://x"),
        (["--host", "192.0.2.1"], "listens on http://x"),
    ],
)
def test_the_banner_says_who_may_call(ssis: Ssis, assembly: SimpleNamespace, flags: list[str], words: str) -> None:
    assembly.serve = lambda settings, ready: ready("http://x") or 0
    assert words in ssis("serve", *flags).stderr


@pytest.mark.parametrize(
    ("error", "flags", "words"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), [], "127.0.0.1:8080 is taken by another program"),
        (OSError(errno.EADDRNOTAVAIL, "No"), ["--host", "192.0.2.1"], "this machine has no address 192.0.2.1"),
        (OSError(errno.EACCES, "No"), ["--port", "80"], "this user may not listen on port 80; choose one above 1023"),
        (
            OSError(errno.EACCES, "Permission denied", "/state"),
            ["--port", "80"],
            "cannot serve: Permission denied (/state)",
        ),
        (BadFile("models.yaml:3: oops"), [], "models.yaml:3: oops"),
        (Unavailable("No keys: make one with `ssis keys create`."), [], "No keys: make one"),
    ],
)
def test_what_keeps_it_from_serving_is_said_in_one_line(
    ssis: Ssis, assembly: SimpleNamespace, error: Exception, flags: list[str], words: str
) -> None:
    def serve(settings: Settings, *, ready: Callable[[str], None]) -> int:
        raise error

    assembly.serve = serve
    result = ssis("serve", *flags)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"ssis: {words}")
    assert result.stderr.count("\n") == 1


def test_wrong_flags_never_reach_the_assembly(ssis: Ssis, assembly: SimpleNamespace) -> None:
    result = ssis("serve", "--port", "high", "--tls-cert", "x")
    assert result.exit_code == 2
    assert result.stderr == (
        'ssis: --port "high": expected a whole number, 0 to 65535\n'
        "ssis: tls_cert is set and tls_key is not: HTTPS needs both\n"
    )


def test_which_hosts_only_this_machine_reaches() -> None:
    near, far = ("127.0.0.1", "127.9.9.9", "::1", "localhost"), ("0.0.0.0", "::", "10.0.0.1", "example.org", "")
    assert all(Settings(host=host).listens_on_loopback for host in near)
    assert not any(Settings(host=host).listens_on_loopback for host in far)


def test_the_banner_names_the_file(ssis: Ssis, assembly: SimpleNamespace, tmp_path: Path) -> None:
    assembly.serve = lambda settings, ready: ready("http://x") or 0
    file = tmp_path / "my.toml"
    file.write_text("port = 1")
    assert f"settings   {file}," in ssis("serve", "--config", str(file)).stderr
