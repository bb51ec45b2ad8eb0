"""What a user names to say which model: a run folder, a save-dir of fairseq or a checkpoint; and its training's data.

Commands that read a checkpoint take any of the three, and find the data that it was trained on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .runs import PROVENANCE, read_provenance


def is_run(path: Path) -> bool:
    """Whether this is a run folder."""
    return (path / PROVENANCE).is_file()


def checkpoint_of(path: Path, choice: str | None = None) -> Path:
    """The checkpoint that a user named, or a checkpoint of the folder.

    Args:
        choice: of a folder's checkpoints: best, last or average; None: the best if there is one, else the last.
    """
    if not path.is_dir():
        if path.is_file():
            return path
        raise UserError(f"there is no checkpoint {path}; give a run folder, a save-dir of fairseq or a checkpoint")
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    paths = [folder / f"checkpoint_{name}.pt" for name in ([choice] if choice else ["best", "last"])]
    for checkpoint in paths:
        if checkpoint.is_file():
            return checkpoint
    remedy = "give another choice, or a checkpoint" if choice else "give a run folder or a checkpoint"
    if choice == "average":
        remedy = f"make it: wff average {path} --last 5"
    there = ", ".join(sorted(file.name for file in folder.glob("*.pt"))) or "none"
    raise UserError(f"there is no {paths[0]} (checkpoints there: {there}); {remedy}")


def settings_of(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """The settings of a checkpoint's training by section, in whichever form fairseq saved them."""
    from .checkpoints import read_settings  # torch

    sections = {name: section for name, section in read_settings(checkpoint).items() if section is not None}
    return {name: _fields(section) for name, section in sections.items()}


def _fields(section: Any) -> dict[str, Any]:
    if isinstance(section, Mapping):
        return dict(section)
    return dict(vars(section)) if hasattr(section, "__dict__") else {}


def data_of(path: Path, checkpoint: Path) -> Path:
    """The folder of the data that `checkpoint` of `path` was trained on, as the run or the checkpoint records it."""
    if is_run(path):
        return Path(read_provenance(path)["data"])
    return Path(str(settings_of(checkpoint).get("task", {}).get("data", "")).split(":")[0])


def binarised_in(data: Path, checkpoint: Path) -> Path:
    """The binarised folder in a folder of data that a user, a run or a checkpoint names."""
    for folder in (data / "bin", data):
        if any(folder.glob("dict.*.txt")) or (folder / "input0").is_dir():
            return folder.resolve()
    raise UserError(
        f"there are no dictionaries of {checkpoint} in {data}; add --data with the folder it was trained on"
    )


def binarised_of(path: Path, checkpoint: Path) -> Path:
    """The binarised folder that `checkpoint` of `path` was trained on."""
    return binarised_in(data_of(path, checkpoint), checkpoint)
