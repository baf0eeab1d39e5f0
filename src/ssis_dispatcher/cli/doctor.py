"""`ssis doctor`: what works on this machine or in a cluster, what is missing, and the command that fixes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ssis_dispatcher.cli.flags import SettingsCommand, with_settings_flags
from ssis_dispatcher.cli.options import output_option
from ssis_dispatcher.cli.output import emit, table

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Loaded

_MARKS = {True: "ok", False: "NO", None: "--"}


@click.command(cls=SettingsCommand)
@click.option("--cluster", is_flag=True, help="Check a Kubernetes cluster instead, as a dispatcher there needs it.")
@output_option
@with_settings_flags
@click.pass_context
def doctor(ctx: click.Context, loaded: Loaded, output: str, cluster: bool) -> None:
    """Check what works on this machine or in a cluster, and say how to fix the rest.

    With --cluster, it checks the cluster of the kubeconfig (or of the pod that it runs in): versions, Knative and its
    gateway, flags, slices, rights, and the dispatcher that is deployed. `--kube-context` and `--namespace` say which.

    `--` marks what is worth a word and keeps nothing from working. Exit code 1 means that something does not work.
    """
    from ssis_dispatcher import assembly

    checks = (assembly.diagnose_cluster if cluster else assembly.diagnose)(loaded.settings)
    found = [{"name": one.name, "ok": one.ok, "detail": one.detail, "fix": one.fix} for one in checks]
    rows = [(one.name, _MARKS[one.ok], one.detail, "" if one.ok else one.fix) for one in checks]
    emit(found, output, lambda: table(["CHECK", "", "DETAIL", "TO DO"], rows))
    ctx.exit(any(one.ok is False for one in checks))
