"""What launches taught, in a ConfigMap: small, shared by all who may lead, and there for `kubectl get`.

One key a model, so that two writers of different models never undo each other's. A write is a merge patch of what has
changed, gathered for a moment; what cannot be written now is written with what comes next.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from typing import Any

import msgspec

from ssis_dispatcher.core.messages import Remember
from ssis_dispatcher.kube.api import CONFIGMAPS, MANAGER, ApiError, Kube
from ssis_dispatcher.store.base import Lesson, Place, learned
from ssis_dispatcher.telemetry.logs import WARNING, log

MOST_MODELS = 1_000
"""Models that are remembered; those that were launched longest ago go first. One has some 300 bytes, a ConfigMap 1 MiB."""

GATHER = 2.0
"""Seconds that changes are gathered before they are written."""

AGAIN = 20.0
"""Seconds until a write that failed is tried again."""

_Lessons = list[tuple[Place, Lesson]]
_lessons = msgspec.json.Decoder(_Lessons).decode


class ConfigMapStore:
    """`LearnedStore` in the ConfigMap ``name`` of ``namespace``. `fetch` first: `load` tells what it found, and what came
    since. Changes are written while `run` does."""

    def __init__(self, kube: Kube, namespace: str, name: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._models: OrderedDict[str, dict[Place, Lesson]] = OrderedDict()
        self._dirty: set[str] = set()
        self._is_dirty = asyncio.Event()

    async def fetch(self) -> None:
        """Read the ConfigMap. What cannot be read is logged, and learned anew."""
        try:
            found = await self._kube.get(CONFIGMAPS, self._name, self._namespace)
        except ApiError as error:
            if not error.missing:
                log("learned facts not read", WARNING, reason=str(error))
            return
        for key, text in (found.get("data") or {}).items():
            try:
                lessons = _lessons(text)
            except msgspec.MsgspecError as error:
                log("learned fact not understood", WARNING, key=key, reason=str(error))
                continue
            if lessons and lessons[0][0].model not in self._dirty:
                self._models[lessons[0][0].model] = dict(lessons)

    def load(self) -> dict[Place, Lesson]:
        return {place: lesson for lessons in self._models.values() for place, lesson in lessons.items()}

    def remember(self, fact: Remember, when: float) -> None:
        place, lesson = learned(fact, when)
        lessons = self._models.setdefault(place.model, {})
        known = lessons.get(place)
        lessons[place] = lesson
        self._models.move_to_end(place.model)
        while len(self._models) > MOST_MODELS:
            self._changed(self._models.popitem(last=False)[0])
        if known is None or known.outcome != lesson.outcome or known.memory_mib != lesson.memory_mib:
            self._changed(place.model)

    def forget(self, model: str) -> None:
        if self._models.pop(model, None) is not None:
            self._changed(model)

    def close(self) -> None:
        """See `flush`."""

    async def run(self) -> None:
        """Write what changes, until cancelled."""
        while True:
            await self._is_dirty.wait()
            await asyncio.sleep(GATHER)
            try:
                await self.flush()
            except ApiError as error:
                log("learned facts not written", WARNING, reason=str(error))
                await asyncio.sleep(AGAIN)

    async def flush(self) -> None:
        """Write what has changed. Raises `ApiError`; then it is still to be written."""
        dirty, self._dirty = self._dirty, set()
        self._is_dirty.clear()
        if not dirty:
            return
        data = {_key(model): self._written(model) for model in dirty}
        try:
            await self._write(data)
        except ApiError:
            self._dirty |= dirty
            self._is_dirty.set()
            raise

    async def _write(self, data: dict[str, str | None]) -> None:
        body: dict[str, Any] = {"data": data}
        try:
            await self._kube.patch(CONFIGMAPS, self._name, body, self._namespace)
        except ApiError as error:
            if not error.missing:
                raise
            labels = {"app.kubernetes.io/managed-by": MANAGER}
            kept = {key: text for key, text in data.items() if text is not None}
            made = {"metadata": {"name": self._name, "labels": labels}, "data": kept}
            await self._kube.create(CONFIGMAPS, made, self._namespace)

    def _written(self, model: str) -> str | None:
        lessons = self._models.get(model)
        return msgspec.json.encode(list(lessons.items())).decode() if lessons else None

    def _changed(self, model: str) -> None:
        self._dirty.add(model)
        self._is_dirty.set()


def _key(model: str) -> str:
    """A key of the ConfigMap: a readable part of the model's id, and a hash of all of it."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", ".", model)[:80]
    return f"{slug}-{hashlib.blake2b(model.encode(), digest_size=6).hexdigest()}"
