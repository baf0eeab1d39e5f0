"""`ssis warm`, `stop`, `pin`, `unpin`: what an operator may tell the dispatcher."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.options import (
    hub_token_header,
    hub_token_option,
    output_option,
    with_client,
    with_client_and_settings,
)
from ssis_dispatcher.cli.output import emit, table
from ssis_dispatcher.cli.screen import in_words, screen

if TYPE_CHECKING:
    from ssis_dispatcher.cli.client import Client
    from ssis_dispatcher.settings import Loaded

_EVERY = 0.25


@click.command()
@click.argument("model")
@click.option("--context", type=click.IntRange(1), metavar="N", help="Tokens of context per seat.")
@click.option("--revision", metavar="REV", help="Revision of the model.")
@click.option("--engine", metavar="NAME", help="Engine that is to serve it.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is ready.")
@click.option("-q", "--quiet", is_flag=True, help="Show no phases.")
@hub_token_option
@with_client_and_settings
def warm(
    client: Client,
    loaded: Loaded,
    model: str,
    no_wait: bool,
    quiet: bool,
    send_hub_token: bool,
    **wishes: object,
) -> None:
    """Start a model before somebody asks it."""
    body = {"model": model} | {name: value for name, value in wishes.items() if value is not None}
    accepted = client.post("/api/models/warm", body, hub_token_header(loaded, send_hub_token))
    if no_wait:
        click.echo(accepted["request"])
        return
    last = _followed(client, accepted["request"], quiet)
    ready = [server for server in _servers_of(client, model) if server["state"] == "ready"]
    if not ready:
        why = f" ({last})" if last else ""
        raise Failure(f"{model} did not become ready{why}; `ssis logs` shows what its server printed")
    click.echo(ready[0]["id"])


def _followed(client: Client, id: str, quiet: bool) -> str:
    """Show where the request ``id`` stands until it is over; the last that was said of it."""
    from ssis_dispatcher.cli.client import NotThere, segment

    shown, last = screen(quiet), ""
    try:
        while True:
            request = client.get(f"/api/requests/{segment(id)}")
            last = in_words(request)
            shown.phase(str(request.get("phase")), last)
            time.sleep(_EVERY)
    except NotThere:
        return last
    finally:
        shown.clear()


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="SERVER|MODEL...")
@output_option
@with_client
def stop(client: Client, targets: tuple[str, ...], output: str) -> None:
    """Stop servers; a busy one finishes first.

    The name of a model means all its servers.
    """
    from ssis_dispatcher.cli.client import segment

    running = client.get("/api/servers")["servers"]
    chosen = [id for target in targets for id in _meant(target, running)]
    answers = [client.delete(f"/api/servers/{segment(id)}") for id in dict.fromkeys(chosen)]
    emit(answers, output, lambda: table(["SERVER", "STATE"], [(found["server"], found["state"]) for found in answers]))


def _meant(target: str, running: list[dict[str, Any]]) -> list[str]:
    """The servers that ``target`` names, by id or by model. Raises `Failure` where there is none."""
    found = [server["id"] for server in running if target in (server["id"], _full_name(server), server["model"])]
    if not found:
        raise Failure(f"no server or model {target} is running; `ssis ps` lists them")
    return found


def _full_name(server: dict[str, Any]) -> str:
    return f"{server['model']}@{server['revision']}" if server["revision"] else str(server["model"])


def _servers_of(client: Client, model: str) -> list[dict[str, Any]]:
    id = model.partition("@")[0]
    return [server for server in client.get("/api/servers")["servers"] if server["model"] == id]


@click.command()
@click.argument("model")
@with_client
def pin(client: Client, model: str) -> None:
    """Keep a model's server, however idle."""
    client.post("/api/models/pin", {"model": model, "pinned": True})
    click.echo(f"{model} is pinned", err=True)


@click.command()
@click.argument("model")
@with_client
def unpin(client: Client, model: str) -> None:
    """Let a pinned model go when it is idle."""
    client.post("/api/models/pin", {"model": model, "pinned": False})
    click.echo(f"{model} is no longer pinned", err=True)
