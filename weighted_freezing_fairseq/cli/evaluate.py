"""`wff evaluate`: translate or label whole test sets with the checkpoints of a run, and score them."""

import argparse
import json
from pathlib import Path

from ..studies.evaluate import BinarisedSet, as_text, evaluate
from ..studies.scorings import AVERAGED, ScoringOptions
from ..workspace.machine import Machine
from .arguments import MODEL, add_decode_arguments, add_device, check_at_least, choices_of, search_of

HELP = """\
Translate whole test sets with the checkpoints of a run, and score them against the raw reference. For a run on
labelled sentences, predict the labels of every set, and score them by the task's measures."""
EXAMPLE = """wff evaluate runs/multi30k/clean/de-en/standard-1
  wff evaluate runs/glue/roberta/rte/standard-1 --choices best
  wff evaluate runs/a/checkpoint_best.pt --data BIN --reference raw/test.en --out runs/a/test"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_or_checkpoint", nargs="+", type=Path, metavar="RUN", help=MODEL)
    parser.add_argument("--choices", help="of a folder: some of best,last,average (default: all that it has)")
    parser.add_argument(
        "--average-last", type=int, default=AVERAGED, metavar="N",
        help=f"number of latest checkpoints to average (default {AVERAGED})",
    )  # fmt: skip
    parser.add_argument("--comet", type=Path, metavar="MODEL.ckpt", help="for a run folder: COMET model to add")
    checkpoint_options = parser.add_argument_group("for checkpoints and save-dirs of fairseq")
    checkpoint_options.add_argument(
        "--data", type=Path, metavar="BIN",
        help="binarised folder (default: what the checkpoint was trained on); for a run folder whose data was moved: "
        "folder that wff prepare made (data/DATASET)",
    )  # fmt: skip
    checkpoint_options.add_argument(
        "--reference", type=Path, help="raw reference, one sentence a line (default: that of wff prepare)"
    )
    checkpoint_options.add_argument("--subset", default="test", help="set to translate (default test)")
    checkpoint_options.add_argument("--out", type=Path, help="folder for NAME.hyp.txt and NAME.score.json")
    add_decode_arguments(
        parser.add_argument_group("search", "default: beam 5, or what the recipe of a run folder says")
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="scores as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    check_at_least(args, ("average_last",))
    search = search_of(args)
    options = ScoringOptions(choices_of(args.choices), search, args.average_last, args.comet)
    test_set = BinarisedSet(args.data, args.subset, args.reference, args.out, search)
    machine = Machine.of(args.device, 1, 1)
    scores = evaluate(args.run_or_checkpoint, machine, options, args.data, test_set)
    if args.json:
        print(json.dumps(scores, indent=2))
    else:
        for name, scores_of_set in scores.items():
            print(f"{name}  {as_text(scores_of_set)}")
    return 0
