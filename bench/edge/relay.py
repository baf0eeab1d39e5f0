"""The floor: bytes carried both ways between two sockets on uvloop, with no look at them.

``python -m bench.edge.relay PORT UPSTREAM_PORT``. What this costs is the kernel's and the event loop's, and nobody's who
runs on them can cost less.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of the two connections of a client; ``other`` is where its bytes go."""

    def __init__(self, other: asyncio.Transport | None = None) -> None:
        self.other = other
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.write(data)

    def join(self, other: asyncio.Transport) -> None:
        self.other = other
        other.writelines(self._early)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.other is not None:
            self.other.close()


class Client(Side):
    """The client's side, which dials the other."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__()
        self._upstream_port = upstream_port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        there, _ = await asyncio.get_running_loop().create_connection(
            lambda: Side(self.transport), "127.0.0.1", self._upstream_port
        )
        self.join(there)


async def serve(port: int, upstream_port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(upstream_port), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main(argv: Sequence[str]) -> None:
    uvloop.run(serve(*map(int, argv)))


if __name__ == "__main__":
    main(sys.argv[1:])
