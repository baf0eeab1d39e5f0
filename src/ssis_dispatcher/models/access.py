"""Who may share a server: the credential scope of a model, by what the hub says about the caller's own token.

``public`` is what the hub serves to everybody. ``gated`` are those whose own token the hub accepts for a model that it does
not. Where the hub has not been asked or gives no answer, a scope is a keyed hash of the token: nobody else can be in it, and
nothing can be read from it. Used by `ssis_dispatcher.models.directory`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from ssis_dispatcher.errors import Forbidden
from ssis_dispatcher.models.hub import Hub
from ssis_dispatcher.models.hubwire import HubError
from ssis_dispatcher.models.memo import Memo

PUBLIC = "public"
GATED = "gated"

GOOD_FOR = 300.0
"""Seconds for which the hub's word about a token holds: as long as somebody may be served who has lost access."""


class Access:
    """The hub's answers about tokens, remembered. ``secret`` keys the hash; by default it dies with the process. Servers that
    outlive the process are only found again by those who may share them where the next one has the same (`take_secret`)."""

    def __init__(self, hub: Hub, secret: bytes | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._secret = secret or secrets.token_bytes(32)
        self._readable: Memo[bool] = Memo(clock)

    def take_secret(self, secret: bytes) -> None:
        """Use this key from now on; what was remembered under another is forgotten."""
        if secret != self._secret:
            self._secret = secret
            self._readable.clear()

    def known(self, repo: str, token: str) -> bool:
        """Whether `scope` can tell without a guess."""
        return self._may(repo, "") is True or self._may(repo, token) is not None

    def ask(self, repo: str, token: str) -> None:
        """Ask the hub, if need be. Blocks, at most for the hub's time-out; a hub without an answer changes nothing."""
        for who in ("", token):
            if self._may(repo, who) is None:
                try:
                    answer = self._hub.may_read(repo, who)
                except HubError:
                    return
                self._readable.put((repo, self._hash(who)), answer, GOOD_FOR)
            if self._may(repo, who):
                return

    def scope(self, repo: str, token: str) -> str:
        """The scope for a caller that shows ``token``. Raises `Forbidden` when the hub refuses the model to it."""
        if self._readable.get((repo, "")):
            return PUBLIC
        digest = self._hash(token)
        accepted = self._readable.get((repo, digest))
        if accepted is None:
            return f"token:{digest}"
        if not accepted:
            raise Forbidden(
                f"The hub does not give {repo} to this token. Ask for access on its page on the hub, or send another token.",
                code="model_gated",
                param="model",
            )
        return GATED

    def _may(self, repo: str, token: str) -> bool | None:
        return self._readable.get((repo, self._hash(token)))

    def _hash(self, token: str) -> str:
        return hashlib.blake2b(token.encode(), key=self._secret, digest_size=16).hexdigest() if token else ""
