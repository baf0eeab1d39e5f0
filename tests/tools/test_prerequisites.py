"""What `make` says on a machine where something is missing, before anything is downloaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "prerequisites.sh"


def missing(python: str) -> tuple[int, list[str]]:
    """The exit status, and a line for each thing."""
    found = subprocess.run(["sh", SCRIPT], env={"PYTHON": python}, capture_output=True, text=True, check=False)
    assert found.stdout == ""
    return found.returncode, found.stderr.splitlines()


def a_python(folder: Path, *lacks: str) -> str:
    """A Python that cannot import what has these words in it."""
    python = folder / "python3"
    refused = "".join(f'case "$2" in *{word}*) exit 1 ;; esac\n' for word in lacks)
    python.write_text(f'#!/bin/sh\n{refused}exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_nothing_is_said_where_nothing_is_missing(tmp_path: Path) -> None:
    assert missing(a_python(tmp_path)) == (0, [])


@pytest.mark.parametrize(
    ("lacks", "package"), [("venv", "apt-get install python3-venv"), ("libgomp", "apt-get install libgomp1")]
)
def test_one_line_names_the_package(tmp_path: Path, lacks: str, package: str) -> None:
    status, (line,) = missing(a_python(tmp_path, lacks))
    assert status == 1
    assert line.startswith("missing: ")
    assert package in line


@pytest.mark.parametrize("python", ["", "no-such-python", "old"])
def test_without_a_python_that_is_new_enough_nothing_else_is_asked_for(tmp_path: Path, python: str) -> None:
    status, (line,) = missing(a_python(tmp_path, "version_info") if python == "old" else python)
    assert status == 1
    assert "Python 3.11 or newer" in line
