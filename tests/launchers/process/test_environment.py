"""What a server gets of the dispatcher's environment."""

from __future__ import annotations

import os
import sys

from ssis_dispatcher.launchers.process.environment import base

PARENT = {
    "HF_TOKEN": "hf_secret",
    "SSIS_API_KEY": "ssis-secret",
    "LD_PRELOAD": "evil.so",
    "PYTHONPATH": "/elsewhere",
    "PATH": "/operator/bin",
    "HOME": "/home/operator",
    "HF_HOME": "/models",
    "LANG": "de_DE.UTF-8",
    "LD_LIBRARY_PATH": "/opt/lib",
    "CUDA_VISIBLE_DEVICES": "0,1",
}


def test_the_embedded_server_gets_next_to_nothing() -> None:
    assert base(PARENT, embedded=True) == {"LANG": "de_DE.UTF-8", "LD_LIBRARY_PATH": "/opt/lib"}


def test_a_server_of_the_operators_also_gets_its_home_its_caches_and_a_path() -> None:
    env = base(PARENT, embedded=False)
    path = env.pop("PATH").split(os.pathsep)
    assert path == [os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]
    assert env == {
        "HOME": "/home/operator",
        "HF_HOME": "/models",
        "LANG": "de_DE.UTF-8",
        "LD_LIBRARY_PATH": "/opt/lib",
    }


def test_there_is_always_a_language() -> None:
    assert base({}, embedded=True) == {"LANG": "C.UTF-8"}
