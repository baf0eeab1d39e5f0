"""The inference server of the tests: our own child, in a container. It takes llama.cpp's LLAMA_ARG_… variables, serves the
demonstration model whatever it is asked to load, and misbehaves as the model's name says:

``oom``      allocates until the kernel ends it
``needs-N``  ends as an engine does that has less than N MiB of its GPU (its MPS limit tells how much it has)
``crash``    ends at once
``slow-N``   takes N seconds longer to start
``stuck``    never starts
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
MOST = 4 << 30
"""Bytes; where the container may have more, nothing is allocated for real."""


def memory_limit() -> int:
    """Of this container, in bytes; 0 for none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found = Path(path).read_text().strip()
        except OSError:
            continue
        return int(found) if found.isdigit() else 0
    return 0


def out_of_gpu_memory() -> None:
    sys.exit("CUDA error: out of memory")


def use_up() -> None:
    if not 0 < memory_limit() <= MOST:
        out_of_gpu_memory()
    held = []
    while True:
        held.append(b"x" * (16 << 20))


def gpu_mib() -> int:
    """What CUDA_MPS_PINNED_DEVICE_MEM_LIMIT leaves: ``0=4G`` → 4096; a great deal without it."""
    found = re.search(r"=(\d+)([GM])", os.environ.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", ""))
    return int(found[1]) * (1024 if found[2] == "G" else 1) if found else 1 << 20


def behave(name: str) -> None:
    """As ``name``, the last part of a model's id, says."""
    word, _, number = name.partition("-")
    match word:
        case "oom":
            use_up()
        case "needs" if gpu_mib() < int(number):
            out_of_gpu_memory()
        case "crash":
            sys.exit("this model cannot be loaded: it was made to fail")
        case "slow":
            time.sleep(float(number))
        case "stuck":
            signal.pause()


def main() -> None:
    # Process 1 has no default handlers: without one, SIGTERM would be ignored until the model is loaded.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    asked = os.environ.pop("LLAMA_ARG_HF_REPO", "") or os.environ.get("LLAMA_ARG_MODEL", "")
    behave(asked.rpartition("/")[2])
    os.environ["LLAMA_ARG_MODEL"] = str(HERE / "demo.gguf")
    os.environ["LLAMA_ARG_HOST"] = "0.0.0.0"
    os.environ["LLAMA_ARG_PORT"] = os.environ.get("PORT", os.environ.get("LLAMA_ARG_PORT", "8080"))
    os.environ.setdefault("LLAMA_ARG_N_PARALLEL", "4")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 3)  # where the child says that it is ready: here nobody listens
    sys.argv = ["llama_child.py", "/opt/llamacpp"]
    runpy.run_path(str(HERE / "llama_child.py"), run_name="__main__")


if __name__ == "__main__":
    main()
