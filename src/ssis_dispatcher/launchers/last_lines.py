"""What servers that failed printed last. Called by every launcher, for `Launcher.logs`."""

from __future__ import annotations

from collections import OrderedDict

FAILED_KEPT = 64
"""Failed servers whose last lines are kept."""


class LastLines:
    """Last lines by server, oldest first, of those `FAILED_KEPT` servers that failed last."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, list[str]] = OrderedDict()

    def keep(self, server: str, lines: list[str]) -> None:
        self._lines[server] = lines
        self._lines.move_to_end(server)
        while len(self._lines) > FAILED_KEPT:
            self._lines.popitem(last=False)

    def of(self, server: str) -> list[str]:
        """Empty where there are none."""
        return list(self._lines.get(server, ()))

    def forget(self, server: str) -> None:
        """It is started again."""
        self._lines.pop(server, None)

    def __len__(self) -> int:
        return len(self._lines)
