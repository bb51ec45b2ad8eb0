"""`wff prepare`: a corpus from its archives to what fairseq trains on, every step counted, hashed, and done once.

Which pairs, which recipe, which archives; then `data/folder.py` makes each pair's folder, several at a time. What a
data set and a recipe are stands in `data/`. Labelled sentences go to `sentences/prepare.py`.
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..data import DATASETS, NAMES, SENTENCES, fetch, folder, prepared, steps
from ..data.recipe import Archive, Dataset, Recipe
from ..data.workers import Workers
from ..errors import UserError
from ..workspace.locks import alone_in
from ..workspace.machine import cores
from ..workspace.processes import threads
from ..workspace.progress import say
from .sentences import prepare as sentences

HELP = """\
Prepare a corpus for fairseq: fetch its archives (or take yours), read the sentence pairs, do what the recipe says,
learn subwords, binarise. DIR/RECIPE/PAIR gets raw and subword files, fairseq's binarised data and manifest.json, which
counts what every step kept and dropped. A second call changes nothing; a killed one goes on where it was. GLUE and XNLI
are taken from your files, in the subwords of a pretrained encoder: DIR/ENCODER/TASK."""
EXAMPLE = """\
wff prepare iwslt14 --langs de,es --recipe clean --out data/iwslt14
  wff prepare multi30k --archive ~/Downloads/multi30k --out data/multi30k
  wff prepare wmt17 --dry-run
  wff prepare glue --tasks RTE,CoLA --archive ~/glue_data --encoder ~/roberta.base
  wff prepare xnli --archive ~/XNLI-1.0.zip ~/XNLI-MT-1.0.zip --encoder ~/xlmr.base"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to prepare, from what, and where to."""
    parser.add_argument(
        "dataset",
        choices=NAMES,
        help="; ".join(f"{d.name}: {d.what}" for d in (*DATASETS.values(), *SENTENCES.values())),
    )
    parser.add_argument(
        "--pairs",
        "--tasks",
        metavar="A,B,...",
        help="language pairs, or tasks of glue (default: all that the recipe has)",
    )
    parser.add_argument("--langs", metavar="A,B,...", help="the same by their languages other than English")
    recipes = "; ".join(f"{d.name}: {', '.join(d.recipes)}" for d in DATASETS.values())
    parser.add_argument("--recipe", help=f"what is done to the text (default: the first of {recipes})")
    parser.add_argument("--pieces", type=int, metavar="N", help="subwords to learn (default: the recipe's)")
    parser.add_argument(
        "--archive",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="archives fetched by hand, or folders of them",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: data/DATASET")
    parser.add_argument("--jobs", type=int, default=cores(), metavar="N", help="processes (default: one a core)")
    parser.add_argument(
        "--any-counts", action="store_true", help="go on where a file has more or fewer pairs than it should have"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    labelled = parser.add_argument_group(
        "of glue and xnli", "--archive: files, folders or zips that hold the TSV files"
    )
    labelled.add_argument(
        "--encoder", type=Path, metavar="DIR", help="folder of fairseq's roberta.base or xlmr.base: dict.txt, subwords"
    )
    labelled.add_argument("--max-length", type=int, metavar="N", help="pieces of one example (default: the papers')")


def run(args: argparse.Namespace) -> int:
    """Every pair that is not there yet; ends with a line for each on standard output."""
    if args.dataset in SENTENCES:
        return sentences.run(args)
    if args.encoder or args.max_length:
        raise UserError(f"--encoder and --max-length are for {' and '.join(SENTENCES)}; leave them out")
    data = DATASETS[args.dataset]
    name = _one_of(args.recipe or data.recipes[0], data.recipes, "--recipe")
    recipe = data.table[name]
    if args.pieces is not None:
        recipe = replace(recipe, pieces=_at_least(1, args.pieces, "--pieces"))
    _at_least(1, args.jobs, "--jobs")
    pairs = _pairs(data, recipe, args)
    out = (args.out or Path("data") / data.name).resolve()
    jobs = [folder.PairJob(data, name, recipe, pair, prepared(out, name, pair), args.any_counts) for pair in pairs]
    if args.dry_run:
        needs = _needs(jobs)
        there = fetch.at_hand(needs, out / "archives", args.archive)
        for job in jobs:
            print("\n".join(_plan(job, needs, there)))
        return 0
    _prepare([job for job in jobs if not folder.is_done(job)], out, args)
    for job in jobs:
        print(f"{job.pair}: {folder.counted(job)} pairs in {job.folder}")
    return 0


def _prepare(jobs: Sequence[folder.PairJob], out: Path, args: argparse.Namespace) -> None:
    """Archives first, one after the other; then the pairs side by side."""
    if not jobs:
        return
    steps.refuse_without_packages(jobs[0].recipe)
    needs = _needs(jobs)
    files = fetch.obtain(needs, out / "archives", args.archive, go_on=_command(args))
    identities = {path: fetch.identity(path) for path in set(files.values())}
    known = {need: folder.ArchiveFile(path, identities[path]) for need, path in files.items()}
    at_once = min(len(jobs), args.jobs)

    def one(job: folder.PairJob) -> str:
        """What went wrong: a pair that cannot be prepared does not stop the others."""
        try:
            with alone_in(job.folder):
                if not folder.is_done(job):  # by a process that had the folder until now
                    folder.make(job, known, workers)
        except UserError as error:
            say(f"{job.pair} failed: {error}")
            return f"{job.pair}: {error}" if len(jobs) > 1 else str(error)
        return ""

    # The processes go first: the threads that feed them live longer.
    with threads(at_once) as pool, Workers(args.jobs) as workers:
        failed = [error for error in pool.map(one, jobs) if error]
    if failed:
        raise UserError("\n".join(failed))


def _needs(jobs: Sequence[folder.PairJob]) -> dict[str, tuple[Archive, ...]]:
    """What these jobs read, and the archives that have it."""
    used = {side.archive for job in jobs for part in job.parts for side in (part.source, part.target)}
    known = jobs[0].data.archives([job.pair for job in jobs])
    return {need: archives for need, archives in known.items() if need in used}


def _plan(job: folder.PairJob, needs: Mapping[str, tuple[Archive, ...]], there: Mapping[str, Path]) -> list[str]:
    """What a call would do to one pair."""
    if folder.is_done(job):
        return [f"{job.pair}: {job.folder} is there already; nothing to do"]
    lines = [f"{job.pair}: would make {job.folder}"]
    for need in dict.fromkeys(side.archive for part in job.parts for side in (part.source, part.target)):
        archive = next(archive for archive in needs[need] if archive.mirrors)
        lines.append(f"  take {there[need]}" if need in there else f"  fetch {archive.name} from {archive.mirrors[0]}")
    recipe = job.recipe
    return [
        *lines,
        f"  recipe {job.name}: {recipe.what}",
        f"  learn {recipe.pieces:,} subwords ({recipe.subwords}) on {', '.join(recipe.learnt_on)}",
    ]


def _command(args: argparse.Namespace) -> str:
    """This call as it would be typed, without --archive."""
    words = ["wff", "prepare", args.dataset]
    for option in ("pairs", "langs", "recipe", "pieces", "out"):
        if (value := getattr(args, option)) is not None:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def _pairs(data: Dataset, recipe: Recipe, args: argparse.Namespace) -> list[str]:
    """The pairs asked for, each once."""
    known = recipe.pairs or data.pairs
    if args.pairs and args.langs:
        raise UserError("--pairs and --langs say the same; type one of them")
    if args.langs:
        languages = {
            language: [pair for pair in known if language in pair.split("-")] for language in args.langs.split(",")
        }
        for language, found in languages.items():
            if not found or language == "en":
                others = sorted({side for pair in known for side in pair.split("-")} - {"en"})
                raise UserError(f"no pair of {language!r} here; type --langs with some of: {','.join(others)}")
        return list(dict.fromkeys(pair for found in languages.values() for pair in found))
    return list(dict.fromkeys(_one_of(pair, known, "--pairs") for pair in (args.pairs or ",".join(known)).split(",")))


def _one_of(word: str, known: Sequence[str], option: str) -> str:
    if word not in known:
        raise UserError(f"there is no {word!r} here; type {option} and one of: {', '.join(known)}")
    return word


def _at_least(least: int, value: int, option: str) -> int:
    if value < least:
        raise UserError(f"{option} must be at least {least}; type {option} {least}, or leave it out")
    return value
