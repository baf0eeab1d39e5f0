"""Fetches one file of the hub to disk: with progress, resumed where it stopped, checked, and cancelled at any moment.

Only `ssis_dispatcher.models.cache` calls this, from a thread. It says where a file comes from by huggingface-hub, and
moves the bytes itself: the library's own download can be neither cancelled nor kept from filling the disk. Importing both
libraries takes a tenth of a second, and is left to the first download.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from ssis_dispatcher.models.hubwire import Gated, HubError, HubOffline, HubUnreachable, NotOnHub

if TYPE_CHECKING:
    import httpx2

Progress = Callable[[int, int | None], None]
"""Told ``(bytes there, bytes in all or None)``, a few times a second, from the thread that fetches."""

_CHUNK = 1 << 20
_PROGRESS_SECONDS = 0.2
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RETRIED = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
"""403 is what an address that is valid for a while answers when that is over; the next try asks for a new one."""


class Cancelled(Exception):
    """Nobody wants the file any more. What is there stays for the next time."""


class DiskFull(Exception):
    """The file system is full."""


class Asked(msgspec.Struct, frozen=True):
    """One file of a repository. ``revision`` is a branch, a tag or a commit; ``token`` the credential to show the
    hub."""

    repo: str
    name: str
    revision: str = "main"
    token: str | None = None


class Found(msgspec.Struct, frozen=True):
    """What the hub says of a file. ``etag`` changes with the content; ``sha256`` where the hub tells it."""

    url: str
    commit: str
    etag: str
    size: int | None
    sha256: str | None


class Fetcher:
    """Fetches from one hub. ``endpoint`` is its base URL; times are in seconds."""

    def __init__(
        self,
        endpoint: str = "https://huggingface.co",
        *,
        offline: bool = False,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        tries: int = 5,
        pause: float = 1.0,
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.host = urlsplit(self.endpoint).netloc
        self.offline = offline
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._tries = tries
        self._pause = pause

    def look(self, asked: Asked) -> Found:
        """What the hub says of the file. Raises `NotOnHub`, `Gated`, `HubUnreachable`, `HubOffline`."""
        import httpx2
        from huggingface_hub import get_hf_file_metadata
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        if self.offline:
            raise HubOffline(f"{asked.repo} is to be fetched from {self.host}, which must not be asked (offline).")
        try:
            found = get_hf_file_metadata(
                self._url(asked), token=asked.token or False, timeout=self._connect_timeout, endpoint=self.endpoint
            )
        except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError) as error:
            raise self._refused(error, asked) from None
        if not found.etag:
            raise HubUnreachable(f"{self.host} names no version of {asked.name}.")
        sha256 = found.etag if _SHA256.fullmatch(found.etag) else None
        return Found(found.location, found.commit_hash or found.etag, found.etag, found.size, sha256)

    def fetch(
        self, asked: Asked, found: Found, part: IO[bytes], progress: Progress | None, cancelled: threading.Event
    ) -> None:
        """Complete ``part`` (open for reading and writing, holding the file's first bytes or none) and check it.

        A broken connection is taken up again after a pause; ``tries`` times in a row without a byte are too many.
        Raises `Cancelled`, `Unreachable`, `DiskFull`, and `DispatchError` when the hub says no or sends the wrong
        bytes.
        """
        import httpx2

        transfer = _Transfer(part, found, progress, cancelled)
        idle = 0
        timeout = httpx2.Timeout(self._read_timeout, connect=self._connect_timeout)
        with httpx2.Client(timeout=timeout, follow_redirects=True) as client:
            while transfer.done != found.size:
                before = transfer.done
                try:
                    self._stream(client, asked, found.url, transfer)
                    break
                except (httpx2.HTTPError, _Again) as error:
                    idle = 0 if transfer.done > before else idle + 1
                    if idle >= self._tries:
                        raise self._unreachable(error) from None
                    if cancelled.wait(self._pause * 2**idle):
                        raise Cancelled from None
                    found = self._look_again(asked, found)
        transfer.finish()

    def _look_again(self, asked: Asked, found: Found) -> Found:
        """A fresh address for the same content; the old one while the hub is silent."""
        try:
            again = self.look(asked)
        except HubUnreachable:
            return found
        if again.etag != found.etag:
            raise HubUnreachable(f"{asked.name} of {asked.repo} changed while it was fetched. Try again.")
        return again

    def _stream(self, client: httpx2.Client, asked: Asked, url: str, transfer: _Transfer) -> None:
        """One request for what is missing. The token goes to the hub only, never to where it redirects."""
        headers = {"Accept-Encoding": "identity"}
        if asked.token and _origin(url) == _origin(self._url(asked)):
            headers["Authorization"] = f"Bearer {asked.token}"
        if transfer.done:
            headers["Range"] = f"bytes={transfer.done}-"
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:
                transfer.restart()
                raise _Again("it has fewer bytes than are here already")
            if response.status_code in _RETRIED:
                raise _Again(f"it answers {response.status_code}")
            if response.status_code not in (200, 206):
                raise HubUnreachable(f"{self.host} answers {response.status_code} for {asked.name} of {asked.repo}.")
            if _first_byte(response) != transfer.done:
                transfer.restart()
                if response.status_code == 206:
                    raise _Again("it sent another part than it was asked for")
            for chunk in response.iter_raw(_CHUNK):
                transfer.take(chunk)
        if transfer.short():
            raise _Again(f"it stopped after {transfer.done} bytes")

    def _refused(self, error: Exception, asked: Asked) -> HubError:
        """What an error of huggingface-hub or its HTTP library means for whoever asked for the file."""
        from huggingface_hub import errors as hub

        if isinstance(error, hub.GatedRepoError):
            return Gated(
                f"{asked.repo} is gated: its owner decides who may have it. Ask for access on its page on {self.host}, and "
                "send the token of an account that has it."
            )
        if isinstance(error, hub.RepositoryNotFoundError):
            hint = "" if asked.token else " If it is private, send a token that may read it."
            return NotOnHub(f"{self.host} has no model {asked.repo}.{hint}")
        if isinstance(error, hub.RevisionNotFoundError):
            return NotOnHub(f"{asked.repo} has no revision {asked.revision} on {self.host}.")
        if isinstance(error, hub.EntryNotFoundError):
            return NotOnHub(f"{asked.repo} has no file {asked.name} on {self.host}.")
        if isinstance(error, hub.OfflineModeIsEnabled):
            return HubOffline(
                f"{asked.repo} is to be fetched from {self.host}, which must not be asked (HF_HUB_OFFLINE)."
            )
        if isinstance(error, hub.HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            if status in (401, 403):
                return Gated(f"{self.host} refuses {asked.repo} to this token ({status}).")
            return HubUnreachable(f"{self.host} answers {status} for {asked.repo}.")
        return self._unreachable(error)

    def _unreachable(self, error: Exception) -> HubUnreachable:
        return HubUnreachable(f"{self.host} cannot be reached: {_reason(error)}.")

    def _url(self, asked: Asked) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(asked.repo, asked.name, revision=asked.revision or "main", endpoint=self.endpoint)


class _Again(Exception):
    """Try again after a pause; the message says why."""


class _Transfer:
    """One file on its way: how much is there, its hash so far, and who wants to know."""

    def __init__(self, part: IO[bytes], found: Found, progress: Progress | None, cancelled: threading.Event) -> None:
        self._part = part
        self._size = found.size
        self._sha256 = found.sha256
        self._progress = progress
        self._cancelled = cancelled
        self._told = -_PROGRESS_SECONDS
        self._hash = hashlib.sha256()
        self.done = 0
        part.seek(0)
        while chunk := part.read(_CHUNK):
            self._count(chunk)
        if self._size is not None and self.done > self._size:
            self.restart()
        if progress:
            progress(self.done, self._size)

    def take(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        try:
            self._part.write(chunk)
        except OSError as error:
            raise (DiskFull() if error.errno in _FULL else error) from error
        self._count(chunk)

    def short(self) -> bool:
        """Whether bytes are missing, as far as the hub told how many there are."""
        return self._size is not None and self.done < self._size

    def restart(self) -> None:
        """Begin anew."""
        self._part.seek(0)
        self._part.truncate()
        self._hash = hashlib.sha256()
        self.done = 0

    def finish(self) -> None:
        """Check what has come and have it on disk."""
        wrong_size = self._size is not None and self.done != self._size
        if wrong_size or (self._sha256 and self._hash.hexdigest() != self._sha256):
            self.restart()
            raise HubUnreachable("A file arrived from the hub with the wrong content. Try again.")
        try:
            self._part.flush()
            os.fsync(self._part.fileno())
        except OSError as error:
            raise (DiskFull() if error.errno in _FULL else error) from error
        if self._progress:
            self._progress(self.done, self._size)

    def _count(self, chunk: bytes) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        self._hash.update(chunk)
        self.done += len(chunk)
        now = time.monotonic()
        if self._progress and now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            self._progress(self.done, self._size)


def _reason(error: Exception) -> str:
    """Why the hub cannot be asked, without addresses: those of files carry signatures."""
    if isinstance(error, _Again):
        return str(error)
    import httpx2

    if isinstance(error, httpx2.ConnectError):
        return "no connection can be made"
    if isinstance(error, httpx2.TimeoutException):
        return "it does not answer in time"
    return f"the connection failed ({type(error).__name__})"


def _first_byte(response: httpx2.Response) -> int:
    """Which byte of the file a reply begins with; -1 for a range that makes no sense."""
    if response.status_code == 200:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
