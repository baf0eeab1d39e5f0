"""`ssis models`, `servers`, `slices`, `queue`: what the dispatcher shows of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ssis_dispatcher.cli.options import output_option, with_client, with_client_and_settings
from ssis_dispatcher.cli.output import emit, mib, seconds, table

if TYPE_CHECKING:
    from ssis_dispatcher.cli.client import Client
    from ssis_dispatcher.core.slices import Pool
    from ssis_dispatcher.settings import Loaded


@click.command()
@output_option
@with_client
def models(client: Client, output: str) -> None:
    """List the models that can be asked for."""
    found = client.get("/v1/models")["data"]
    headings = ["MODEL", "STATE", "SERVERS", "SEATS", "WAITING", "PINNED"]
    emit(found, output, lambda: table(headings, map(_model, found)))


def _model(model: dict[str, Any]) -> tuple[str | int, ...]:
    now = {"state": "-", "servers": 0, "seats": 0, "busy": 0, "waiting": 0, "pinned": False} | model.get("ssis", {})
    return (
        model["id"],
        now["state"],
        now["servers"],
        f"{now['busy']}/{now['seats']}" if now["seats"] else "-",
        now["waiting"],
        "yes" if now["pinned"] else "",
    )


@click.command()
@output_option
@with_client
def servers(client: Client, output: str) -> None:
    """List the running inference servers."""
    found = client.get("/api/servers")["servers"]
    headings = ["SERVER", "MODEL", "ENGINE", "STATE", "SLICE", "NODE", "SEATS", "WAITING", "IDLE", "AGE"]
    emit(found, output, lambda: table(headings, map(_server, found)))


def _server(server: dict[str, Any]) -> tuple[str | int, ...]:
    phase = f" ({server['phase']})" if server["state"] == "starting" and server["phase"] else ""
    count = f"{server['count']} x " if server["count"] > 1 else ""
    model = f"{server['model']}@{server['revision']}" if server["revision"] else server["model"]
    return (
        server["id"],
        model + (" (pinned)" if server["pinned"] else ""),
        server["engine"],
        server["state"] + phase,
        count + server["slice"],
        server["node"],
        f"{server['busy']}/{server['seats']}",
        server["waiting"],
        seconds(server["idle_seconds"]),
        seconds(server["age_seconds"]),
    )


@click.command()
@click.option("--local", is_flag=True, help="Look at this machine; no dispatcher is needed.")
@output_option
@with_client_and_settings
def slices(client: Client, loaded: Loaded, local: bool, output: str) -> None:
    """List the slices: how many, how many are held, what is free.

    `-o yaml` writes them as an inventory, which `ssis plan --inventory` reads.
    """
    found = _local(loaded) if local else client.get("/api/slices")["slices"]
    if output == "yaml":
        from ssis_dispatcher.launchers.inventory import dump_inventory

        click.echo(dump_inventory(map(_pool, found)), nl=False)
    else:
        emit(found, output, lambda: table(_SLICE_HEADINGS, map(_slice, found)))


_SLICE_HEADINGS = ["NODE", "SLICE", "KIND", "MEMORY", "COMPUTE", "TOTAL", "OTHERS", "OURS", "FREE", "SIZE FROM"]


def _local(loaded: Loaded) -> list[dict[str, Any]]:
    """What this machine offers, in the shape of the API."""
    from ssis_dispatcher import assembly

    return [
        {"node": pool.node}
        | {name: getattr(pool.slice, name) for name in ("name", "memory_mib", "compute", "source")}
        | {"kind": str(pool.slice.kind), "total": pool.total, "taken": pool.taken}
        | {"ours": 0, "free": pool.total - pool.taken}
        for pool in assembly.local_pools(loaded.settings)
    ]


def _pool(slice: dict[str, Any]) -> Pool:
    """A slice of the API as an inventory has it, where what our servers hold is taken like everything else."""
    from ssis_dispatcher.core.slices import Pool, Slice, SliceKind

    one = Slice(slice["memory_mib"], slice["compute"], slice["name"], SliceKind(slice["kind"]), source=slice["source"])
    return Pool(slice["node"], one, slice["total"], slice["taken"] + slice["ours"])


def _slice(slice: dict[str, Any]) -> tuple[str | int, ...]:
    return (
        slice["node"],
        slice["name"],
        slice["kind"],
        mib(slice["memory_mib"]),
        f"{slice['compute']:.0%}",
        slice["total"],
        slice["taken"],
        slice["ours"],
        slice["free"],
        slice["source"],
    )


@click.command()
@click.option("-r", "--requests", is_flag=True, help="One row per request instead of one per model.")
@output_option
@with_client
def queue(client: Client, requests: bool, output: str) -> None:
    """List who is waiting, for what, and for how long."""
    found = client.get("/api/queue")
    emit(found, output, lambda: _requests(found) if requests else _lines(found))


def _lines(queue: dict[str, Any]) -> str:
    rows = (
        (
            line["model"],
            line["phase"],
            line["waiting"],
            seconds(line["oldest_seconds"]),
            seconds(line["expected_seconds"]),
            line["why"],
        )
        for line in queue["lines"]
    )
    return table(["MODEL", "WAITS FOR", "WAITING", "OLDEST", "EXPECTED", "WHY"], rows)


def _requests(queue: dict[str, Any]) -> str:
    rows = (
        (request["id"], line["model"], request["caller"], request["position"], seconds(request["waited_seconds"]))
        for line in queue["lines"]
        for request in line["requests"]
    )
    return table(["REQUEST", "MODEL", "CALLER", "POSITION", "WAITED"], rows)
