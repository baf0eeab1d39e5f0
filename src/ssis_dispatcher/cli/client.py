"""The operations API from the caller's side. Every way in which it can fail becomes a `Failure` that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from ssis_dispatcher import __version__
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.ways import Way
from ssis_dispatcher.errors import DispatchError

_PATIENCE = httpx2.Timeout(30.0, connect=5.0)
_FOREVER = httpx2.Timeout(None, connect=5.0)


class NotThere(Failure):
    """The dispatcher has no such thing (404). Errors with a code of their own, as for models, are plain failures."""


class NoDispatcher(Failure):
    """Nobody answers at the address."""


class Client:
    """A way to one dispatcher, safe to use from several threads."""

    def __init__(self, way: Way) -> None:
        headers = {"user-agent": f"ssis/{__version__}", "accept-encoding": "identity", **way.headers}
        self.way = way
        self._http = httpx2.Client(base_url=way.url, headers=headers, timeout=_PATIENCE, **way.options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        self.way.close()

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
                raise self._refusal(method, response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise Failure(f"{self.way.name} answered without a stream: is that a dispatcher?")
            yield response.iter_bytes()

    def _call(
        self, method: str, path: str, body: dict[str, object] | None = None, headers: dict[str, str] | None = None
    ) -> Any:
        with self._translated():
            response = self._http.request(method, path, json=body, headers=headers)
        if response.status_code >= 400:
            raise self._refusal(method, response)
        try:
            return response.json()
        except ValueError:
            raise Failure(f"what answers at {self.way.name} is no dispatcher; say where it is with --url") from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NoDispatcher(
                f"no dispatcher answers at {self.way.name} ({_reason(error)}); {self.way.if_silent}"
            ) from None
        except httpx2.TimeoutException:
            raise Failure(f"the dispatcher at {self.way.name} does not answer; is it overloaded?") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise Failure(
                f"{self.way.url} is no address of a dispatcher; an example is http://127.0.0.1:8080"
            ) from None
        except httpx2.HTTPError as error:
            raise Failure(f"the connection to {self.way.name} broke: {_reason(error)}") from None
        except DispatchError as error:  # on the way: signing in to a cluster
            raise Failure(str(error)) from None

    def _refusal(self, method: str, response: httpx2.Response) -> Failure:
        """What an error reply means, in its own words, and what to do about it where that is known."""
        if words := self.way.refusal(method, response.status_code, response.content):
            return Failure(words)
        message, code = problem_in(response.content)
        message = message or f"{self.way.name} answered {response.status_code}"
        wait = response.headers.get("retry-after", "")
        hint = f"; try again in {wait} s" if wait.isdigit() else ""
        if response.status_code == 401:
            hint = f"; {self.way.for_key}"
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
