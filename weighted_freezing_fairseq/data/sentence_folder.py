"""The folder of one task of labelled sentences, made in steps: text and labels, subwords, binarising, manifest.

The layout is that of fairseq's recipe for RoBERTa on GLUE: input0, input1 and label, each with its dictionary, and the
score of STS-B, 0 to 5, divided by 5. A killed run continues with the step that it was in.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import atomic_folder, write_atomically
from ..workspace.contents import manifest_of
from ..workspace.progress import say
from . import archives, binary, lines, own_sentences, sentences
from .encoders import Encoder, pieces_of
from .fetch import identity
from .folder_job import Counts, FolderJob
from .own_sentences import OwnTask
from .sentences import SentenceData, Split, TableFile, Task
from .workers import Workers, chunks

_SPECIAL_PIECES = {1: 2, 2: 4}  # by number of sentences: <s> a </s>, and <s> a </s> </s> b </s>


@dataclass(frozen=True)
class TaskJob(FolderJob):
    """One task, prepared in the subwords of one encoder in `folder`."""

    data: SentenceData
    task: Task
    encoder: Encoder
    folder: Path
    longest: int  # pieces of one example, special ones included
    any_counts: bool = False  # accept files with more or fewer rows than expected
    own: OwnTask | None = None  # the user's own tables, which the task is

    first_step = "text"
    outputs = ("raw", "labels", "pieces", "bin")
    counts_form = {"step": str, "split": str, "column": str, "rows": int, "sentences": int}
    optional_settings = ("held_out",)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "dataset": self.data.name,
            "recipe": self.encoder.kind,
            "task": self.task.name,
            "longest": self.longest,
            "encoder": self.encoder.sums,
            **(self.own.settings if self.own else {}),
        }

    @property
    def inputs(self) -> list[str]:
        """fairseq's names of the sentences of an example."""
        return [f"input{number}" for number in range(self.task.inputs)]

    @property
    def existing_splits(self) -> list[str]:
        """The splits whose text was written; optional ones may be missing."""
        return [split.name for split in self.task.splits if (self.folder / "raw" / f"{split.name}.input0").is_file()]

    def summary(self) -> str:
        """The number of rows in each split of the finished folder; further sets are summed up."""
        rows = manifest_of(self.folder)["rows"]
        numbers = [f"{number:,} {split}" for split, number in rows.items() if "." not in split]
        others = [number for split, number in rows.items() if "." in split]
        if others:
            numbers.append(f"{sum(others):,} in {len(others)} more sets")
        return " / ".join(numbers)


def make(job: TaskJob, files: Sequence[Path], workers: Workers) -> None:
    """Makes the folder of a task from its own tables, or from the user's `files`: tables, folders, zips or tars."""
    counts = [
        *job.run_step("text", partial(_write_text, job, files)),
        *job.run_step("pieces", partial(_write_pieces, job, workers)),
        *job.run_step("binarised", partial(_binarise, job, workers)),
    ]
    _check_counts(job, counts)
    _write_manifest(job, counts)


# Text and labels -----------------------------------------------------------------------------------------------------


def _write_text(job: TaskJob, files: Sequence[Path]) -> list[Counts]:
    """Writes inputs and labels of each split to raw/, and the labels of each subset to labels/."""
    if job.own is None:
        counts = _write_splits(job, files)
    else:
        with atomic_folder(job.folder / "raw") as raw:
            counts = own_sentences.write_splits(job.own, [*job.inputs, "label"], raw)
    _write_labels(job)
    return counts


def _write_splits(job: TaskJob, files: Sequence[Path]) -> list[Counts]:
    """Writes inputs and labels of each split of a named task to raw/."""
    unpacked = job.folder / ".unpacked"
    with atomic_folder(unpacked) as folder:
        targets = {member: folder / str(number) for number, member in enumerate(job.task.members)}
        say(f"{job.task.name}: looking for its files in {', '.join(map(str, files))}")
        extracted = archives.copy_out_of_all(files, targets)
    tables = {member: unpacked / targets[member].name for member in extracted.members}
    identities = {member: identity(path) for member, path in tables.items()}
    counts: list[Counts] = []
    for reason, times in sorted(extracted.skipped.items()):
        say(f"{job.task.name}: {times:,} x {reason}: skipped")
        counts.append({"step": "unpacked", "left_alone": reason, "times": times})
    with atomic_folder(job.folder / "raw") as raw:
        for split in job.task.splits:
            table = next((table for table in split.files if set(table.members) <= tables.keys()), None)
            if table is not None:
                counts.append({**_write_split(job, split, table, tables, raw), **identities[table.member]})
            elif split.required:
                alternatives = " or ".join(" with ".join(table.members) for table in split.files)
                raise archives.missing_member(files[0], alternatives, extracted)
            else:
                missing = split.files[0].member
                say(f"{job.task.name}: no {missing}: there will be no predictions for {split.name}")
                counts.append({"step": "text", "split": split.name, "missing": missing, "rows": 0})
    shutil.rmtree(unpacked)
    return counts


def _write_split(job: TaskJob, split: Split, table: TableFile, tables: Mapping[str, Path], raw: Path) -> Counts:
    counts: Counter[str] = Counter()
    number = 0
    columns = [*job.inputs, "label"] if table.label else job.inputs
    ids = tables[table.ids[0]] if table.ids else None
    with lines.writer([raw / f"{split.name}.{column}" for column in columns]) as write:
        for inputs, label in sentences.rows(tables[table.member], table, job.task, counts, ids):
            number += 1
            write([*inputs, label] if table.label else inputs)
    remarks = {what: times for what, times in sorted(counts.items()) if times}
    details = "".join(f"; {times:,} x {what}" for what, times in remarks.items())
    say(f"{job.task.name}: {split.name} has {number:,} rows{details}")
    _check_rows(job, split, table, number, remarks)
    return {"step": "text", "split": split.name, "file": table.member, "rows": number, "found": remarks}


def _check_rows(job: TaskJob, split: Split, table: TableFile, number: int, remarks: Mapping[str, int]) -> None:
    """Raises a UserError if a split has not the number of rows that it should have."""
    dropped = {what: times for what, times in remarks.items() if what.endswith("dropped")}
    if dropped and not table.label:
        raise UserError(
            f"{table.member} has rows that cannot be read ({', '.join(dropped)}), and the server needs a prediction "
            "for every row; give a complete file with --archive"
        )
    details = "".join(f", {times:,} x {what}" for what, times in dropped.items())
    if number == 0:
        raise UserError(f"{table.member} has no row for {split.name}{details}; give another with --archive")
    if number != split.count and not job.any_counts:
        raise UserError(
            f"{split.name} of {job.task.name} has {number:,} rows in {table.member} and should have {split.count:,}"
            f"{details}: is it incomplete, or another version? Give another with --archive, or accept this one with "
            "--any-counts"
        )


def _write_labels(job: TaskJob) -> None:
    """Writes the labels of each subset, split after split, in the order of the predictions."""
    with atomic_folder(job.folder / "labels") as folder:
        for subset, splits in job.task.subsets.items():
            names = [name for name in splits.values() if name in job.existing_splits]
            if names and all((job.folder / "raw" / f"{name}.label").is_file() for name in names):
                with lines.writer([folder / f"{subset}.txt"]) as write:
                    for line in _gold_lines(job, names):
                        write([line])


def _gold_lines(job: TaskJob, splits: Sequence[str]) -> Iterator[str]:
    """Yields the labels of splits; in a ranked task each with a tab and the number of its query.

    Rows that follow each other in a split and have the same query have the same number.
    """
    raw, number, previous = job.folder / "raw", -1, ("", "")
    for split in splits:
        labels = lines.texts(raw / f"{split}.label")
        if not job.task.ranked:
            yield from labels
            continue
        for label, query in zip(labels, lines.texts(raw / f"{split}.input0"), strict=True):
            number += (split, query) != previous
            previous = split, query
            yield f"{label}\t{number}"


# Subwords ------------------------------------------------------------------------------------------------------------


def _write_pieces(job: TaskJob, workers: Workers) -> list[Counts]:
    """Writes every sentence in the encoder's subwords; cuts the longer sentence of an example that is too long."""
    room = job.longest - _SPECIAL_PIECES[job.task.inputs]
    counts: list[Counts] = []
    with atomic_folder(job.folder / "pieces") as folder:
        for split in job.existing_splits:
            paths = [job.folder / "raw" / f"{split}.{name}" for name in job.inputs]
            rows = zip(*map(lines.texts, paths), strict=True)
            bar = lines.with_bar(rows, f"{job.task.name} pieces {split}", lines.count(paths[0]))
            number = cut = 0
            with lines.writer([folder / path.name for path in paths]) as write:
                for chunk in workers.map(partial(_in_pieces, job.encoder, room), chunks(bar)):
                    for is_cut, texts in chunk:
                        number += 1
                        cut += is_cut
                        write(texts)
            counts.append({"step": "pieces", "split": split, "rows": number, "cut_to_length": cut})
    cut = sum(row["cut_to_length"] for row in counts)
    if cut:
        say(f"{job.task.name}: {cut:,} rows are cut to {job.longest} pieces")
    return counts


def _in_pieces(encoder: Encoder, room: int, chunk: Sequence[tuple[str, ...]]) -> list[tuple[bool, list[str]]]:
    """Returns for each row whether it was cut, and its sentences in subwords."""
    sides = [pieces_of(encoder, texts) for texts in zip(*chunk, strict=True)]
    return [_cut_to_length([text.split() for text in row], room) for row in zip(*sides, strict=True)]


def _cut_to_length(row: Sequence[list[str]], room: int) -> tuple[bool, list[str]]:
    """Cuts the longer sentence of a row, down to the length of the other, then both, to `room` pieces in all."""
    lengths = sorted(map(len, row))
    if sum(lengths) <= room:
        return False, [" ".join(pieces) for pieces in row]
    longest = max(room - lengths[0], (room + 1) // len(row)) if len(row) > 1 else room
    cut = [pieces[:longest] for pieces in row]
    if sum(map(len, cut)) > room:  # `room` is odd: the second sentence is one piece shorter
        cut[-1] = cut[-1][: room - len(cut[0])]
    return True, [" ".join(pieces) for pieces in cut]


# Binarising ----------------------------------------------------------------------------------------------------------


def _binarise(job: TaskJob, workers: Workers) -> list[Counts]:
    """Writes fairseq's data, with the encoder's dictionary for sentences and the classes in their order for labels."""
    say(f"{job.task.name}: binarising")
    splits = job.existing_splits
    with atomic_folder(job.folder / "bin") as folder:
        for name in (*job.inputs, "label"):
            (folder / name).mkdir()
        for name in job.inputs:
            shutil.copyfile(job.encoder.dictionary, folder / name / "dict.txt")
        files = [
            (job.folder / "pieces" / f"{split}.{name}", folder / name / "dict.txt", folder / name / split)
            for split in splits
            for name in job.inputs
        ]
        labels, label_files = folder / "label", []
        if not job.task.regression:
            binary.save_dictionary([(label, 1) for label in job.task.labels], labels / "dict.txt")
        for split in splits:
            path = job.folder / "raw" / f"{split}.label"
            if path.is_file() and job.task.regression:
                scaled = (f"{float(value) / job.task.scale:.6g}\n" for value in lines.texts(path))
                write_atomically(labels / f"{split}.label", "".join(scaled))
            elif path.is_file():
                label_files.append((path, labels / "dict.txt", labels / split))
        sizes = list(workers.map(binary.write_and_check, files))
        sizes += [binary.write(*paths, split=_as_one_word) for paths in label_files]
    return [
        {"step": "binarised", "split": path.name, "column": path.parent.name, **size}
        for (_, _, path), size in zip(files + label_files, sizes, strict=True)
    ]


def _as_one_word(label: str) -> list[str]:
    """A label may have spaces in it."""
    return [label]


# Manifest ------------------------------------------------------------------------------------------------------------


def _check_counts(job: TaskJob, counts: Sequence[Counts]) -> None:
    """Raises a UserError if a row was lost between the text and the binarised data, or a label is unknown."""
    rows = {row["split"]: row["rows"] for row in counts if row["step"] == "text"}
    for row in counts:
        if row["step"] == "binarised" and (
            row["sentences"] != rows[row["split"]] or (row["column"] == "label" and row["unknown"])
        ):
            raise UserError(
                f"{row['split']} of {job.folder} has {rows[row['split']]:,} rows of text and {row['sentences']:,} "
                "binarised ones; were its files changed by hand? Move the folder away and type the same command again"
            )


def _write_manifest(job: TaskJob, counts: Sequence[Counts]) -> None:
    rows = {row["split"]: row["rows"] for row in counts if row["step"] == "text" and row["rows"]}
    subsets = {
        subset: {name: split for name, split in splits.items() if split in rows}
        for subset, splits in job.task.subsets.items()
    }
    content = {
        "what": job.task.what,
        "inputs": job.task.inputs,
        "labels": list(job.task.labels),
        "scale": job.task.scale if job.task.regression else None,
        "metrics": list(job.task.metrics),
        "rows": rows,
        "subsets": {subset: splits for subset, splits in subsets.items() if splits},
    }
    job.write_manifest(content, counts)
