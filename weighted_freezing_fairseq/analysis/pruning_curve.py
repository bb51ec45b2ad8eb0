"""The translation quality of checkpoints against the share of their weights that remains (Xu et al. 2022, Figure 6).

Writes a table, a picture, and a file for each translation, so that a second call measures only the missing ones.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..core.pruning import METHODS, Method, select
from ..core.snapshot import fingerprint
from ..data.recipe import Decode
from ..errors import UserError
from ..figures import drawing, registry
from ..files import write_atomically
from ..forms import NUMBER
from ..scoring.scores import Score, read_lines, refuse_processed, score
from ..scoring.translate import Pieces, generate, pieces_of, refuse_missing
from ..workspace.checkpoints import read_checkpoint
from ..workspace.contents import MANIFEST, manifest_of
from ..workspace.labels import as_file_name, reuse
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.tables import as_csv
from .gradients import Sample
from .prune import Dense, importance

_TEMPORARY = ".pruned"  # the folder of pruned checkpoints during their translation
_POINT_FORM = {
    "remaining": NUMBER,
    "score": {"bleu": NUMBER, "chrf": NUMBER, "sentences": int, "bleu_signature": str},
}


@dataclass(frozen=True)
class Translation:
    """The test set, its raw reference, and how it is translated."""

    data: Path
    subset: str
    decode: Decode
    reference: Path

    @cached_property
    def pieces(self) -> Pieces:
        """How subwords become text."""
        folder = self.data.resolve().parent
        return pieces_of(manifest_of(folder)) if (folder / MANIFEST).is_file() else Pieces()

    @cached_property
    def lines(self) -> list[str]:
        return read_lines(self.reference)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine a score."""
        return {
            "data": str(self.data.resolve()),
            "subset": self.subset,
            "decode": asdict(self.decode),
            "reference": hashlib.sha256("\n".join(self.lines).encode()).hexdigest(),
        }


class Point(NamedTuple):
    """A pruned checkpoint to translate with; with nothing pruned, `method` is empty."""

    checkpoint: str
    method: str
    fraction: float

    def file(self, folder: Path) -> Path:
        """The file of its score, in the folder of the curve."""
        parts = filter(None, (as_file_name(self.checkpoint), self.method, f"{self.fraction:g}"))
        return folder / "points" / f"{'-'.join(parts)}.json"


@dataclass
class Curve:
    """The folder of a curve: its table, and a file with score and settings for each measured point."""

    folder: Path
    rows: Sequence[tuple[str, str, float]]  # checkpoint, method, fraction
    measured: dict[Point, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def points(self) -> list[Point]:
        """The point of each row; rows with nothing pruned share one."""
        return [Point(checkpoint, method if fraction else "", fraction) for checkpoint, method, fraction in self.rows]

    def missing(self, checkpoint: str, settings: Mapping[str, Any]) -> list[Point]:
        """The points of a checkpoint without a file; a file of other settings is refused."""
        points = dict.fromkeys(point for point in self.points if point.checkpoint == checkpoint)
        for point in points:
            if (content := reuse(point.file(self.folder), settings, self.folder, _POINT_FORM)) is not None:
                self.measured[point] = content
        return [point for point in points if point not in self.measured]

    def add(self, point: Point, settings: Mapping[str, Any], remaining: float, result: Score) -> None:
        """Write the file of a point, and the table."""
        content = {"settings": settings, "remaining": remaining, "score": asdict(result)}
        with self.lock:
            write_atomically(point.file(self.folder), json.dumps(content, indent=2) + "\n")
            self.measured[point] = content
            self.write_table()

    def write_table(self) -> list[dict[str, Any]]:
        """Write curve.csv with the rows that are measured; returns them."""
        table = [
            {
                "checkpoint": checkpoint,
                "method": method,
                "fraction": f"{fraction:g}",
                "remaining": f"{content['remaining']:.6g}",
                "bleu": f"{content['score']['bleu']:.2f}",
                "chrf": f"{content['score']['chrf']:.2f}",
                "sentences": content["score"]["sentences"],
                "signature": content["score"]["bleu_signature"],
            }
            for (checkpoint, method, fraction), point in zip(self.rows, self.points, strict=True)
            if (content := self.measured.get(point)) is not None
        ]
        write_atomically(self.folder / "curve.csv", as_csv(table))
        return table


def write_curve(
    paths: Mapping[str, Path],
    methods: Sequence[Method],
    fractions: Sequence[float],
    sample: Sample,
    translation: Translation,
    folder: Path,
    jobs: int | None,
) -> list[dict[str, Any]]:
    """Measure the missing points of a curve, and write its table after each and its picture at the end.

    Args:
        paths: checkpoints by label.
        jobs: parallel translations (default: one per core or GPU).

    Returns:
        The rows of the table.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a curve needs a folder; give another --out")
    refuse_processed(translation.lines, translation.reference)
    refuse_missing(translation.data)
    curve = Curve(folder, [(label, m.name, fraction) for label in paths for m in methods for fraction in fractions])
    machine = Machine.of(sample.device, jobs, len(set(curve.points)))
    with lock_folder(folder):
        shutil.rmtree(folder / _TEMPORARY, ignore_errors=True)  # of a killed call
        for label, path in paths.items():
            _measure(curve, label, path, sample, translation, machine)
        shutil.rmtree(folder / _TEMPORARY, ignore_errors=True)
        table = curve.write_table()
        try:
            registry.draw("pruning", registry.collect("pruning", {"curve": folder}), folder / "curve.png")
        except ImportError:
            say(drawing.NO_PICTURE)
    return table


def _measure(curve: Curve, label: str, path: Path, sample: Sample, translation: Translation, machine: Machine) -> None:
    """Measure the missing points of one checkpoint."""
    rest, tensors = read_checkpoint(path)
    settings = {"checkpoint": fingerprint(tensors), **translation.settings, **sample.settings}
    missing = curve.missing(label, settings)
    if not missing:
        say(f"{label}: all points are there already")
        return
    dense = Dense.of(path, rest, tensors, sample.data)
    names = dict.fromkeys(point.method for point in missing if point.method)
    scores = importance(dense, [METHODS[name] for name in names], sample)
    numbers = {point: number for number, point in enumerate(dict.fromkeys(curve.points), 1)}

    def measure_point(point: Point) -> None:
        masks = (
            select(METHODS[point.method], scores[point.method], point.fraction)
            if point.method
            else {entry.name: torch.ones(entry.shape, dtype=torch.bool) for entry in dense.prunable}
        )
        pruned = curve.folder / _TEMPORARY / f"{point.file(curve.folder).stem}.pt"
        try:
            dense.save(masks, pruned)
            hypotheses = generate(
                pruned, translation.data.resolve(), translation.subset, translation.decode, machine, translation.pieces
            )
        finally:
            pruned.unlink(missing_ok=True)
        result = score(hypotheses, translation.lines)
        remaining = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        curve.add(point, settings, remaining, result)
        say(
            f"point {numbers[point]} of {len(numbers)}: {label}, {point.method or 'any method'}, "
            f"{remaining:.1%} of the weights remain: BLEU {result.bleu:.2f}"
        )

    machine.map(measure_point, missing)
