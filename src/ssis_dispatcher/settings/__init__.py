"""Settings: flag > environment > file > default, read once into one frozen `Settings`.

Only the command line and the assembly may import this room; everything else is handed what it needs. It imports nothing
of ours. `declared` names every setting once, `kinds` reads one value, `sources` puts the places in order, `page` writes
the documentation.
"""

from ssis_dispatcher.settings.commands import EngineCommand
from ssis_dispatcher.settings.declared import Settings
from ssis_dispatcher.settings.kinds import CpuShare
from ssis_dispatcher.settings.sources import Loaded, Origin, SettingsError, load

__all__ = ["CpuShare", "EngineCommand", "Loaded", "Origin", "Settings", "SettingsError", "load"]
