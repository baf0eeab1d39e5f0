"""Whether a server that cannot tell by itself answers yet. Called by `launcher` for engines that the operator configured."""

from __future__ import annotations

import asyncio
import contextlib
import socket

_ANSWER_WITHIN = 5.0


async def answers(host: str, port: int, path: str) -> bool:
    """Whether ``GET path`` is answered with a success (2xx)."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                status = (await reader.readline()).split()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False
    return len(status) > 1 and status[0].startswith(b"HTTP/1.") and status[1].startswith(b"2")


def free_port(host: str) -> int:
    """A port on which nobody listens now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens on ``port`` already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return True
    return False
