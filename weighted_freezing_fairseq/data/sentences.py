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

Row = tuple[tuple[str, ...], str]  # the sentences, and the label ("" where there is none)


@dataclass(frozen=True)
class Source:
    """A file that may hold a part: the end of its path, and the columns of the sentences and of the label."""

    member: str
    inputs: tuple[str, ...]
    label: str = ""  # no column: the file has no labels
    names: tuple[str, ...] = ()  # of the columns, where the file has no header
    only: tuple[str, str] | None = None  # a column and its value, in a file of several parts
    ids: tuple[str, bool] | None = None  # a file of IDs, a pair a row, and whether they are in this part or not in it


@dataclass(frozen=True)
class Part:
    """The rows of one split, the files that may hold them, the best first, and how many there are."""

    split: str
    sources: tuple[Source, ...]
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
    parts: tuple[Part, ...]
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
        return len(self.parts[0].sources[0].inputs)

    @property
    def members(self) -> tuple[str, ...]:
        """The ends of the paths of all files that may hold something of it."""
        found = [name for part in self.parts for each in part.sources for name in (each.member, *(each.ids or ())[:1])]
        return tuple(dict.fromkeys(found))


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


def rows(path: Path, source: Source, task: Task, counts: Counter[str], ids: Path | None = None) -> Iterator[Row]:
    """The rows of a part in a file; `counts` says what was found in it and what was dropped, and why."""
    with path.open("rb") as file:
        found = lines.read(file, counts)
        names = source.names or tuple(next(found, "").split("\t"))
        places = _places(source, names)
        chosen = set() if ids is None else _pairs_of_ids(ids)
        for line in found:
            fields = line.split("\t")
            reason, row = _row(fields, names, places, source, task)
            if source.ids and not reason and (_ids_of(fields, names) in chosen) != source.ids[1]:
                reason = _ELSEWHERE
            if reason == _ELSEWHERE:
                continue
            if reason:
                counts[reason] += 1
                continue
            counts["an empty sentence, kept"] += not all(row[0])
            yield row


_ELSEWHERE = "of another part"
_IDS = ("#1 ID", "#2 ID")


def _row(
    fields: list[str], names: tuple[str, ...], places: Mapping[str, int], source: Source, task: Task
) -> tuple[str, Row]:
    """Why a row is dropped ("": it is not), and its sentences and label."""
    empty: Row = ((), "")
    if source.only and len(fields) > places[source.only[0]] and fields[places[source.only[0]]] != source.only[1]:
        return _ELSEWHERE, empty
    if len(fields) > len(names):
        return f"more than {len(names)} columns, dropped", empty
    if len(fields) <= max(places.values()):
        return f"fewer than {max(places.values()) + 1} columns, dropped", empty
    inputs = tuple(fields[places[name]].strip() for name in source.inputs)
    if not source.label:
        return "", (inputs, "")
    label = fields[places[source.label]].strip()
    label = task.spellings.get(label, label)
    known = _is_number(label, task.scale) if task.regression else label in task.labels
    return ("" if known else f"the label {label!r}, dropped"), (inputs, label)


def _places(source: Source, names: tuple[str, ...]) -> dict[str, int]:
    """Where the columns are that are read."""
    wanted = [*source.inputs, *filter(None, [source.label]), *([source.only[0]] if source.only else [])]
    wanted += _IDS if source.ids else ()
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"{source.member} has no column {missing[0]!r} (it has: {', '.join(names)[:200]}); is it of another task? "
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
