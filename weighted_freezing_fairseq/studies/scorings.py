"""What to score of a trained run, the steps of it, and the data that the run was trained on.

A task (`translation.py`, `sentences/task.py`) turns the one into the other; `evaluate.py` does the steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import read_manifest
from ..errors import UserError
from ..workspace.contents import MANIFEST
from ..workspace.runs import Run

AVERAGED = 5


@dataclass(frozen=True)
class Wanted:
    """Which checkpoints to score (None: all that there are), and how.

    search: changes of the recipe's `Decode`. averaged: how many of the latest checkpoints are averaged. comet: a model
    of COMET that scores translations too.
    """

    choices: Sequence[str] | None = None
    search: Mapping[str, float] = field(default_factory=dict)
    averaged: int = AVERAGED
    comet: Path | None = None


@dataclass(frozen=True)
class Scoring:
    """A step that is done once: the sets of which it leaves scores, the checkpoint, and the settings of its stamp."""

    name: str  # of the stamp
    choice: str
    subsets: tuple[str, ...]
    settings: Mapping[str, Any]

    def files(self, run: Run) -> dict[str, Path]:
        """The files of scores by SUBSET.CHOICE."""
        names = [f"{subset}.{self.choice}" for subset in self.subsets]
        return {name: run.folder / "scores" / f"{name}.json" for name in names}


def data_of(run: Run) -> Path:
    """The prepared folder that a run was trained on; an error where it is not there any more."""
    folder = Path(run.provenance()["data"])
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{run.folder} was trained on {folder}, which has no {MANIFEST}; if the data was moved, give the folder "
            f"that wff prepare made: wff evaluate {run.folder} --data DIR"
        )
    return folder


def manifest_of(run: Run) -> dict[str, Any]:
    """The manifest of that folder."""
    return read_manifest(data_of(run))
