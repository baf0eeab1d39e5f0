"""`ssis pull` and `ssis rm`: the model cache of this machine."""

from __future__ import annotations

import click


@click.command()
@click.argument("model")
def pull(model: str) -> None:
    """Download a model into the cache."""


@click.command()
@click.argument("model")
def rm(model: str) -> None:
    """Remove a model from the cache."""
