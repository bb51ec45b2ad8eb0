"""`wff evaluate`: whole test sets translated or labelled with the checkpoints of a run, and scored."""

import argparse
import json
from pathlib import Path

from ..studies.evaluate import BinarisedSet, as_text, evaluate
from ..studies.scorings import AVERAGED, Wanted
from ..workspace.machine import Machine
from .arguments import add_decode_arguments, add_device, choices_of, search_of

HELP = """\
Translate whole test sets with the checkpoints of a run, and score them against the raw reference. Of a run on GLUE or
XNLI: predict the labels of every set, and score them by the task's measures."""
EXAMPLE = """wff evaluate runs/multi30k/clean/de-en/standard-1
  wff evaluate runs/glue/roberta/rte/standard-1 --choices best
  wff evaluate runs/a/checkpoint_best.pt --data BIN --reference raw/test.en --out runs/a/test"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to translate, how, and where to put it."""
    parser.add_argument("run_or_checkpoint", nargs="+", type=Path, metavar="RUN", help="run folders, or checkpoints")
    parser.add_argument("--choices", help="of a run folder: some of best,last,average (default: all that there are)")
    parser.add_argument(
        "--average-last", type=int, default=AVERAGED, metavar="N",
        help=f"how many of the latest checkpoints are averaged (default {AVERAGED})",
    )  # fmt: skip
    parser.add_argument("--comet", type=Path, metavar="MODEL.ckpt", help="of a run folder: COMET by this model, too")
    of_checkpoint = parser.add_argument_group("of checkpoints")
    of_checkpoint.add_argument(
        "--data", type=Path, metavar="BIN",
        help="binarised folder; of a run folder whose data was moved: what wff prepare made (data/DATASET)",
    )  # fmt: skip
    of_checkpoint.add_argument(
        "--reference", type=Path, help="raw reference, one sentence a line (default: that of wff prepare)"
    )
    of_checkpoint.add_argument("--subset", default="test", help="set to translate (default test)")
    of_checkpoint.add_argument("--out", type=Path, help="folder for NAME.hyp.txt and NAME.score.json of each")
    add_decode_arguments(
        parser.add_argument_group("search", "default: beam 5, or what the recipe of a run folder says")
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="scores as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    search = search_of(args)
    wanted = Wanted(choices_of(args.choices), search, args.average_last, args.comet)
    binarised_set = BinarisedSet(args.data, args.subset, args.reference, args.out, search)
    machine = Machine.of(args.device, 1, 1)
    scores = evaluate(args.run_or_checkpoint, machine, wanted, args.data, binarised_set)
    if args.json:
        print(json.dumps(scores, indent=2))
    else:
        for name, scores_of_set in scores.items():
            print(f"{name}  {as_text(scores_of_set)}")
    return 0
