"""Why a server ended, in words."""

from __future__ import annotations

import signal
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.core.messages import FailureKind
from ssis_dispatcher.launchers.process.child import End
from ssis_dispatcher.launchers.process.failures import LONGEST_REASON, Death, explain
from ssis_dispatcher.launchers.process.llama_child import BAD_ARGUMENTS, LOAD_FAILED, NO_RUNTIME

MIB = 1 << 20

STARTING = Death("vllm", "org/name", End(code=1), (), False, False, 2048, False)
EMBEDDED = msgspec.structs.replace(
    STARTING, engine="llamacpp", model="/home/operator/models/a.gguf", embedded=True, end=End(code=LOAD_FAILED)
)


def said(death: Death, *lines: str, **changes: Any) -> tuple[FailureKind, str]:
    failure = explain(msgspec.structs.replace(death, lines=lines, **changes))
    return failure.kind, failure.message


def test_a_program_that_cannot_be_started_is_the_operators_to_mend() -> None:
    kind, message = said(STARTING, end=End(refused="No such file or directory"))
    assert kind is FailureKind.MISCONFIGURED
    assert message == "vllm cannot be started on this machine: No such file or directory"


def test_one_that_used_more_than_its_share_was_out_of_memory_with_the_numbers() -> None:
    kind, message = said(STARTING, end=End(signal=signal.SIGKILL, over=3072 * MIB))
    assert kind is FailureKind.OUT_OF_MEMORY
    assert message == "vllm used 3.00 GiB, more than the 2.00 GiB of its slice"


@pytest.mark.parametrize(
    "line",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 8589934592",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "MemoryError",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory utilization",
        "RuntimeError: Not enough memory to handle 4096 prefill tokens.",
    ],
)
def test_one_that_says_so_was_out_of_memory(line: str) -> None:
    kind, message = said(STARTING, "INFO loading", line)
    assert kind is FailureKind.OUT_OF_MEMORY
    assert message == f"a slice of 2.00 GiB is too small for vllm: {line}"


def test_a_wrapper_whose_program_was_killed_was_out_of_memory() -> None:
    assert said(STARTING, end=End(code=137))[0] is FailureKind.OUT_OF_MEMORY


@pytest.mark.parametrize(("kernel_killed", "kind"), [(True, FailureKind.OUT_OF_MEMORY), (False, FailureKind.LOST)])
def test_one_that_was_killed_was_out_of_memory_only_if_the_kernel_says_so(
    kernel_killed: bool, kind: FailureKind
) -> None:
    assert said(STARTING, end=End(signal=signal.SIGKILL), kernel_killed=kernel_killed)[0] is kind


def test_a_kill_of_the_kernels_elsewhere_does_not_explain_a_crash() -> None:
    assert said(STARTING, end=End(signal=signal.SIGSEGV), kernel_killed=True)[0] is FailureKind.CRASHED


def test_one_whose_supervisor_was_killed_is_lost() -> None:
    assert said(STARTING, end=End()) == (FailureKind.LOST, "vllm was killed while starting")


def test_a_crash_names_the_signal_and_the_last_error() -> None:
    kind, message = said(
        STARTING, "Error: one", "ERROR 11-24 04:00:00 two failed", "bye", end=End(signal=11), ready=True
    )
    assert kind is FailureKind.CRASHED
    assert message == "vllm was ended by SIGSEGV while running: 11-24 04:00:00 two failed"


def test_a_signal_without_a_name_is_told_by_number() -> None:
    assert said(STARTING, end=End(signal=250))[1] == "vllm was ended by signal 250 while starting"


def test_while_starting_the_last_line_is_the_reason_where_none_looks_like_one() -> None:
    assert said(STARTING, "one", "two", "")[1] == "vllm ended by itself (exit code 1) while starting: two"


def test_while_running_a_line_that_is_no_error_is_not_shown_to_callers() -> None:
    assert said(STARTING, "what somebody wrote", ready=True)[1] == "vllm ended by itself (exit code 1) while running"


def test_a_reason_is_short() -> None:
    assert len(said(STARTING, "error " * 1000)[1]) < LONGEST_REASON + 100


def test_llama_cpps_first_error_is_the_reason_and_folders_are_left_out() -> None:
    kind, message = said(
        EMBEDDED,
        "0.00.006.337 E gguf_init_from_file: failed to open GGUF file '/home/operator/models/a.gguf' (No such file)",
        "0.00.006.526 E srv    load_model: failed to load model, '/home/operator/models/a.gguf'",
    )
    assert kind is FailureKind.MISCONFIGURED
    expected = "gguf_init_from_file: failed to open GGUF file 'a.gguf' (No such file)"
    assert message == f"llama.cpp cannot load a.gguf: {expected}"


def test_a_port_that_is_taken_is_worth_another_try() -> None:
    kind, message = said(EMBEDDED, "E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 80")
    assert kind is FailureKind.CRASHED
    assert "couldn't bind" in message


def test_a_missing_openmp_library_names_its_package() -> None:
    line = "libgomp.so.1: cannot open shared object file: No such file or directory"
    kind, message = said(EMBEDDED, line, end=End(code=NO_RUNTIME))
    assert kind is FailureKind.MISCONFIGURED
    assert "libgomp1" in message


def test_a_runtime_that_is_broken_otherwise_says_how() -> None:
    kind, message = said(EMBEDDED, "No module named 'xllamacpp'", end=End(code=NO_RUNTIME))
    assert kind is FailureKind.MISCONFIGURED
    assert message == "llama.cpp cannot run on this machine: No module named 'xllamacpp'"


def test_a_setting_that_llama_cpp_does_not_have_is_the_operators_to_mend() -> None:
    kind, message = said(
        EMBEDDED, "the embedded llama.cpp does not know this setting: 'X'", end=End(code=BAD_ARGUMENTS)
    )
    assert kind is FailureKind.MISCONFIGURED
    assert message.endswith("does not know this setting: 'X'")


def test_our_exit_codes_mean_nothing_from_others() -> None:
    assert said(STARTING, end=End(code=LOAD_FAILED))[0] is FailureKind.CRASHED
