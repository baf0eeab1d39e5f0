"""``ssis serve`` on the fake cluster, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from bench.edge import workshop
from tests.kube.fake import FakeCluster

NAMESPACE = "nthulab"
_TICKS = os.sysconf("SC_CLK_TCK")


class Dispatcher:
    """One replica. ``client`` asks it; ``started`` is when it was told to start, by `time.monotonic`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, started: float) -> None:
        self.process = process
        self.port = port
        self.started = started
        self.client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            trust_env=False,
            timeout=600.0,
            limits=httpx2.Limits(max_connections=None),
        )

    @staticmethod
    async def start(cluster: FakeCluster, folder: Path, *options: str) -> Dispatcher:
        """One that listens already. Raises `RuntimeError` when it ends instead; its log is in ``folder``."""
        kubeconfig, port, started = folder / "kubeconfig", workshop.free_port(), time.monotonic()
        kubeconfig.write_text(cluster.kubeconfig)
        words = [
            *("serve", "--platform", "knative", "--namespace", NAMESPACE, "--hub-offline", "--no-access-log"),
            *("--port", str(port), "--replica-address", f"127.0.0.1:{port}"),
            *("--gateway", cluster.gateway_url.removeprefix("http://")),
            *("--state-dir", str(folder / f"state-{port}"), "--cache-dir", str(folder / "cache"), *options),
        ]
        with (folder / f"log-{port}").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ssis_dispatcher.cli", *words),
                env={**os.environ, "KUBECONFIG": str(kubeconfig), "XDG_CONFIG_HOME": str(folder)},
                stdout=log,
                stderr=log,
            )
        self = Dispatcher(process, port, started)
        while not await self.says("/healthz"):
            if process.returncode is not None:
                raise RuntimeError(f"the dispatcher did not start: {(folder / f'log-{port}').read_text()}")
            await asyncio.sleep(0.02)
        return self

    async def ask(self, path: str) -> Any:
        reply = await self.client.get(path)
        return reply.raise_for_status().json()

    async def chat(self, model: str, **fields: Any) -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def says(self, path: str) -> bool:
        """Whether it answers this with 200."""
        with contextlib.suppress(httpx2.TransportError):
            return (await self.client.get(path)).status_code == 200
        return False

    async def until(self, fact: Callable[[Any], bool], path: str) -> None:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if fact(await self.ask(path)):
                    return
            await asyncio.sleep(0.1)

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def rss_mib(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    async def end(self, number: int = signal.SIGTERM) -> None:
        """Send it this signal, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        await self.process.wait()
        await self.client.aclose()
