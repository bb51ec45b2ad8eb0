"""What is known of a training run from its files: settings, provenance, progress and scores.

A run is a folder of `wff train`, a save folder of fairseq, a log of `fairseq-train`, or its TensorBoard folder.
"""

import argparse
import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..figures.training_logs import RunFiles
from ..forms import read_json
from ..scoring.published import BASELINE
from ..scoring.scored_runs import SCORE_FORM
from ..workspace.checkpoints import read_settings
from ..workspace.labels import labels
from ..workspace.runs import PROVENANCE, read_provenance

_LOG, _SETTINGS = "train.log", "run.yaml"
_LAST, _BEST = "checkpoint_last.pt", "checkpoint_best.pt"
_RUN_FILES = (_LOG, _SETTINGS, PROVENANCE, "checkpoints", _LAST, _BEST)  # a folder with one of them is a run
_SHARED_SECTIONS = ("common", "optimization")  # other sections repeat their values or refer to them
_PARAMETERS = re.compile(r"num\. shared model params: ([\d,]+)")
_SETTINGS_START = "{'_name': None, 'common': {"  # of the line in which fairseq logs all settings


@dataclass(frozen=True)
class Account:
    """One run: a folder or a log. Files are read when a property first needs them."""

    path: Path

    @cached_property
    def files(self) -> RunFiles:
        return RunFiles(self.path)

    @property
    def folder(self) -> Path:
        """The run folder; for a log, the folder that contains it."""
        return self.files.folder

    @cached_property
    def save_folder(self) -> Path:
        """fairseq's save folder; for a log, the `save_dir` in its settings if that exists, else the log's folder."""
        if self.path.is_dir():
            return self.folder / "checkpoints" if (self.folder / "checkpoints").is_dir() else self.folder
        save_dir = (self._logged_sections.get("checkpoint") or {}).get("save_dir")
        # a relative save_dir is relative to the working directory of fairseq-train, which the log does not record
        candidates = (self.folder / save_dir, Path(save_dir)) if save_dir else ()
        return next((candidate for candidate in candidates if candidate.is_dir()), self.folder)

    @property
    def importance(self) -> Path | None:
        """The table written by --log-importance."""
        in_save_folder = self.save_folder / "importance.csv"
        return self.files.importance or (in_save_folder if in_save_folder.is_file() else None)

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint if there is one, else the last."""
        paths = (self.save_folder / _BEST, self.save_folder / _LAST)
        return next((path for path in paths if path.is_file()), None)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """The content of provenance.json, which `wff train` writes; empty without that file."""
        recorded = self.path.is_dir() and (self.folder / PROVENANCE).is_file()
        return read_provenance(self.folder) if recorded else {}

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, Any]]:
        """Scores by file name without ending. Scores beside a log are left out: they may belong to another run."""
        folders = [self.folder] if self.path.is_dir() else []
        folders += [self.save_folder] if self.save_folder != self.folder else []
        paths = [path for folder in folders for path in sorted(folder.glob("*score.json"))]
        return {path.stem: read_json(path, SCORE_FORM, "move it away, or score again") for path in paths}

    @property
    def finished(self) -> bool:
        """Whether the latest start in the log reached the end of training."""
        return self._latest_start[2]

    @property
    def parameters(self) -> str:
        """The number of parameters of the model, as the log has it; empty without it."""
        return self._latest_start[1]

    @property
    def links(self) -> dict[str, Path]:
        """The files of the run that a reader may open, by name: log, YAML, and the translations of a run folder."""
        translations = sorted(self.folder.glob("scores/*.hyp.txt")) if self.path.is_dir() else []
        files = (self.files.log, self.files.yaml if self.path.is_dir() else None, *translations)
        return {path.name: path for path in files if path}

    @property
    def complete(self) -> bool:
        """Whether `settings` includes the settings that were left at their defaults."""
        return self._sections_and_completeness[1]

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """Values by SECTION.KEY. RUN stands for the run folder, so that equal trainings have equal settings."""
        sections = self._sections_and_completeness[0]
        save_dir = (sections.get("checkpoint") or {}).get("save_dir")
        run_folder = str(save_dir).removesuffix("/checkpoints") if save_dir else None
        return dict(sorted(_flattened(_without_repeated(sections), run_folder)))

    @cached_property
    def _sections_and_completeness(self) -> tuple[Mapping[str, Any], bool]:
        """The sections of settings, and whether they include defaults.

        They come from the last checkpoint, else from run.yaml, else from the log; for a log, from the log first.
        """
        if not self.path.is_dir() and self._logged_sections:
            return self._logged_sections, True
        checkpoint = self.save_folder / _LAST
        if checkpoint.is_file():
            with suppress(UserError):  # a damaged checkpoint; run.yaml or the log may have the settings
                if settings := read_settings(checkpoint):
                    return _sections(settings), True
        if self.path.is_dir() and (settings := dict(self.files.settings())):
            return _sections(settings), False
        return self._logged_sections, bool(self._logged_sections)

    @cached_property
    def _latest_start(self) -> tuple[str, str, bool]:
        """The settings and the number of parameters that the latest start logged, and whether it reached the end."""
        settings, parameters, finished = "", "", False
        if self.files.log is not None:
            with self.files.log.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if _SETTINGS_START in line:
                        settings, finished = line[line.index(_SETTINGS_START) :].strip(), False
                    elif match := _PARAMETERS.search(line):
                        parameters = match[1]
                    elif "done training in" in line:
                        finished = True
        return settings, parameters, finished

    @cached_property
    def _logged_sections(self) -> Mapping[str, Any]:
        """Sections of settings from the log; empty where the log does not have them as a Python expression."""
        settings = self._latest_start[0]
        try:
            return _sections(_parsed(ast.parse(settings, mode="eval").body)) if settings else {}
        except (SyntaxError, ValueError):  # a truncated line, or a value whose repr is not an expression
            return {}


def find_runs(paths: Sequence[Path], names: Sequence[str] | None) -> dict[str, Account]:
    """The runs at or below `paths`, by label; in a folder of several runs, standard training comes first."""
    runs = dict.fromkeys(run for path in paths for run in _runs_at(path))
    if not runs:
        raise UserError("there is no run to report on; add the folder or the log of a run")
    accounts = {label: Account(path) for label, path in labels(list(runs), names, "runs").items()}
    for account in accounts.values():
        if account.path.is_file() and not account.settings and not account.files.history():
            raise UserError(
                f"{account.path} is not a log of fairseq-train: it has no settings and no losses; give a run folder, "
                "a log of --log-format json or simple, or a folder of --tensorboard-logdir"
            )
    return accounts


def _runs_at(path: Path) -> list[Path]:
    if path.is_file():
        in_run_folder = path.name == _LOG and sum((path.parent / name).exists() for name in _RUN_FILES) > 1
        return [path.parent.resolve() if in_run_folder else path.resolve()]
    if not path.is_dir():
        raise UserError(f"there is no {path}; give a run folder, a save folder of fairseq, or a training log")
    files = [name for name in _RUN_FILES if (path / name).exists()]
    runs = {file.parent.resolve() for name in (PROVENANCE, _SETTINGS) for file in path.rglob(name)}
    # a log above runs is what a shell wrote of their command
    if RunFiles(path).events or (files and not (files == [_LOG] and runs)):
        return [path.resolve()]
    logs = {file.parent.resolve() for file in path.rglob(_LOG)}
    runs |= {folder for folder in logs if not any(folder in run.parents for run in runs)}
    if not runs:
        raise UserError(
            f"there is no run in {path}; give a run folder, a save folder of fairseq, a log of fairseq-train, or a "
            "folder of --tensorboard-logdir"
        )
    return sorted(runs, key=lambda run: (run.parent, not run.name.startswith(BASELINE), run))


# Settings -----------------------------------------------------------------------------------------------------------


class _Namespace(dict[str, Any]):
    """The content of an argparse.Namespace, which holds the settings of all sections."""


def _parsed(node: ast.expr) -> Any:
    """The value of an expression; what is not a literal stays text."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Dict():
            return {_parsed(key): _parsed(value) for key, value in zip(node.keys, node.values, strict=True) if key}
        case ast.List() | ast.Tuple():
            return [_parsed(item) for item in node.elts]
        case ast.Call(func=ast.Name(id="Namespace")):
            return _Namespace((key.arg, _parsed(key.value)) for key in node.keywords if key.arg)
    return ast.unparse(node)


def _sections(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sections of a configuration; a namespace keeps only the keys that no other section has."""
    sections = {
        name: _Namespace(vars(value)) if isinstance(value, argparse.Namespace) else value
        for name, value in settings.items()
        if isinstance(value, argparse.Namespace | Mapping)
    }
    # In a namespace, the name of a section is the key of its registered name: optimizer="adam".
    elsewhere = {key for section in sections.values() if not isinstance(section, _Namespace) for key in section}
    elsewhere |= sections.keys()
    return {
        name: {key: value for key, value in section.items() if key not in elsewhere or key == "_name"}
        if isinstance(section, _Namespace)
        else section
        for name, section in sections.items()
    }


def _without_repeated(sections: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sections without the values that optimizers, criterions and schedulers repeat from the shared sections."""
    shared = [(key, value) for name in _SHARED_SECTIONS for key, value in (sections.get(name) or {}).items()]
    return {
        name: section
        if name in _SHARED_SECTIONS
        else {
            key: value
            for key, value in section.items()
            if key == "_name" or not (str(value).startswith("${") or (key, value) in shared)
        }
        for name, section in sections.items()
    }


def _flattened(settings: Mapping[str, Any], run_folder: str | None, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        name = prefix if key == "_name" else f"{prefix}.{key}".removeprefix(".")
        if isinstance(value, Mapping):
            yield from _flattened(value, run_folder, name)
        elif value is not None:
            text = str(value)
            yield name, text.replace(run_folder, "RUN", 1) if run_folder and text.startswith(run_folder) else text


def compare_settings(runs: Mapping[str, Account]) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, str]]:
    """Group runs that differ only in their seed, and separate the settings that differ from those that are shared.

    Returns:
        columns: the labels of the runs in each group, by the name of the group.
        differing: for each setting that differs, its value in each group.
        shared: the value of each setting that all runs share.
    """
    names = sorted({name for account in runs.values() for name in account.settings})
    # A run with incomplete settings may have left a setting at its default.
    values = {
        name: {a.settings.get(name) for a in runs.values() if a.complete or name in a.settings} for name in names
    }  # fmt: skip
    differ = sorted((name for name in names if len(values[name]) > 1), key=lambda name: None in values[name])
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for label, account in runs.items():
        key = tuple(account.settings.get(name) for name in differ if name != "common.seed")
        groups.setdefault(key, []).append(label)
    differing = {
        name: [
            " ".join(dict.fromkeys(runs[label].settings.get(name, "-") for label in labels_of_group))
            for labels_of_group in groups.values()
        ]
        for name in differ
    }
    shared = {name: str(next(iter(values[name]))) for name in names if len(values[name]) == 1}
    return {joint_label(labels_of_group): labels_of_group for labels_of_group in groups.values()}, differing, shared


def joint_label(run_labels: Sequence[str]) -> str:
    """`standard-1, -2, -3` for labels that differ only in their last part, else all labels."""
    stems = {label.rpartition("-")[0] for label in run_labels}
    if len(stems) > 1 or "" in stems:
        return ", ".join(run_labels)
    return ", -".join([run_labels[0], *(label.rpartition("-")[2] for label in run_labels[1:])])
