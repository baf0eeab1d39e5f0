"""How a server ended → why, in words that its callers may read. Pure. Called by `launcher`."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence

import msgspec

from ssis_dispatcher.core.messages import Failure, FailureKind
from ssis_dispatcher.core.sizing import MIB, size
from ssis_dispatcher.launchers.process.child import End
from ssis_dispatcher.launchers.process.llama_child import BAD_ARGUMENTS, LOAD_FAILED, NO_RUNTIME

LONGEST_REASON = 400

KILLED_CODE = 128 + signal.SIGKILL
"""Exit code of a wrapper (a shell, a container) whose program was killed, nearly always for its memory."""

_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|MemoryError|out of memory|OutOfMemory|failed to allocate|unable to allocate|cannot allocate memory"
    r"|No available memory for the cache blocks|larger than the available KV cache memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|Free memory on device .* is less than|Not enough memory",
    re.IGNORECASE,
)
_PORT_TAKEN = re.compile(r"address already in use|couldn't bind", re.IGNORECASE)
_NO_OPENMP = re.compile(r"libgomp\.so")
_TELLING = re.compile(
    r"\b\w*(?:error|exception)\b|\bfail|fatal|abort|terminate|cannot|could not|unable|invalid|not found|no such|corrupt"
    r"|denied|unsupported|not supported|unknown|unrecognized|required|missing",
    re.IGNORECASE,
)
_STAMP = re.compile(r"^(?:[\d.:,T-]{6,}\s+)*(?:(?:E|ERROR|CRITICAL)\s+)?")


class Death(msgspec.Struct, frozen=True):
    """All that is known of the end of a server.

    ``ready`` tells whether it had been, ``embedded`` whether it was our own llama.cpp, ``lines`` are the last it printed,
    ``model`` is what it was told to load. ``share_mib`` is the memory that bounds it (0: nothing does), ``kernel_killed``
    whether the kernel says that it killed something for memory meanwhile.
    """

    engine: str
    model: str
    end: End
    lines: Sequence[str]
    ready: bool
    embedded: bool
    share_mib: int
    kernel_killed: bool


def explain(death: Death) -> Failure:
    """The failure that this death was."""
    end = death.end
    if end.refused:
        return Failure(FailureKind.MISCONFIGURED, f"{death.engine} cannot be started on this machine: {end.refused}")
    if end.over:
        return Failure(
            FailureKind.OUT_OF_MEMORY,
            f"{death.engine} used {size(end.over // MIB)}, more than the {size(death.share_mib)} of its slice",
        )
    reason = _reason(death)
    because = f": {reason}" if reason else ""
    if _was_memory(death):
        return Failure(FailureKind.OUT_OF_MEMORY, f"{_place(death)} is too small for {death.engine}{because}")
    if death.embedded and (known := _embedded(death, because)) is not None:
        return known
    when = "while running" if death.ready else "while starting"
    kind = FailureKind.LOST if _was_killed(end) else FailureKind.CRASHED
    return Failure(kind, f"{death.engine} {_how(end)} {when}{because}")


def _embedded(death: Death, because: str) -> Failure | None:
    """What the exit codes of our own child mean."""
    if death.end.code == NO_RUNTIME:
        if any(_NO_OPENMP.search(line) for line in death.lines):
            fix = (
                "the OpenMP library is missing; the operator installs it with: apt-get install libgomp1 (dnf: libgomp)"
            )
            return Failure(FailureKind.MISCONFIGURED, f"llama.cpp cannot run on this machine: {fix}")
        return Failure(FailureKind.MISCONFIGURED, f"llama.cpp cannot run on this machine{because}")
    if death.end.code == BAD_ARGUMENTS:
        return Failure(FailureKind.MISCONFIGURED, f"llama.cpp was asked for what it does not have{because}")
    if death.end.code == LOAD_FAILED:
        if any(_PORT_TAKEN.search(line) for line in death.lines):
            return Failure(FailureKind.CRASHED, f"llama.cpp could not listen{because}")
        name = os.path.basename(death.model)
        return Failure(FailureKind.MISCONFIGURED, f"llama.cpp cannot load {name}{because}")
    return None


def _was_memory(death: Death) -> bool:
    if any(_OUT_OF_MEMORY.search(line) for line in death.lines):
        return True
    return death.end.code == KILLED_CODE or (death.kernel_killed and _was_killed(death.end))


def _was_killed(end: End) -> bool:
    """Killed from outside; a supervisor that could not report was too."""
    return end.signal == signal.SIGKILL or (end.code is None and end.signal is None)


def _place(death: Death) -> str:
    return f"a slice of {size(death.share_mib)}" if death.share_mib else "its slice"


def _how(end: End) -> str:
    if end.signal is not None:
        return f"was ended by {_signal_name(end.signal)}"
    if end.code is None:
        return "was killed"
    return f"ended by itself (exit code {end.code})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _reason(death: Death) -> str:
    """What the server itself said about it: for llama.cpp its first error, for others their last; "" where it said nothing
    that is surely about that. The names of folders are the operator's, and are left out."""
    lines = [line.strip() for line in death.lines if line.strip()]
    telling = [line for line in lines if _TELLING.search(line) or _OUT_OF_MEMORY.search(line)]
    if not telling and not death.ready:
        telling = lines[-1:]
    if not telling:
        return ""
    line = telling[0] if death.embedded else telling[-1]
    folder = os.path.dirname(death.model)
    if folder not in ("", "/"):
        line = line.replace(folder + "/", "")
    return _STAMP.sub("", line)[:LONGEST_REASON]
