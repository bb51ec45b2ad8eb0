"""Labelled sentences of the user's own, as a task: tables with columns of one or two sentences and of their label.

Classes are the labels of the training files in order; scores are divided by the largest of them. A row that cannot be
read is an error. Rows that are set apart are those with the smallest hashes of their sentences, whatever the order of
the rows. Training rows whose sentences are in another split are dropped.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..workspace.progress import Progress, say
from . import lines
from .binary import SPECIAL
from .fetch import identity
from .folder_job import Counts
from .own import HELD_OUT, default_held_out, read_table, text_in
from .sentences import ALPHA, Example, Split, TableFile, Task

_MAX_CLASSES = 1000
_TEXT, _LABEL = "type --text with one of them", "type --label with one of them"


@dataclass(frozen=True)
class OwnTables:
    """The user's tables.

    Args:
        files: of each split, train first.
        text: the columns of the sentences.
        label: the column of the classes, or of the scores.
        regression: whether the labels are scores.
        held_out: how many training rows to set apart for each split without files (None: 1,000, or a twentieth).
    """

    files: Mapping[str, tuple[Path, ...]]
    text: tuple[str, ...]
    label: str
    regression: bool = False
    held_out: Mapping[str, int | None] = field(default_factory=dict)

    def rows(self, split: str, counts: Counter[str]) -> Iterator[tuple[str, Example]]:
        """The examples in the files of a split, each with its place for error messages."""
        for path in self.files[split]:
            for place, row in read_table(path, [*self.text, self.label], counts):
                inputs = (text_in(place, row, column, counts, _TEXT) for column in self.text)
                yield place, (tuple(text.strip() for text in inputs), self._label(place, row, counts))

    def _label(self, place: str, row: Mapping[str, Any], counts: Counter[str]) -> str:
        if isinstance(value := row.get(self.label), int | float):
            row = {**row, self.label: json.dumps(value)}
        label = " ".join(text_in(place, row, self.label, counts, _LABEL).split())
        if self.regression and not math.isfinite(_number(label)):
            raise UserError(f"{place} has the score {label!r}; it must be a number")
        if not label or label in SPECIAL:
            raise UserError(f"{place} has the label {label!r}, which cannot be one; correct it")
        return label


@dataclass(frozen=True)
class OwnTask:
    """The task that the user's tables are.

    Args:
        held_out: the hashes of the training rows that are set apart for each split without files.
        not_trained: these, and the hashes of all rows of other splits.
        identities: size and SHA-256 of each file.
    """

    tables: OwnTables
    task: Task
    held_out: Mapping[str, frozenset[bytes]]
    not_trained: frozenset[bytes]
    identities: Mapping[Path, Mapping[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the contents of the folder, besides the encoder."""
        names = {
            split: ", ".join(f"{path.name}@{self.identities[path]['sha256'][:12]}" for path in paths)
            for split, paths in self.tables.files.items()
        }
        return {
            "columns": {"text": list(self.tables.text), "label": self.tables.label},
            "regression": self.tables.regression,
            "files": names,
            **({"held_out": {split: len(rows) for split, rows in self.held_out.items()}} if self.held_out else {}),
        }


def read_task(name: str, tables: OwnTables) -> OwnTask:
    """Reads all tables once, to know the classes or the largest score, and to refuse rows that cannot be used."""
    say(f"{name}: reading {', '.join(str(path) for paths in tables.files.values() for path in paths)}")
    labels: Counter[str] = Counter()

    def read(split: str) -> Iterable[tuple[str, Example]]:
        return Progress(tables.rows(split, Counter()), desc=f"{name} {split}", unit="row", unit_scale=True)

    def training_hashes() -> Iterator[bytes]:
        for _, (inputs, label) in read("train"):
            labels[label] += 1
            if len(labels) > _MAX_CLASSES and not tables.regression:
                raise UserError(
                    f"column {tables.label!r} has more than {_MAX_CLASSES:,} classes; type --label with the column of "
                    "the classes, or add --regression if it has scores"
                )
            yield _hash(inputs)

    wanted = sum(HELD_OUT if number is None else number for number in tables.held_out.values())
    hashes = training_hashes()
    smallest = nsmallest(wanted, hashes)
    for _ in hashes:  # none was read if no row is to be set apart
        pass
    if len(labels) < 2:
        problem = f"every row has the label {next(iter(labels))!r}" if labels else "there is no training row"
        raise UserError(f"{problem}; give --train files with at least two labels, or another --label")
    counts, others = {"train": labels.total()}, set()
    for split in [split for split in tables.files if split != "train"]:
        for place, (inputs, label) in read(split):
            counts[split] = counts.get(split, 0) + 1
            others.add(_hash(inputs))
            if not tables.regression and label not in labels:
                raise UserError(f"{place} has the label {label!r}, which no training row has; correct it")
        if split not in counts:
            raise UserError(f"{tables.files[split][0]} has no row; give another file")
    held_out = {split: hashes - others for split, hashes in _held_out(tables, smallest, labels.total()).items()}
    counts |= {split: len(hashes) for split, hashes in held_out.items()}
    identities = {path: identity(path) for paths in tables.files.values() for path in paths}
    not_trained = frozenset(others).union(*held_out.values())
    return OwnTask(tables, _task(name, tables, labels, counts), held_out, not_trained, identities)


def _task(name: str, tables: OwnTables, labels: Counter[str], counts: Mapping[str, int]) -> Task:
    classes: tuple[str, ...] = ()
    scale = 1.0
    if tables.regression:
        scale = max(abs(float(label)) for label in labels) or 1.0
        what, metrics = "your own labelled sentences, scores", ("pearson", "spearman")
    else:
        are_numbers = all(math.isfinite(_number(label)) for label in labels)
        classes = tuple(sorted(labels, key=lambda label: (_number(label) if are_numbers else 0, label)))
        what = f"your own labelled sentences, {len(classes)} classes"
        metrics = ("accuracy", "f1" if len(classes) == 2 else "macro_f1")
    tests = [split for split in counts if split not in ("train", "valid")]
    return Task(
        name=name,
        what=what,
        labels=classes,
        metrics=metrics,
        alpha=ALPHA,
        splits=tuple(Split(split, _files(tables, split), counts[split]) for split in ("train", "valid", *tests)),
        subsets={"dev": {"dev": "valid"}, **{split: {split: split} for split in tests}},
        scale=scale,
    )


def _files(tables: OwnTables, split: str) -> tuple[TableFile, ...]:
    """The files of a split, or those that its rows are set apart from."""
    paths = tables.files.get(split, tables.files["train"])
    return tuple(TableFile(str(path), tables.text, tables.label) for path in paths)


def _held_out(tables: OwnTables, smallest: Sequence[bytes], rows: int) -> dict[str, frozenset[bytes]]:
    """The hashes of the rows for each split that has no files."""
    numbers = {split: default_held_out(rows) if number is None else number for split, number in tables.held_out.items()}
    total = sum(numbers.values())
    if rows and total >= rows:
        options = [split for split, number in tables.held_out.items() if number is not None] or list(numbers)
        smaller, files = (" and ".join(f"--{split}{end}" for split in options) for end in ("-lines", " FILES"))
        raise UserError(f"{total:,} of {rows:,} rows cannot be set apart; reduce {smaller}, or give {files}")
    held_out: dict[str, frozenset[bytes]] = {}
    first = 0
    for split, number in numbers.items():
        held_out[split] = frozenset(smallest[first : first + number]).difference(*held_out.values())
        first += number
    return held_out


def write_splits(own: OwnTask, columns: Sequence[str], raw: Path) -> list[Counts]:
    """Writes sentences and labels of each split to raw/SPLIT.COLUMN."""
    counts: list[Counts] = []
    for split in own.task.splits:
        found: Counter[str] = Counter()
        number = 0
        with lines.writer([raw / f"{split.name}.{column}" for column in columns]) as write:
            for inputs, label in _rows_of(own, split, found):
                number += 1
                found["an empty sentence, kept"] += not all(inputs)
                write([*inputs, label])
        remarks = {what: times for what, times in sorted(found.items()) if times}
        details = "".join(f"; {times:,} x {what}" for what, times in remarks.items())
        say(f"{own.task.name}: {split.name} has {number:,} rows{details}")
        if not number:
            raise UserError(
                f"no row is left for {split.name}{details}; give files with other sentences, or another --valid-lines"
            )
        files = [{"name": path.name, **own.identities[path]} for path in own.tables.files.get(split.name, ())]
        counts.append({"step": "text", "split": split.name, "rows": number, "found": remarks, "files": files})
    return counts


def _rows_of(own: OwnTask, split: Split, found: Counter[str]) -> Iterator[Example]:
    """The rows of a split; `found` gets the number of repaired and of dropped rows."""
    if split.name in own.held_out:
        rows, chosen = own.tables.rows("train", Counter()), own.held_out[split.name]
        yield from (example for _, example in rows if _hash(example[0]) in chosen)
        return
    rows = own.tables.rows(split.name, found)
    for _, example in lines.with_bar(rows, f"{own.task.name} {split.name}", split.count):
        row_hash = _hash(example[0])
        if split.name == "train" and row_hash in own.not_trained:
            is_held_out = any(row_hash in hashes for hashes in own.held_out.values())
            found["set apart" if is_held_out else "in another split, dropped"] += 1
        else:
            yield example


def _hash(inputs: Sequence[str]) -> bytes:
    return lines.hash_of("\0".join(inputs))


def _number(text: str) -> float:
    """The number that a text is, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan
