"""Data sets of labelled sentences: what a task is, which files may hold it, and how their rows are read.

A file is a table with tabs between its columns and no quoting. Columns are found by their names in the header. Rows
that cannot be used are counted by reason.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import lines

ALPHA = 0.5  # of intra-distillation on one's own tasks; most of those in Xu et al. 2022, Table 6, have it
Example = tuple[tuple[str, ...], str]  # the sentences, and the label ("": none)
Columns = str | tuple[str, ...]  # the name of the column of a sentence; several are joined by spaces


@dataclass(frozen=True)
class TableFile:
    """A TSV file that may hold a split: the end of its path, and the columns of the sentences and of the label."""

    member: str
    inputs: tuple[Columns, ...]
    label: str = ""  # "": the file has no labels
    names: tuple[str, ...] = ()  # of the columns, if the file has no header
    only: tuple[str, str] | None = None  # a column and its value, in a file of several splits
    ids: tuple[str, bool] | None = None  # a file with two IDs a row, and whether its rows are in this split or not

    @property
    def members(self) -> tuple[str, ...]:
        """The ends of the paths of all files that are read: this one, and that of the IDs."""
        return (self.member, *(self.ids or ())[:1])

    @property
    def input_columns(self) -> tuple[tuple[str, ...], ...]:
        """The names of the columns of each sentence."""
        return tuple((names,) if isinstance(names, str) else names for names in self.inputs)


@dataclass(frozen=True)
class Split:
    """A split: its name, the files that may hold its rows, the best first, and the number of its rows.

    Of the user's own tables, all files hold rows.
    """

    name: str
    files: tuple[TableFile, ...]
    count: int
    required: bool = True


@dataclass(frozen=True)
class Task:
    """What is predicted from one or two sentences, and how it is scored.

    Attributes:
        labels: the classes in order; empty: a number from 0 to `scale`.
        metrics: the first is that of the papers' tables.
        subsets: what is scored together, or predicted for the server where there are no labels: splits by language or
            name, which the server's file has.
    """

    name: str
    what: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    alpha: float  # of intra-distillation
    splits: tuple[Split, ...]
    subsets: Mapping[str, Mapping[str, str]]
    spellings: Mapping[str, str] = field(default_factory=dict)  # labels by their spelling in a file
    scale: float = 5.0

    @property
    def regression(self) -> bool:
        """Whether a number is predicted."""
        return not self.labels

    @property
    def ranked(self) -> bool:
        """Whether the rows of each first sentence, a query, are scored by the order that their labels give."""
        return self.metrics[0] == "ndcg"

    @property
    def inputs(self) -> int:
        """The number of sentences of an example."""
        return len(self.splits[0].files[0].inputs)

    @property
    def members(self) -> tuple[str, ...]:
        """The ends of the paths of all files that may hold a part of the task."""
        return tuple(dict.fromkeys(name for split in self.splits for file in split.files for name in file.members))


@dataclass(frozen=True)
class SentenceData:
    """Tasks by key, the kinds of encoder (the default first), and the longest example."""

    name: str
    what: str
    tasks: Mapping[str, Task]
    recipes: tuple[str, ...]
    longest: int  # pieces of one example, special ones included

    @property
    def pairs(self) -> tuple[str, ...]:
        """The keys of the tasks, which stand where a corpus has its language pairs."""
        return tuple(self.tasks)

    def task_of(self, manifest: Mapping[str, Any]) -> Task:
        """The task of a prepared folder; one of the user's own is as the manifest has it."""
        known = next((task for task in self.tasks.values() if task.name == manifest["task"]), None)
        return known or Task(
            manifest["task"], manifest["what"], tuple(manifest["labels"]), tuple(manifest["metrics"]), ALPHA,
            splits=(), subsets=manifest["subsets"],
        )  # fmt: skip


OWN_SENTENCES = SentenceData(  # of the user's own tables: see `own_sentences.py`
    name="sentences",
    what="your own labelled sentences",
    tasks={},
    recipes=("roberta", "xlmr"),
    longest=128,
)


def rows(path: Path, table: TableFile, task: Task, counts: Counter[str], ids: Path | None = None) -> Iterator[Example]:
    """Yields the examples of a split in a file; `counts` gets the number of repaired and of dropped rows by reason."""
    with path.open("rb") as file:
        table_lines = lines.read(file, counts)
        names = table.names or tuple(next(table_lines, "").split("\t"))
        columns = _columns(table, names)
        listed_ids = set() if ids is None else _read_ids(ids)
        for line in table_lines:
            fields = line.split("\t")
            reason, example = _example(fields, names, columns, table, task)
            if table.ids and not reason:
                is_listed = _ids(fields[columns[name]] for name in _IDS) in listed_ids
                reason = "" if is_listed == table.ids[1] else _OTHER_SPLIT
            if reason == _OTHER_SPLIT:
                continue
            if reason:
                counts[reason] += 1
                continue
            counts["an empty sentence, kept"] += not all(example[0])
            yield example


_OTHER_SPLIT = "of another split"
_IDS = ("#1 ID", "#2 ID")


def _example(
    fields: Sequence[str], names: Sequence[str], columns: Mapping[str, int], table: TableFile, task: Task
) -> tuple[str, Example]:
    """Returns why a row is dropped ("": it is kept), and its example."""
    empty: Example = ((), "")
    if table.only and len(fields) > columns[table.only[0]] and fields[columns[table.only[0]]] != table.only[1]:
        return _OTHER_SPLIT, empty
    if len(fields) > len(names):
        return f"more than {len(names)} columns, dropped", empty
    if len(fields) <= max(columns.values()):
        return f"fewer than {max(columns.values()) + 1} columns, dropped", empty
    inputs = tuple(" ".join(fields[columns[name]].strip() for name in names) for names in table.input_columns)
    if not table.label:
        return "", (inputs, "")
    label = fields[columns[table.label]].strip()
    label = task.spellings.get(label, label)
    is_valid = _is_number(label, task.scale) if task.regression else label in task.labels
    return ("" if is_valid else f"the label {label!r}, dropped"), (inputs, label)


def _columns(table: TableFile, names: Sequence[str]) -> dict[str, int]:
    """The places of the columns that are read, by name."""
    needed = [name for names in table.input_columns for name in names]
    needed += [*filter(None, [table.label]), *(table.only or ())[:1], *(_IDS if table.ids else ())]
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(
            f"{table.member} has no column {missing[0]!r} (it has: {', '.join(names)[:200]}); is it of another task? "
            "Give another with --archive"
        )
    return {name: names.index(name) for name in needed}


def _read_ids(path: Path) -> set[tuple[str, ...]]:
    with path.open("rb") as file:
        return {_ids(line.split("\t")[:2]) for line in lines.read(file, Counter())}


def _ids(fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(field.strip() for field in fields)


def _is_number(text: str, scale: float) -> bool:
    try:
        return 0 <= float(text) <= scale
    except ValueError:
        return False
