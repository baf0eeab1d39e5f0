"""The hub's local cache, read only: what can be known of a model without asking anybody.

Layout of ``huggingface_hub``: ``models--ORG--NAME/refs/REVISION`` holds a commit, ``snapshots/COMMIT/`` links to its
files. Called by the hub.
"""

from __future__ import annotations

import json
from pathlib import Path

from ssis_dispatcher.core.formulas import facts_from_config
from ssis_dispatcher.core.sizing import ModelFacts
from ssis_dispatcher.models import gguf
from ssis_dispatcher.models.naming import is_revision
from ssis_dispatcher.models.weights import File, stored_bytes

_MOST_FILES = 10_000


def snapshot(cache: Path, id: str, revision: str = "") -> Path | None:
    """The folder with the files of ``id`` at ``revision`` (a branch, tag or commit; the main branch by default), or
    None."""
    folder = cache / f"models--{id.replace('/', '--')}"
    revision = revision or "main"
    if not is_revision(revision):
        return None
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    found = folder / "snapshots" / commit
    return found if is_revision(commit) and found.is_dir() else None


def files(snapshot: Path) -> tuple[File, ...]:
    """What the snapshot has: paths within it, and bytes. Links whose file is gone are left out."""
    found: list[File] = []
    for path in sorted(snapshot.rglob("*"))[:_MOST_FILES]:
        try:
            if path.is_file():
                found.append((path.relative_to(snapshot).as_posix(), path.stat().st_size))
        except OSError:
            continue
    return tuple(found)


def facts(snapshot: Path, file: str = "") -> ModelFacts | None:
    """What the snapshot's files tell about the model, or about its GGUF file ``file``; None where they do not."""
    present = files(snapshot)
    if file:
        return _gguf_facts(snapshot / file) if any(file == name for name, _ in present) else None
    stored = stored_bytes(present)
    try:
        config = json.loads((snapshot / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        config = {}
    if not isinstance(config, dict) or not (config or stored):
        return None
    return facts_from_config(config, stored=stored)


def _gguf_facts(path: Path) -> ModelFacts | None:
    try:
        return gguf.file_facts(path)
    except (OSError, gguf.CorruptModel):
        return None
