"""The operations API from the caller's side. Every way in which it can fail becomes a `Failure` that says what to do."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2

from ssis_dispatcher import __version__
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.settings import Settings

_PATIENCE = httpx2.Timeout(30.0, connect=5.0)
_FOREVER = httpx2.Timeout(None, connect=5.0)


class NotThere(Failure):
    """The dispatcher has no such thing (404). Errors with a code of their own, as for models, are plain failures."""


class NoDispatcher(Failure):
    """Nobody answers at the address."""


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


class Client:
    """A way to one dispatcher, safe to use from several threads."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"user-agent": f"ssis/{__version__}", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self.url = url
        # A proxy of the environment is of no use on the way to this very machine.
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=_PATIENCE, trust_env=not _is_loopback(url))

    @classmethod
    def of(cls, settings: Settings) -> Client:
        """The dispatcher that these settings mean."""
        return cls(settings.url or default_url(settings), settings.api_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """The JSON at ``path``. Raises `Failure`."""
        return self._call("GET", path)

    def post(self, path: str, body: dict[str, object], headers: dict[str, str] | None = None) -> Any:
        """The JSON answer to ``body``. Raises `Failure`."""
        return self._call("POST", path, body, headers)

    def delete(self, path: str) -> Any:
        """The JSON answer. Raises `Failure`."""
        return self._call("DELETE", path)

    @contextmanager
    def stream(
        self, path: str, body: dict[str, object] | None = None, headers: dict[str, str] | None = None
    ) -> Iterator[Iterator[bytes]]:
        """The bytes of the event stream that answers ``body`` (without one: that lies at ``path``) as they arrive; leaving
        the block ends the request. Raises `Failure`."""
        method = "GET" if body is None else "POST"
        with (
            self._translated(),
            self._http.stream(method, path, json=body, headers=headers, timeout=_FOREVER) as response,
        ):
            if response.status_code >= 400:
                response.read()
                raise self._refusal(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise Failure(f"{self.url} answered without a stream: is that a dispatcher?")
            yield response.iter_bytes()

    def _call(
        self, method: str, path: str, body: dict[str, object] | None = None, headers: dict[str, str] | None = None
    ) -> Any:
        with self._translated():
            response = self._http.request(method, path, json=body, headers=headers)
        if response.status_code >= 400:
            raise self._refusal(response)
        try:
            return response.json()
        except ValueError:
            raise Failure(f"what answers at {self.url} is no dispatcher; say where it is with --url") from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NoDispatcher(
                f"no dispatcher answers at {self.url} ({_reason(error)}); "
                "start one with `ssis serve`, or say where it is with --url"
            ) from None
        except httpx2.TimeoutException:
            raise Failure(f"the dispatcher at {self.url} does not answer; is it overloaded?") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise Failure(f"{self.url} is no address of a dispatcher; an example is http://127.0.0.1:8080") from None
        except httpx2.HTTPError as error:
            raise Failure(f"the connection to {self.url} broke: {_reason(error)}") from None

    def _refusal(self, response: httpx2.Response) -> Failure:
        """What an error reply means, in its own words, and what to do about it where that is known."""
        message, code = problem_in(response.content)
        message = message or f"{self.url} answered {response.status_code}"
        wait = response.headers.get("retry-after", "")
        hint = f"; try again in {wait} s" if wait.isdigit() else ""
        if response.status_code == 401:
            hint = "; give an API key with --api-key or SSIS_API_KEY"
        kind = NotThere if response.status_code == 404 and code in ("", "not_found") else Failure
        return kind(message.rstrip(".") + hint)


def problem_in(body: bytes | str) -> tuple[str, str]:
    """Sentence and code of an error body, of either shape (problem+json or OpenAI's); "" for what is not there."""
    try:
        found = json.loads(body)
    except ValueError:
        return "", ""
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    if not isinstance(found, dict):
        return "", ""
    words = found.get("detail") or found.get("message") or found.get("title") or found.get("error")
    code = found.get("code")
    return words if isinstance(words, str) else "", code if isinstance(code, str) else ""


def _reason(error: Exception) -> str:
    """The error in few words; operating-system errors without their number."""
    return str(error).partition("] ")[2] or str(error) or type(error).__name__


def segment(name: str) -> str:
    """``name`` as one segment of a path."""
    return quote(name, safe="")
