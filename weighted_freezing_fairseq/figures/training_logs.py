"""What a run leaves behind and a figure reads: its log, its settings, importance.csv, its scores.

A run is a folder (of `wff train` or another recipe, or fairseq's --save-dir) or the log of any `fairseq-train
--log-format json`, with or without Hydra. Left out on purpose: checkpoints, which `workspace/checkpoints.py` reads.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import Content, expect_known
from ..workspace.runs import PROVENANCE

# The kinds of a log's lines: an interval, an epoch, a validation; and how fairseq begins the names of their values.
_KINDS = {"train_inner": "", "train": "train_", "valid": "valid_"}


@dataclass(frozen=True)
class PlottedScore:
    """The BLEU of one test set; only those of one setting, scored in one way, compare."""

    setting: str
    scoring: str
    bleu: float


@dataclass(frozen=True)
class RunFiles:
    """The files of one run, wherever they lie; None where there is no such file."""

    path: Path

    @property
    def folder(self) -> Path:
        """That of the run; of a log, the one that it lies in."""
        folder = self.path.resolve() if self.path.is_dir() else self.path.resolve().parent
        return folder.parent if folder.name == "checkpoints" else folder

    @property
    def log(self) -> Path | None:
        """The log itself, or that of the folder: of a recipe, or Hydra's own."""
        return self.path if self.path.is_file() else self._first("train.log", "hydra_train.log")

    @property
    def importance(self) -> Path | None:
        """Written by --log-importance, in fairseq's save folder."""
        if self.path.suffix == ".csv":
            return self.path
        return self._first("importance.csv", "checkpoints/importance.csv")

    def settings(self) -> Mapping[str, Any]:
        """What its run.yaml says, or what Hydra kept; nothing where there is neither."""
        path = self._first("run.yaml", ".hydra/config.yaml")
        if path is None:
            return {}
        from omegaconf import OmegaConf

        remedy = "make it again, or move it away"
        try:
            content: Any = OmegaConf.to_container(OmegaConf.load(path))
            expect_known(
                content or {}, dict.fromkeys(("common", "model", "criterion", "optimizer", "optimization"), dict)
            )
        except Exception as error:  # of YAML, of OmegaConf, of UTF-8
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is not whole YAML of settings ({reason}); {remedy}") from None
        sections = {name: Content(x, path, remedy) if isinstance(x, dict) else x for name, x in (content or {}).items()}
        return Content(sections, path, remedy)

    def scores(self) -> list[PlottedScore]:
        """What was scored of it: the first choice of checkpoint on each test set."""
        if not (self.folder / PROVENANCE).is_file():
            return []
        from ..scoring.scored_runs import collect

        return [
            PlottedScore(
                setting.name, f"{', '.join(setting.scoring)}, {setting.sentences} of {setting.reference[:8]}", run.score
            )
            for run in collect([self.folder], None, None)[0]
            for setting in [run.setting]
            if setting.translated  # figures have no axis for other measures
        ]

    def _first(self, *names: str) -> Path | None:
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every value of a log's lines, by `split` (train: an interval; valid) and `update`.

    What a resumed run repeats counts once, as it was the last time. Where training is logged by epochs only, these are
    its intervals.
    """
    values_at: dict[tuple[str, int], dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for kind, values in _told(lines):
            update = int(values["num_updates"])
            # a line's own "update" is in epochs
            values_at[kind, update] = {**values, "split": "valid" if kind == "valid" else "train", "update": update}
    if any(kind == "train_inner" for kind, _ in values_at):
        values_at = {key: row for key, row in values_at.items() if key[0] != "train"}
    return [values_at[key] for key in sorted(values_at, key=lambda key: (key[0] == "valid", key[1]))]


def _told(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """The values of each line that is whole, by the kind of the line."""
    for line in lines:
        for kind, prefix in _KINDS.items():
            if f"| {kind} | {{" not in line and f"[{kind}][INFO] - {{" not in line:
                continue
            try:
                values = json.loads(line[line.index("{") :])
                named = {
                    str(name).removeprefix(prefix): float(value)
                    for name, value in values.items()
                    if not isinstance(value, list)  # of predictions, which fairseq leaves empty
                }
            except (ValueError, TypeError):  # half a line of a run that was killed, or a value that is no number
                continue
            if "num_updates" in named:
                yield kind, named


def refuse_missing(path: Path) -> None:
    """What was typed must be there."""
    if not path.exists():
        raise UserError(f"there is no {path}; give the folder of a run, its log, or a table")
