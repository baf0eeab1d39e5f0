"""What one look at the machine found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """``ok`` is False for what has to be mended, None for what works less well, is not used here, or cannot be told.
    ``detail`` is what was seen; ``fix`` the command or setting that mends it, "" where nothing has to be done."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""
