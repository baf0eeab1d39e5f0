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
    click.echo(_followed(client, accepted["request"], quiet))


def _followed(client: Client, id: str, quiet: bool) -> str:
    """Show where the warming ``id`` stands until its server is ready; that server. Raises `Failure` with the reason when it
    comes to nothing."""
    from ssis_dispatcher.cli.client import segment

    shown = screen(quiet)
    try:
        while (request := client.get(f"/api/requests/{segment(id)}"))["state"] != "ready":
            shown.phase(str(request.get("phase")), in_words(request))
            time.sleep(_EVERY)
    finally:
        shown.clear()
    return str(request["server"])


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
    """Let a pinned model go when it is idle.

    One that the catalogue pins is pinned again at its next start.
    """
    client.post("/api/models/pin", {"model": model, "pinned": False})
    click.echo(f"{model} is no longer pinned", err=True)
