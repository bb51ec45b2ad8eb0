"""Repairs of fairseq: what current Python, torch and numpy break in it, and faults of its own.

Each mend is one function with its reason and the versions that need it, applied once when the plugin is registered.
Left out on purpose: anything that would need a copy of a fairseq file.
"""

from . import checkpoints, commands, training
from .registry import apply_mends, report

__all__ = ["apply_mends", "checkpoints", "commands", "report", "training"]
