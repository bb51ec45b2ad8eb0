"""Run folders: the method, seed and provenance of a training, and the paths of its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import Content, read_json

PROVENANCE = "provenance.json"
_PROVENANCE_FORM = {
    **dict.fromkeys(("dataset", "recipe", "pair", "size", "method", "data", "config", "command"), str),
    "seed": int,
    "commit": (str, type(None)),
    "changed": [str],
    "versions": {str: str},
    "sittings": [{"device": str}],
}
CHOICES = ("best", "last", "average")  # checkpoints to translate with; the first that exists is the default


@dataclass(frozen=True)
class Run:
    """A training of a method with a seed, in a folder."""

    method: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """The name of the run in messages."""
        return f"{self.method}, seed {self.seed}"

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """The run that `wff train` made in `folder`."""
        if not (folder / PROVENANCE).is_file():
            raise UserError(f"{folder} is not a run folder: it has no {PROVENANCE}; give one that wff train made")
        provenance = read_provenance(folder)
        return cls(provenance["method"], provenance["seed"], folder.resolve())

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.folder / "checkpoints/checkpoint_last.pt"

    @property
    def trained(self) -> bool:
        """Whether the training is finished."""
        return (self.folder / ".training.json").is_file()

    def provenance(self) -> dict[str, Any]:
        """The content of provenance.json (see `provenance.py`)."""
        return read_provenance(self.folder)


def read_provenance(folder: Path) -> Content:
    """The content of provenance.json in a run folder."""
    return read_json(folder / PROVENANCE, _PROVENANCE_FORM, f"train it again, or move {folder} away")
