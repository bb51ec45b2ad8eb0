"""Data sets of sentences with a label: what a task is, which files may hold it, and how their rows are read.

A file is a table with a tab between columns; quotes in it are signs like any other. Columns are found by their names in
the header. Rows that cannot be used are counted by their reason, never passed over in silence. Left out on purpose:
what becomes of the text (`sentence_folder.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from . import lines

Example = tuple[tuple[str, ...], str]  # the sentences, and the label ("" where there is none)


@dataclass(frozen=True)
class TableFile:
    """A TSV file that may hold a split: the end of its path, and the columns of the sentences and of the label."""

    member: str
    inputs: tuple[str, ...]
    label: str = ""  # no column: the file has no labels
    names: tuple[str, ...] = ()  # of the columns, where the file has no header
    only: tuple[str, str] | None = None  # a column and its value, in a file of several splits
    ids: tuple[str, bool] | None = None  # a file of IDs, a pair a row, and whether they are in this split or not in it


@dataclass(frozen=True)
class Split:
    """One split: its name, the files that may hold its rows, the best first, and how many rows it has."""

    name: str
    files: tuple[TableFile, ...]
    count: int
    required: bool = True


@dataclass(frozen=True)
class Task:
    """What is predicted from one sentence or two, and by which measure it is scored.

    labels: the classes in their order; none: a number from 0 to `scale`. metrics: the one of the papers' tables first.
    subsets: what is scored, or predicted for the server where there are no labels: split by language (or by its name).
    """

    name: str
    what: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    alpha: float  # of intra-distillation
    splits: tuple[Split, ...]
    subsets: Mapping[str, Mapping[str, str]]
    spellings: Mapping[str, str] = field(default_factory=dict)  # of labels, by that of a file
    scale: float = 5.0

    @property
    def regression(self) -> bool:
        """Whether a number is predicted."""
        return not self.labels

    @property
    def inputs(self) -> int:
        """How many sentences a row has."""
        return len(self.splits[0].files[0].inputs)

    @property
    def members(self) -> tuple[str, ...]:
        """The ends of the paths of all files that may hold something of it."""
        names = (name for split in self.splits for file in split.files for name in (file.member, *(file.ids or ())[:1]))
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class SentenceData:
    """Tasks that share their training, by what a run calls them; the kinds of encoder, the default first."""

    name: str
    what: str
    tasks: Mapping[str, Task]
    recipes: tuple[str, ...]
    longest: int  # pieces of one example, with those that fairseq sets around the sentences

    @property
    def pairs(self) -> tuple[str, ...]:
        """The keys of the tasks, which stand where a translation has its pair."""
        return tuple(self.tasks)


def rows(path: Path, table: TableFile, task: Task, counts: Counter[str], ids: Path | None = None) -> Iterator[Example]:
    """The rows of a split in a file; `counts` is told what the file holds, what was dropped, and why."""
    with path.open("rb") as file:
        found = lines.read(file, counts)
        names = table.names or tuple(next(found, "").split("\t"))
        places = _places(table, names)
        chosen = set() if ids is None else _pairs_of_ids(ids)
        for line in found:
            fields = line.split("\t")
            reason, row = _row(fields, names, places, table, task)
            if table.ids and not reason and (_ids_of(fields, names) in chosen) != table.ids[1]:
                reason = _ELSEWHERE
            if reason == _ELSEWHERE:
                continue
            if reason:
                counts[reason] += 1
                continue
            counts["an empty sentence, kept"] += not all(row[0])
            yield row


_ELSEWHERE = "of another split"
_IDS = ("#1 ID", "#2 ID")


def _row(
    fields: list[str], names: tuple[str, ...], places: Mapping[str, int], table: TableFile, task: Task
) -> tuple[str, Example]:
    """Why a row is dropped ("": it is not), and its sentences and label."""
    empty: Example = ((), "")
    if table.only and len(fields) > places[table.only[0]] and fields[places[table.only[0]]] != table.only[1]:
        return _ELSEWHERE, empty
    if len(fields) > len(names):
        return f"more than {len(names)} columns, dropped", empty
    if len(fields) <= max(places.values()):
        return f"fewer than {max(places.values()) + 1} columns, dropped", empty
    inputs = tuple(fields[places[name]].strip() for name in table.inputs)
    if not table.label:
        return "", (inputs, "")
    label = fields[places[table.label]].strip()
    label = task.spellings.get(label, label)
    known = _is_number(label, task.scale) if task.regression else label in task.labels
    return ("" if known else f"the label {label!r}, dropped"), (inputs, label)


def _places(table: TableFile, names: tuple[str, ...]) -> dict[str, int]:
    """Where the columns are that are read."""
    wanted = [*table.inputs, *filter(None, [table.label]), *([table.only[0]] if table.only else [])]
    wanted += _IDS if table.ids else ()
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"{table.member} has no column {missing[0]!r} (it has: {', '.join(names)[:200]}); is it of another task? "
            "Give another with --archive"
        )
    return {name: names.index(name) for name in wanted}


def _ids_of(fields: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(fields[names.index(name)].strip() for name in _IDS)


def _pairs_of_ids(path: Path) -> set[tuple[str, ...]]:
    with path.open("rb") as file:
        return {tuple(field.strip() for field in line.split("\t")[:2]) for line in lines.read(file, Counter())}


def _is_number(text: str, scale: float) -> bool:
    try:
        return 0 <= float(text) <= scale
    except ValueError:
        return False
