"""One task's folder, step by step: the user's files -> sentences and labels -> subwords -> fairseq's data -> manifest.

The layout is that of fairseq's own recipe for RoBERTa on GLUE: input0, input1 and label, each with its dictionary; the
score of STS-B, 0 to 5, is divided by 5, as it is there. Each step appears when it is whole and leaves a stamp and its
counts, so that a killed call goes on.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import atomic_folder, write_atomically
from ..workspace.contents import MANIFEST, manifest_of
from ..workspace.progress import say
from . import archives, binary, lines, sentences
from .encoders import Encoder, pieces_of
from .fetch import identity, sha256
from .folder import (
    PACKAGES,
    Counts,
    lines_to,
    refuse_foreign,
    refuse_lost,
    step,
    versions,
    with_bar,
)
from .sentences import SentenceData, Split, TableFile, Task
from .workers import Workers, chunks

_OWN = ("raw", "labels", "pieces", "bin", MANIFEST)
_ROW_FORM = {"step": str, "split": str, "column": str, "rows": int, "sentences": int}
_AROUND = {1: 2, 2: 4}  # <s> a </s>, <s> a </s> </s> b </s>


@dataclass(frozen=True)
class TaskJob:
    """One task in the subwords of one encoder, and where it goes."""

    data: SentenceData
    task: Task
    encoder: Encoder
    folder: Path
    longest: int  # pieces of one example, with those around its sentences
    any_counts: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about the outcome, beside the files."""
        return {
            "dataset": self.data.name,
            "recipe": self.encoder.kind,
            "task": self.task.name,
            "longest": self.longest,
            "encoder": self.encoder.sums,
        }

    @property
    def inputs(self) -> list[str]:
        """fairseq's names of the sentences."""
        return [f"input{number}" for number in range(self.task.inputs)]


def is_done(job: TaskJob) -> bool:
    """Whether the folder holds just this; an error where it holds something else."""
    path = job.folder / MANIFEST
    if path.is_file():
        found = manifest_of(job.folder)
        other = [key for key, value in job.settings.items() if found.get(key) != value]
        if other:
            raise UserError(
                f"{job.folder} was made with another {' and '.join(other)}; "
                "give another --out, or move that folder away"
            )
        refuse_lost(job.folder, found)
        return True
    refuse_foreign(job.folder, "text", _OWN)
    return False


def counted(job: TaskJob) -> str:
    """The rows of each split, for a reader; of many languages only how many there are."""
    kept = manifest_of(job.folder)["rows"]
    few = {split: number for split, number in kept.items() if "." not in split}
    told = [f"{number:,} {split}" for split, number in few.items()]
    others = {split: number for split, number in kept.items() if split not in few}
    if others:
        told.append(f"{sum(others.values()):,} in {len(others)} sets of other languages and tests")
    return " / ".join(told)


def make(job: TaskJob, given: Sequence[Path], workers: Workers) -> None:
    """All steps."""
    rows = step(job.folder, "text", job.settings, partial(_write_text, job, given), form=_ROW_FORM)
    rows += step(job.folder, "pieces", job.settings, partial(_write_pieces, job, workers), form=_ROW_FORM)
    rows += step(job.folder, "binarised", job.settings, partial(_binarise, job, workers), form=_ROW_FORM)
    _assert_the_same(job, rows)
    _write_manifest(job, rows)


# Text and labels -----------------------------------------------------------------------------------------------------


def _write_text(job: TaskJob, given: Sequence[Path]) -> list[Counts]:
    """raw/, a file for each input and the label of each split, and labels/, what each subset is scored against."""
    unpacked = job.folder / ".unpacked"
    with atomic_folder(unpacked) as folder:
        goals = {member: folder / str(number) for number, member in enumerate(job.task.members)}
        say(f"{job.task.name}: looking for its files in {', '.join(map(str, given))}")
        found = archives.copy_out_of_all(given, goals)
    files = {member: unpacked / goals[member].name for member in found.members}
    identities = {member: identity(path) for member, path in files.items()}  # once: languages of XNLI share a file
    rows: list[Counts] = [
        {"step": "unpacked", "left_alone": why, "times": n} for why, n in sorted(found.left_alone.items())
    ]
    for row in rows:
        say(f"{job.task.name}: {row['times']:,} x {row['left_alone']}: left alone")
    with atomic_folder(job.folder / "raw") as raw:
        for split in job.task.splits:
            rows += [
                {**row, **identities.get(row.get("file"), {})}
                for row in _write_split(job, split, files, raw, given, found)
            ]
    _write_labels(job, {row["split"] for row in rows if row["step"] == "text"})
    shutil.rmtree(unpacked)
    return rows


def _write_split(
    job: TaskJob, split: Split, files: Mapping[str, Path], raw: Path, given: Sequence[Path], found: archives.Found
) -> list[Counts]:
    """One split, and what was counted."""
    table = next((table for table in split.files if _there(table, files)), None)
    if table is None:
        if split.required:
            wanted = " or ".join(" with ".join([file.member, *(file.ids or ())[:1]]) for file in split.files)
            raise archives.missing(given[0], wanted, found)
        say(f"{job.task.name}: no {split.files[0].member}: there will be no predictions for {split.name}")
        return [{"step": "text", "split": split.name, "missing": split.files[0].member, "rows": 0}]
    counts: Counter[str] = Counter()
    number = 0
    path = files[table.member]
    with ExitStack() as stack:
        sides = [stack.enter_context(lines_to(raw / f"{split.name}.{name}")) for name in job.inputs]
        labels = stack.enter_context(lines_to(raw / f"{split.name}.label")) if table.label else None
        ids = files[table.ids[0]] if table.ids else None
        for inputs, label in sentences.rows(path, table, job.task, counts, ids):
            number += 1
            for side, text in zip(sides, inputs, strict=True):
                side.write(f"{text}\n")
            if labels is not None:
                labels.write(f"{label}\n")
    met = {what: times for what, times in sorted(counts.items()) if times}
    told = "".join(f"; {times:,} x {what}" for what, times in met.items())
    say(f"{job.task.name}: {split.name} has {number:,} rows{told}")
    _refuse_wrong_counts(job, split, table, number, met)
    return [{"step": "text", "split": split.name, "file": table.member, "rows": number, "found": met}]


def _there(table: TableFile, files: Mapping[str, Path]) -> bool:
    return table.member in files and (table.ids is None or table.ids[0] in files)


def _refuse_wrong_counts(job: TaskJob, split: Split, table: TableFile, number: int, met: Mapping[str, int]) -> None:
    dropped = {what: times for what, times in met.items() if what.endswith("dropped")}
    if dropped and not table.label:
        raise UserError(
            f"{table.member} has rows that cannot be read ({', '.join(dropped)}), and the server wants a prediction "
            "for every one; give a whole file with --archive"
        )
    if number == 0:
        raise UserError(f"{table.member} has no row for {split.name}; give another with --archive")
    if number != split.count and not job.any_counts:
        told = "".join(f", {times:,} x {what}" for what, times in dropped.items())
        raise UserError(
            f"{split.name} of {job.task.name} has {number:,} rows in {table.member} and should have {split.count:,}"
            f"{told}: is it cut short, or of another version? Give another with --archive, or go on all the same with "
            "--any-counts"
        )


def _write_labels(job: TaskJob, splits: set[str]) -> None:
    """Labels of each subset, its splits one after another, as predictions will be."""
    with atomic_folder(job.folder / "labels") as goal:
        for subset, own in job.task.subsets.items():
            paths = [job.folder / "raw" / f"{split}.label" for split in own.values() if split in splits]
            if all(path.is_file() for path in paths) and paths:
                with (goal / f"{subset}.txt").open("wb") as file:
                    for path in paths:
                        file.write(path.read_bytes())


# Subwords and binarised data -----------------------------------------------------------------------------------------


def _splits(job: TaskJob) -> list[str]:
    """Those that there are."""
    return [split.name for split in job.task.splits if (job.folder / "raw" / f"{split.name}.input0").is_file()]


def _write_pieces(job: TaskJob, workers: Workers) -> list[Counts]:
    """Every sentence of every split in the encoder's subwords, the longer one of two cut where they are too long."""
    room = job.longest - _AROUND[job.task.inputs]
    rows: list[Counts] = []
    with atomic_folder(job.folder / "pieces") as goal:
        for split in _splits(job):
            raw = [job.folder / "raw" / f"{split}.{name}" for name in job.inputs]
            texts = zip(*(lines.texts(path) for path in raw), strict=True)
            bar = with_bar(texts, f"{job.task.name} pieces {split}", lines.count(raw[0]))
            number = cut = 0
            with ExitStack() as stack:
                sides = [stack.enter_context(lines_to(goal / path.name)) for path in raw]
                for chunk in workers.map(partial(_in_pieces, job.encoder, room), chunks(bar)):
                    for is_cut, found in chunk:
                        number += 1
                        cut += is_cut
                        for side, text in zip(sides, found, strict=True):
                            side.write(f"{text}\n")
            rows.append({"step": "pieces", "split": split, "rows": number, "cut_to_length": cut})
    cut = sum(row["cut_to_length"] for row in rows)
    if cut:
        say(f"{job.task.name}: {cut:,} rows are cut to {job.longest} pieces")
    return rows


def _in_pieces(encoder: Encoder, room: int, chunk: Sequence[tuple[str, ...]]) -> list[tuple[bool, list[str]]]:
    """Each row in subwords, and whether it was cut."""
    sides = [pieces_of(encoder, texts) for texts in zip(*chunk, strict=True)]
    return [_shortened([text.split() for text in row], room) for row in zip(*sides, strict=True)]


def _shortened(row: Sequence[list[str]], room: int) -> tuple[bool, list[str]]:
    """At most `room` pieces in all: the longer sentence loses its last pieces, down to the length of the other."""
    most = sorted(map(len, row))
    if sum(most) <= room:
        return False, [" ".join(pieces) for pieces in row]
    longest = max(room - most[0], (room + 1) // len(row)) if len(row) > 1 else room
    kept = [pieces[:longest] for pieces in row]
    if sum(map(len, kept)) > room:  # an odd room: the second gives way
        kept[-1] = kept[-1][: room - len(kept[0])]
    return True, [" ".join(pieces) for pieces in kept]


def _binarise(job: TaskJob, workers: Workers) -> list[Counts]:
    """fairseq's data: the encoder's dictionary for sentences, the classes in their order for labels."""
    say(f"{job.task.name}: binarising")
    splits = _splits(job)
    with atomic_folder(job.folder / "bin") as goal:
        for name in (*job.inputs, "label"):
            (goal / name).mkdir()
        for name in job.inputs:
            shutil.copyfile(job.encoder.dictionary, goal / name / "dict.txt")
        tasks = [
            (job.folder / "pieces" / f"{split}.{name}", goal / name / "dict.txt", goal / name / split)
            for split in splits
            for name in job.inputs
        ]
        if not job.task.regression:
            binary.save_dictionary([(label, 1) for label in job.task.labels], goal / "label/dict.txt")
        for split in splits:
            path = job.folder / "raw" / f"{split}.label"
            if path.is_file() and job.task.regression:
                scaled = (f"{float(value) / job.task.scale:.6g}\n" for value in lines.texts(path))
                write_atomically(goal / "label" / f"{split}.label", "".join(scaled))
            elif path.is_file():
                tasks.append((path, goal / "label/dict.txt", goal / "label" / split))
        found = list(workers.map(binary.write_and_check, tasks))
    return [
        {"step": "binarised", "split": goal.name, "column": goal.parent.name, **counts}
        for (_, _, goal), counts in zip(tasks, found, strict=True)
    ]


def _assert_the_same(job: TaskJob, rows: Sequence[Counts]) -> None:
    """No row may be lost between the text and what fairseq trains on, and no label may be unknown."""
    wanted = {row["split"]: row["rows"] for row in rows if row["step"] == "text"}
    for row in rows:
        if row["step"] == "binarised" and (
            row["sentences"] != wanted[row["split"]] or (row["column"] == "label" and row["unknown"])
        ):
            raise UserError(
                f"{row['split']} of {job.folder} has {wanted[row['split']]:,} rows of text and {row['sentences']:,} "
                "binarised ones; were its files changed by hand? Move the folder away and type the same again"
            )


def _write_manifest(job: TaskJob, rows: Sequence[Counts]) -> None:
    kept = {row["split"]: row["rows"] for row in rows if row["step"] == "text" and row["rows"]}
    manifest = {
        **job.settings,
        "what": job.task.what,
        "inputs": job.task.inputs,
        "labels": list(job.task.labels),
        "scale": job.task.scale if job.task.regression else None,
        "metrics": list(job.task.metrics),
        "rows": kept,
        "subsets": {
            subset: {name: split for name, split in own.items() if split in kept}
            for subset, own in job.task.subsets.items()
            if any(split in kept for split in own.values())
        },
        "counts": list(rows),
        "versions": versions(*PACKAGES)["versions"],
        "sha256": {
            str(path.relative_to(job.folder)): sha256(path)
            for path in sorted(job.folder.glob("[!.]*/**/*"))
            if path.is_file()
        },
    }
    write_atomically(job.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
