"""`wff prepare`: from the archives of a corpus to what fairseq trains on; every step is counted, hashed and done once.

Here: which pairs, recipe and archives. `data/folder.py` makes the folder of each pair, several at a time. Labelled
sentences are prepared by `sentences/prepare.py`.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..data import fetch, folder, prepared
from ..data.archives import Unpacked, find_unpacked
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
    limit: int | None = None,
) -> list[PairJob]:
    """The pairs to prepare in `out`.

    Args:
        recipe: its name (None: the first of the data set).
        pairs: language pairs (None: all that the recipe has).
        langs: the same by their languages other than English.
        pieces: number of subwords to learn (None: the recipe's).
        any_counts: accept files with more or fewer pairs than they should have.
        limit: use only the first training pairs.
    """
    name = _one_of(recipe or data.recipes[0], data.recipes, "--recipe")
    settings = data.table[name]
    if pieces is not None:
        settings = replace(settings, pieces=pieces)
    return [
        PairJob(data, name, settings, pair, prepared(out, name, pair), any_counts, limit)
        for pair in _pairs(data, settings, pairs, langs)
    ]


def plan_of_pairs(jobs: Sequence[PairJob], out: Path, archives: Sequence[Path]) -> list[str]:
    """What `prepare_pairs` would do, as lines."""
    sources = _sources(jobs)
    unpacked = _unpacked(jobs, out, archives)
    local = fetch.find_local(sources, out / "archives", archives, unpacked)
    lines = []
    for job in jobs:
        if job.is_done():
            lines.append(f"{job.pair}: {job.folder} is there already; nothing to do")
            continue
        lines.append(f"{job.pair}: would make {job.folder}")
        for key in _archive_keys(job):
            archive = next(archive for archive in sources[key] if archive.mirrors)
            if key in local:
                lines.append(f"  take {local[key]}")
            elif unpacked[key].missing:
                lines.append(f"  fetch {archive.name} from {archive.mirrors[0]}")
            else:
                lines += [f"  take {path}" for path in unpacked[key].members.values()]
        recipe = job.recipe
        lines += [
            f"  recipe {job.recipe_name}: {recipe.what}",
            f"  learn {recipe.pieces:,} subwords ({recipe.subwords}) on {', '.join(recipe.learnt_on)}",
        ]
    return lines


def prepare_pairs(jobs: Sequence[PairJob], out: Path, archives: Sequence[Path], processes: int) -> list[str]:
    """Make every folder that is missing; returns a line about each.

    Archives other than the user's `archives` are downloaded first, one by one; then pairs are prepared in parallel.
    """
    missing = [job for job in jobs if not job.is_done()]
    if missing:
        check_packages(missing[0].recipe)
        unpacked = _unpacked(missing, out, archives)
        paths = fetch.obtain(_sources(missing), out / "archives", archives, _command(jobs, out), unpacked)
        identities = {path: fetch.identity(path) for path in set(paths.values())}
        files: dict[str, folder.ArchiveFile | folder.UnpackedArchive] = {
            key: folder.ArchiveFile(path, identities[path]) for key, path in paths.items()
        }
        for key in [key for key in unpacked if key not in paths]:
            members = unpacked[key].members
            identities = {path: fetch.identity(path) for path in members.values()}
            files[key] = folder.UnpackedArchive(next(iter(members.values())), members, identities)

        def make(job: PairJob, workers: Workers) -> None:
            folder.make(job, files, workers)

        by_pair = {job.pair: job for job in missing}
        make_folders(by_pair, PairJob.is_done, make, processes, at_once=min(len(missing), processes))
    return [f"{job.pair}: {job.summary()} pairs in {job.folder}" for job in jobs]


def _archive_keys(job: PairJob) -> list[str]:
    """The keys of the archives that a pair is read from."""
    return list(dict.fromkeys(side.archive for part in job.parts for side in part.sides))


def _unpacked(jobs: Sequence[PairJob], out: Path, paths: Sequence[Path]) -> dict[str, Unpacked]:
    """What there is of the members of each archive, unpacked among the user's `paths` or where archives are fetched."""
    required: dict[str, dict[str, bool]] = {}
    for job in jobs:
        for part in job.parts:
            for side in part.sides:
                required.setdefault(side.archive, {})[side.member] = part.required
    return find_unpacked(required, [*paths, out / "archives"])


def _sources(jobs: Sequence[PairJob]) -> dict[str, tuple[Archive, ...]]:
    """The archives that can serve each key that these jobs read."""
    keys = {key for job in jobs for key in _archive_keys(job)}
    sources = jobs[0].data.archives([job.pair for job in jobs])
    return {key: archives for key, archives in sources.items() if key in keys}


def _command(jobs: Sequence[PairJob], out: Path) -> str:
    """The command of these jobs, without --archive."""
    first = jobs[0]
    words = [
        "wff",
        "prepare",
        first.data.name,
        "--pairs",
        ",".join(job.pair for job in jobs),
        "--recipe",
        first.recipe_name,
    ]
    if first.limit:
        words += ["--limit", str(first.limit)]
    if first.recipe.pieces != first.data.table[first.recipe_name].pieces:
        words += ["--pieces", str(first.recipe.pieces)]
    return shlex.join([*words, "--out", str(out), *(["--any-counts"] if first.any_counts else [])])


def _pairs(data: Dataset, recipe: Recipe, pairs: Sequence[str] | None, langs: Sequence[str] | None) -> list[str]:
    """The pairs that the user chose, without duplicates."""
    available = recipe.pairs or data.pairs
    if pairs and langs:
        raise UserError("--pairs and --langs say the same; type one of them")
    if not langs:
        return list(dict.fromkeys(_one_of(pair, available, "--pairs") for pair in pairs or available))
    by_language = {language: [pair for pair in available if language in pair.split("-")] for language in langs}
    for language, pairs_of_language in by_language.items():
        if not pairs_of_language or language == "en":
            others = sorted({side for pair in available for side in pair.split("-")} - {"en"})
            raise UserError(f"no pair of {language!r} here; type --langs with some of: {','.join(others)}")
    return list(dict.fromkeys(pair for pairs_of_language in by_language.values() for pair in pairs_of_language))


def _one_of(word: str, allowed: Sequence[str], option: str) -> str:
    if word not in allowed:
        raise UserError(f"there is no {word!r} here; type {option} and one of: {', '.join(allowed)}")
    return word
