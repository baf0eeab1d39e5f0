"""How requests get to the dispatcher: straight to its address, or through the API server of its cluster."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ssis_dispatcher.assembly.passage import Passage
    from ssis_dispatcher.settings import Settings


@dataclass(frozen=True, slots=True)
class Way:
    """``url`` is where the dispatcher's paths begin, ``name`` what messages call that place, ``headers`` go with every
    request. ``options`` are the HTTP client's.

    ``is_chosen``: the user has said which dispatcher is meant. ``if_silent`` is what to do where nobody answers, ``for_key``
    where a key is wanted. ``refusal`` gets the method, status and body of an error reply and says, in place of the
    dispatcher, what it means that something on the way has refused; "" where the dispatcher itself has answered.
    """

    url: str
    name: str
    headers: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    if_silent: str
    is_chosen: bool = True
    for_key: str = "give an API key with --api-key or SSIS_API_KEY"
    refusal: Callable[[str, int, bytes], str] = lambda method, status, content: ""
    close: Callable[[], None] = lambda: None


def straight(url: str, api_key: str | None = None, *, is_chosen: bool = True) -> Way:
    """To an address."""
    return Way(
        url,
        url,
        {"authorization": f"Bearer {api_key}"} if api_key else {},
        # A proxy of the environment is of no use on the way to this very machine.
        {"trust_env": not _is_loopback(url)},
        "start one with `ssis serve`, or say where it is with --url or --cluster",
        is_chosen,
    )


def meant(settings: Settings) -> Way:
    """To the address that these settings name."""
    return straight(settings.url or default_url(settings), settings.api_key, is_chosen=settings.url is not None)


def through(passage: Passage) -> Way:
    """Through an API server."""
    why = f" ({passage.key_note})" if passage.key_note else ""
    return Way(
        passage.url,
        f"pod {passage.pod} of namespace {passage.namespace}",
        {"x-api-key": passage.api_key} if passage.api_key else {},
        {"verify": passage.verify, "auth": passage.auth, "trust_env": passage.trust_env},
        f"is the API server at {passage.server} there?",
        for_key=f"give an API key with --api-key or SSIS_API_KEY{why}",
        refusal=passage.refusal,
        close=passage.close,
    )


def default_url(settings: Settings) -> str:
    """Where `ssis serve` listens with these settings, as seen from the same machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings.host, settings.host)
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://[{host}]:{settings.port}" if ":" in host else f"{scheme}://{host}:{settings.port}"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
