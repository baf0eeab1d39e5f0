"""`ssis logs`: what a server printed last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.options import with_client
from ssis_dispatcher.cli.output import safe

if TYPE_CHECKING:
    from ssis_dispatcher.cli.client import Client

_EVERY = 1.0


@click.command()
@click.argument("server", metavar="SERVER|MODEL")
@click.option("-f", "--follow", is_flag=True, help="Go on until the server is gone, or Ctrl-C.")
@with_client
def logs(client: Client, server: str, follow: bool) -> None:
    """Print what a server printed last.

    A server that failed can still be asked by its id; a model means its running server.
    """
    from ssis_dispatcher.cli.client import NotThere, segment

    path = f"/api/servers/{segment(_resolved(client, server))}/logs"
    seen: list[str] = client.get(path)["lines"]
    _print(seen)
    try:
        while follow:
            time.sleep(_EVERY)
            lines = client.get(path)["lines"]
            _print(news(seen, lines))
            seen = lines
    except NotThere:
        return


def _resolved(client: Client, name: str) -> str:
    """The id of the server that is meant: one that runs this model, else the name as it is."""
    running = client.get("/api/servers")["servers"]
    found = [server["id"] for server in running if server["model"] == name]
    if len(found) > 1:
        raise Failure(f"{name} has several servers, choose one: {', '.join(found)}")
    return found[0] if found else name


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(safe(line))


def news(seen: list[str], lines: list[str]) -> list[str]:
    """The lines of a window that are new since the window ``seen``: what follows their longest overlap."""
    for length in range(min(len(seen), len(lines)), 0, -1):
        if seen[-length:] == lines[:length]:
            return lines[length:]
    return lines
