"""The environment of servers: empty, but for what is on a list. Called by `launcher`.

The dispatcher's own environment holds its keys and tokens, and whatever else its operator's shell had.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

EMBEDDED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")
"""Variables of the dispatcher's that our own llama.cpp gets: it needs nothing but to find its libraries."""

OPERATORS = (
    *EMBEDDED,
    "HOME",
    "TMPDIR",
    *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("CUDA_HOME", "CUDA_PATH", "NCCL_DEBUG"),
)
"""… and that a server gets which the operator's command starts: it downloads, compiles and caches by itself."""


def base(parent: Mapping[str, str], *, embedded: bool) -> dict[str, str]:
    """What a server gets of the environment ``parent``, and a path to programs: those beside our own Python (an engine may
    be installed there), and the system's."""
    allowed = EMBEDDED if embedded else OPERATORS
    env = {name: parent[name] for name in allowed if name in parent}
    env.setdefault("LANG", "C.UTF-8")
    if not embedded:
        env["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"))
    return env
