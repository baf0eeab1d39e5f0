"""Servers as processes of this machine, the embedded one and commands of the operator's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from tests.loops import new_uvloop

from ssis_dispatcher.core.messages import FailureKind, InventoryChanged, Launch, Model, ServerFailed, ServerProgressed
from ssis_dispatcher.core.slices import Pool, Slice, SliceKind, cpu_slice
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import Unavailable
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.process import ModelSource, Nvml, ProcessLauncher, ProcessOptions, Share, launcher
from ssis_dispatcher.launchers.process.bounds import Bounder
from ssis_dispatcher.launchers.process.devices import Device

PROGRAM = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/grow":
            globals()["held"] = b"x" * (256 << 20)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(env=dict(os.environ), argv=sys.argv)).encode())

print("listening soon", flush=True)
if "grow" in sys.argv:
    held = b"x" * (256 << 20)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A server such as an operator might configure: it tells how it was started."""

Make = Callable[..., ProcessLauncher]


def command_engine(*more: str, name: str = "own", **fields: Any) -> CommandEngine:
    command = (sys.executable, "-I", "-S", "-c", PROGRAM, "{port}", *more)
    return CommandEngine(name, ENGINES["openai"], **{"command": command, "health": "/", **fields})


@pytest.fixture
async def make(demo: str) -> AsyncIterator[Make]:
    """Launchers that are closed after the test."""
    made: list[ProcessLauncher] = []

    def make_launcher(
        *engines: Engine, source: ModelSource | None = None, options: ProcessOptions | None = None, **more: Any
    ) -> ProcessLauncher:
        async def resolve(model: Model, phase: Callable[[str, str], None]) -> ModelSource:
            return source or ModelSource(demo)

        known = {**ENGINES, **{engine.name: engine for engine in engines}}
        made.append(ProcessLauncher(options or ProcessOptions(), known, resolve, **more))
        return made[-1]

    yield make_launcher
    for one in made:
        await one.close()


def own(order: Launch, engine: str = "own") -> Launch:
    return msgspec.structs.replace(order, model=Model.of("org/name", engine=engine, revision="main"))


def on(order: Launch, slice: Slice, count: int = 1) -> Launch:
    return msgspec.structs.replace(order, pool=Pool("local", slice, 4), count=count)


async def get(address: str, path: str) -> Any:
    async with httpx2.AsyncClient(timeout=30) as client:
        return (await client.get(f"http://{address}{path}")).json()


async def failing(launch: Any) -> tuple[FailureKind, str]:
    with pytest.raises(LaunchFailed) as caught:
        await launch
    return caught.value.failure.kind, caught.value.failure.message


# The embedded server


async def test_the_embedded_server_is_as_ordered(make: Make, make_order: Any, reports: Any) -> None:
    ready = await make().launch(make_order(seats=3, context=512), reports)
    assert [slot["n_ctx"] for slot in await get(ready.address, "/slots")] == [512] * 3
    assert (await get(ready.address, "/v1/models"))["data"][0]["id"] == "demo"
    assert [event.phase for event in reports.of(ServerProgressed)] == ["starting", "loading"]


async def test_the_embedded_server_sees_nothing_of_our_environment(
    make: Make, make_order: Any, reports: Any, demo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSIS_CANARY", "seen")
    source = ModelSource(demo, (("HF_TOKEN", "hf_secret_of_a_caller"),))
    one = make(source=source, options=ProcessOptions(env=(("GGML_NO_SUCH_THING", "1"),)))
    order = make_order()
    await one.launch(order, reports)
    environ = of_process(one.pid(order.server), "environ")
    assert b"SSIS_CANARY" not in environ
    assert b"hf_secret_of_a_caller" not in environ
    assert b"OMP_WAIT_POLICY=PASSIVE" in environ
    assert b"GGML_NO_SUCH_THING=1" in environ


async def test_a_broken_file_says_what_is_wrong_with_it_but_not_where_it_lies(
    make: Make, make_order: Any, reports: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"nonsense" * 1000)
    one, order = make(source=ModelSource(str(broken))), make_order()
    kind, message = await failing(one.launch(order, reports))
    assert kind is FailureKind.MISCONFIGURED
    assert "cannot load broken.gguf" in message
    assert "invalid magic" in message
    assert str(tmp_path) not in message
    assert one.pid(order.server) is None
    assert (await one.logs(order.server))[-1] == message


async def test_a_file_that_is_not_there_is_the_operators_to_put_back(make: Make, make_order: Any, reports: Any) -> None:
    launch = make(source=ModelSource("/no/such/model.gguf")).launch(make_order(), reports)
    kind, message = await failing(launch)
    assert kind is FailureKind.MISCONFIGURED
    assert message.startswith("the model file model.gguf is not there")


async def test_a_cache_that_outgrows_the_slice_is_out_of_memory(make: Make, make_order: Any, reports: Any) -> None:
    kind, message = await failing(make().launch(make_order(context=500_000, seats=4), reports))
    assert kind is FailureKind.OUT_OF_MEMORY
    assert "512 MiB" in message


async def test_one_that_is_killed_mid_stream_breaks_the_stream_and_is_reported(
    make: Make, make_order: Any, reports: Any, watching: Any
) -> None:
    one, order = make(), make_order(context=1024)
    async with watching(one):
        ready = await one.launch(order, reports)
        # More than fits into the buffers on its way, so that it cannot have ended.
        body = {"prompt": "Once", "max_tokens": 900, "stream": True, "ignore_eos": True, "n_probs": 1000}
        async with (
            httpx2.AsyncClient(timeout=30) as client,
            client.stream("POST", f"http://{ready.address}/v1/completions", json=body) as reply,
        ):
            lines = reply.aiter_lines()
            await anext(lines)
            os.kill(one.pid(order.server) or 0, signal.SIGKILL)
            with pytest.raises(httpx2.TransportError):
                _ = [line async for line in lines]
        failed = await reports.wait_for(ServerFailed)
    assert failed.failure.kind is FailureKind.LOST
    assert failed.failure.message == "llamacpp was ended by SIGKILL while running"


async def test_stopping_lets_a_stream_finish(make: Make, make_order: Any, reports: Any) -> None:
    one, order = make(), make_order(context=1024)
    ready = await one.launch(order, reports)
    body = {"prompt": "Once", "max_tokens": 400, "stream": True, "ignore_eos": True}
    async with (
        asyncio.TaskGroup() as group,
        httpx2.AsyncClient(timeout=30) as client,
        client.stream("POST", f"http://{ready.address}/v1/completions", json=body) as reply,
    ):
        lines = reply.aiter_lines()
        await anext(lines)
        group.create_task(one.stop(order.server, 30.0))
        assert [line async for line in lines if line][-1] == "data: [DONE]"


# Commands of the operator's


async def test_a_command_is_filled_in_and_ready_when_it_answers(make: Make, make_order: Any, reports: Any) -> None:
    engine = command_engine("{model}", "{served_as}", "{context}", "{seats}", "{memory_mib}", "{gpus}", "{revision}")
    ready = await make(engine, source=ModelSource("org/name")).launch(own(make_order()), reports)
    told = await get(ready.address, "/")
    port = ready.address.rpartition(":")[2]
    assert told["argv"] == ["-c", port, "org/name", "org/name", "256", "2", "512", "0", "main"]


async def test_a_command_gets_the_operators_variables_and_a_token_only_there(
    make: Make, make_order: Any, reports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSIS_CANARY", "seen")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_dispatcher")
    engine = command_engine(env=(("SEATS", "{seats}"), ("SAME", "engine")))
    source = ModelSource("org/name", (("HF_TOKEN", "hf_of_a_caller"),))
    options = ProcessOptions(env=(("OWN", "1"), ("SAME", "operator")))
    one, order = make(engine, source=source, options=options), own(make_order())
    env = (await get((await one.launch(order, reports)).address, "/"))["env"]
    assert (env["SEATS"], env["OWN"], env["SAME"], env["HF_TOKEN"]) == ("2", "1", "engine", "hf_of_a_caller")
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert "SSIS_CANARY" not in env
    assert b"hf_of_a_caller" not in of_process(one.pid(order.server), "cmdline")


async def test_a_command_that_is_not_installed_is_the_operators_to_mend(
    make: Make, make_order: Any, reports: Any
) -> None:
    engine = CommandEngine("own", ENGINES["vllm"], command=("no-such-program", "{port}"))
    kind, message = await failing(make(engine).launch(own(make_order()), reports))
    assert kind is FailureKind.MISCONFIGURED
    assert message == "own cannot be started on this machine: No such file or directory"


async def test_a_variable_that_no_process_can_have_is_the_operators_to_mend(
    make: Make, make_order: Any, reports: Any, tmp_path: Path
) -> None:
    launch = make(options=ProcessOptions(env=(("X", "a\0b"),)), bounder=Bounder(tmp_path)).launch(make_order(), reports)
    kind, message = await failing(launch)
    assert kind is FailureKind.MISCONFIGURED
    assert "NUL" in message


async def test_an_engine_that_nobody_said_how_to_start_says_so(make: Make, make_order: Any, reports: Any) -> None:
    kind, message = await failing(make().launch(own(make_order(), "openai"), reports))
    assert kind is FailureKind.MISCONFIGURED
    assert "nobody has said how openai is started" in message


async def test_an_engine_that_there_is_not_is_named_with_those_that_there_are(
    make: Make, make_order: Any, reports: Any
) -> None:
    kind, message = await failing(make().launch(own(make_order(), "nonesuch"), reports))
    assert kind is FailureKind.MISCONFIGURED
    assert "'nonesuch'" in message
    assert "llamacpp" in message


async def test_a_port_that_is_taken_is_worth_another_try(make: Make, make_order: Any, reports: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        kind, message = await failing(make(command_engine(port=port)).launch(own(make_order()), reports))
    assert kind is FailureKind.CRASHED
    assert f"port {port}" in message


async def test_one_that_dies_while_it_loads_says_its_last_words(make: Make, make_order: Any, reports: Any) -> None:
    engine = command_engine(command=(sys.executable, "-c", "raise ValueError('no {port}')"))
    kind, message = await failing(make(engine).launch(own(make_order()), reports))
    assert kind is FailureKind.CRASHED
    assert "exit code 1" in message
    assert "ValueError: no " in message


async def test_one_that_is_killed_while_it_loads_is_lost(make: Make, make_order: Any, reports: Any) -> None:
    engine = command_engine(command=("/bin/sh", "-c", "kill -9 $$ # {port}"))
    kind, message = await failing(make(engine).launch(own(make_order()), reports))
    assert (kind, message) == (FailureKind.LOST, "own was ended by SIGKILL while starting")


async def test_one_that_never_answers_can_be_stopped(
    make: Make, make_order: Any, reports: Any, death_of: Any, tmp_path: Path
) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    engine = command_engine(command=("/bin/sh", "-c", f"trap '' TERM; echo $$ > {fifo}; sleep 600 # {{port}}"))
    one, order = make(engine), own(make_order())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.launch(order, reports))
        death = death_of(await asyncio.to_thread(read_pid, fifo))
        task.cancel()
    await one.stop(order.server, 0.1)
    assert death.comes_within(0.0)
    assert await one.logs(order.server) == []


async def test_what_the_resolver_cannot_do_now_is_worth_another_try(make_order: Any, reports: Any) -> None:
    async def resolve(model: Model, phase: Callable[[str, str], None]) -> ModelSource:
        raise Unavailable("the cache is full", code="cache_full")

    kind, message = await failing(ProcessLauncher(ProcessOptions(), ENGINES, resolve).launch(make_order(), reports))
    assert (kind, message) == (FailureKind.CRASHED, "the cache is full")


# Memory


async def test_one_that_outgrows_its_slice_while_it_loads(make: Make, make_order: Any, reports: Any) -> None:
    order = on(own(make_order()), cpu_slice(128, 0.5))
    kind, message = await failing(make(command_engine("grow")).launch(order, reports))
    assert kind is FailureKind.OUT_OF_MEMORY
    assert message.endswith("MiB, more than the 128 MiB of its slice")


async def test_one_that_outgrows_its_slice_while_it_runs(
    make: Make, make_order: Any, reports: Any, watching: Any
) -> None:
    one, order = make(command_engine()), on(own(make_order()), cpu_slice(128, 0.5))
    async with watching(one):
        ready = await one.launch(order, reports)
        with suppress(httpx2.TransportError):  # it may be killed before it has answered
            await get(ready.address, "/grow")
        failed = await reports.wait_for(ServerFailed)
    assert failed.failure.kind is FailureKind.OUT_OF_MEMORY
    assert "128 MiB" in failed.failure.message


async def test_what_the_kernel_ends_for_its_memory_was_out_of_memory(
    make: Make, make_order: Any, reports: Any, watching: Any, tmp_path: Path
) -> None:
    one, order = make(bounder=Bounder(tmp_path)), make_order()
    async with watching(one):
        await one.launch(order, reports)
        (group,) = map(Path, glob(f"{tmp_path}/server-*"))
        assert (group / "cgroup.procs").read_text() == "0"  # how a process enters a group itself
        (group / "memory.events").write_text("oom_kill 1\n")
        os.kill(one.pid(order.server) or 0, signal.SIGKILL)
        failed = await reports.wait_for(ServerFailed)
    assert failed.failure.kind is FailureKind.OUT_OF_MEMORY


# Slices and devices

MIG = Slice(4864, 1 / 7, "nvidia.com/mig-1g.5gb", SliceKind.MIG, source="device")


class Devices(Nvml):
    """A machine whose devices can be changed."""

    def __init__(self, *uuids: str) -> None:
        super().__init__(None)
        self.uuids = uuids

    def devices(self) -> tuple[Device, ...]:
        return tuple(Device(uuid, MIG) for uuid in self.uuids)


async def test_without_a_gpu_slices_are_shares_of_memory(make: Make, reports: Any, watching: Any) -> None:
    async with watching(make(nvml=Devices(), options=ProcessOptions(node="here"))):
        pools = (await reports.wait_for(InventoryChanged)).pools
    assert pools
    assert {(pool.node, pool.slice.kind, pool.taken) for pool in pools} == {("here", SliceKind.CPU, 0)}


async def test_the_operators_shares_are_offered_as_they_are(make: Make, reports: Any, watching: Any) -> None:
    options = ProcessOptions(shares=(Share(4, 512), Share(2, 2048, 1.0)))
    async with watching(make(nvml=Devices(), options=options)):
        pools = (await reports.wait_for(InventoryChanged)).pools
    assert [(pool.slice.name, pool.total) for pool in pools] == [("cpu-512mib", 4), ("cpu-2gib", 2)]


def devices_in(event: InventoryChanged) -> tuple[Pool, ...]:
    """Its pools without the shares of memory, which are there beside any GPU, for engines that need none."""
    assert any(pool.slice.kind is SliceKind.CPU for pool in event.pools)
    return tuple(pool for pool in event.pools if pool.slice.kind is not SliceKind.CPU)


async def test_devices_that_come_and_go_are_reported(
    make: Make, reports: Any, watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "LOOK_EVERY", 0.01)
    machine = Devices("MIG-a", "MIG-b")
    async with watching(make(nvml=machine)):
        assert devices_in(await reports.wait_for(InventoryChanged)) == (Pool("local", MIG, 2),)
        machine.uuids = ("MIG-a",)
        assert devices_in(await reports.wait_for(InventoryChanged, 2)) == (Pool("local", MIG, 1),)
        machine.uuids = ()
        assert devices_in(await reports.wait_for(InventoryChanged, 3)) == ()


async def test_each_server_sees_its_own_device_only(make: Make, make_order: Any, reports: Any, watching: Any) -> None:
    one = make(command_engine(), nvml=Devices("MIG-a", "MIG-b"))
    async with watching(one):
        await reports.wait_for(InventoryChanged)
        orders = [on(own(make_order()), MIG) for _ in range(3)]
        seen = []
        for order in orders[:2]:
            ready = await one.launch(order, reports)
            seen.append((await get(ready.address, "/"))["env"]["CUDA_VISIBLE_DEVICES"])
        assert seen == ["MIG-a", "MIG-b"]
        kind, message = await failing(one.launch(orders[2], reports))
        assert kind is FailureKind.LOST
        assert "nvidia.com/mig-1g.5gb" in message
        await one.stop(orders[0].server, 5.0)
        ready = await one.launch(orders[2], reports)
        assert (await get(ready.address, "/"))["env"]["CUDA_VISIBLE_DEVICES"] == "MIG-a"


# Leaving nothing behind


async def test_many_servers_later_everything_is_as_before(make: Make, make_order: Any, reports: Any) -> None:
    one = make()

    async def cycle() -> None:
        order = make_order()
        await one.launch(order, reports)
        await one.stop(order.server, 5.0)

    await cycle()
    before = resources()
    for _ in range(20):
        await cycle()
    assert resources() == before


def resources() -> tuple[int, int, int]:
    """Descriptors, threads, children of this process."""
    listed = subprocess.run(
        ("ps", "--ppid", str(os.getpid()), "-o", "comm="), capture_output=True, text=True, check=False
    )
    children = [name for name in listed.stdout.split() if name != "ps"]
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)


DISPATCHER = """
import asyncio, sys
from ssis_dispatcher.core.messages import Launch, Model
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Pool, cpu_slice
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.process import ModelSource, ProcessLauncher, ProcessOptions

async def resolve(model, phase):
    return ModelSource(sys.argv[1])

async def main():
    launcher = ProcessLauncher(ProcessOptions(), ENGINES, resolve)
    pool = Pool("local", cpu_slice(512, 0.5), 4)
    profile = Profile(ModelFacts(), context=256)
    order = Launch("test", "one", Model.of("demo", engine="llamacpp"), profile, pool, 1, 2, 256, 60.0)
    ready = await launcher.launch(order, lambda event: None)
    print(launcher.pid("one"), ready.address, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_the_embedded_server_dies_with_a_killed_dispatcher(demo: str, death_of: Any) -> None:
    dispatcher = subprocess.Popen((sys.executable, "-c", DISPATCHER, demo), stdout=subprocess.PIPE)
    with dispatcher:
        assert dispatcher.stdout is not None
        pid, address = dispatcher.stdout.readline().split()
        death = death_of(int(pid))
        assert httpx2.get(f"http://{address.decode()}/health").status_code == 200
        dispatcher.kill()
        assert death.comes_within(5.0)


def test_it_works_on_uvloop_too(make_order: Any, reports: Any, demo: str) -> None:
    async def resolve(model: Model, phase: Callable[[str, str], None]) -> ModelSource:
        return ModelSource(demo)

    async def life() -> None:
        one = ProcessLauncher(ProcessOptions(), {**ENGINES, "own": command_engine()}, resolve)
        for order in (make_order(), own(make_order())):
            ready = await one.launch(order, reports)
            assert await get(ready.address, "/health")
            await one.stop(order.server, 5.0)
        await one.launch(make_order(), reports)
        await one.close()

    with asyncio.Runner(loop_factory=new_uvloop) as runner:
        runner.run(life())


def read_pid(fifo: Path) -> int:
    """What is written there, when it is."""
    return int(fifo.read_text())


def of_process(pid: int | None, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()
