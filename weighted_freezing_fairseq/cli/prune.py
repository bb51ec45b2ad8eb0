"""`wff prune`: write a checkpoint with its least important weights at zero, or its score against the weights left."""

import argparse
import json
import logging
import math
from pathlib import Path

from ..analysis.gradients import Sample
from ..analysis.prune import ONCE, Pruned, write_pruned
from ..analysis.pruning_curve import Translation, write_curve
from ..core.pruning import METHODS, Method
from ..data.recipe import Decode
from ..errors import UserError, check_fraction
from ..workspace.labels import labels
from ..workspace.machine import default_device
from .arguments import (
    add_batches,
    add_decode_arguments,
    add_device,
    add_names,
    check_at_least,
    search_of,
    split,
)

HELP = """\
Set the least important weights of a checkpoint to zero, after training and once: those of its attention and
feed-forward matrices, never of embeddings, norms, biases or the output projection. With --fractions the pruned models
are not kept, only how well each of them translates, as a table and a picture."""
EXAMPLE = """\
wff prune runs/a/checkpoint_best.pt --method magnitude --fraction 0.5 --out pruned.pt
  wff prune runs/a/checkpoint_best.pt runs/b/checkpoint_best.pt --method magnitude,sensitivity --fractions 0:0.9:0.1 \\
    --data BIN --reference raw/test.en --out runs/pruned"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to prune, by what, how much, and what to do with it."""
    parser.add_argument("checkpoint", nargs="+", type=Path, metavar="CHECKPOINT", help="fairseq checkpoint")
    parser.add_argument(
        "--method", required=True, metavar="M",
        help="; ".join(f"{name}: {method.text}" for name, method in ONCE.items()) + ". Several for a curve: M,M",
    )  # fmt: skip
    share = parser.add_mutually_exclusive_group(required=True)
    share.add_argument("--fraction", type=float, metavar="F", help="prune this share of the weights")
    share.add_argument(
        "--fractions", metavar="START:STOP:STEP", help="draw a curve over these shares, STOP included; or F,F,F"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint to write, never overwritten; of a curve the folder"
    )
    parser.add_argument("--seed", type=int, default=1, help="of random scores and drawn batches (default 1)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="what was pruned, or the curve, as JSON on standard output")

    needs = ", ".join(name for name, method in ONCE.items() if method.needs)
    data = parser.add_argument_group(f"data, for a curve and for the methods that measure on it ({needs})")
    data.add_argument("--data", type=Path, metavar="BIN", help="binarised folder")
    add_batches(data)

    curve = parser.add_argument_group("a curve")
    curve.add_argument("--reference", type=Path, help="raw reference, one sentence a line")
    add_names(curve, "checkpoints")
    curve.add_argument("--jobs", type=int, help="translations at once (default: one a core, or one a GPU)")
    curve.add_argument("--subset", default="test", help="set to translate (default test)")
    add_decode_arguments(curve)


def run(args: argparse.Namespace) -> int:
    logging.disable(logging.INFO)  # fairseq reports dictionaries and data
    methods = _methods(args.method)
    check_at_least(args, ["batches", "max_tokens", "jobs"])
    measured = [method.name for method in methods if method.needs]
    if measured and args.data is None:
        raise UserError(f"{measured[0]} is measured on data; add --data BIN, the folder that the model was trained on")
    if args.fraction is not None and len(args.checkpoint) * len(methods) > 1:
        raise UserError("--fraction prunes one checkpoint by one method; for several type --fractions 0:0.9:0.1")
    sample = Sample(args.data, args.split, args.batches, args.max_tokens, args.seed, args.device or default_device())
    if args.fraction is not None:
        check_fraction("--fraction", args.fraction, 0.5, zero=True)
        pruned = write_pruned(args.checkpoint[0], methods[0], args.fraction, sample, args.out)
        print(json.dumps(pruned.counts(), indent=2) if args.json else _as_text(pruned, args.out))
        return 0
    fractions = _fractions(args.fractions)
    if args.data is None or args.reference is None:
        raise UserError("a curve is of translations; add --data BIN and --reference, the raw text of its test set")
    translation = Translation(args.data, args.subset, Decode(**search_of(args)), args.reference)
    paths = labels(args.checkpoint, args.names)
    rows = write_curve(paths, methods, fractions, sample, translation, args.out, args.jobs)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['checkpoint']}  {row['method']}  {float(row['remaining']):.1%} remain  "
              f"BLEU {row['bleu']}  chrF {row['chrf']}")  # fmt: skip
    print(f"{rows[0]['sentences']} sentences, BLEU|{rows[0]['signature']}\nwrote {args.out}/")
    return 0


def _as_text(pruned: Pruned, out: Path) -> str:
    lines = [
        f"{pruned.method}: pruned {pruned.pruned:,} of {pruned.in_scope:,} weights in scope "
        f"({pruned.pruned / pruned.in_scope:.2%}), {pruned.pruned / pruned.parameters:.2%} "
        f"of all {pruned.parameters:,} parameters"
    ]
    if pruned.emptied:
        lines.append(f"emptied, nothing passes through: {', '.join(pruned.emptied)}")
    if pruned.without_optimizer_state:
        lines.append(
            "the optimizer's state is left out, since its moments belong to the dense weights: "
            "a run resumed from here starts its optimizer anew"
        )
    return "\n".join([*lines, f"wrote {out}"])


def _methods(text: str) -> list[Method]:
    """Methods that prune once, from their names; methods that are a way to train are refused."""
    names = list(dict.fromkeys(split(text)))
    for name in names:
        if name in METHODS and name not in ONCE:
            raise UserError(
                f"{name} is a way to train; type --method magnitude to prune once, "
                f"or train with --criterion alignreg --prune {name}"
            )
        if name not in METHODS:
            raise UserError(f"there is no method {name!r}; type --method with one of: {', '.join(ONCE)}")
    return [METHODS[name] for name in names]


def _fractions(text: str) -> list[float]:
    """START:STOP:STEP, STOP included up to rounding, or F,F,F."""
    try:
        if ":" in text:
            start, stop, step = map(float, text.split(":"))
            count = math.floor((stop - start) / step + 1e-9) + 1
            fractions = {round(start + place * step, 9) for place in range(count)}
        else:
            fractions = set(map(float, split(text)))
    except (ValueError, ZeroDivisionError, OverflowError):
        fractions = set()
    if not fractions or not all(0 <= fraction < 1 for fraction in fractions):
        raise UserError(f"--fractions must be at least 0 and below 1, got {text}; type --fractions 0:0.9:0.1")
    return sorted(fractions)
