"""What to run for one server: the engine's own command, and what this machine adds to it. Called by `launcher`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ssis_dispatcher.core.messages import Failure, FailureKind, Launch
from ssis_dispatcher.core.sizing import fit
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.engines.base import Command, Engine, Options
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.http import addresses
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.process import environment, health, memory, menu
from ssis_dispatcher.launchers.process.llama_child import SPARE_HTTP_THREADS
from ssis_dispatcher.launchers.process.options import ModelSource, ProcessOptions

EMBEDDED = "llamacpp"
"""The engine that is part of this installation, unless the operator configured another command for it."""

_CHILD = str(Path(__file__).with_name("llama_child.py"))


class Plan(msgspec.Struct, frozen=True):
    """One server as a process. ``embedded`` tells that it is our own llama.cpp, which says itself when it is ready and where
    it listens (``port`` 0); any other is asked for ``health`` at ``port`` of ``host``. ``is_local`` tells that its share is
    this machine's own memory. ``all_threads`` is how many threads it will have, roughly."""

    engine: str
    model: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    embedded: bool
    is_local: bool
    host: str
    port: int
    health: str
    all_threads: int

    @property
    def address(self) -> str:
        return addresses.join(self.host, self.port)


def plan(
    order: Launch,
    engines: Mapping[str, Engine],
    source: ModelSource,
    options: ProcessOptions,
    devices: tuple[str, ...],
) -> Plan:
    """Raises `LaunchFailed` for what cannot be run here."""
    engine = _engine(order, engines)
    embedded = engine.name == EMBEDDED and not (isinstance(engine, CommandEngine) and engine.has_command)
    if embedded and not os.path.isfile(source.load):
        name = os.path.basename(source.load)
        raise _misconfigured(f"the model file {name} is not there; the operator must put it back or name another")
    threads = options.threads or menu.threads(order.pool.slice, memory.cores())
    port = 0 if embedded else _port(engine, options.host)
    command = engine.command(_terms(order, source, options.host, port, threads))
    return Plan(
        engine=engine.name,
        model=source.load,
        argv=_embedded_argv() if embedded else _argv(engine, command),
        env=_env(order, source, options, command, devices, embedded),
        embedded=embedded,
        is_local=order.pool.slice.kind is SliceKind.CPU,
        host=options.host,
        port=port,
        health=engine.health,
        all_threads=threads + order.seats + SPARE_HTTP_THREADS,
    )


def _terms(order: Launch, source: ModelSource, host: str, port: int, threads: int) -> Options:
    """The order in the engine's terms."""
    planned = fit(order.profile, order.pool.slice, order.count)
    kv = 0 if planned.weights_mib is None else planned.memory_mib - planned.weights_mib - planned.overhead_mib
    return Options(
        model=source.load,
        served_as=order.model.id,
        host=host,
        port=port,
        context=order.context,
        seats=order.seats,
        memory_mib=order.pool.slice.memory_mib,
        gpus=0 if order.pool.slice.kind is SliceKind.CPU else order.count,
        threads=threads,
        revision=order.model.revision,
        arguments=order.model.arguments,
        kv_mib=max(0, kv),
    )


def _engine(order: Launch, engines: Mapping[str, Engine]) -> Engine:
    engine = engines.get(order.model.engine)
    if engine is None:
        known = ", ".join(sorted(engines)) or "none"
        raise _misconfigured(f"there is no engine {order.model.engine!r} on this machine; there are: {known}")
    return engine


def _port(engine: Engine, host: str) -> int:
    """The engine's own port if it has one, else a free one. Raises `LaunchFailed` when the former is taken."""
    port = engine.port if isinstance(engine, CommandEngine) else 0
    if not port:
        return health.free_port(host)
    if health.is_taken(host, port):
        message = f"port {port}, the only one that {engine.name} listens on, is taken by another program"
        raise LaunchFailed(Failure(FailureKind.CRASHED, message))
    return port


def _argv(engine: Engine, command: Command) -> tuple[str, ...]:
    argv = (*command.program, *command.argv)
    if not argv:
        raise _misconfigured(f"nobody has said how {engine.name} is started; the operator sets its command")
    return argv


def _embedded_argv() -> tuple[str, ...]:
    """Found, but not imported: that is for the child alone."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        raise _misconfigured("llama.cpp is not installed on this machine; the operator runs: pip install xllamacpp")
    return (sys.executable, "-I", "-S", _CHILD, str(Path(found.origin).parent.parent))


def _env(
    order: Launch,
    source: ModelSource,
    options: ProcessOptions,
    command: Command,
    devices: tuple[str, ...],
    embedded: bool,
) -> tuple[tuple[str, str], ...]:
    """From the most general to what must be so."""
    env = environment.base(os.environ, embedded=embedded)
    env.update(options.env)
    if not embedded:
        env.update(source.env)
    env.update(command.env)
    if order.pool.slice.kind is SliceKind.CPU:
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    return tuple(env.items())


def _misconfigured(message: str) -> LaunchFailed:
    return LaunchFailed(Failure(FailureKind.MISCONFIGURED, message))
