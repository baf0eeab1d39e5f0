"""The embedded inference server: llama.cpp's, from the ``xllamacpp`` wheel, in a process of its own.

Started by the supervisor as a script, never imported by the dispatcher; the only place that imports ``xllamacpp``. It takes
the environment of llama.cpp's own ``llama-server``, so one engine adapter serves both::

    python -I -S llama_child.py FOLDER_OF_XLLAMACPP

When it can answer it says so on descriptor 3, in one line: ``127.0.0.1:PORT``. SIGTERM ends it at once while
it loads; later, as soon as no request is being worked on. Why it failed is on stderr, how by its exit code (`LOAD_FAILED`,
`BAD_ARGUMENTS`, `NO_RUNTIME`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

BAD_ARGUMENTS = 2
LOAD_FAILED = 3
NO_RUNTIME = 4

READY_FD = 3

LOOK_EVERY = 0.01
"""Seconds between two looks at the slots while draining."""

SPARE_HTTP_THREADS = 8
"""Beyond one per seat: health, metrics and slots are answered while every seat is taken, and idle connections hold one."""

PREFIX = "LLAMA_ARG_"


def whole(*names: str) -> Callable[[Any, str], None]:
    """A setter for attributes that are whole numbers."""

    def set_all(parameters: Any, value: str) -> None:
        for name in names:
            setattr(parameters, name, int(value))

    return set_all


def switch(name: str) -> Callable[[Any, str], None]:
    """A setter for an attribute that is on (1) or off."""
    return lambda parameters, value: setattr(parameters, name, value == "1")


def set_model(parameters: Any, value: str) -> None:
    parameters.model.path = value


def set_alias(parameters: Any, value: str) -> None:
    parameters.model_alias = {value}


def set_host(parameters: Any, value: str) -> None:
    parameters.hostnames = [value]


def set_threads(parameters: Any, value: str) -> None:
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(value)


def set_rope_scaling(parameters: Any, value: str) -> None:
    parameters.rope_scaling_type = type(parameters.rope_scaling_type)[f"LLAMA_ROPE_SCALING_TYPE_{value.upper()}"]


def set_rope_scale(parameters: Any, value: str) -> None:
    parameters.rope_freq_scale = 1.0 / float(value)


def set_pooling(parameters: Any, value: str) -> None:
    parameters.pooling_type = type(parameters.pooling_type)[f"LLAMA_POOLING_TYPE_{value.upper()}"]


SETTERS: dict[str, Callable[[Any, str], None]] = {
    "MODEL": set_model,
    "ALIAS": set_alias,
    "HOST": set_host,
    "PORT": whole("port"),
    "CTX_SIZE": whole("n_ctx"),
    "N_PARALLEL": whole("n_parallel"),
    "N_GPU_LAYERS": whole("n_gpu_layers"),
    "BATCH": whole("n_batch"),
    "UBATCH": whole("n_ubatch"),
    "THREADS": set_threads,
    "ENDPOINT_METRICS": switch("endpoint_metrics"),
    "ROPE_SCALING_TYPE": set_rope_scaling,
    "ROPE_SCALE": set_rope_scale,
    "POOLING": set_pooling,
}
"""``LLAMA_ARG_…`` variables that are understood."""


def configure(parameters: Any, env: Mapping[str, str]) -> None:
    """Set ``parameters`` as ``env`` says. Raises `ValueError`, `KeyError` for what has no meaning here."""
    # The plan counted weights and KV cache. What would quietly change its context or grow beside it is off.
    parameters.fit_params = False
    parameters.cache_ram_mib = 0
    parameters.n_ctx_checkpoints = 0
    parameters.ui = False
    # It asks nobody for a key, and web pages in this machine's browsers could reach it: they must not read its answers.
    parameters.cors_origins = ""
    parameters.cors_credentials = False
    parameters.verbosity = 1
    parameters.endpoint_slots = True
    # Costs completions nothing, and models made for embeddings answer with them.
    parameters.embedding = True
    for name, value in env.items():
        if name.startswith(PREFIX):
            SETTERS[name.removeprefix(PREFIX)](parameters, value)
    parameters.n_threads_http = parameters.n_parallel + SPARE_HTTP_THREADS


def load(runtime: Any) -> Any:
    """The server, loaded and listening; ends the process where that cannot be."""
    parameters = runtime.CommonParams()
    try:
        configure(parameters, os.environ)
    except (KeyError, ValueError) as error:
        sys.stderr.write(f"the embedded llama.cpp does not know this setting: {error}\n")
        sys.exit(BAD_ARGUMENTS)
    try:
        return runtime.Server(parameters)
    except MemoryError:
        sys.stderr.write("failed to allocate memory\n")
    except RuntimeError:  # llama.cpp has printed the reason; leaving in good order lets its log be written
        pass
    sys.exit(LOAD_FAILED)


def is_busy(host: str, port: int) -> bool:
    """Whether a slot works on a request, or the server is too busy even to say so."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(b"GET /slots HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as reply:
                _, _, body = reply.read().partition(b"\r\n\r\n")
        return any(slot["is_processing"] for slot in json.loads(body))
    except (OSError, ValueError):
        return True


def drain(host: str, port: int) -> None:
    """Wait until no slot works on a request."""
    idle = 0
    while idle < 2:  # a slot is free a moment before its last bytes are sent
        idle = 0 if is_busy(host, port) else idle + 1
        time.sleep(LOOK_EVERY)


def main() -> None:
    # Read when OpenMP's library is loaded. Threads that wait by spinning starve each other and other servers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.path.append(sys.argv[1])
    try:
        import xllamacpp
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(NO_RUNTIME)
    server = load(xllamacpp)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    host, _, port = server.listening_address.removeprefix("http://").rpartition(":")
    os.write(READY_FD, f"{host}:{port}\n".encode())
    os.read(woken, 1)
    drain(host, int(port))
    # Its destructor was seen to hang for minutes. The kernel takes everything back at once.
    os._exit(0)


if __name__ == "__main__":
    main()
