"""How well checkpoints translate against the share of their weights that remains (Xu et al. 2022, Figure 6).

A table, a picture, and a file for each translation, so that a killed call continues with the missing ones. Left out on
purpose: how a checkpoint is pruned (`prune.py`).
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..core.pruning import METHODS, Method, select
from ..core.snapshot import fingerprint
from ..data.recipe import Decode
from ..errors import UserError
from ..figures import drawing, registry
from ..files import write_atomically
from ..forms import NUMBER
from ..scoring.scores import Score, read_lines, refuse_processed, score
from ..scoring.translate import generate, refuse_missing
from ..workspace.checkpoints import read_checkpoint
from ..workspace.labels import as_file_name, reuse
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.tables import as_csv
from .gradients import Sample
from .prune import Dense, importance

_TEMPORARY = ".pruned"  # the folder of checkpoints that are being translated with


_POINT_FORM = {
    "remaining": NUMBER,
    "score": {"bleu": NUMBER, "chrf": NUMBER, "sentences": int, "bleu_signature": str},
}


@dataclass(frozen=True)
class Translation:
    """Which set is translated and how, and the raw text that the hypotheses are compared with."""

    data: Path
    subset: str
    decode: Decode
    reference: Path

    @cached_property
    def lines(self) -> list[str]:
        return read_lines(self.reference)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result."""
        reference = hashlib.sha256("\n".join(self.lines).encode()).hexdigest()
        data = str(self.data.resolve())
        return {"data": data, "subset": self.subset, "decode": asdict(self.decode), "reference": reference}

    def score(self, checkpoint: Path, machine: Machine) -> Score:
        return score(generate(checkpoint, self.data.resolve(), self.subset, self.decode, machine), self.lines)


@dataclass(frozen=True)
class CurvePoint:
    """One translation of the set. With nothing pruned, it is the same for every method."""

    checkpoint: str
    method: str
    fraction: float

    @classmethod
    def of(cls, checkpoint: str, method: str, fraction: float) -> "CurvePoint":
        return cls(checkpoint, method if fraction else "", fraction)

    @property
    def file(self) -> str:
        """A file's name without an ending."""
        return "-".join(filter(None, (as_file_name(self.checkpoint), self.method, f"{self.fraction:g}")))


@dataclass
class CurveFolder:
    """The table of a curve, and a file for each of its points that says with what settings it was made."""

    path: Path
    rows: Sequence[tuple[str, str, float]]  # checkpoint, method, fraction
    contents: dict[CurvePoint, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def points(self) -> list[CurvePoint]:
        return list(dict.fromkeys(CurvePoint.of(*row) for row in self.rows))

    def reuse(self, point: CurvePoint, settings: Mapping[str, Any]) -> bool:
        """Whether the point is there already; one that was made with other settings is refused."""
        content = reuse(self._file(point), settings, self.path, _POINT_FORM)
        if content is not None:
            self.contents[point] = content
        return content is not None

    def add(self, point: CurvePoint, settings: Mapping[str, Any], remaining: float, result: Score) -> None:
        """Write a point, and the table again."""
        content = {"settings": settings, "remaining": remaining, "score": asdict(result)}
        with self.lock:
            write_atomically(self._file(point), json.dumps(content, indent=2) + "\n")
            self.contents[point] = content
            self.write_table()

    def write_table(self) -> None:
        write_atomically(self.path / "curve.csv", as_csv(self.table()))

    def table(self) -> list[dict[str, Any]]:
        """The rows whose points are there."""
        done = [(row, self.contents[CurvePoint.of(*row)]) for row in self.rows if CurvePoint.of(*row) in self.contents]
        return [
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
            for (checkpoint, method, fraction), content in done
        ]

    def _file(self, point: CurvePoint) -> Path:
        return self.path / "points" / f"{point.file}.json"


def write_curve(
    paths: Mapping[str, Path],
    methods: Sequence[Method],
    fractions: Sequence[float],
    sample: Sample,
    translation: Translation,
    folder: Path,
    jobs: int | None,
) -> list[dict[str, Any]]:
    """Measure every point that is missing, write the table after each and the picture at the end; returns the table.

    Args:
        paths: checkpoints by label.
        jobs: translations at once (default: one a core, or one a GPU).
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a curve needs a folder; give another --out")
    refuse_processed(translation.lines, translation.reference)
    refuse_missing(translation.data)
    curve = CurveFolder(folder, [(label, m.name, f) for label in paths for m in methods for f in fractions])
    machine = Machine.of(sample.device, jobs, len(curve.points))
    with lock_folder(folder):
        shutil.rmtree(folder / _TEMPORARY, ignore_errors=True)  # of a call that was killed
        for label, path in paths.items():
            _add_points(curve, label, path, sample, translation, machine)
        shutil.rmtree(folder / _TEMPORARY, ignore_errors=True)
        curve.write_table()
        try:
            registry.draw("pruning", registry.rows_of("pruning", "curve", folder), folder / "curve.png")
        except ImportError:
            say(drawing.NO_PICTURE)
    return curve.table()


def _add_points(
    curve: CurveFolder, label: str, path: Path, sample: Sample, translation: Translation, machine: Machine
) -> None:
    """Measure the missing points of one checkpoint."""
    rest, tensors = read_checkpoint(path)
    settings = {"checkpoint": fingerprint(tensors), **translation.settings, **sample.settings}
    points = curve.points
    missing = [point for point in points if point.checkpoint == label and not curve.reuse(point, settings)]
    if not missing:
        say(f"{label}: all points are there already")
        return
    dense = Dense.of(path, rest, tensors, sample.data)
    names = dict.fromkeys(point.method for point in missing if point.method)
    scores = importance(dense, [METHODS[name] for name in names], sample)

    def work(point: CurvePoint) -> None:
        masks = (
            select(METHODS[point.method], scores[point.method], point.fraction)
            if point.method
            else {entry.name: torch.ones(entry.shape, dtype=torch.bool) for entry in dense.prunable}
        )
        temporary = curve.path / _TEMPORARY / f"{point.file}.pt"
        try:
            dense.save(masks, temporary)
            result = translation.score(temporary, machine)
        finally:
            temporary.unlink(missing_ok=True)
        remaining = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        curve.add(point, settings, remaining, result)
        say(
            f"point {points.index(point) + 1} of {len(points)}: {label}, {point.method or 'any method'}, "
            f"{remaining:.1%} of the weights remain: BLEU {result.bleu:.2f}"
        )

    machine.map(work, missing)
