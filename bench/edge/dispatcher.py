"""The dispatcher under measurement: the real program with every feature on, whose servers are all the fake inference server.

``python -m bench.edge.dispatcher PORT UPSTREAM_PORT [--seats N] [--bound N] [--held]``. Keys are needed
and checked against limits of their own, requests are counted, logged (to stderr) and cancelled as always. With ``--held``
a server is ready when SIGUSR1 comes. SIGUSR2 prints a line of JSON about this process, after a garbage collection.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
from collections.abc import Sequence

from bench.edge import candidates, workshop

from ssis_dispatcher.assembly import running
from ssis_dispatcher.core.messages import Launch, ServerReady
from ssis_dispatcher.core.slices import Pool, Slice, SliceKind
from ssis_dispatcher.gateway.keys import KeyFile
from ssis_dispatcher.launchers.base import Report
from ssis_dispatcher.launchers.fake import FakeLauncher
from ssis_dispatcher.models.catalogue import demo_path
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.settings.commands import EngineCommand

HOME = workshop.WORK / "ours"
ENGINES = ("llamacpp", "tgi", "vllm")
MODELS = {"bench": "vllm", "bench-20ps": "vllm", "bench-tgi": "tgi", "bench-llamacpp": "llamacpp"} | {
    f"bench-{manner}": "vllm" for manner in ("hang", "garbage", "short", "cut", "slow")
}
PLENTY = 1_000_000


class BenchLauncher(FakeLauncher):
    """Every server answers at ``port``, has ``seats`` seats, and where ``held`` is ready when SIGUSR1 comes."""

    def __init__(self, port: int, seats: int, held: bool) -> None:
        share = Slice(16_384, 1 / 8, "cpu-16gib", SliceKind.CPU)
        super().__init__([Pool("bench", share, 64)], address=f"127.0.0.1:{port}")
        self._seats = seats
        self._go = asyncio.Event()
        if not held:
            self._go.set()

    async def watch(self, report: Report) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._go.set)
        loop.add_signal_handler(signal.SIGUSR2, tell)
        await super().watch(report)

    async def launch(self, order: Launch, report: Report) -> ServerReady:
        await self._go.wait()
        ready = await super().launch(order, report)
        return ServerReady(ready.cause, ready.server, ready.address, self._seats)


def tell() -> None:
    """What this process holds now."""
    gc.collect()
    print(json.dumps({"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())}), flush=True)


def settings(port: int, bound: int) -> Settings:
    """What an operator would set for so many requests; all else is the default."""
    keys = HOME / "keys.jsonl"
    if not keys.exists():  # kept, so that two dispatchers at once do not revoke each other's
        candidates.keep_key(KeyFile(keys).create("bench", role="admin", in_flight=PLENTY, per_minute=60 * PLENTY))
    entries = [f"  {name}: {{path: {demo_path()}, engine: {engine}, context: 128}}" for name, engine in MODELS.items()]
    return Settings(
        host="0.0.0.0",  # beyond loopback keys are needed
        port=port,
        keys_file=keys,
        platform="fake",
        catalogue=workshop.written("ours/catalogue.yaml", "\n".join(["models:", *entries])),
        engines=tuple(EngineCommand(name, name, kinds=("cpu",)) for name in ENGINES),
        state_dir=HOME,
        cache_dir=HOME,
        hub_offline=True,
        waiting_per_model=bound,
        waiting_total=bound,
        max_connections_per_address=20_000,
        log_level="warning",
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.edge.dispatcher")
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", type=int)
    parser.add_argument("--seats", type=int, default=4096)
    parser.add_argument("--bound", type=int, default=10_000, help="requests that may wait")
    parser.add_argument("--held", action="store_true")
    options = parser.parse_args(argv)
    HOME.mkdir(parents=True, exist_ok=True)
    launcher = BenchLauncher(options.upstream, options.seats, options.held)
    return running.run(settings(options.port, options.bound), None, launcher)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
