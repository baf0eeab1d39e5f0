"""Requests to the hub, each bounded in time and size, with the hub's refusals as our errors. Called by the hub.

They go through ``huggingface_hub``'s own session, so that its settings (proxies, offline mode, client factory) hold here
too. Its import takes a tenth of a second and is therefore left to the first request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    import httpx2

_LARGEST_ANSWER = 16 << 20
_LARGEST_BEGINNING = 64 << 20
_INVALID_TOKEN = "Invalid credentials in Authorization header"


class HubError(Exception):
    """The hub gives no answer that helps. The message says whose turn it is."""


class NotOnHub(HubError):
    """There is no such model, revision or file, or it is private and the token may not see it."""


class Gated(HubError):
    """The model exists, but not for this token: its licence must be accepted, or the token is not good."""


class HubUnreachable(HubError):
    """The hub does not answer (in time), or answers nonsense: it may be asked again later."""


class HubOffline(HubUnreachable):
    """The hub must not be asked, and the local cache does not have the answer."""


class Inquiry:
    """The requests that answer one question about the model ``id``, all of them within ``timeout`` seconds.

    ``token`` is sent where it is not empty; no token is ever taken from the environment or a file.
    """

    def __init__(
        self,
        endpoint: str,
        id: str,
        revision: str,
        token: str,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = id
        self.revision = revision
        self.host = host_of(endpoint)
        self._endpoint = endpoint
        self._token = token
        self._clock = clock
        self._library = _Library()
        self._deadline = clock() + timeout

    def metadata(self) -> object:
        """What the hub's API says about the model at its revision, with file sizes."""
        path = f"/api/models/{quote(self.id)}"
        if self.revision:
            path += f"/revision/{quote(self.revision, safe='')}"
        return self._json(f"{path}?blobs=true")

    def check_access(self) -> None:
        """Ask whether the token may read the model's files; raises where it may not."""
        with self._open(f"/api/models/{quote(self.id)}/auth-check"):
            pass

    def json_file(self, name: str) -> object:
        """A small JSON file of the model."""
        return self._json(self._file(name))

    @contextmanager
    def beginning(self, name: str) -> Iterator[BinaryIO]:
        """A file of the model, to be read from its beginning; what is not read is not fetched."""
        with self._open(self._file(name)) as response:
            yield cast(BinaryIO, _Body(self._chunks(response, _LARGEST_BEGINNING)))

    def _file(self, name: str) -> str:
        return f"/{quote(self.id)}/resolve/{quote(self.revision or 'main', safe='')}/{quote(name)}"

    def _json(self, path: str) -> object:
        with self._open(path) as response:
            raw = b"".join(self._chunks(response, _LARGEST_ANSWER))
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise HubUnreachable(f"{self.host} answered something that is no JSON.") from error

    @contextmanager
    def _open(self, path: str) -> Iterator[httpx2.Response]:
        if not (self._token.isascii() and self._token.isprintable()):
            raise Gated("The token is not one: it holds characters that no token has.")
        library = self._library
        headers = library.headers(token=self._token or False, library_name="ssis-dispatcher")
        try:
            with library.session().stream(
                "GET", self._endpoint + path, headers=headers, timeout=self._left(), follow_redirects=True
            ) as response:
                if response.status_code >= 300:
                    raise self._refusal(response)
                yield response
        except library.offline as error:
            raise HubOffline(f"{self.host} must not be asked: HF_HUB_OFFLINE is set.") from error
        except library.failures as error:
            reason = str(error) or type(error).__name__
            raise HubUnreachable(f"{self.host} cannot be reached: {reason}.") from error

    def _chunks(self, response: httpx2.Response, most: int) -> Iterator[bytes]:
        """The body piece by piece, within the time that is left and ``most`` bytes."""
        size = 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > most:
                raise HubUnreachable(f"{self.host} answered more than {most >> 20} MiB.")
            yield chunk
            self._left()

    def _left(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise HubUnreachable(f"{self.host} did not answer in time.")
        return left

    def _refusal(self, response: httpx2.Response) -> HubError:
        """The hub's refusal as ours. It names its reason in a header; 401 alone also stands for what does not exist."""
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        if status == 401 and response.headers.get("X-Error-Message") == _INVALID_TOKEN:
            return Gated(f"{self.host} does not accept this token.")
        if code == "GatedRepo" or status == 403:
            return Gated(
                f"{self.id} is gated: accept its licence at {self._endpoint}/{self.id}, and send a token that may read it."
            )
        if code == "RevisionNotFound":
            return NotOnHub(f"{self.id} has no revision `{self.revision}` on {self.host}.")
        if code == "EntryNotFound":
            return NotOnHub(f"{self.id} has no such file on {self.host}.")
        if code == "RepoNotFound" or status in (401, 404):
            hint = "" if self._token else " (private ones need a token)"
            return NotOnHub(f"There is no model {self.id} on {self.host}{hint}.")
        return HubUnreachable(f"{self.host} answered with status {status}.")


def host_of(endpoint: str) -> str:
    """The host of ``endpoint`` for messages; ``endpoint`` itself where it is no URL."""
    try:
        return urlsplit(endpoint).netloc or endpoint
    except ValueError:
        return endpoint


class _Library:
    """What is used of ``huggingface_hub``. Loading it takes no part of a question's time."""

    def __init__(self) -> None:
        import httpx2
        from huggingface_hub import get_session
        from huggingface_hub.errors import OfflineModeIsEnabled
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # documented, not re-exported

        self.session = get_session
        self.headers = build_hf_headers
        self.offline = OfflineModeIsEnabled
        self.failures = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError)


class _Body(RawIOBase):
    """A response's chunks as a file that is read once, from its beginning."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1, /) -> bytes:
        """The next chunk, however long it is; b"" at the end."""
        return next(self._chunks, b"")
