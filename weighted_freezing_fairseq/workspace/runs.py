"""Run folders: the method, the seed and the provenance of one training, and where its files are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import Content, read_json

PROVENANCE = "provenance.json"
_PROVENANCE_FORM = {
    **dict.fromkeys(("dataset", "recipe", "pair", "method", "data", "config", "command"), str),
    "seed": int,
    "commit": (str, type(None)),
    "changed": [str],
    "versions": {str: str},
    "sittings": [{"device": str}],
}
CHOICES = ("best", "last", "average")  # checkpoints to translate with; the first that there is counts


@dataclass(frozen=True)
class Run:
    """One training: a method, a seed, a folder."""

    method: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """For a reader."""
        return f"{self.method}, seed {self.seed}"

    @classmethod
    def of(cls, folder: Path) -> "Run":
        """The run that `wff train` made in `folder`."""
        if not (folder / PROVENANCE).is_file():
            raise UserError(f"{folder} is no run folder: it has no {PROVENANCE}; give one that wff train made")
        own = read_provenance(folder)
        return cls(own["method"], own["seed"], folder.resolve())

    @property
    def checkpoint(self) -> Path:
        """Its last weights."""
        return self.folder / "checkpoints/checkpoint_last.pt"

    @property
    def trained(self) -> bool:
        """Whether its training came to its end."""
        return (self.folder / ".training.json").is_file()

    def provenance(self) -> dict[str, Any]:
        """What was trained, from what, by which command (written by `provenance.py`)."""
        return read_provenance(self.folder)


def read_provenance(folder: Path) -> Content:
    """provenance.json of a run folder."""
    return read_json(folder / PROVENANCE, _PROVENANCE_FORM, f"train it again, or move {folder} away")
