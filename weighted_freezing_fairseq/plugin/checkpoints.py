"""Checkpoints that a criterion reads in addition to the run's own: a teacher, a reference network."""

from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils

from ..errors import UserError


def read(path: Path, role: str, remedy: str) -> dict[str, Any]:
    """Load a fairseq checkpoint; the UserError for an invalid one names its `role` and gives the `remedy`."""
    if not path.is_file():
        raise UserError(f"there is no {role} {path}; {remedy}")
    try:
        state: dict[str, Any] = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    except UserError:
        raise
    except Exception as error:  # for an invalid checkpoint fairseq raises many types of exceptions
        raise UserError(f"the {role} {path} could not be loaded: {' '.join(str(error).split())[:300]}") from error
    return state
