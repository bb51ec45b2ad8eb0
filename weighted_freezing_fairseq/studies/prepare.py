"""`wff prepare`: a corpus from its archives to what fairseq trains on, every step counted, hashed, and done once.

Which pairs, which recipe, which archives; then `data/folder.py` makes each pair's folder, several at a time. What a
data set and a recipe are stands in `data/`. Labelled sentences are prepared by `sentences/prepare.py`.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..data import fetch, folder, prepared
from ..data.cleaning import check_packages
from ..data.folder import PairJob
from ..data.recipe import Archive, Dataset, Recipe
from ..data.workers import Workers
from ..errors import UserError
from .folders import make_folders


def pair_jobs(
    data: Dataset,
    recipe: str | None,
    pairs: Sequence[str] | None,
    out: Path,
    *,
    langs: Sequence[str] | None = None,
    pieces: int | None = None,
    any_counts: bool = False,
) -> list[PairJob]:
    """What to prepare in `out`.

    Args:
        recipe: its name (None: the first of the data set).
        pairs: language pairs (None: all that the recipe has).
        langs: the same by their languages other than English.
        pieces: subwords to learn (None: the recipe's).
        any_counts: accept files with more or fewer pairs than they should have.
    """
    name = _one_of(recipe or data.recipes[0], data.recipes, "--recipe")
    choices = data.table[name]
    if pieces is not None:
        choices = replace(choices, pieces=pieces)
    wanted = _pairs(data, choices, pairs, langs)
    return [PairJob(data, name, choices, pair, prepared(out, name, pair), any_counts) for pair in wanted]


def plan_of_pairs(jobs: Sequence[PairJob], out: Path, given: Sequence[Path]) -> list[str]:
    """What `prepare_pairs` would do, in lines."""
    needs = _needs(jobs)
    there = fetch.find_local(needs, out / "archives", given)
    return [line for job in jobs for line in _plan(job, needs, there)]


def prepare_pairs(jobs: Sequence[PairJob], out: Path, given: Sequence[Path], processes: int) -> list[str]:
    """Make every folder that is not there yet; returns a line about each.

    Archives are fetched first, one after the other, but for those that the user has (`given`); then pairs are made side
    by side.
    """
    to_do = [job for job in jobs if not job.is_done()]
    if to_do:
        check_packages(to_do[0].recipe)
        files = fetch.obtain(_needs(to_do), out / "archives", given, command=_command(jobs, out))
        identities = {path: fetch.identity(path) for path in set(files.values())}
        known = {need: folder.ArchiveFile(path, identities[path]) for need, path in files.items()}

        def make(job: PairJob, workers: Workers) -> None:
            folder.make(job, known, workers)

        by_pair = {job.pair: job for job in to_do}
        make_folders(by_pair, PairJob.is_done, make, processes, at_once=min(len(to_do), processes))
    return [f"{job.pair}: {job.summary()} pairs in {job.folder}" for job in jobs]


def _needs(jobs: Sequence[PairJob]) -> dict[str, tuple[Archive, ...]]:
    """What these jobs read, and the archives that have it."""
    used = {side.archive for job in jobs for part in job.parts for side in part.sides}
    known = jobs[0].data.archives([job.pair for job in jobs])
    return {need: archives for need, archives in known.items() if need in used}


def _plan(job: PairJob, needs: Mapping[str, tuple[Archive, ...]], there: Mapping[str, Path]) -> list[str]:
    """What would be done to one pair."""
    if job.is_done():
        return [f"{job.pair}: {job.folder} is there already; nothing to do"]
    lines = [f"{job.pair}: would make {job.folder}"]
    for need in dict.fromkeys(side.archive for part in job.parts for side in part.sides):
        archive = next(archive for archive in needs[need] if archive.mirrors)
        lines.append(f"  take {there[need]}" if need in there else f"  fetch {archive.name} from {archive.mirrors[0]}")
    recipe = job.recipe
    return [
        *lines,
        f"  recipe {job.recipe_name}: {recipe.what}",
        f"  learn {recipe.pieces:,} subwords ({recipe.subwords}) on {', '.join(recipe.learnt_on)}",
    ]


def _command(jobs: Sequence[PairJob], out: Path) -> str:
    """What a user types for these jobs, without --archive."""
    first = jobs[0]
    pairs = ",".join(job.pair for job in jobs)
    words = ["wff", "prepare", first.data.name, "--pairs", pairs, "--recipe", first.recipe_name]
    if first.recipe.pieces != first.data.table[first.recipe_name].pieces:
        words += ["--pieces", str(first.recipe.pieces)]
    return shlex.join([*words, "--out", str(out), *(["--any-counts"] if first.any_counts else [])])


def _pairs(data: Dataset, recipe: Recipe, pairs: Sequence[str] | None, langs: Sequence[str] | None) -> list[str]:
    """The pairs asked for, each once."""
    known = recipe.pairs or data.pairs
    if pairs and langs:
        raise UserError("--pairs and --langs say the same; type one of them")
    if not langs:
        return list(dict.fromkeys(_one_of(pair, known, "--pairs") for pair in pairs or known))
    by_language = {language: [pair for pair in known if language in pair.split("-")] for language in langs}
    for language, pairs_of_language in by_language.items():
        if not pairs_of_language or language == "en":
            others = sorted({side for pair in known for side in pair.split("-")} - {"en"})
            raise UserError(f"no pair of {language!r} here; type --langs with some of: {','.join(others)}")
    return list(dict.fromkeys(pair for pairs_of_language in by_language.values() for pair in pairs_of_language))


def _one_of(word: str, known: Sequence[str], option: str) -> str:
    if word not in known:
        raise UserError(f"there is no {word!r} here; type {option} and one of: {', '.join(known)}")
    return word
