"""What is run for one server."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.core.messages import Launch, Model
from ssis_dispatcher.core.sizing import MIB, ModelFacts
from ssis_dispatcher.core.slices import Pool, Slice, SliceKind, cpu_slice
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.process.options import ModelSource, ProcessOptions
from ssis_dispatcher.launchers.process.plans import Plan, plan

GPU = Slice(81559, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="device")
EVERYTHING = "{model}|{served_as}|{host}|{context}|{seats}|{memory_mib}|{kv_mib}|{gpus}|{threads}|{revision}|{port}"


def planned(order: Launch, *engines: Engine, devices: tuple[str, ...] = (), **more: Any) -> Plan:
    source = more.pop("source", ModelSource("org/name"))
    known = {**ENGINES, **{engine.name: engine for engine in engines}}
    return plan(order, known, source, ProcessOptions(**more), devices)


def own(order: Launch, slice: Slice, count: int = 1) -> Launch:
    profile = msgspec.structs.replace(order.profile, facts=ModelFacts(weight_bytes=100 * MIB), overhead_share=0.0)
    model = Model.of("org/name", engine="own", revision="main")
    return msgspec.structs.replace(order, model=model, profile=profile, pool=Pool("n", slice, 1), count=count)


def test_an_engine_is_told_what_the_plan_says(make_order: Any) -> None:
    engine = CommandEngine("own", ENGINES["vllm"], command=("serve", EVERYTHING))
    made = planned(own(make_order(), cpu_slice(512, 0.5)), engine, threads=3)
    assert made.argv == ("serve", f"org/name|org/name|127.0.0.1|256|2|512|{512 - 100 - 64}|0|3|main|{made.port}")
    assert made.address == f"127.0.0.1:{made.port}"
    assert not made.embedded
    assert made.is_local


def test_on_gpus_it_is_told_how_many_and_given_those(make_order: Any) -> None:
    engine = CommandEngine("own", ENGINES["vllm"], command=("serve", "{gpus}", "{port}"))
    made = planned(own(make_order(), GPU, 2), engine, devices=("GPU-a", "GPU-b"))
    assert made.argv[1] == "2"
    assert dict(made.env)["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert not made.is_local


def test_devices_that_nobody_knows_are_left_to_the_engine(make_order: Any) -> None:
    engine = CommandEngine("own", ENGINES["vllm"], command=("serve", "{port}"))
    assert "CUDA_VISIBLE_DEVICES" not in dict(planned(own(make_order(), GPU), engine).env)


def test_an_installed_engine_is_started_by_its_own_program(make_order: Any) -> None:
    order = msgspec.structs.replace(own(make_order(), GPU), model=Model.of("org/name", engine="vllm"))
    made = planned(order)
    assert made.argv[:2] == ("vllm", "serve")
    assert str(made.port) in made.argv


def test_llama_cpp_is_embedded(make_order: Any, demo: str) -> None:
    made = planned(make_order(), source=ModelSource(demo))
    assert made.embedded
    assert made.argv[:3] == (sys.executable, "-I", "-S")
    assert dict(made.env)["OMP_WAIT_POLICY"] == "PASSIVE"
    assert dict(made.env)["LLAMA_ARG_CTX_SIZE"] == "512"


def test_llama_cpp_with_other_variables_is_still_embedded(make_order: Any, demo: str) -> None:
    engine = CommandEngine("llamacpp", ENGINES["llamacpp"], env=(("LLAMA_ARG_UBATCH", "128"),))
    made = planned(make_order(), engine, source=ModelSource(demo))
    assert made.embedded
    assert dict(made.env)["LLAMA_ARG_UBATCH"] == "128"


def test_llama_cpp_with_another_command_is_not(make_order: Any, demo: str) -> None:
    engine = CommandEngine("llamacpp", ENGINES["llamacpp"], command=("llama-server",), port=8099)
    made = planned(make_order(), engine, source=ModelSource(demo))
    assert (made.embedded, made.argv, made.port) == (False, ("llama-server",), 8099)


def test_addresses_of_ipv6_are_written_in_brackets(make_order: Any) -> None:
    engine = CommandEngine("own", ENGINES["vllm"], command=("serve", "{port}"))
    made = planned(own(make_order(), cpu_slice(512)), engine, host="::1")
    assert made.address == f"[::1]:{made.port}"


def test_an_engine_without_a_command_cannot_be_started(make_order: Any) -> None:
    order = msgspec.structs.replace(make_order(), model=Model.of("org/name", engine="openai"))
    with pytest.raises(LaunchFailed, match="the operator sets its command"):
        planned(order)
