"""Clearing away: a server's Knative Service, its Secret and its pods, until its slice is free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ssis_dispatcher.kube.api import PODS, SECRETS, SERVICES, ApiError, Kube
from ssis_dispatcher.launchers.knative import names
from ssis_dispatcher.launchers.knative.servers import KnativeServer
from ssis_dispatcher.telemetry.logs import WARNING

Object = dict[str, Any]

_POD_GRACE = 3.0
"""Seconds that a pod may take to end. What we stop is idle, and Knative's own way (30 s of quiet) would keep the slice."""

_CASCADE = 2.0
"""Seconds in which Kubernetes reaches the pods of a service that was deleted, with the grace of its time-out."""

_MOST_HURRIED = 6
"""Pods of one service that are deleted by hand before Kubernetes reaches them: each of the first is replaced at once, until
what replaces it is gone, too."""

_FORCE_AFTER = 7.0
"""Seconds after which a pod that is still there is deleted by force. A kubelet that waits for queue-proxy's drain already may
not listen to a shorter grace any more (measured on Kubernetes 1.36), and would keep the slice for half a minute."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
"""Seconds between two tries."""


class Clearing:
    """``pods_of`` tells which pods of a server are left, ``freed`` is called when a slice may be free. ``leaving`` are the
    uids of the services that are being cleared away: nobody is to find them."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        pods_of: Callable[[KnativeServer], Sequence[Object]],
        freed: Callable[[], None],
        log: Callable[..., None],
    ) -> None:
        self.leaving: set[str] = set()
        self._kube = kube
        self._namespace = namespace
        self._pods_of = pods_of
        self._freed = freed
        self._log = log

    async def sweep(self, server: KnativeServer) -> None:
        """Remove what is left of a server that is in nobody's book any more; never gives up, and never raises."""
        server.stopping = True
        pause = _FIRST_PAUSE
        while True:
            try:
                await self.remove(server, 0.0)
            except ApiError as error:
                self._log("sweep_failed", WARNING, server=server.name, error=str(error), again_in=pause)
            else:
                self._freed()
                return
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def remove(self, server: KnativeServer, grace: float) -> None:
        """Delete the service, and see its pods gone. Raises `ApiError`."""
        if server.may_have_secret:
            await self._kube.delete(SECRETS, server.name, self._namespace)
        there = await self._uid_of(server.name)
        server.uid = server.uid or there
        if not server.uid:
            return
        self.leaving.add(server.uid)
        try:
            if there == server.uid:  # else it is gone, or somebody has made it theirs, or it is another's by now
                await self._kube.delete(SERVICES, server.name, self._namespace, uid=server.uid)
            await self._see_off(server, grace)
        finally:
            self.leaving.discard(server.uid)

    async def _uid_of(self, name: str) -> str:
        """Of our service of this name; "" where there is none. A create of which we heard nothing may have made it."""
        try:
            found = await self._kube.get(SERVICES, name, self._namespace)
        except ApiError as error:
            if error.missing:
                return ""
            raise
        return str(found["metadata"]["uid"]) if names.owned(found) else ""

    async def _see_off(self, server: KnativeServer, grace: float) -> None:
        """Wait until no pod of it is left. Raises `ApiError`.

        A pod can be hurried only before Kubernetes has begun to end it: from then on the kubelet waits for Knative's drain
        (30 s), however short a grace it is told. So they are deleted by hand at once, replacements included.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        hurried: set[tuple[str, bool]] = set()
        while True:
            server.changed.clear()
            left = self._pods_of(server)
            if not left:
                return
            spent = clock() - begun
            for pod in left:
                metadata = pod["metadata"]
                forced = spent >= _FORCE_AFTER
                due = spent >= _CASCADE or len(hurried) < _MOST_HURRIED
                if due and (metadata["uid"], forced) not in hurried:
                    hurried.add((metadata["uid"], forced))
                    seconds = 0.0 if forced else max(1.0, min(grace, _POD_GRACE))
                    await self._kube.delete(PODS, metadata["name"], self._namespace, uid=metadata["uid"], grace=seconds)
            await server.wait(_CASCADE / 2)
