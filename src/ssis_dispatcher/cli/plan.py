"""`ssis plan`: where a model would run, with the arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ssis_dispatcher.cli.options import output_option, with_client_and_settings
from ssis_dispatcher.cli.output import emit, mib, seconds, table

if TYPE_CHECKING:
    from ssis_dispatcher.cli.client import Client
    from ssis_dispatcher.settings import Loaded, Settings


@click.command()
@click.argument("model")
@click.option(
    "--inventory",
    metavar="FILE|NAME",
    help="Plan for these slices, without a dispatcher: a file, or `a100-40`, `nebuly-mps`, `mixed-fleet`.",
)
@click.option("--context", type=click.IntRange(1), metavar="N", help="Tokens of context per seat.")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Seats that are wanted at once.")
@output_option
@with_client_and_settings
def plan(
    client: Client,
    loaded: Loaded,
    model: str,
    inventory: str | None,
    context: int | None,
    concurrency: int | None,
    output: str,
) -> None:
    """Explain where a model would run, and why not elsewhere.

    A running dispatcher is asked, which knows what is free now. With --inventory, or when none is running, the plan is
    made here, for the inventory or for this machine. Exit code 1 means that the model fits nowhere.
    """
    wishes = (context, concurrency)
    if inventory:
        found = _offline(loaded.settings, model, inventory, *wishes)
    else:
        found = _asked(client, loaded.settings, model, *wishes)
    emit(found, output, lambda: _page(found))
    click.get_current_context().exit(found["decision"] == "refuse")


def _asked(
    client: Client, settings: Settings, model: str, context: int | None, concurrency: int | None
) -> dict[str, Any]:
    """The plan of the running dispatcher, else one for this machine."""
    from ssis_dispatcher.cli.client import NoDispatcher

    wishes = {"context": context, "concurrency": concurrency}
    try:
        found: dict[str, Any] = client.post(
            "/api/plan", {"model": model} | {name: value for name, value in wishes.items() if value is not None}
        )
    except NoDispatcher:
        if client.way.is_chosen:
            raise
        click.echo(f"no dispatcher answers at {client.way.name}: this is a plan for this machine alone", err=True)
        return _offline(settings, model, settings.inventory, context, concurrency)
    return found


def _offline(
    settings: Settings, model: str, inventory: str | None, context: int | None, concurrency: int | None
) -> dict[str, Any]:
    import msgspec

    from ssis_dispatcher import assembly

    found: dict[str, Any] = msgspec.to_builtins(assembly.plan_offline(settings, model, inventory, context, concurrency))
    return found


def _page(plan: dict[str, Any]) -> str:
    """The decision, what the model needs, and every candidate with its arithmetic."""
    headings = ["SLICE", "MEMORY", "WEIGHTS", "OVERHEAD", "PER SEAT", "SEATS", "FREE", "WHY NOT"]
    parts = [_decision(plan), _needs(plan["profile"])]
    if plan["candidates"]:
        parts += ["", table(headings, map(_candidate, plan["candidates"]))]
    return "\n".join(parts)


_DECISIONS = {
    "seat": "is ready and has a free seat",
    "join": "waits for a server of its own",
    "launch": "starts",
    "evict": "starts in the place of another",
    "wait": "waits for a slice",
    "refuse": "cannot run here",
}


def _decision(plan: dict[str, Any]) -> str:
    words = f"{plan['model']['id']} {_DECISIONS.get(plan['decision'], plan['decision'])}"
    if plan["slice"]:
        words += f" on {plan['count']} x {plan['slice']}" + (f" of {plan['node']}" if plan["node"] else "")
        words += f", {plan['seats']} seat{'' if plan['seats'] == 1 else 's'} of {plan['context']} tokens"
    if plan["evicts"]:
        words += f", after stopping {', '.join(plan['evicts'])}"
    if plan["expected_seconds"] is not None:
        words += f", in about {seconds(plan['expected_seconds'])}"
    return words + (f"\n{plan['why']}" if plan["why"] else "")


def _needs(profile: dict[str, Any]) -> str:
    facts = profile["facts"]
    parts = []
    if facts["weight_bytes"] is not None:
        parts.append(f"weights {mib(facts['weight_bytes'] / 2**20)}")
    if facts["kv_bytes_per_token"] is not None:
        parts.append(f"{facts['kv_bytes_per_token']} bytes per token of context")
    known = " and ".join(parts) if parts else "its size is unknown"
    told = f"Known of it: {known} (source: {facts['source']})." + (f" {facts['note']}" if facts["note"] else "")
    return told + _asks(profile)


def _asks(profile: dict[str, Any]) -> str:
    """What a server asks of its node beside the slice; "" where that is nothing."""
    asks = []
    if profile["host_mib"]:
        asks.append(f"{mib(profile['host_mib'])} of memory")
    if profile["host_cpu_millis"]:
        asks.append(f"{profile['host_cpu_millis'] / 1000:g} CPUs")
    return f"\nBeside the slice, a server asks {' and '.join(asks)} of its node." if asks else ""


def _candidate(candidate: dict[str, Any]) -> tuple[str | int, ...]:
    fit = candidate["fit"]
    return (
        f"{fit['count']} x {fit['slice']['name']}" if fit["count"] > 1 else fit["slice"]["name"],
        mib(fit["memory_mib"]),
        mib(fit["weights_mib"]),
        mib(fit["overhead_mib"]),
        mib(fit["seat_mib"]),
        fit["seats"],
        f"{candidate['free']}/{candidate['total']}",
        candidate["why"] or fit["why"],
    )
