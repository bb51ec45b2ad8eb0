"""The files of a run that figures are drawn from: its log, settings, importance.csv and scores.

A run is a folder of `wff train` or another recipe, a save folder of fairseq, or a log of `fairseq-train --log-format
json`, with or without Hydra.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import Content, expect_known
from ..workspace.runs import PROVENANCE

# The prefix of names in each kind of log line: an interval of updates, an epoch, a validation.
_PREFIXES = {"train_inner": "", "train": "train_", "valid": "valid_"}


@dataclass(frozen=True)
class PlottedScore:
    """The BLEU of a test set; comparable only with scores of the same setting and scoring."""

    setting: str
    scoring: str
    bleu: float


@dataclass(frozen=True)
class RunFiles:
    """The files of the run at `path`, a folder or a log; None for a file that does not exist."""

    path: Path

    @property
    def folder(self) -> Path:
        """The run folder; for a log, the folder that contains it."""
        folder = self.path.resolve() if self.path.is_dir() else self.path.resolve().parent
        return folder.parent if folder.name == "checkpoints" else folder

    @property
    def log(self) -> Path | None:
        """The log of training, by its name in a run folder or in an output folder of Hydra."""
        return self.path if self.path.is_file() else self._first("train.log", "hydra_train.log")

    @property
    def importance(self) -> Path | None:
        """The table that --log-importance writes into fairseq's save folder."""
        if self.path.suffix == ".csv":
            return self.path
        return self._first("importance.csv", "checkpoints/importance.csv")

    def settings(self) -> Mapping[str, Any]:
        """The sections of run.yaml or of Hydra's config.yaml; empty if neither exists."""
        path = self._first("run.yaml", ".hydra/config.yaml")
        if path is None:
            return {}
        from omegaconf import OmegaConf

        remedy = "make it again, or move it away"
        try:
            content: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
            expect_known(content, dict.fromkeys(("common", "model", "criterion", "optimizer", "optimization"), dict))
        except Exception as error:  # of YAML, OmegaConf, or the encoding
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is not whole YAML of settings ({reason}); {remedy}") from None
        sections = {name: Content(x, path, remedy) if isinstance(x, dict) else x for name, x in content.items()}
        return Content(sections, path, remedy)

    def scores(self) -> list[PlottedScore]:
        """The translation scores of the run, of one checkpoint on each test set."""
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
    """The values that a log has for each interval of training and each validation, with `split` and `update`.

    Of the updates that a resumed run repeats, only the last values count. A log without intervals has epochs instead.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for kind, values in _values(lines):
            update = int(values["num_updates"])
            # a line's own "update" is in epochs
            rows[kind, update] = {**values, "split": "valid" if kind == "valid" else "train", "update": update}
    if any(kind == "train_inner" for kind, _ in rows):
        rows = {key: row for key, row in rows.items() if key[0] != "train"}
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0] == "valid", key[1]))]


def _values(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """The kind and the values of each complete line of JSON."""
    for line in lines:
        for kind, prefix in _PREFIXES.items():
            if f"| {kind} | {{" not in line and f"[{kind}][INFO] - {{" not in line:
                continue
            try:
                values = {
                    str(name).removeprefix(prefix): float(value)
                    for name, value in json.loads(line[line.index("{") :]).items()
                    if not isinstance(value, list)  # of predictions, which fairseq leaves empty
                }
            except (ValueError, TypeError):  # a line that a killed run left incomplete, or a value that is not a number
                continue
            if "num_updates" in values:
                yield kind, values
