"""The files of a run that figures are drawn from: its log or TensorBoard events, settings, importance.csv and scores.

A run is a folder of `wff train` or another recipe, a save folder of fairseq, a log of `fairseq-train --log-format json`
or `simple`, with or without Hydra, or a folder of `--tensorboard-logdir`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import Content, expect_known
from ..workspace.runs import PROVENANCE, read_provenance

# The prefix of names in each kind of log line: an interval of updates, an epoch, a validation.
_PREFIXES = {"train_inner": "", "train": "train_", "valid": "valid_"}
# A line's logger, in fairseq's own format or in Hydra's, and its values.
_LINE = re.compile(rf"(?:\| ({'|'.join(_PREFIXES)}) \| |\[({'|'.join(_PREFIXES)})\]\[INFO\] - )(.*)")
# Of the simple format: "loss=9.1, ppl=300" of an interval, "| loss 9.1 | ppl 300" of an epoch or a validation.
_SIMPLE_VALUE = re.compile(r"(?:\| (\w+) ([^\s|]+)(?= \||$))|(\w+)=([^,\s]+)(?=,|$)")
_EVENTS = "events.out.tfevents."


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
        if self.path.name.startswith(_EVENTS):
            return None
        return self.path if self.path.is_file() else self._first("train.log", "hydra_train.log")

    @property
    def events(self) -> Path | None:
        """The folder of TensorBoard's files: for an event file or its folder, the one that fairseq was given."""
        if self.path.name.startswith(_EVENTS):
            return self.path.resolve().parents[1]
        if self.path.resolve().name in _PREFIXES and any(self.path.glob(f"{_EVENTS}*")):
            return self.path.resolve().parent
        folders = (self.path, self.folder / "tensorboard") if self.path.is_dir() else ()
        files = (file for folder in folders for file in folder.glob(f"*/{_EVENTS}*"))
        return next((file.parents[1] for file in files if file.parent.name in _PREFIXES), None)

    def history(self) -> list[dict[str, Any]]:
        """The values of each interval of training and each validation, from the log, else from TensorBoard's files."""
        if self.log and (rows := read_log(self.log)):
            return rows
        return read_events(self.events) if self.events else []

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """The content of provenance.json, which `wff train` writes; empty without that file."""
        return read_provenance(self.folder) if (self.folder / PROVENANCE).is_file() else {}

    @cached_property
    def seed(self) -> str:
        """The seed of the training; empty if it is unknown."""
        if self.provenance:
            return str(self.provenance["seed"])
        with suppress(UserError):  # a figure that needs the settings says what is wrong with them
            return str(self.settings().get("common", {}).get("seed", ""))
        return ""

    @property
    def importance(self) -> Path | None:
        """The table that --log-importance writes into fairseq's save folder."""
        if self.path.suffix == ".csv":
            return self.path
        return self._first("importance.csv", "checkpoints/importance.csv")

    @property
    def yaml(self) -> Path | None:
        """The settings, by their name in a run folder or in an output folder of Hydra."""
        return self._first("run.yaml", ".hydra/config.yaml")

    def settings(self) -> Mapping[str, Any]:
        """The sections of run.yaml or of Hydra's config.yaml; empty if neither exists."""
        path = self.yaml
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
        if not self.provenance:
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


def seed_columns(inputs: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """The columns of each input that say which line of a picture it belongs to: run, method and seed.

    Runs that differ only in their seed are one method, called by their label without the seed: standard for standard-1
    and standard-2. Any other run is a method of its own, called by its whole label.
    """
    runs = {label: RunFiles(path) for label, path in inputs.items()}
    stems = {label: label.removesuffix(f"-{run.seed}") if run.seed else label for label, run in runs.items()}
    columns = {}
    for label, run in runs.items():
        namesakes = [runs[other] for other, stem in stems.items() if stem == stems[label]]
        seeds = {namesake.seed for namesake in namesakes}
        trainings = {_training(namesake) for namesake in namesakes}
        joined = None not in trainings and len(trainings) == 1 and len(seeds) == len(namesakes) > 1
        columns[label] = {"run": label, "method": stems[label] if joined else label, "seed": run.seed}
    return columns


def _training(run: RunFiles) -> str | None:
    """What runs share that differ only in their seed; None if it is unknown."""
    names = ("dataset", "recipe", "pair", "size", "method", "config", "changed")
    return json.dumps([run.provenance.get(name) for name in names]) if run.provenance else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The values that a log has for each interval of training and each validation, with `split` and `update`."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return _in_order(_values(lines))


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The same from the files that fairseq writes with `--tensorboard-logdir`."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    values: dict[tuple[str, int], dict[str, float]] = {}
    for kind in _PREFIXES:
        if not any(folder.glob(f"{kind}/{_EVENTS}*")):
            continue
        events = EventAccumulator(str(folder / kind), {SCALARS: 0}).Reload()  # 0: all of them
        for tag in events.Tags()[SCALARS]:
            for event in events.Scalars(tag):
                of_update = values.setdefault((kind, event.step), {"num_updates": event.step})
                of_update[tag] = float(f"{event.value:.6g}")  # written in float32
    return _in_order((kind, of_update) for (kind, _), of_update in values.items())


def _in_order(values: Iterable[tuple[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """One row for each update of training, then one for each validation.

    Of the updates that a resumed run repeats, only the last values count. A log without intervals has epochs instead.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for kind, of_update in values:
        update = int(of_update["num_updates"])
        # a line's own "update" is in epochs
        rows[kind, update] = {**of_update, "split": "valid" if kind == "valid" else "train", "update": update}
    if any(kind == "train_inner" for kind, _ in rows):
        rows = {key: row for key, row in rows.items() if key[0] != "train"}
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0] == "valid", key[1]))]


def _values(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """The kind and the values of each complete line, of JSON or of the simple format."""
    for line in lines:
        if (match := _LINE.search(line)) is None:
            continue
        kind, text = match[1] or match[2], match[3]
        prefix = _PREFIXES[kind]
        try:
            if text.startswith("{"):
                content = json.loads(text)
            elif not line.endswith("\n"):
                continue
            else:
                content = {a or c: b or d for a, b, c, d in _SIMPLE_VALUE.findall(text)}
            values = {
                str(name).removeprefix(prefix): float(value)
                for name, value in content.items()
                if not isinstance(value, list) and value != "None"  # of predictions, which fairseq leaves empty
            }
        except (ValueError, TypeError):  # a line that a killed run left incomplete, or a value that is not a number
            continue
        if "num_updates" in values:
            yield kind, values


def losses_at_best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The update with the lowest validation loss, and the nll of validation and of training there, in bits.

    Args:
        rows: of `RunFiles.history`; the training nll is the mean of an interval, with dropout.
    """
    validations = [row for row in rows if row["split"] == "valid" and "loss" in row]
    if not validations:
        return dict.fromkeys(("best_update", "valid_nll", "train_nll"))
    best = min(validations, key=lambda row: row["loss"])
    training = [row for row in rows if row["split"] == "train" and row["update"] >= best["update"]]
    return {
        "best_update": best["update"],
        "valid_nll": best.get("nll_loss"),
        "train_nll": training[0].get("nll_loss") if training else None,
    }
