"""`wff prune`: a checkpoint with its least important weights at zero, or its score against the weights that remain.

Pruning after training and once, the least important weights first (Xu et al. 2022, section 5.1 and Figure 6), by any
score of `core/pruning.py`. Left out on purpose: pruning while training goes on, which is the criterion alignreg's.
"""

import argparse
import copy
import hashlib
import json
import logging
import math
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import fisher
from ..core.pruning import METHODS, Layer, Method, scores_of, select
from ..core.scope import Entry, catalogue
from ..core.snapshot import fingerprint
from ..core.tensor_files import refuse_bad_numbers
from ..data.recipe import Decode
from ..errors import UserError, check_fraction
from ..figures import drawing, registry
from ..files import whole, write_atomically
from ..forms import NUMBER
from ..scoring.scores import Score, read_lines, refuse_processed, score
from ..scoring.translate import add_decode_arguments, decode_of, generate, refuse_missing
from ..workspace.checkpoints import OPTIMIZER_STATE, read_checkpoint, refuse_to_overwrite, save
from ..workspace.labels import as_file_name, labels, reuse
from ..workspace.locks import alone_in
from ..workspace.machine import Machine, a_device
from ..workspace.progress import say
from ..workspace.tables import as_csv
from .gradients import Sample, draw_batches, of_batches

HELP = """\
Set the least important weights of a checkpoint to zero, after training and once: those of its attention and
feed-forward matrices, never of embeddings, norms, biases or the output projection. With --fractions nothing is kept
but how well each pruned model translates, as a table and a picture."""
EXAMPLE = """\
wff prune runs/a/checkpoint_best.pt --method magnitude --fraction 0.5 --out pruned.pt
  wff prune runs/a/checkpoint_best.pt runs/b/checkpoint_best.pt --method magnitude,sensitivity --fractions 0:0.9:0.1 \\
    --data BIN --reference raw/test.en --out runs/pruned"""

Scores = dict[str, Tensor]
_ONCE = {name: method for name, method in METHODS.items() if not method.penalty}
_TEMPORARY = ".pruned"  # the folder of checkpoints that are being translated with


# A checkpoint and what may be pruned of it --------------------------------------------------------------------------


@dataclass(frozen=True)
class Dense:
    """A checkpoint before it is pruned: the tensors of its model, the rest, and every parameter's names and owners."""

    path: Path
    rest: dict[str, Any]
    tensors: dict[str, Tensor]
    entries: list[Entry]

    @classmethod
    def of(cls, path: Path, rest: dict[str, Any], tensors: dict[str, Tensor], data: Path | None) -> "Dense":
        """`rest` and `tensors` of the checkpoint at `path`, if it can be pruned."""
        from ..plugin.trained import shape_of

        entries = [entry for entry, _ in catalogue(shape_of(path, data))]
        for entry in entries:
            if entry.name not in tensors or tensors[entry.name].shape != entry.shape:
                raise UserError(
                    f"{path} has no {entry.name} of shape {tuple(entry.shape)}, which its architecture has: another "
                    "fairseq saved it; let this one save it again, with fairseq-train --restore-file"
                )
        refuse_bad_numbers({entry.name: tensors[entry.name] for entry in entries}, f"{path}:")
        return cls(path, rest, tensors, entries)

    @property
    def prunable(self) -> list[Entry]:
        """Attention projections and feed-forward layers."""
        return [entry for entry in self.entries if entry.within("linear")]

    def save(self, masks: Mapping[str, Tensor], path: Path) -> None:
        """The checkpoint with zeros where `masks` are 0, tied weights together, and without an optimizer's state."""
        tensors = dict(self.tensors)
        for entry in self.prunable:
            pruned = tensors[entry.name].masked_fill(~masks[entry.name], 0)
            tensors.update((alias, pruned) for alias in entry.aliases if alias in tensors)
        content = {**self.rest, "model": copy.copy(self.rest["model"])}  # a container with fairseq's attributes
        content["model"].update(tensors)
        content.pop(OPTIMIZER_STATE, None)
        with whole(path) as part:
            save(content, part)


def importance(dense: Dense, methods: Sequence[Method], sample: Sample) -> dict[str, Scores]:
    """By the name of each method: the score of every prunable weight."""
    layers = [Layer(entry.name, dense.tensors[entry.name]) for entry in dense.prunable]
    found = {method.name: scores_of(method, layers, sample.seed) for method in methods if not method.needs}
    measured = [method for method in methods if method.needs]
    return found | (_by_gradient(dense, measured, sample) if measured else {})


def _by_gradient(dense: Dense, methods: Sequence[Method], sample: Sample) -> dict[str, Scores]:
    """Scores of the gradients of batches; their mean."""
    from ..plugin.trained import Trained

    assert sample.data is not None
    trained = Trained.load(dense.path, sample.data, sample.split, sample.device)
    parameters = {
        entry.name: weight.requires_grad_() for entry, weight in catalogue(trained.model) if entry.within("linear")
    }
    batches = draw_batches(trained, sample)
    totals = {method.name: fisher.zeros(parameters) for method in methods}
    for grads in of_batches(trained, parameters, batches):
        layers = [
            Layer(name, weight.detach(), grad) for (name, weight), grad in zip(parameters.items(), grads, strict=True)
        ]
        for method in methods:
            for name, scored in scores_of(method, layers, sample.seed).items():
                totals[method.name][name].add_(scored, alpha=1 / len(batches))
    for method in methods:
        refuse_bad_numbers(totals[method.name], f"the importance, by {method.name}, of")
    return {method: {name: total.cpu() for name, total in scores.items()} for method, scores in totals.items()}


# Once ---------------------------------------------------------------------------------------------------------------


def prune_once(args: argparse.Namespace, method: Method, sample: Sample) -> None:
    """Write the pruned checkpoint, and say what was pruned."""
    check_fraction("--fraction", args.fraction, 0.5, zero=True)
    refuse_to_overwrite(args.out)
    (path,) = args.checkpoint
    dense = Dense.of(path, *read_checkpoint(path), args.data)
    masks = select(method, importance(dense, [method], sample)[method.name], args.fraction)
    dense.save(masks, args.out)
    report = {
        "method": method.name,
        "fraction": args.fraction,
        "pruned": sum(int((~mask).sum()) for mask in masks.values()),
        "in_scope": sum(mask.numel() for mask in masks.values()),
        "parameters": sum(entry.shape.numel() for entry in dense.entries),
        "emptied": [name for name, mask in masks.items() if not bool(mask.any())],
    }
    print(json.dumps(report, indent=2) if args.json else _as_text(report, dense, args.out))


def _as_text(report: Mapping[str, Any], dense: Dense, out: Path) -> str:
    pruned, in_scope, everything = (report[name] for name in ("pruned", "in_scope", "parameters"))
    lines = [
        f"{report['method']}: pruned {pruned:,} of {in_scope:,} weights in scope ({pruned / in_scope:.2%}), "
        f"{pruned / everything:.2%} of all {everything:,} parameters"
    ]
    if report["emptied"]:
        lines.append(f"emptied, nothing passes through: {', '.join(report['emptied'])}")
    if dense.rest.get(OPTIMIZER_STATE) is not None:
        lines.append(
            "the optimizer's state is left out, since its moments belong to the dense weights: "
            "a run resumed from here starts its optimizer anew"
        )
    return "\n".join([*lines, f"wrote {out}"])


# The curve ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Translation:
    """Which set is translated and how, and what the hypotheses are compared with."""

    data: Path
    subset: str
    decode: Decode
    reference: Sequence[str]
    machine: Machine

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result."""
        reference = hashlib.sha256("\n".join(self.reference).encode()).hexdigest()
        return {"data": str(self.data), "subset": self.subset, "decode": asdict(self.decode), "reference": reference}

    def score(self, checkpoint: Path) -> Score:
        machine = self.machine
        hypotheses = generate(checkpoint, self.data, self.subset, self.decode, machine)
        return score(hypotheses, self.reference)


_POINT_FORM = {
    "remaining": NUMBER,
    "score": {"bleu": NUMBER, "chrf": NUMBER, "sentences": int, "bleu_signature": str},
}


@dataclass(frozen=True)
class Point:
    """One translation of the set. With nothing pruned, every method's is the same."""

    checkpoint: str
    method: str
    fraction: float

    @classmethod
    def of(cls, checkpoint: str, method: str, fraction: float) -> "Point":
        return cls(checkpoint, method if fraction else "", fraction)

    @property
    def file(self) -> str:
        """A file's name without an ending."""
        return "-".join(filter(None, (as_file_name(self.checkpoint), self.method, f"{self.fraction:g}")))


@dataclass
class Curve:
    """The rows of a table, and its points in a folder: a file each, which says what it was made with."""

    folder: Path
    rows: Sequence[tuple[str, str, float]]  # checkpoint, method, fraction
    found: dict[Point, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def points(self) -> list[Point]:
        return list(dict.fromkeys(Point.of(*row) for row in self.rows))

    def reuse(self, point: Point, settings: Mapping[str, Any]) -> bool:
        """Whether the point is there already; one of other settings is the user's to sort out."""
        content = reuse(self._path(point), settings, self.folder, _POINT_FORM)
        if content is not None:
            self.found[point] = content
        return content is not None

    def add(self, point: Point, settings: Mapping[str, Any], remaining: float, result: Score) -> None:
        """Keep a point, and write the table again."""
        content = {"settings": settings, "remaining": remaining, "score": asdict(result)}
        with self.lock:
            write_atomically(self._path(point), json.dumps(content, indent=2) + "\n")
            self.found[point] = content
            self.write_table()

    def write_table(self) -> None:
        write_atomically(self.folder / "curve.csv", as_csv(self.table()))

    def table(self) -> list[dict[str, Any]]:
        """The rows whose points are there."""
        done = [(row, self.found[Point.of(*row)]) for row in self.rows if Point.of(*row) in self.found]
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

    def _path(self, point: Point) -> Path:
        return self.folder / "points" / f"{point.file}.json"


def draw_curve(args: argparse.Namespace, methods: Sequence[Method], sample: Sample) -> None:
    """Every point that is missing, the table after each, the picture at the end."""
    fractions = _fractions(args.fractions)
    if args.data is None or args.reference is None:
        raise UserError("a curve is of translations; add --data BIN and --reference, the raw text of its test set")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out} is a file, and a curve needs a folder; give another --out")
    reference = read_lines(args.reference)
    refuse_processed(reference, args.reference)
    refuse_missing(args.data)
    paths = labels(args.checkpoint, args.names)
    curve = Curve(args.out, [(c, m.name, f) for c in paths for m in methods for f in fractions])
    machine = Machine.of(args.device, args.jobs, len(curve.points))
    translation = Translation(args.data.resolve(), args.subset, decode_of(args), reference, machine)
    with alone_in(args.out):
        shutil.rmtree(args.out / _TEMPORARY, ignore_errors=True)  # of a call that was killed
        for label, path in paths.items():
            _add_points(curve, label, path, sample, translation)
        shutil.rmtree(args.out / _TEMPORARY, ignore_errors=True)
        curve.write_table()
        try:
            registry.draw("pruning", registry.rows_of("pruning", "curve", args.out), args.out / "curve.png")
        except ImportError:
            say(drawing.NO_PICTURE)
    rows = curve.table()
    print(json.dumps(rows, indent=2) if args.json else _table_as_text(rows, args.out))


def _add_points(curve: Curve, label: str, path: Path, sample: Sample, translation: Translation) -> None:
    """The missing points of one checkpoint."""
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

    def work(point: Point) -> None:
        masks = (
            select(METHODS[point.method], scores[point.method], point.fraction)
            if point.method
            else {entry.name: torch.ones(entry.shape, dtype=torch.bool) for entry in dense.prunable}
        )
        temporary = curve.folder / _TEMPORARY / f"{point.file}.pt"
        try:
            dense.save(masks, temporary)
            result = translation.score(temporary)
        finally:
            temporary.unlink(missing_ok=True)
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        curve.add(point, settings, kept, result)
        say(
            f"point {points.index(point) + 1} of {len(points)}: {label}, {point.method or 'any method'}, "
            f"{kept:.1%} of the weights remain: BLEU {result.bleu:.2f}"
        )

    translation.machine.map(work, missing)


def _table_as_text(rows: Sequence[Mapping[str, Any]], folder: Path) -> str:
    lines = [
        f"{row['checkpoint']}  {row['method']}  {float(row['remaining']):.1%} remain  "
        f"BLEU {row['bleu']}  chrF {row['chrf']}"
        for row in rows
    ]
    return "\n".join([*lines, f"{rows[0]['sentences']} sentences, BLEU|{rows[0]['signature']}", f"wrote {folder}/"])


# The command --------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to prune, by what, how much, and what to do with it."""
    parser.add_argument("checkpoint", nargs="+", type=Path, metavar="CHECKPOINT", help="fairseq checkpoint")
    parser.add_argument(
        "--method",
        required=True,
        metavar="M",
        help="; ".join(f"{name}: {method.text}" for name, method in _ONCE.items()) + ". Several for a curve: M,M",
    )
    share = parser.add_mutually_exclusive_group(required=True)
    share.add_argument("--fraction", type=float, metavar="F", help="prune this share of the weights")
    share.add_argument(
        "--fractions", metavar="START:STOP:STEP", help="draw a curve over these shares, STOP included; or F,F,F"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint to write, never overwritten; of a curve the folder"
    )
    parser.add_argument("--seed", type=int, default=1, help="of random scores and drawn batches (default 1)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
    parser.add_argument("--json", action="store_true", help="what was pruned, or the curve, as JSON on standard output")

    needs = ", ".join(name for name, method in _ONCE.items() if method.needs)
    data = parser.add_argument_group(f"data, for a curve and for the methods that measure on it ({needs})")
    data.add_argument("--data", type=Path, metavar="BIN", help="binarised folder")
    data.add_argument("--split", default="train", help="set to measure on (default train)")
    data.add_argument("--batches", type=int, default=100, metavar="N", help="random batches of it (default 100)")
    data.add_argument("--max-tokens", type=int, default=4000, help="longest of them, padding included (default 4000)")

    curve = parser.add_argument_group("a curve")
    curve.add_argument("--reference", type=Path, help="raw reference, one sentence a line")
    curve.add_argument("--names", metavar="A,B", help="what to call the checkpoints (default: by their paths)")
    curve.add_argument("--jobs", type=int, help="translations at once (default: one a core, or one a GPU)")
    curve.add_argument("--subset", default="test", help="set to translate (default test)")
    add_decode_arguments(curve)


def run(args: argparse.Namespace) -> int:
    logging.disable(logging.INFO)  # fairseq's own account of dictionaries and data
    methods = _methods(args.method)
    for name in ("batches", "max_tokens", "jobs"):
        if (given := getattr(args, name)) is not None and given < 1:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} must be at least 1; type {option} 1, or leave it out")
    needy = [method.name for method in methods if method.needs]
    if needy and args.data is None:
        raise UserError(f"{needy[0]} is measured on data; add --data BIN, the folder that the model was trained on")
    if args.fraction is not None and len(args.checkpoint) * len(methods) > 1:
        raise UserError("--fraction prunes one checkpoint by one method; for several type --fractions 0:0.9:0.1")
    sample = Sample(args.data, args.split, args.batches, args.max_tokens, args.seed, args.device or a_device())
    if args.fraction is not None:
        prune_once(args, methods[0], sample)
    else:
        draw_curve(args, methods, sample)
    return 0


def _methods(text: str) -> list[Method]:
    """The methods that prune once; a method that is a way to train is none."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name in METHODS and name not in _ONCE:
            raise UserError(
                f"{name} is a way to train; type --method magnitude to prune once, "
                f"or train with --criterion alignreg --prune {name}"
            )
        if name not in METHODS:
            raise UserError(f"there is no method {name!r}; type --method with one of: {', '.join(_ONCE)}")
    return [METHODS[name] for name in names]


def _fractions(text: str) -> list[float]:
    """START:STOP:STEP, STOP included up to rounding, or F,F,F."""
    try:
        if ":" in text:
            start, stop, step = map(float, text.split(":"))
            count = math.floor((stop - start) / step + 1e-9) + 1
            found = {round(start + place * step, 9) for place in range(count)}
        else:
            found = set(map(float, text.split(",")))
    except (ValueError, ZeroDivisionError, OverflowError):
        found = set()
    if not found or not all(0 <= fraction < 1 for fraction in found):
        raise UserError(f"--fractions must be at least 0 and below 1, got {text}; type --fractions 0:0.9:0.1")
    return sorted(found)
