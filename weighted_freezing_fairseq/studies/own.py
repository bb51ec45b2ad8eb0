"""`wff prepare own`: a corpus of the user's own files, prepared like the named data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..data import fetch, folder, prepared
from ..data.cleaning import check_packages
from ..data.folder import PairJob
from ..data.own import PairFiles, count_lines, default_held_out, is_table, own_dataset
from ..data.recipe import OWN, Recipe
from ..data.workers import Workers
from ..errors import UserError
from .folders import make_folders


@dataclass(frozen=True)
class OwnCorpus:
    """The user's files.

    Args:
        pair: SOURCE-TARGET.
        train: one or more lists of a file for each language, or of one table.
        valid: likewise; empty: set apart from the training pairs.
        tests: likewise, by the user's names; empty: set apart from the training pairs.
        columns: of tables (None: the languages).
        valid_lines, test_lines: how many pairs to set apart (None: 1,000, or a twentieth of a small corpus; 0: none).
    """

    pair: str
    train: Sequence[Sequence[Path]]
    valid: Sequence[Sequence[Path]] = ()
    tests: Sequence[tuple[str, Sequence[Path]]] = ()
    columns: tuple[str, str] | None = None
    valid_lines: int | None = None
    test_lines: int | None = None

    @property
    def test_names(self) -> dict[str, str]:
        """The user's names of the test splits."""
        return {test_split(number): name for number, (name, _) in enumerate(self.tests)} or {"test": "test"}

    def files(self) -> list[PairFiles]:
        """All files with their splits; UserError where they cannot be what they should be."""
        source, _, target = self.pair.partition("-")
        if not source or not target or "-" in target or source == target:
            raise UserError(
                f"--pair must be two languages with one hyphen between them, got {self.pair!r}; type --pair fr-en"
            )
        groups = [("train", f"train-{number}", files) for number, files in enumerate(self.train, 1)]
        groups += [("valid", f"valid-{number}", files) for number, files in enumerate(self.valid, 1)]
        groups += [(test_split(number), test_split(number), files) for number, (_, files) in enumerate(self.tests)]
        columns = self.columns or (source, target)
        return [PairFiles(split, name, _checked(split, files), columns) for split, name, files in groups]

    @cached_property
    def _default_held_out(self) -> int:
        return default_held_out(sum(count_lines(files[0]) for files in self.train))

    def held_out(self) -> dict[str, int]:
        """How many training pairs to set apart for each split that has no files."""
        numbers = {"valid": (self.valid, self.valid_lines), "test": (self.tests, self.test_lines)}
        held_out = {}
        for split, (files, number) in numbers.items():
            if files and number:
                raise UserError(f"--{split} and --{split}-lines both give pairs for {split}; leave one of them out")
            if not files and number != 0:
                held_out[split] = self._default_held_out if number is None else number
        return {split: number for split, number in held_out.items() if number}


def own_job(
    corpus: OwnCorpus, recipe: Recipe, out: Path, name: str = OWN, limit: int | None = None
) -> tuple[PairJob, dict[str, folder.ArchiveFile]]:
    """The job that prepares a corpus in OUT/NAME/PAIR, and its files by path."""
    files = corpus.files()
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name must be a name for a folder, got {name!r}; type --name {OWN}")
    held_out = corpus.held_out()
    if "valid" not in held_out and not corpus.valid:
        raise UserError("training needs a validation set; give --valid FILES, or --valid-lines 100")
    paths = [path for pair_files in files for path in pair_files.files]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is given {paths.count(path)} times; give each file to one split only")
    sources = {str(path): folder.ArchiveFile(path, fetch.identity(path)) for path in sorted(paths)}
    inputs = {
        f"{corpus.test_names.get(part.split, part.split)} ({part.name})": ", ".join(
            f"{side.member}@{sources[side.archive].identity['sha256'][:12]}" for side in part.sides
        )
        for part in (pair_files.part for pair_files in files)
    }
    return PairJob(
        own_dataset(files, corpus.test_names), name, recipe, corpus.pair, prepared(out, name, corpus.pair),
        limit=limit, held_out=held_out, inputs=inputs,
    ), sources  # fmt: skip


def prepare_own(job: PairJob, files: Mapping[str, folder.ArchiveFile], processes: int) -> str:
    """Make the folder of the corpus unless it is complete; returns a line about it."""
    if not job.is_done():
        check_packages(job.recipe)

        def make(job: PairJob, workers: Workers) -> None:
            folder.make(job, files, workers)

        make_folders({job.pair: job}, PairJob.is_done, make, processes, at_once=1)
    return f"{job.pair}: {job.summary()} pairs in {job.folder}"


def plan_of_own(job: PairJob, files: Mapping[str, folder.ArchiveFile]) -> list[str]:
    """What `prepare_own` would do, as lines."""
    if job.is_done():
        return [f"{job.pair}: {job.folder} is there already; nothing to do"]
    held_out = ", ".join(f"{number:,} for {split}" for split, number in job.held_out.items())
    return [
        f"{job.pair}: would make {job.folder}",
        *(f"  read {path}" for path in files),
        *([f"  set apart {held_out}"] if held_out else []),
        f"  learn {job.recipe.pieces:,} subwords ({job.recipe.subwords}) on train",
    ]


def test_split(number: int) -> str:
    """The split of the test set with this number, from 0."""
    return f"test{number or ''}"


def _checked(split: str, files: Sequence[Path]) -> tuple[Path, ...]:
    """The files of a split: two texts or a table, all of them there."""
    option = f"--{split.rstrip('0123456789')}"
    for path in files:
        if not path.is_file():
            raise UserError(f"there is no file {path}; give {option} files with one sentence per line, or a table")
    tables = [path for path in files if is_table(path)]
    if len(files) == 1 and not tables:
        raise UserError(
            f"{option} {files[0]}: give a file for each language, or a table whose name ends in .tsv, .csv or .jsonl"
        )
    if len(files) > 2 or (len(files) == 2 and tables):
        raise UserError(
            f"{option} takes two text files or one table, got {' '.join(map(str, files))}; repeat {option} for more"
        )
    if len(files) == 2 and files[0].resolve() == files[1].resolve():
        raise UserError(f"{option} has the same file twice: {files[0]}; give one for each language")
    return tuple(path.resolve() for path in files)
