"""The declarations as something to work with: each setting with its kind, its bounds and its three spellings."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec

from ssis_dispatcher.settings import kinds
from ssis_dispatcher.settings.declared import Setting, Settings

PREFIX = "SSIS_"


@dataclass(frozen=True, slots=True)
class Field:
    """One setting with all that is known of it."""

    name: str
    kind: kinds.Kind
    about: Setting
    default: Any

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_flag(self) -> bool:
        """Whether `ssis serve` has a flag for it."""
        return not self.about.secret and not self.about.table and self.about.section != "client"

    @property
    def bounds(self) -> str:
        """ ", at least 1" and the like; "" without bounds."""
        least, most = ("" if bound is None else self.kind.write(bound) for bound in (self.about.least, self.about.most))
        if least and most:
            return f", {least} to {most}"
        return f", at least {least}" if least else f", at most {most}" if most else ""

    def read(self, raw: object) -> Any:
        """The value, in bounds. Raises `ValueError` or `TypeError`."""
        value: Any = self.kind.read(raw)
        least, most = self.about.least, self.about.most
        if value is not None and ((least is not None and value < least) or (most is not None and value > most)):
            raise ValueError
        return value

    def show(self, value: Any) -> str:
        """The value as it would be written, or asterisks for a secret."""
        return "********" if self.about.secret and value else self.kind.write(value)


@functools.cache
def fields() -> dict[str, Field]:
    """Every setting by name, in the order of declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    found = {}
    for field in msgspec.structs.fields(Settings):
        hint = hints[field.name]
        (about,) = (extra for extra in get_args(hint) if isinstance(extra, Setting))
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
        found[field.name] = Field(field.name, kinds.of(hint), about, default)
    return found
