"""Addresses of sockets as people write them: ``host:port``, an IPv6 host in brackets. Pure."""

from __future__ import annotations

Address = tuple[str, int]
"""Host, without brackets, and port."""


def join(host: str, port: int) -> str:
    """``[::1]:80`` for ``::1`` and 80."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(text: str) -> Address:
    """What `join` has written. Raises ValueError where there is no port."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
