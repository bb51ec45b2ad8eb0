"""`wff prune`: prune a checkpoint once, or draw its score against the fraction of remaining weights."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.pruning import METHODS, ONCE, Method
from ..data.recipe import Decode
from ..errors import UserError, check_fraction, did_you_mean
from ..scoring.translate import raw_text_of
from ..workspace.labels import labels
from ..workspace.machine import device_of
from ..workspace.trainings import binarised_of, checkpoint_of
from .arguments import (
    MODEL,
    add_batches,
    add_binarised,
    add_choice,
    add_decode_arguments,
    add_device,
    add_names,
    check_at_least,
    search_of,
    split,
)

if TYPE_CHECKING:
    from ..analysis.gradients import Sample
    from ..analysis.prune import Pruned

HELP = """\
Set the least important weights of a trained checkpoint to zero: those of its attention and feed-forward matrices, never
of embeddings, norms, biases or the output projection. With --fractions the pruned models are scored and not written;
the result is a table and a picture."""
EXAMPLE = """\
wff prune runs/multi30k/clean/de-en/standard-1 --method magnitude --fraction 0.5 --out pruned.pt
  wff prune runs/multi30k/clean/de-en/standard-1 runs/multi30k/clean/de-en/sage-1 --method magnitude,sensitivity \\
    --fractions 0:0.9:0.1 --out runs/pruned
  wff prune save-dir --method lamp --fractions 0,0.5 --data BIN --reference raw/test.en --out runs/pruned"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="+", type=Path, metavar="RUN", help=MODEL)
    add_choice(parser)
    parser.add_argument(
        "--method", "--methods", required=True, metavar="M",
        help="; ".join(f"{name}: {method.text}" for name, method in ONCE.items()) + ". Several for a curve: M,M",
    )  # fmt: skip
    fraction = parser.add_mutually_exclusive_group(required=True)
    fraction.add_argument("--fraction", type=float, metavar="F", help="fraction of the weights to prune")
    fraction.add_argument(
        "--fractions", metavar="START:STOP:STEP", help="draw a curve over these fractions, STOP included; or F,F,F"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint to write, never overwritten; for a curve, the folder"
    )
    parser.add_argument("--seed", type=int, default=1, help="random seed of random scores and of batches (default 1)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print counts, or the curve, as JSON")

    needs = ", ".join(name for name, method in ONCE.items() if method.needs)
    data = parser.add_argument_group(f"data, for a curve and for the methods that measure on it ({needs})")
    add_binarised(data)
    add_batches(data)

    curve = parser.add_argument_group("for a curve")
    curve.add_argument(
        "--reference", type=Path, help="raw reference, one sentence a line (default: that of wff prepare)"
    )
    add_names(curve, "checkpoints")
    curve.add_argument("--jobs", type=int, help="translations in parallel (default: one per core or GPU)")
    curve.add_argument("--subset", default="test", help="set to translate (default test)")
    add_decode_arguments(curve)


def run(args: argparse.Namespace) -> int:
    methods = _methods(args.method)
    check_at_least(args, ["batches", "max_tokens", "jobs"])
    if args.fraction is not None:
        check_fraction("--fraction", args.fraction, 0.5, zero=True)
        if len(args.checkpoint) * len(methods) > 1:
            raise UserError("--fraction prunes one checkpoint by one method; for several type --fractions 0:0.9:0.1")
    else:
        fractions = _fractions(args.fractions)
    runs = labels(args.checkpoint, args.names)
    checkpoints = {label: checkpoint_of(path, args.choice) for label, path in runs.items()}
    data = args.data
    if data is None and (args.fraction is None or methods[0].needs):
        first = next(iter(runs))
        data = binarised_of(runs[first], checkpoints[first])
    from ..analysis.gradients import Sample  # torch

    sample = Sample(data, args.split, args.batches, args.max_tokens, args.seed, device_of(args.device))
    if args.fraction is not None:
        return _prune_once(args, *checkpoints.values(), methods[0], sample)
    return _draw_curve(args, checkpoints, methods, fractions, sample)


def _prune_once(args: argparse.Namespace, checkpoint: Path, method: Method, sample: "Sample") -> int:
    from ..analysis.prune import write_pruned

    pruned = write_pruned(checkpoint, method, args.fraction, sample, args.out)
    print(json.dumps(pruned.counts(), indent=2) if args.json else _as_text(pruned, args.out))
    return 0


def _draw_curve(
    args: argparse.Namespace,
    checkpoints: Mapping[str, Path],
    methods: Sequence[Method],
    fractions: Sequence[float],
    sample: "Sample",
) -> int:
    from ..analysis.pruning_curve import Translation, write_curve

    assert sample.data is not None
    reference = args.reference or raw_text_of(sample.data, args.subset)
    translation = Translation(sample.data, args.subset, Decode(**search_of(args)), reference)
    rows = write_curve(checkpoints, methods, fractions, sample, translation, args.out, args.jobs)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['checkpoint']}  {row['method']}  {float(row['remaining']):.1%} remain  "
              f"BLEU {row['bleu']}  chrF {row['chrf']}")  # fmt: skip
    print(f"{rows[0]['sentences']} sentences, BLEU|{rows[0]['signature']}\nwrote {args.out}/")
    return 0


def _as_text(pruned: "Pruned", out: Path) -> str:
    lines = [
        f"{pruned.method}: pruned {pruned.pruned:,} of {pruned.in_scope:,} weights in scope "
        f"({pruned.pruned / pruned.in_scope:.2%}), {pruned.pruned / pruned.parameters:.2%} "
        f"of all {pruned.parameters:,} parameters"
    ]
    if pruned.emptied:
        lines.append(f"matrices without any weight left: {', '.join(pruned.emptied)}")
    if pruned.without_optimizer_state:
        lines.append(
            "the optimizer's state is left out, since its moments belong to the dense weights: "
            "a run resumed from here restarts its optimizer"
        )
    return "\n".join([*lines, f"wrote {out}"])


def _methods(text: str) -> list[Method]:
    """The methods of a comma-separated list; UserError for methods that need training."""
    names = list(dict.fromkeys(split(text)))
    for name in names:
        if name in METHODS and name not in ONCE:
            raise UserError(
                f"{name} is a way to train; type --method magnitude to prune once, "
                f"or train with --criterion alignreg --prune {name}"
            )
        if name not in METHODS:
            hint = did_you_mean(name, ONCE) or f"type --method with one of: {', '.join(ONCE)}"
            raise UserError(f"there is no method {name!r}; {hint}")
    return [METHODS[name] for name in names]


def _fractions(text: str) -> list[float]:
    """The fractions of START:STOP:STEP, STOP included up to rounding, or of F,F,F."""
    try:
        if ":" in text:
            start, stop, step = map(float, text.split(":"))
            count = math.floor((stop - start) / step + 1e-9) + 1
            fractions = {round(start + index * step, 9) for index in range(count)}
        else:
            fractions = set(map(float, split(text)))
    except (ValueError, ZeroDivisionError, OverflowError):
        fractions = set()
    if not fractions or not all(0 <= fraction < 1 for fraction in fractions):
        raise UserError(f"--fractions must be at least 0 and below 1, got {text}; type --fractions 0:0.9:0.1")
    return sorted(fractions)
