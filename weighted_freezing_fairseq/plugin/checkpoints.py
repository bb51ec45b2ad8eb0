"""Checkpoints that a criterion reads beside the run's own: a teacher's, a reference's."""

from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils

from ..errors import UserError


def read(path: Path, role: str, remedy: str) -> dict[str, Any]:
    """The content of a fairseq checkpoint, or what to type in its place."""
    if not path.is_file():
        raise UserError(f"there is no {role} {path}; {remedy}")
    try:
        state: dict[str, Any] = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    except UserError:
        raise
    except Exception as error:  # fairseq tells of a file that is no checkpoint in a dozen ways
        raise UserError(f"the {role} {path} could not be loaded: {' '.join(str(error).split())[:300]}") from error
    return state
