"""What a training run left: its settings, its provenance, how far it got, its scores; by whatever tool it was trained.

A run is a folder of this package's recipes, a save folder of fairseq, or the log of a `fairseq-train`; what it does not
record stays unknown. Left out on purpose: scores that may be compared (`scoring/results.py`), and curves (`figures/`).
"""

import argparse
import ast
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..figures.training_logs import Traces
from ..forms import read_json
from ..scoring.published import BASELINE
from ..scoring.scored_runs import SCORE_FORM
from ..workspace.checkpoints import read_settings
from ..workspace.labels import labels
from ..workspace.runs import PROVENANCE, read_provenance

_LOG, _SETTINGS = "train.log", "run.yaml"
_CHECKPOINT = "checkpoint_last.pt"
_MARKS = (_LOG, _SETTINGS, PROVENANCE, "checkpoints", _CHECKPOINT, "checkpoint_best.pt")
SEED = "common.seed"
UNKNOWN = "-"
_GENERAL = ("common", "optimization")  # sections that others refer to
_DUMP = "{'_name': None, 'common': {"  # how the line with all settings begins in a log of fairseq


@dataclass(frozen=True)
class Account:
    """One run: a folder or a log, and what is read from it when it is asked for."""

    path: Path

    @property
    def folder(self) -> Path:
        """What commands name, and where its files are."""
        return self.traces.folder

    @cached_property
    def traces(self) -> Traces:
        return Traces(self.path)

    @cached_property
    def saved(self) -> Path:
        """fairseq's save folder; for a log the one that it names, if that exists."""
        if self.path.is_dir():
            return self.folder / "checkpoints" if (self.folder / "checkpoints").is_dir() else self.folder
        named = (self._logged.get("checkpoint") or {}).get("save_dir")
        places = (self.folder / named, Path(named)) if named else ()  # relative to the folder fairseq was called in
        return next((place for place in places if place.is_dir()), self.folder)

    @property
    def importance(self) -> Path | None:
        """The table of --log-importance."""
        in_save_folder = self.saved / "importance.csv"
        return self.traces.importance or (in_save_folder if in_save_folder.is_file() else None)

    @property
    def weights(self) -> Path | None:
        """The checkpoint to look at: the best, else the last."""
        return next((p for name in ("best", "last") if (p := self.saved / f"checkpoint_{name}.pt").is_file()), None)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """What `wff train` and similar commands record; empty for other trainings."""
        recorded = self.path.is_dir() and (self.folder / PROVENANCE).is_file()
        return read_provenance(self.folder) if recorded else {}

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, Any]]:
        """Scores by the name of their file; those beside a log may belong to other runs."""
        folders = [self.folder] if self.path.is_dir() else []
        folders += [self.saved] if self.saved != self.folder else []
        paths = [path for folder in folders for path in sorted(folder.glob("*score.json"))]
        return {
            path.name.removesuffix(".json"): read_json(path, SCORE_FORM, "move it away, or score again")
            for path in paths
        }

    @cached_property
    def finished(self) -> bool:
        """Whether its latest start reached the end of training."""
        return any("done training in" in line for line in self._latest[1:])

    @property
    def complete(self) -> bool:
        """Whether `settings` has every setting, defaults too."""
        return self._all_settings[1]

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """SECTION.KEY and value; paths in the run's own folder begin with RUN, so that equal trainings look equal."""
        sections = self._all_settings[0]
        save_dir = (sections.get("checkpoint") or {}).get("save_dir")
        root = str(save_dir).removesuffix("/checkpoints") if save_dir else None
        return dict(sorted(_flat(_without_repetitions(sections), root)))

    @cached_property
    def _all_settings(self) -> tuple[Mapping[str, Any], bool]:
        """The sections of settings, and whether they are complete: of a folder from the last checkpoint or run.yaml.

        Of a log, or of a folder that has neither, from the log, where fairseq prints them as Python.
        """
        if not self.path.is_dir() and self._logged:
            return self._logged, True
        last = self.saved / _CHECKPOINT
        if last.is_file():
            with suppress(UserError):  # a damaged checkpoint; the settings may be known from elsewhere
                if settings := read_settings(last):
                    return _nested(settings), True
        if self.path.is_dir() and (settings := dict(self.traces.settings())):
            return _nested(settings), False
        return self._logged, bool(self._logged)

    @cached_property
    def _latest(self) -> list[str]:
        """Of the log's latest start: the line of all settings, and the line that ends a training."""
        lines_of_start: list[str] = []
        if self.traces.log is not None:
            with self.traces.log.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if _DUMP in line:
                        lines_of_start = [line[line.index(_DUMP) :].strip()]
                    elif "done training in" in line:
                        lines_of_start.append(line)
        return lines_of_start

    @cached_property
    def _logged(self) -> Mapping[str, Any]:
        """Every setting of the latest start in the log; empty where the log does not print them as plain Python."""
        try:
            return _nested(_value(ast.parse(self._latest[0], mode="eval").body)) if self._latest else {}
        except (SyntaxError, ValueError):  # cut off by a kill, or with values that do not print as Python
            return {}


def accounts(paths: Sequence[Path], names: Sequence[str] | None) -> dict[str, Account]:
    """The runs at or in `paths`, by label; standard training first in a folder of several."""
    runs = dict.fromkeys(run for path in paths for run in _runs_at(path))
    if not runs:
        raise UserError("there is no run to report on; type the folder or the log of one, too")
    return {name: Account(path) for name, path in labels(list(runs), names, "runs").items()}


def _runs_at(path: Path) -> list[Path]:
    if path.is_file():
        of_folder = path.name == _LOG and sum((path.parent / mark).exists() for mark in _MARKS) > 1
        return [path.parent.resolve() if of_folder else path.resolve()]
    if not path.is_dir():
        raise UserError(f"there is no {path}; give a run folder, a save folder of fairseq, or a training log")
    if any((path / mark).exists() for mark in _MARKS):
        return [path.resolve()]
    runs = {mark.parent.resolve() for name in (PROVENANCE, _SETTINGS, _LOG) for mark in path.rglob(name)}
    if not runs:
        raise UserError(
            f"there is no run in {path}; give a run folder, a save folder of fairseq, or a log of "
            "fairseq-train --log-format json"
        )
    return sorted(runs, key=lambda run: (run.parent, not run.name.startswith(BASELINE), run))


# Settings -----------------------------------------------------------------------------------------------------------


class _Namespace(dict[str, Any]):
    """The content of an argparse.Namespace, which holds the settings of all sections at once."""


def _value(node: ast.expr) -> Any:
    """The value of a printed configuration; what is not plain data stays text."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Dict():
            return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
        case ast.List() | ast.Tuple():
            return [_value(item) for item in node.elts]
        case ast.Call(func=ast.Name(id="Namespace")):
            return _Namespace((key.arg, _value(key.value)) for key in node.keywords if key.arg)
    return ast.unparse(node)


def _nested(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sections; of an argparse namespace only what no other section has."""
    values = {
        name: _Namespace(vars(value)) if isinstance(value, argparse.Namespace) else value
        for name, value in settings.items()
    }
    sections = {name: section for name, section in values.items() if isinstance(section, Mapping)}
    known = {key for section in sections.values() if not isinstance(section, _Namespace) for key in section}
    known |= {*sections}  # in a namespace, the name of a section says which kind of it is used
    return {
        name: {key: value for key, value in section.items() if key not in known or key == "_name"}
        if isinstance(section, _Namespace)
        else section
        for name, section in sections.items()
    }


def _without_repetitions(sections: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sections without what optimizers, criterions and schedulers repeat of the settings that all of them share."""
    general = {key: value for name in _GENERAL for key, value in (sections.get(name) or {}).items() if key != "_name"}

    def repeated(key: str, value: Any) -> bool:
        return str(value).startswith("${") or (key in general and general[key] == value)

    return {
        name: section
        if name in _GENERAL
        else {key: value for key, value in section.items() if not repeated(key, value)}
        for name, section in sections.items()
    }


def _flat(settings: Mapping[str, Any], root: str | None, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        name = prefix if key == "_name" else f"{prefix}.{key}".removeprefix(".")
        if isinstance(value, Mapping):
            yield from _flat(value, root, name)
        elif value is not None:
            text = str(value)
            yield name, text.replace(root, "RUN", 1) if root and text.startswith(root) else text


def in_columns(runs: Mapping[str, Account]) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, str]]:
    """Group runs that differ only in their seed, a column each; separate the settings that differ from those shared.

    Returns:
        The runs of each column by a name made of theirs; of each setting that differs, a value for each column; of each
        shared setting its one value.
    """
    names = sorted({name for account in runs.values() for name in account.settings})
    known = {
        name: {a.settings.get(name) for a in runs.values() if a.complete or name in a.settings} for name in names
    }  # fmt: skip
    differ = sorted((name for name in names if len(known[name]) > 1), key=lambda name: None in known[name])
    columns: dict[tuple[str | None, ...], list[str]] = {}
    for label, account in runs.items():
        key = tuple(account.settings.get(name) for name in differ if name != SEED)
        columns.setdefault(key, []).append(label)
    differing = {
        name: [
            " ".join(dict.fromkeys(runs[label].settings.get(name, UNKNOWN) for label in column))
            for column in columns.values()
        ]
        for name in differ
    }
    shared = {name: str(next(iter(known[name]))) for name in names if len(known[name]) == 1}
    return {name_of(column): column for column in columns.values()}, differing, shared


def name_of(column: Sequence[str]) -> str:
    """`standard-1, -2, -3` for runs whose names differ in their ends."""
    heads, ends = {label.rpartition("-")[0] for label in column}, [label.rpartition("-")[2] for label in column]
    return ", -".join([column[0], *ends[1:]]) if len(heads) == 1 and "" not in heads else ", ".join(column)
