"""What a training tells of itself: its settings, where it comes from, how far it got, its scores; whoever made it.

A run is a folder of this package's recipes, a save folder of fairseq, or the log of a `fairseq-train`; what it does not
tell stays unknown. Left out on purpose: scores that may be compared (`scoring/results.py`), and curves (`figures/`).
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..figures.training_logs import Traces
from ..forms import read_json
from ..scoring.published import BASELINE
from ..scoring.results import SCORE_FORM
from ..workspace.checkpoints import read_checkpoint
from ..workspace.labels import labels
from ..workspace.runs import PROVENANCE, read_provenance

_LOG, _SETTINGS = "train.log", "run.yaml"
_CHECKPOINT = "checkpoint_last.pt"
_MARKS = (_LOG, _SETTINGS, PROVENANCE, "checkpoints", _CHECKPOINT, "checkpoint_best.pt")
SEED = "common.seed"
_REMEDY = "move it away, or make it again"
UNSAID = "-"
_GENERAL = ("common", "optimization")  # sections that others refer to
_DUMP = "{'_name': None, 'common': {"  # how fairseq's log begins to tell all settings


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
        """fairseq's save folder; for a log the one that it names, if that is there."""
        if self.path.is_dir():
            return self.folder / "checkpoints" if (self.folder / "checkpoints").is_dir() else self.folder
        named = (_nested(self._told).get("checkpoint") or {}).get("save_dir")
        places = (self.folder / named, Path(named)) if named else ()  # a relative one: of where fairseq was called
        return next((place for place in places if place.is_dir()), self.folder)

    @property
    def importance(self) -> Path | None:
        """What --log-importance left."""
        named = self.saved / "importance.csv"
        return self.traces.importance or (named if named.is_file() else None)

    @property
    def weights(self) -> Path | None:
        """The checkpoint to look at: the best, else the last."""
        return next((p for name in ("best", "last") if (p := self.saved / f"checkpoint_{name}.pt").is_file()), None)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """Of `wff train` and its like; of other trainings nothing is known."""
        there = self.path.is_dir() and (self.folder / PROVENANCE).is_file()
        return read_provenance(self.folder) if there else {}

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, Any]]:
        """Scores by the name of their file; beside a log may lie those of other runs."""
        own = [self.folder] if self.path.is_dir() else []
        own += [self.saved] if self.saved != self.folder else []
        found = [path for folder in own for path in sorted(folder.glob("*score.json"))]
        return {path.name.removesuffix(".json"): read_json(path, SCORE_FORM, _REMEDY) for path in found}

    @cached_property
    def finished(self) -> bool:
        """Whether its latest sitting came to its end."""
        return any("done training in" in line for line in self._latest[1:])

    @cached_property
    def _latest(self) -> list[str]:
        """Of the log's latest sitting the line of all settings, and what may be its end."""
        kept: list[str] = []
        if self.traces.log is not None:
            with self.traces.log.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if _DUMP in line:
                        kept = [line[line.index(_DUMP) :].strip()]
                    elif "done training in" in line:
                        kept.append(line)
        return kept

    @cached_property
    def _told(self) -> Mapping[str, Any] | None:
        """Every setting of the latest sitting, as the log has it."""
        try:
            return _value(ast.parse(self._latest[0], mode="eval").body) if self._latest else None
        except (SyntaxError, ValueError):  # torn by a kill, or with values that do not print as Python
            return None

    @property
    def complete(self) -> bool:
        """Whether `settings` has every setting, those that nobody chose, too."""
        return self._told is not None

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """SECTION.KEY and value; paths in the run's own folder begin with RUN, so that equal trainings look equal."""
        given = self._told if self._told is not None else self._written()
        own = (_nested(given).get("checkpoint") or {}).get("save_dir")
        root = str(own).removesuffix("/checkpoints") if own else None
        return dict(sorted(_flat(_without_repetitions(_nested(given)), root)))

    def _written(self) -> Mapping[str, Any]:
        """Without that line: what run.yaml says, else the last checkpoint."""
        if found := self.traces.settings() if self.path.is_dir() else {}:
            return found
        last = self.saved / _CHECKPOINT
        cfg = read_checkpoint(last)[0].get("cfg") if last.is_file() else None
        return cfg if isinstance(cfg, Mapping) else {}


def accounts(given: Sequence[Path], names: str | None) -> dict[str, Account]:
    """The runs that the paths are or hold, by what they are called; standard training first in a folder of several."""
    paths = [path for each in given for path in _runs_at(each)]
    if not paths:
        raise UserError("there is no run to report on; type the folder or the log of one, too")
    return {name: Account(path) for name, path in labels(list(dict.fromkeys(paths)), names, "runs").items()}


def _runs_at(path: Path) -> list[Path]:
    if path.is_file():
        whole = path.name == _LOG and len([mark for mark in _MARKS if (path.parent / mark).exists()]) > 1
        return [path.parent.resolve() if whole else path.resolve()]
    if not path.is_dir():
        raise UserError(f"there is no {path}; give a run folder, a save folder of fairseq, or a training log")
    if _is_run(path):
        return [path.resolve()]
    found = {mark.parent.resolve() for name in (PROVENANCE, _SETTINGS, _LOG) for mark in path.rglob(name)}
    if not found:
        raise UserError(
            f"there is no run in {path}; give a run folder, a save folder of fairseq, or a log of "
            "fairseq-train --log-format json"
        )
    return sorted(found, key=lambda run: (run.parent, not run.name.startswith(BASELINE), run))


def _is_run(path: Path) -> bool:
    return any((path / mark).exists() for mark in _MARKS)


# Settings -----------------------------------------------------------------------------------------------------------


class _Namespace(dict[str, Any]):
    """argparse's, which holds the settings of all sections at once."""


def _value(node: ast.expr) -> Any:
    """What a printed configuration says; what is no plain data stays the text that it is."""
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


def _nested(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Sections; of an argparse namespace only what no other section has."""
    sections = {name: section for name, section in (given or {}).items() if isinstance(section, Mapping)}
    told = [section for section in sections.values() if not isinstance(section, _Namespace)]
    known = {key for section in told for key in section} | {*sections}  # a section by its own name: which one of it
    return {
        name: {key: value for key, value in section.items() if key not in known or key == "_name"}
        if isinstance(section, _Namespace)
        else section
        for name, section in sections.items()
    }


def _without_repetitions(sections: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what optimizers, criterions and schedulers are told of the settings that all of them share."""
    told = {key: value for name in _GENERAL for key, value in (sections.get(name) or {}).items() if key != "_name"}

    def repeated(key: str, value: Any) -> bool:
        return str(value).startswith("${") or (key in told and told[key] == value)

    return {
        name: section if name in _GENERAL else {key: own for key, own in section.items() if not repeated(key, own)}
        for name, section in sections.items()
    }


def _flat(given: Mapping[str, Any], root: str | None, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in given.items():
        name = prefix if key == "_name" else f"{prefix}.{key}".removeprefix(".")
        if isinstance(value, Mapping):
            yield from _flat(value, root, name)
        elif value is not None:
            text = str(value)
            yield name, text.replace(root, "RUN", 1) if root and text.startswith(root) else text


def in_columns(runs: Mapping[str, Account]) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, str]]:
    """Runs that differ in nothing but their seed together, a column each; and the settings, those that differ first.

    Columns: the runs of each, by a name made of theirs. Differing: a value for each column. Shared: one value.
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
        name: [_together(runs[label].settings.get(name, UNSAID) for label in column) for column in columns.values()]
        for name in differ
    }
    shared = {name: str(next(iter(known[name]))) for name in names if len(known[name]) == 1}
    return {name_of(column): column for column in columns.values()}, differing, shared


def name_of(column: Sequence[str]) -> str:
    """`standard-1, -2, -3` for runs whose names differ in their ends."""
    heads, ends = {label.rpartition("-")[0] for label in column}, [label.rpartition("-")[2] for label in column]
    return ", -".join([column[0], *ends[1:]]) if len(heads) == 1 and "" not in heads else ", ".join(column)


def _together(values: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(values))
