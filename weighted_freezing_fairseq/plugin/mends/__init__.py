"""Mends: patches of fairseq, for its own faults and for incompatibilities with current Python, torch and numpy.

Each mend is one function with its reason and the versions that need it, applied once when the plugin is registered.
"""

from . import checkpoints, commands, training
from .registry import apply_mends, report

__all__ = ["apply_mends", "checkpoints", "commands", "report", "training"]
