"""`ssis version`."""

from __future__ import annotations

import platform

import click

from ssis_dispatcher import __version__
from ssis_dispatcher.cli.options import output_option
from ssis_dispatcher.cli.output import emit


@click.command()
@output_option
def version(output: str) -> None:
    """Print the version."""
    found = {"ssis": __version__, "python": platform.python_version(), "machine": platform.machine()}
    emit(found, output, lambda: f"ssis {__version__} (Python {found['python']}, {found['machine']})")
