"""The life of one dispatcher process: build, listen, serve, drain, let go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import resource
import signal
import ssl
import sys
from collections.abc import Callable

from ssis_dispatcher.assembly.program import Program
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.http import addresses
from ssis_dispatcher.launchers.base import Launcher
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.telemetry.logs import log, setup


def run(settings: Settings, ready: Callable[[str], None] | None, launcher: Launcher | None = None) -> int:
    """`assembly.serve`; ``launcher``, where given, takes the place of the platform's."""
    form = settings.log_format
    setup(("text" if sys.stderr.isatty() else "json") if form == "auto" else form, settings.log_level)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, ready, launcher))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one; everything works, slower, without."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _raise_file_limit() -> None:
    """As many open files as we may have: every held request is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _calm_the_collector() -> None:
    """Requests leave no cycles behind, so the garbage collector finds nothing; but each of its runs costs as much as a
    thousand requests, and by default it would come after every seven hundred objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _serve(settings: Settings, ready: Callable[[str], None] | None, launcher: Launcher | None) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop.set)
    program = Program(settings, launcher)
    try:
        port = await program.server.listen(settings.host, settings.port, _tls(settings))
        program.start(port)
        _calm_the_collector()
        if ready is not None:
            ready(url_of(settings, port))
        await asked_to_stop.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # a second Ctrl-C ends it at once
        await _drain(program, settings)
    finally:
        await program.close()


_CUT_OFF = Problem(503, "draining", "The dispatcher has shut down before this answer was complete.", retry_after=1.0)


async def _drain(program: Program, settings: Settings) -> None:
    """Not ready at once; for the quiet period still serving, since load balancers learn of it late; then no more."""
    log("draining", quiet_seconds=settings.drain_quiet, grace_seconds=settings.drain_grace)
    program.leaving = True
    await asyncio.sleep(settings.drain_quiet)
    program.broadcast.close()
    if program.cluster is not None:
        await program.cluster.leave()
        asyncio.get_running_loop().call_later(settings.drain_grace, program.gateway.cut_off, _CUT_OFF)
        finished = await program.server.drain(within=settings.drain_grace + 5.0)
        log("drained", all_finished=finished)
        return
    finished = await program.dispatcher.drain(settings.drain_grace)
    if not finished:
        program.gateway.cut_off(_CUT_OFF)
    await program.server.drain(within=5.0)
    log("drained", all_finished=finished)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise DispatchError("HTTPS needs both tls_cert and tls_key.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # an SSLError is one, and none of them names a file
        files = f"tls_cert {settings.tls_cert}, tls_key {settings.tls_key}"
        raise DispatchError(f"The certificate cannot be used ({files}): {error.strerror or error}.") from error
    return context


def url_of(settings: Settings, port: int) -> str:
    """The address as a client on this machine would write it."""
    host = settings.host or "0.0.0.0"
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:  # all addresses of one family: a listener on :: does not hear 127.0.0.1
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"{'https' if settings.tls_cert else 'http'}://{addresses.join(host, port)}"
