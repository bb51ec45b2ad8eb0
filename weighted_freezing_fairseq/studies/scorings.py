"""What to score of a trained run: the options of a user, the steps that a task derives from them, and the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import read_manifest
from ..errors import UserError
from ..forms import Content
from ..workspace.contents import MANIFEST
from ..workspace.runs import Run

AVERAGED = 5


@dataclass(frozen=True)
class ScoringOptions:
    """Which checkpoints to score, and how.

    Args:
        choices: checkpoints, of best, last and average (None: all that there are).
        search: fields of the recipe's `Decode` to change.
        averaged: number of latest checkpoints that are averaged.
        comet: COMET model that scores translations too.
    """

    choices: Sequence[str] | None = None
    search: Mapping[str, float] = field(default_factory=dict)
    averaged: int = AVERAGED
    comet: Path | None = None


@dataclass(frozen=True)
class ScoringStep:
    """A step that is done once: it scores some test sets with one checkpoint.

    Args:
        name: of its stamp.
        choice: of the checkpoint.
        subsets: the test sets.
        settings: what the stamp records.
    """

    name: str
    choice: str
    subsets: tuple[str, ...]
    settings: Mapping[str, Any]

    def files(self, run: Run) -> dict[str, Path]:
        """The files of scores by SUBSET.CHOICE."""
        names = [f"{subset}.{self.choice}" for subset in self.subsets]
        return {name: run.folder / "scores" / f"{name}.json" for name in names}


@dataclass(frozen=True)
class TrainingData:
    """The prepared folder that a run was trained on, and its manifest."""

    folder: Path
    manifest: Content

    @classmethod
    def of(cls, run: Run) -> "TrainingData":
        """The data that the provenance of a run names; UserError if it is missing."""
        folder = Path(run.provenance()["data"])
        if not (folder / MANIFEST).is_file():
            raise UserError(
                f"{run.folder} was trained on {folder}, which has no {MANIFEST}; if the data was moved, give the "
                f"folder that wff prepare made: wff evaluate {run.folder} --data DIR"
            )
        return cls(folder, read_manifest(folder))
