"""`wff sensitivity`: measure how evenly the parameters of checkpoints contribute."""

import argparse
import json
from pathlib import Path

from ..core.rules import SCOPES
from ..workspace.labels import labels
from ..workspace.machine import device_of
from ..workspace.trainings import binarised_of, checkpoint_of
from .arguments import MODEL, add_batches, add_binarised, add_choice, add_device, add_names, check_at_least

HELP = """\
Measure how evenly the parameters of checkpoints contribute. The sensitivity of a parameter is the mean of
abs(theta * grad) over random batches. The table has its standard deviation (the degree of contribution balance: lower
is more balanced), Gini coefficient, share of the top 20 % and quantiles, for the whole model, each type of module and
each layer; a violin plot compares checkpoints. After a kill the same call resumes at the same checkpoint."""
EXAMPLE = """\
wff sensitivity runs/multi30k/clean/de-en/standard-1 runs/multi30k/clean/de-en/sage-1 --out runs/sensitivity
  wff sensitivity a/checkpoint_best.pt b/checkpoint_best.pt --names standard,sage --data BIN --out runs/sensitivity"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="+", type=Path, metavar="RUN", help=MODEL)
    add_choice(parser)
    add_binarised(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for table, samples and plots")
    add_names(parser, "checkpoints")
    parser.add_argument(
        "--scope", choices=SCOPES, default="all",
        help="all: every parameter (default); linear: matrices of attention and feed-forward layers",
    )  # fmt: skip
    add_batches(parser)
    parser.add_argument("--seed", type=int, default=1, help="of the batches and the plotted sample (default 1)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(args: argparse.Namespace) -> int:
    check_at_least(args, ["batches", "max_tokens"])
    runs = labels(args.checkpoint, args.names)
    checkpoints = {label: checkpoint_of(path, args.choice) for label, path in runs.items()}
    first = next(iter(runs))
    data = args.data or binarised_of(runs[first], checkpoints[first])
    from ..analysis import sensitivity  # torch
    from ..analysis.gradients import Sample

    sample = Sample(data, args.split, args.batches, args.max_tokens, args.seed, device_of(args.device))
    rows = sensitivity.compare(checkpoints, args.scope, sample, args.out)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        if row["by"] == "model":
            print(
                f"{row['checkpoint']}  std {row['std']:.3g}  std_over_mean {row['std_over_mean']:.2f}  "
                f"gini {row['gini']:.3f}  share_top20 {row['share_top20']:.3f}  "
                f"({row['parameters']:,} parameters, {row['batches']} batches)"
            )
    print(f"wrote {args.out}/")
    return 0
