"""`wff prepare own`: a corpus of the user's own files, prepared like the named data sets."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..data import columnar, fetch, folder, prepared
from ..data.cleaning import check_packages
from ..data.folder import PairJob
from ..data.own import TABLE_NAMES, PairFiles, count_lines, default_held_out, is_table, own_dataset
from ..data.recipe import MANY, OWN, Recipe
from ..data.workers import Workers
from ..errors import UserError
from .folders import make_folders

_LANGUAGE = re.compile(r"[A-Za-z0-9_@]+")  # part of the names of files


@dataclass(frozen=True)
class UserFiles:
    """Sentence pairs that the user gave for one split.

    Args:
        pair: SOURCE-TARGET.
        files: a text file for each language, one table, or one folder of `save_to_disk`.
        name: of a test set ("": it has none).
    """

    pair: str
    files: tuple[Path, ...]
    name: str = ""

    @property
    def parts(self) -> list[tuple[Path, ...]]:
        """The files, or the tables in the folder."""
        if len(self.files) == 1 and self.files[0].is_dir():
            return [(table,) for table in columnar.files_of(self.files[0])]
        return [self.files]


@dataclass(frozen=True)
class OwnCorpus:
    """The user's files.

    Args:
        pairs: one language pair, or several with the same target language.
        train: files of every pair.
        valid: files of every pair; empty: set apart from the training pairs.
        tests: test sets; for a pair without one, pairs are set apart from its training pairs.
        columns: of tables (None: the languages).
        valid_lines, test_lines: how many pairs of each language pair to set apart (None: 1,000, or a twentieth of a
            small corpus; 0: none).
    """

    pairs: Sequence[str]
    train: Sequence[UserFiles]
    valid: Sequence[UserFiles] = ()
    tests: Sequence[UserFiles] = ()
    columns: tuple[str, str] | None = None
    valid_lines: int | None = None
    test_lines: int | None = None

    @property
    def pair(self) -> str:
        """The language pair of the whole corpus: of several pairs, `mul` to their target language."""
        return self.pairs[0] if len(self.pairs) == 1 else f"{MANY}-{self.pairs[0].partition('-')[2]}"

    @cached_property
    def test_sets(self) -> dict[str, UserFiles]:
        """The test sets by split, pair after pair; those to set apart from training pairs have no files."""
        sets: list[UserFiles] = []
        for pair in self.pairs:
            held_out = [] if self.test_lines == 0 else [UserFiles(pair, ())]
            sets += [test for test in self.tests if test.pair == pair] or held_out
        return {f"test{number or ''}": test for number, test in enumerate(sets)}

    @property
    def test_names(self) -> dict[str, str]:
        """What the user calls the test sets, by split: NAME; of several pairs, PAIR or PAIR:NAME."""
        if len(self.pairs) == 1:
            names = {split: test.name or split for split, test in self.test_sets.items()}
        else:
            names = {
                split: f"{test.pair}:{test.name}" if test.name else test.pair for split, test in self.test_sets.items()
            }
        for name in names.values():
            if list(names.values()).count(name) > 1:
                place = "" if len(self.pairs) == 1 else "PAIR:"
                raise UserError(
                    f"two test sets are called {name}; give each a name of its own: --test {place}NAME=FILE,FILE"
                )
        return names

    def files(self) -> list[PairFiles]:
        """All files with their splits, pair after pair; UserError where they cannot be what they should be."""
        refuse_pairs(self.pairs)
        groups = []
        for split, all_files in (("train", self.train), ("valid", self.valid)):
            missing = [pair for pair in self.pairs if all_files and pair not in {files.pair for files in all_files}]
            if missing:
                others = ", or leave --valid out, to set pairs apart" if split == "valid" else ""
                raise UserError(f"--{split} has no files of {missing[0]}; add --{split} {missing[0]}=FILE,FILE{others}")
            in_order = sorted(all_files, key=lambda files: self.pairs.index(files.pair))
            parts = ((files.pair, part) for files in in_order for part in files.parts)
            groups += [(split, f"{split}-{number}", pair, part) for number, (pair, part) in enumerate(parts, 1)]
        for split, files in self.test_sets.items():
            parts = files.parts if files.files else []
            groups += [
                (split, f"{split}-{number}" if len(parts) > 1 else split, files.pair, part)
                for number, part in enumerate(parts, 1)
            ]
        checked = [
            PairFiles(split, name, pair, _checked(split, part), self.columns) for split, name, pair, part in groups
        ]
        if self.columns and not any(is_table(path) for pair_files in checked for path in pair_files.files):
            raise UserError("--columns is for tables, and no file is one; leave it out")
        return checked

    def held_out(self, limit: int | None = None) -> dict[str, dict[str, int]]:
        """How many training pairs of each language pair to set apart for each split that has no files.

        Args:
            limit: how many training pairs of each language pair are used (None: all).
        """
        complete = {"valid": bool(self.valid), "test": all(test.files for test in self.test_sets.values())}
        for split, number in (("valid", self.valid_lines), ("test", self.test_lines)):
            if complete[split] and number:
                raise UserError(f"--{split} and --{split}-lines both give pairs for {split}; leave one of them out")
        held_out: dict[str, dict[str, int]] = {}
        for pair in self.pairs:
            splits = {} if self.valid or self.valid_lines == 0 else {"valid": self.valid_lines}
            splits |= {
                split: self.test_lines for split, test in self.test_sets.items() if test.pair == pair and not test.files
            }
            if splits:
                default = self._default_held_out(pair, limit) if None in splits.values() else 0
                held_out[pair] = {split: number or default for split, number in splits.items()}
        return held_out

    def _default_held_out(self, pair: str, limit: int | None) -> int:
        lines = sum(count_lines(part[0]) for files in self.train if files.pair == pair for part in files.parts)
        return default_held_out(min(lines, limit or lines))


def own_job(
    corpus: OwnCorpus, recipe: Recipe, out: Path, name: str = OWN, limit: int | None = None, tags: bool = False
) -> tuple[PairJob, dict[str, folder.ArchiveFile]]:
    """The job that prepares a corpus in OUT/NAME/PAIR, and its files by path."""
    files = corpus.files()
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name must be a name for a folder, got {name!r}; type --name {OWN}")
    if tags and len(corpus.pairs) == 1:
        raise UserError("--tags tells the source languages of several --pairs apart; leave it out with --pair")
    held_out, test_names = corpus.held_out(limit), corpus.test_names
    if not corpus.valid and corpus.valid_lines == 0:
        raise UserError("training needs a validation set; give --valid FILES, or --valid-lines 100")
    _refuse_repeated(files)
    paths = {path for pair_files in files for path in pair_files.files}
    sources = {str(path): folder.ArchiveFile(path, fetch.identity(path)) for path in sorted(paths)}
    inputs = {
        f"{test_names.get(part.split, part.split)} ({part.name})": ", ".join(
            f"{side.member}@{sources[side.archive].identity['sha256'][:12]}" for side in part.sides
        )
        for part in (pair_files.part for pair_files in files)
    }
    return PairJob(
        own_dataset(files, test_names), name, recipe, corpus.pair, prepared(out, name, corpus.pair),
        limit=limit, held_out=held_out, inputs=inputs, tags=tags,
    ), sources  # fmt: skip


def refuse_pairs(pairs: Sequence[str]) -> None:
    """UserError unless these are language pairs, and several ones translate into one language."""
    option, example = ("--pair", "fr-en") if len(pairs) == 1 else ("--pairs", "de-en,fr-en")
    for pair in pairs:
        source, _, target = pair.partition("-")
        if not _LANGUAGE.fullmatch(source) or not _LANGUAGE.fullmatch(target) or source == target:
            raise UserError(
                f"{option} must be two languages of letters, digits, _ and @, with one hyphen between them, got "
                f"{pair!r}; type {option} {example}"
            )
        if target != pairs[0].partition("-")[2] or pairs.count(pair) > 1:
            raise UserError(
                f"--pairs must be different pairs into one language, got {','.join(pairs)}; type {option} {example}"
            )


def _refuse_repeated(files: Sequence[PairFiles]) -> None:
    """UserError if a file is in two splits, or twice in one; several pairs may share a side of theirs."""
    places: dict[Path, list[tuple[str, str]]] = {}
    for pair_files in files:
        for path in pair_files.files:
            places.setdefault(path, []).append((pair_files.split.rstrip("0123456789"), pair_files.pair))
    for path, splits_and_pairs in places.items():
        if len({split for split, _ in splits_and_pairs}) > 1 or len({*splits_and_pairs}) < len(splits_and_pairs):
            raise UserError(
                f"{path} is given {len(splits_and_pairs)} times; give each file to one split only, once for each pair"
            )


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
    held_out = ", ".join(
        f"{number:,} of {pair} for {job.data.test_names.get(split, split)}"
        for pair, numbers in job.held_out.items()
        for split, number in numbers.items()
    )
    return [
        f"{job.pair}: would make {job.folder}",
        *(f"  read {path}" for path in files),
        *([f"  set apart {held_out}"] if held_out else []),
        f"  learn {job.recipe.pieces:,} subwords ({job.recipe.subwords}) on train",
    ]


def _checked(split: str, files: Sequence[Path]) -> tuple[Path, ...]:
    """The files of a split: two texts or a table, all of them there."""
    option = f"--{split.rstrip('0123456789')}"
    for path in files:
        if not path.is_file():
            sets = ", or the name of a test set of sacreBLEU, as wmt17" if option == "--test" else ""
            raise UserError(
                f"there is no file {path}; give {option} files with one sentence per line, or a table{sets}"
            )
    tables = [path for path in files if is_table(path)]
    if len(files) == 1 and not tables:
        raise UserError(
            f"{option} {files[0]}: give a file for each language, or a table whose name ends in {TABLE_NAMES}"
        )
    if len(files) > 2 or (len(files) == 2 and tables):
        raise UserError(
            f"{option} takes two text files or one table, got {' '.join(map(str, files))}; repeat {option} for more"
        )
    if len(files) == 2 and files[0].resolve() == files[1].resolve():
        raise UserError(f"{option} has the same file twice: {files[0]}; give one for each language")
    return tuple(path.resolve() for path in files)
