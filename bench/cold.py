"""How long a cold start takes, and how much of it is ours. Run: ``python bench/cold.py [PAIRS]`` (a second per pair).

In turn: the bare inference server, started by hand with the environment the dispatcher gives it, until it says that it is
ready; and a request for the cold model through the whole dispatcher, until the first byte of the answer. The difference
of the medians is what the dispatcher adds: reading the request, finding out about the model, placing it, the supervisor,
holding and relaying the request, and the first token itself.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

import ssis_dispatcher.launchers.process as process
from ssis_dispatcher.engines.base import Options
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.models.catalogue import demo_path

CHILD = Path(process.__file__).with_name("llama_child.py")
BODY = {"model": "demo", "messages": [{"role": "user", "content": "What is MIG?"}], "stream": True, "max_tokens": 8}


def bare() -> float:
    """Seconds from starting the inference server until it is ready."""
    options = Options(str(demo_path()), "demo", "127.0.0.1", 0, 1024, 16, 512, gpus=0)
    command = ENGINES["llamacpp"].command(options)
    runtime = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib.util as u; print(u.find_spec('xllamacpp').submodule_search_locations[0])",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    read, write = os.pipe()
    begun = time.perf_counter()
    script = 'fd=$1; shift; exec "$@" 3>&$fd'
    words = [
        "bash",
        "-c",
        script,
        "bash",
        str(write),
        sys.executable,
        "-I",
        "-S",
        str(CHILD),
        str(Path(runtime).parent),
    ]
    child = subprocess.Popen(words, env=dict(command.env), pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as ready:
        said = ready.readline()
    seconds = time.perf_counter() - begun
    child.terminate()
    child.wait()
    if ":" not in said:
        raise SystemExit("the inference server did not become ready")
    return seconds


def through(client: httpx2.Client) -> float:
    """Seconds from the request until the first byte of the answer; the server is gone again afterwards."""
    begun = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=BODY) as response:
        chunks = response.iter_raw()
        next(chunks)
        seconds = time.perf_counter() - begun
        for _ in chunks:
            pass
    for server in client.get("/api/servers").json()["servers"]:
        client.delete(f"/api/servers/{server['id']}")
    while client.get("/api/servers").json()["servers"]:
        time.sleep(0.01)
    return seconds


def main(pairs: int) -> int:
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {f"XDG_{name}_HOME": home for name in ("STATE", "CACHE", "CONFIG")}
        ssis = [sys.executable, "-m", "ssis_dispatcher.cli", "serve", "--port", "0", "--no-access-log"]
        program = subprocess.Popen(ssis, env=environment, stderr=subprocess.PIPE, text=True)
        assert program.stderr is not None
        url = ""
        while not url:
            found = re.search(r"listens on (\S+)", program.stderr.readline())
            url = found[1] if found else ""
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.01)
            through(client)
            figures = [(bare(), through(client)) for _ in range(pairs)]
        program.terminate()
        program.communicate()
    alone, whole = (statistics.median(column) * 1000 for column in zip(*figures, strict=True))
    print(
        f"{pairs} pairs, medians: the bare server is ready after {alone:.0f} ms; through the dispatcher the first byte"
    )
    print(
        f"of a cold answer comes after {whole:.0f} ms: {whole - alone:.0f} ms are the dispatcher's and the first token's"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:] or ["10"])[0])))
