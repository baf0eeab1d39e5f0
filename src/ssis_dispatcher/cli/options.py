"""The options that commands share, as decorators that hand over what the options lead to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssis_dispatcher.cli.failures import Misused

if TYPE_CHECKING:
    from ssis_dispatcher.cli.ways import Way
    from ssis_dispatcher.settings import Loaded

Command = Callable[..., Any]

output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True, help="Format."
)
hub_token_option = click.option(
    "--send-hub-token",
    is_flag=True,
    help="Send the setting `hub_token` (HF_TOKEN) along, for a gated or private model.",
)
_config = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings file.  [default: see `ssis config`]"
)


def settings_of(flags: dict[str, object], config: Path | None) -> Loaded:
    """The settings with these flags. Ends the command where they are wrong."""
    from ssis_dispatcher.settings import SettingsError, load

    try:
        return load(flags=flags, config=config)
    except SettingsError as error:
        raise Misused("\nssis: ".join(error.problems)) from None


def with_settings(command: Command) -> Command:
    """Hand over ``loaded``: the settings of this machine."""

    @_config
    @functools.wraps(command)
    def run(*args: Any, config: Path | None, **kwargs: Any) -> Any:
        return command(*args, loaded=settings_of({}, config), **kwargs)

    return run


def with_client(command: Command) -> Command:
    """Hand over ``client``: a way to the dispatcher, closed when the command ends."""

    @with_client_and_settings
    @functools.wraps(command)
    def run(*args: Any, loaded: Loaded, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    return run


def with_client_and_settings(command: Command) -> Command:
    """Hand over both, to commands that can also do without a dispatcher."""

    @click.option("--url", metavar="URL", help="The dispatcher.  [default: $SSIS_URL, else where `ssis serve` listens]")
    @click.option("--cluster", is_flag=True, help="The dispatcher in a Kubernetes cluster, through its API server.")
    @click.option("--kube-context", metavar="NAME", help="The same, in the cluster of this context of the kubeconfig.")
    @click.option("--api-key", metavar="KEY", help="API key.  [default: $SSIS_API_KEY]")
    @_config
    @functools.wraps(command)
    def run(
        *args: Any,
        url: str | None,
        cluster: bool,
        kube_context: str | None,
        api_key: str | None,
        config: Path | None,
        **kwargs: Any,
    ) -> Any:
        from ssis_dispatcher.cli.client import Client

        loaded = settings_of({"url": url, "api_key": api_key, "kube_context": kube_context}, config)
        with Client(_way(loaded, url, cluster or kube_context is not None)) as client:
            return command(*args, client=client, loaded=loaded, **kwargs)

    return run


def _way(loaded: Loaded, url: str | None, in_cluster: bool) -> Way:
    from ssis_dispatcher.cli import ways

    if not in_cluster:
        return ways.meant(loaded.settings)
    if url is not None:
        raise Misused("--url and --cluster exclude each other: each says where the dispatcher is")
    from ssis_dispatcher import assembly

    return ways.through(assembly.find_passage(loaded.settings))


def hub_token_header(loaded: Loaded, wanted: bool) -> dict[str, str]:
    """The header of `hub_token_option`. Ends the command where there is no token."""
    if not wanted:
        return {}
    if not loaded.settings.hub_token:
        raise Misused("--send-hub-token: there is no token; set HF_TOKEN, SSIS_HUB_TOKEN or `hub_token` in the file")
    return {"x-ssis-hf-token": loaded.settings.hub_token}
