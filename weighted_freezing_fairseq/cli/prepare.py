"""`wff prepare`: prepare a data set for fairseq, from its archives or from the user's files."""

import argparse
from pathlib import Path

from ..data import DATASETS, NAMES, SENTENCES
from ..errors import UserError
from ..studies.prepare import pair_jobs, plan_of_pairs, prepare_pairs
from ..studies.sentences.prepare import plan_of_tasks, prepare_tasks, task_jobs
from ..workspace.machine import cores
from .arguments import check_at_least, split

HELP = """\
Prepare a corpus for fairseq: download its archives (or use yours), read the sentence pairs, apply the recipe, learn
subwords, binarise. DIR/RECIPE/PAIR gets raw and subword files, fairseq's binarised data and manifest.json, which counts
what every step kept and dropped. A second call changes nothing; after a kill the same call resumes. GLUE and XNLI are
read from your files and split into the subwords of a pretrained encoder: DIR/ENCODER/TASK."""
EXAMPLE = """\
wff prepare iwslt14 --langs de,es --recipe clean --out data/iwslt14
  wff prepare multi30k --archive ~/Downloads/multi30k --out data/multi30k
  wff prepare wmt17 --dry-run
  wff prepare glue --tasks RTE,CoLA --archive ~/glue_data --encoder ~/roberta.base
  wff prepare xnli --archive ~/XNLI-1.0.zip ~/XNLI-MT-1.0.zip --encoder ~/xlmr.base"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset",
        choices=NAMES,
        help="; ".join(f"{d.name}: {d.what}" for d in (*DATASETS.values(), *SENTENCES.values())),
    )
    parser.add_argument(
        "--pairs",
        "--tasks",
        type=split,
        metavar="A,B,...",
        help="language pairs, or tasks of glue (default: all that the recipe has)",
    )
    parser.add_argument("--langs", type=split, metavar="A,B,...", help="pairs by their language other than English")
    recipes = "; ".join(f"{d.name}: {', '.join(d.recipes)}" for d in DATASETS.values())
    parser.add_argument("--recipe", help=f"processing of the text (default: the first of {recipes})")
    parser.add_argument("--pieces", type=int, metavar="N", help="number of subwords to learn (default: the recipe's)")
    parser.add_argument(
        "--archive",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="archives that you downloaded, or folders of them",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: data/DATASET")
    parser.add_argument("--jobs", type=int, default=cores(), metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--any-counts", action="store_true", help="accept files with more or fewer pairs than they should have"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    labelled = parser.add_argument_group("for glue and xnli", "--archive: the TSV files, or folders or zips of them")
    labelled.add_argument(
        "--encoder", type=Path, metavar="DIR", help="folder of fairseq's roberta.base or xlmr.base: dict.txt, subwords"
    )
    labelled.add_argument("--max-length", type=int, metavar="N", help="pieces per example (default: the papers')")


def run(args: argparse.Namespace) -> int:
    check_at_least(args, ["jobs", "pieces"])
    out = (args.out or Path("data") / args.dataset).resolve()
    prepare = _prepare_tasks if args.dataset in SENTENCES else _prepare_pairs
    print("\n".join(prepare(args, out)))
    return 0


def _prepare_pairs(args: argparse.Namespace, out: Path) -> list[str]:
    if args.encoder or args.max_length:
        raise UserError(f"--encoder and --max-length are for {' and '.join(SENTENCES)}; leave them out")
    jobs = pair_jobs(
        DATASETS[args.dataset], args.recipe, args.pairs, out,
        langs=args.langs, pieces=args.pieces, any_counts=args.any_counts,
    )  # fmt: skip
    if args.dry_run:
        return plan_of_pairs(jobs, out, args.archive)
    return prepare_pairs(jobs, out, args.archive, args.jobs)


def _prepare_tasks(args: argparse.Namespace, out: Path) -> list[str]:
    for name in ("langs", "pieces"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for translation; leave it out with {args.dataset}")
    jobs = task_jobs(
        SENTENCES[args.dataset], args.encoder, args.pairs, out, args.recipe,
        longest=args.max_length, any_counts=args.any_counts,
    )  # fmt: skip
    return plan_of_tasks(jobs) if args.dry_run else prepare_tasks(jobs, args.archive, args.jobs)
