"""One pair's folder, step by step: archives -> sentence pairs -> text -> subwords -> binarised data -> manifest.

Everything streams, so that memory does not grow with the corpus. Each step appears when it is whole and leaves a stamp
and its counts: a killed run goes on with the step that it was in. The manifest comes last and is the same, byte by
byte, for the same archives, recipe and versions.
"""

import importlib.metadata
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from ..files import atomic_folder, write_atomically
from ..forms import Content, read_json_rows
from ..workspace.contents import MANIFEST, manifest_of
from ..workspace.progress import Progress, say
from ..workspace.steps import once
from . import archives, binary, lines, parts, steps, subwords
from .fetch import sha256
from .recipe import Dataset, Part, Place, Recipe
from .workers import Workers, chunks

_OWN = ("raw", "text", "pieces", "bin", MANIFEST)
PACKAGES = ("weighted-freezing-fairseq", "sacremoses", "sentencepiece", "subword-nmt", "fairseq", "fairseq-fixed")
_ORDER = ("train", "valid", "test")

_OF_SUBWORDS = ("pieces", "subwords", "coverage", "learnt_on", "dictionary")

Counts = dict[str, Any]
_COUNTS_FORM = {"step": str, "split": str, "pairs": int, "sentences": {str: int}}


@dataclass(frozen=True)
class PairJob:
    """One pair by one recipe, and where it goes."""

    data: Dataset
    name: str  # of the recipe
    recipe: Recipe
    pair: str
    folder: Path
    any_counts: bool = False  # go on where a file has more or fewer pairs than it should have

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target."""
        source, target = self.pair.split("-")
        return source, target

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the archives hold for it."""
        return self.data.parts(self.pair, self.name)

    @property
    def splits(self) -> list[str]:
        """train, valid, test, and further tests in fairseq's order."""
        found = {part.split for part in self.parts} | ({"valid"} if self.recipe.valid_every else set())
        return sorted(found, key=lambda split: (_ORDER.index(split.rstrip("0123456789")), split))

    @property
    def text(self) -> Path:
        """The folder of the recipe's text; a recipe that leaves it untouched has no other than the raw one."""
        return self.folder / ("text" if self.recipe.changes_text else "raw")

    @property
    def learnt(self) -> Path:
        """The file of the subwords."""
        return self.folder / ("bpe.codes" if self.recipe.subwords == "bpe" else "spm.model")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about the outcome, beside the archives and the versions."""
        recipe = {key: value for key, value in asdict(self.recipe).items() if key not in ("what", "about", "pairs")}
        reading = {part.form: parts.READING[part.form] for part in self.parts if part.form in parts.READING}
        # As JSON has it: what is read back must compare equal.
        return {
            "dataset": self.data.name,
            "recipe": self.name,
            "pair": self.pair,
            "steps": json.loads(json.dumps(recipe)),
            **({"reading": reading} if reading else {}),
        }

    @property
    def text_settings(self) -> dict[str, Any]:
        """The same without what concerns subwords alone: the text is kept when others are learnt."""
        return {**self.settings, "steps": {k: v for k, v in self.settings["steps"].items() if k not in _OF_SUBWORDS}}


@dataclass(frozen=True)
class ArchiveFile:
    """An archive on the disk, its size and its sum."""

    path: Path
    identity: Mapping[str, Any]


def is_done(job: PairJob) -> bool:
    """Whether the folder holds just this; an error where it holds something else."""
    path = job.folder / MANIFEST
    if path.is_file():
        found = manifest_of(job.folder)
        other = [key for key, value in job.settings.items() if found.get(key) != value]
        if other:
            how = "with other settings"
            if other == ["reading"]:
                now = ", ".join(f"{form}: {way}" for form, way in job.settings["reading"].items())
                how = f"by a version that read its archives in another way (now: {now})"
            raise UserError(f"{job.folder} was made {how}; give another --out, or move that folder away")
        refuse_lost(job.folder, found)
        return True
    refuse_foreign(job.folder, "unpacked", _OWN)
    return False


def refuse_lost(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Of a finished folder, files that are there no more."""
    lost = [name for name in manifest["sha256"] if not (folder / name).is_file()]
    if lost:
        raise UserError(f"{folder / lost[0]} is gone; move {folder} away, and type the same again")


def refuse_foreign(folder: Path, first: str, own: Iterable[str]) -> None:
    """What stands where our `own` files would, in a folder in which our `first` step was never begun."""
    begun = any((folder / f".{first}{state}.json").is_file() for state in ("", ".begun"))
    theirs = [name for name in own if (folder / name).exists()]
    if theirs and not begun:
        raise UserError(f"{folder / theirs[0]} was not made by wff prepare; give another --out, or move it away")


def counted(job: PairJob) -> str:
    """The pairs of each split, for a reader."""
    manifest = manifest_of(job.folder)
    rows = [Content(row, manifest.path, manifest.remedy) for row in manifest["counts"]]
    found = {str(row["split"]): row["pairs"] for row in rows if row["step"] == "binarised"}
    return " / ".join(f"{pairs:,} {split}" for split, pairs in found.items())


def make(job: PairJob, sources: Mapping[str, ArchiveFile], workers: Workers) -> None:
    """All steps."""
    rows = write_text(job, sources, workers)
    learnt = {**job.settings, **versions("sentencepiece", "subword-nmt")}
    rows += step(job.folder, "subwords", learnt, partial(_learn, job, workers))
    rows += step(job.folder, "pieces", job.settings, partial(_write_pieces, job, workers))
    rows += step(job.folder, "binarised", job.settings, partial(_binarise, job, workers))
    _assert_the_same(job, rows)
    _write_manifest(job, rows, _identities(job, sources))


def write_text(job: PairJob, sources: Mapping[str, ArchiveFile], workers: Workers) -> list[Counts]:
    """From the archives to the pairs that the recipe keeps, and their text."""
    unpacked = {**job.text_settings, "archives": _identities(job, sources)}
    rows = step(job.folder, "unpacked", unpacked, partial(_unpack, job, sources))
    text = {**job.text_settings, **versions("sacremoses")}
    rows += step(job.folder, "text", text, partial(_write_text, job, workers), forget=("unpacked", "text"))
    shutil.rmtree(job.folder / ".unpacked", ignore_errors=True)
    return rows


def _identities(job: PairJob, sources: Mapping[str, ArchiveFile]) -> dict[str, Any]:
    used = sorted({side.archive for part in job.parts for side in _sides(part)})
    return {sources[need].path.name: dict(sources[need].identity) for need in used}


def step(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    work: Callable[[], list[Counts]],
    forget: Sequence[str] = (),
    form: Mapping[str, Any] = _COUNTS_FORM,
) -> list[Counts]:
    """Do a step of a folder once, and give its rows of counts, which have this form, now or from then.

    A step that refuses what it was given is not begun, and those to `forget` are not done: the user may give another.
    """
    kept = folder / f".{name}.rows.json"

    def work_and_count() -> None:
        try:
            rows = work()
        except UserError:
            for stamp in (f".{other}{state}.json" for other in forget or (name,) for state in ("", ".begun")):
                (folder / stamp).unlink(missing_ok=True)
            raise
        write_atomically(kept, json.dumps(rows, ensure_ascii=False))

    once(folder, name, settings, work_and_count)
    remedy = f"to count it again, type: rm {shlex.quote(str(folder / f'.{name}.json'))}"
    return list(read_json_rows(kept, dict(form), remedy))


# Archives ------------------------------------------------------------------------------------------------------------


def _unpack(job: PairJob, sources: Mapping[str, ArchiveFile]) -> list[Counts]:
    """The members that hold this pair, each under a name of ours, in one pass over each archive."""
    rows: list[Counts] = []
    with atomic_folder(job.folder / ".unpacked") as goal:
        for need, source in sources.items():
            wanted = {
                side.member: goal / f"{part.name}.{language}"
                for part in job.parts
                for side, language in zip(_sides(part), job.languages, strict=True)
                if side.archive == need
            }
            if not wanted:
                continue
            say(f"{job.pair}: reading {source.path.name}")
            found = archives.copy_out(source.path, wanted, [name.format(pair=job.pair) for name in job.data.nested])
            for reason, times in sorted(found.left_alone.items()):
                say(f"{job.pair}: {source.path.name} has {times:,} x {reason}: left alone")
                rows.append({"step": "unpacked", "archive": source.path.name, "left_alone": reason, "times": times})
            rows += _missing(job, need, source.path, found)
    return rows


def _missing(job: PairJob, need: str, archive: Path, found: archives.Found) -> list[Counts]:
    """A row for each part that the archive may lack, and lacks; an error for others."""
    rows: list[Counts] = []
    for part in job.parts:
        lacking = [side.member for side in _sides(part) if side.archive == need and side.member not in found.members]
        if lacking and part.required:
            raise archives.missing(archive, lacking[0], found)
        if lacking:
            say(f"{job.pair}: {archive.name} has no {', '.join(lacking)}: {part.split} goes without {part.name}")
            rows.append({"step": "unpacked", "split": part.split, "missing": part.name})
    return rows


def _sides(part: Part) -> tuple[Place, Place]:
    return part.source, part.target


# Text ----------------------------------------------------------------------------------------------------------------


def _write_text(job: PairJob, workers: Workers) -> list[Counts]:
    """raw/, and text/ where the recipe changes the text: the pairs that are kept, those for validation set apart."""
    rows: list[Counts] = []
    with ExitStack() as stack:
        folders = [stack.enter_context(atomic_folder(job.folder / "raw"))]
        if job.recipe.changes_text:
            folders.append(stack.enter_context(atomic_folder(job.folder / "text")))
        for split in dict.fromkeys(part.split for part in job.parts):
            pairs = chain.from_iterable(_read(job, part, rows) for part in job.parts if part.split == split)
            write = _write_training if split == "train" else _write_evaluation
            rows += list(write(job, workers, split, folders, pairs))  # first, since it is what fills in the rows read
    return rows


def _read(job: PairJob, part: Part, rows: list[Counts]) -> Iterator[parts.Pair]:
    """The pairs of one part, and a row that says what was in its files."""
    source, target = (job.folder / ".unpacked" / f"{part.name}.{language}" for language in job.languages)
    if not (source.is_file() and target.is_file()):
        return  # an optional part that the archive lacks: told when it was unpacked
    found: Counter[str] = Counter()
    number = 0
    for pair in with_bar(parts.pairs(part, source, target, found), f"{job.pair} {part.name}", lines.count(source)):
        number += 1
        yield pair
    mended = {what: times for what, times in sorted(found.items()) if times}
    if mended:
        say(f"{job.pair}: {part.name}: " + ", ".join(f"{times:,} x {what}" for what, times in mended.items()))
    rows.append({"step": "read", "split": part.split, "part": part.name, "pairs": number, "found": mended})
    expected = job.data.counts.get(part.name)
    if expected is not None and number != expected and not job.any_counts:
        raise UserError(
            f"{part.name} has {number:,} pairs and should have {expected:,}: is an archive cut short, or of another "
            "version? Give another with --archive, or go on all the same with --any-counts"
        )
    if number == 0:
        raise UserError(f"{part.name} has no sentence in it; give another archive with --archive FILE")


def _write_training(
    job: PairJob, workers: Workers, split: str, folders: Sequence[Path], pairs: Iterable[parts.Pair]
) -> Iterator[Counts]:
    """Pairs that the recipe keeps; every so many of them for validation."""
    every, most = job.recipe.valid_every, job.recipe.valid_most
    dropped: Counter[str] = Counter()
    kept = apart = 0
    done = workers.each(partial(steps.training, job.recipe, job.languages), chunks(pairs))
    with ExitStack() as stack:
        train = _Files(stack, folders, "train", job.languages)
        valid = _Files(stack, folders, "valid", job.languages) if every else train
        for pair, (reason, text) in chain.from_iterable(zip(*both, strict=True) for both in done):
            if reason:
                dropped[reason] += 1
                continue
            kept += 1
            if every and kept % every == 0 and (most is None or apart < most):
                apart += 1
                valid.write(pair, text)
            else:
                train.write(pair, text)
    yield _text_row(job, split, kept - apart, dropped)
    if every:
        yield _text_row(job, "valid", apart)


def _write_evaluation(
    job: PairJob, workers: Workers, split: str, folders: Sequence[Path], pairs: Iterable[parts.Pair]
) -> Iterator[Counts]:
    """Every pair of a test set, or of a validation set that comes as one."""
    number = 0
    empty: Counter[str] = Counter()
    done = workers.each(partial(steps.evaluation, job.recipe, job.languages), chunks(pairs))
    with ExitStack() as stack:
        files = _Files(stack, folders, split, job.languages)
        for pair, text in chain.from_iterable(zip(*both, strict=True) for both in done):
            number += 1
            empty["an empty side"] += not all(pair)
            files.write(pair, text)
    if empty["an empty side"]:
        say(f"{job.pair}: {split}: {empty['an empty side']:,} pairs have an empty side; they stay, to be scored")
    yield {**_text_row(job, split, number), "kept": {what: times for what, times in empty.items() if times}}


def _text_row(job: PairJob, split: str, pairs: int, dropped: Mapping[str, int] | None = None) -> Counts:
    """What is left of a split, and what was dropped and why; beside what others report, where the recipe knows."""
    if pairs == 0:
        raise UserError(f"nothing is left for {split} of {job.pair} ({dict(dropped or {})}); give other archives")
    about = job.recipe.about.get(split) if job.pair == "de-en" else None
    told = "" if about is None else f"; others report {about:,}" if about != pairs else ", as others report"
    lost = "".join(f", {times:,} dropped for {reason}" for reason, times in sorted((dropped or {}).items()))
    say(f"{job.pair}: {split} has {pairs:,} pairs{told}{lost}")
    return {"step": "text", "split": split, "pairs": pairs, "dropped": dict(sorted((dropped or {}).items()))}


class _Files:
    """The files of one split, two languages in each of the folders: raw, then text if there is one."""

    def __init__(self, stack: ExitStack, folders: Sequence[Path], split: str, languages: Sequence[str]) -> None:
        self.sides = [
            [stack.enter_context(lines_to(folder / f"{split}.{language}")) for language in languages]
            for folder in folders
        ]

    def write(self, *pairs: parts.Pair) -> None:
        """A pair to each folder; the last folder's is the text."""
        for files, pair in zip(self.sides, pairs, strict=False):
            for file, sentence in zip(files, pair, strict=True):
                file.write(f"{sentence}\n")


# Subwords and binarised data -----------------------------------------------------------------------------------------


def _learn(job: PairJob, workers: Workers) -> list[Counts]:
    """Subwords, learnt on what the recipe says, in a process of the pool: several languages at a time."""
    recipe = job.recipe
    splits = [split for split in job.splits if split.rstrip("0123456789") in recipe.learnt_on]
    files = [job.text / f"{split}.{language}" for split in splits for language in job.languages]
    say(f"{job.pair}: learning {recipe.pieces:,} subwords on {', '.join(splits)}")
    if recipe.subwords == "bpe":
        found = workers.call(subwords.learn_bpe, files, job.learnt, recipe.pieces)
    else:
        found = workers.call(subwords.learn_pieces, files, job.learnt, recipe.pieces, recipe.coverage)
    if found["lines too long to learn from"]:
        say(f"{job.pair}: {found['lines too long to learn from']:,} lines are too long to learn subwords from")
    if found["pieces"] < recipe.pieces:
        say(f"{job.pair}: the text gives {found['pieces']:,} subwords and no more")
    return [{"step": "subwords", "learnt_on": splits, **{what: times for what, times in found.items() if times}}]


def _write_pieces(job: PairJob, workers: Workers) -> list[Counts]:
    """Every line of every split in subwords."""
    cut = subwords.bpe_of if job.recipe.subwords == "bpe" else subwords.pieces_of
    work = partial(cut, str(job.learnt), job.learnt.stat().st_mtime_ns)
    rows = []
    with atomic_folder(job.folder / "pieces") as goal:
        for split in job.splits:
            words: dict[str, int] = {}
            pairs = 0
            for language in job.languages:
                text = job.text / f"{split}.{language}"
                bar = with_bar(lines.texts(text), f"{job.pair} pieces {split}.{language}", lines.count(text))
                pairs = number = 0
                with lines_to(goal / text.name) as file:
                    for line in chain.from_iterable(workers.map(work, chunks(bar))):
                        pairs += 1
                        number += len(line.split())
                        file.write(f"{line}\n")
                words[language] = number
            rows.append({"step": "pieces", "split": split, "pairs": pairs, "words": words})
    return rows


def _binarise(job: PairJob, workers: Workers) -> list[Counts]:
    """fairseq's data, with the recipe's dictionary; every sentence is read again and compared in length."""
    say(f"{job.pair}: binarising")
    with atomic_folder(job.folder / "bin") as goal:
        names = dict(zip(job.languages, _dictionaries(job, workers), strict=True))
        for language, entries in names.items():
            binary.save_dictionary(entries, goal / f"dict.{language}.txt")
        sides = [(split, language) for split in job.splits for language in job.languages]
        tasks = [
            (
                job.folder / "pieces" / f"{split}.{language}",
                goal / f"dict.{language}.txt",
                goal / f"{split}.{job.pair}.{language}",
            )
            for split, language in sides
        ]
        found = dict(zip(sides, workers.map(binary.write_and_check, tasks), strict=True))
    rows: list[Counts] = []
    for split in job.splits:
        row: Counts = {"step": "binarised", "split": split, "pairs": found[split, job.languages[0]]["sentences"]}
        for what in ("sentences", "words", "unknown"):
            row[what] = {language: found[split, language][what] for language in job.languages}
        rows.append(row)
    return rows


def _dictionaries(job: PairJob, workers: Workers) -> list[binary.Entries]:
    """Of source and target, as the recipe has them."""
    if job.recipe.dictionary == "pieces":
        return [subwords.dictionary_of(job.learnt)] * 2
    train = [job.folder / "pieces" / f"train.{language}" for language in job.languages]
    counts = list(workers.map(binary.counted, train))
    if job.recipe.dictionary == "joined":
        return [binary.dictionary(counts)] * 2
    return [binary.dictionary([count]) for count in counts]


def _assert_the_same(job: PairJob, rows: Sequence[Counts]) -> None:
    """No pair and no subword may be lost between the text and what fairseq trains on."""
    found = {
        step: {row["split"]: row for row in rows if row["step"] == step} for step in ("text", "pieces", "binarised")
    }
    for split in job.splits:
        for step, own in found.items():
            if split not in own:
                raise UserError(
                    f"{job.folder} has no counts of {split} in .{step}.rows.json; move it away, and prepare it again"
                )
        text, cut, last = (found[step][split] for step in ("text", "pieces", "binarised"))
        numbers = {text["pairs"], cut["pairs"], *last["sentences"].values()}
        if len(numbers) > 1 or cut["words"] != last["words"]:
            raise UserError(
                f"{split} of {job.folder} has {text['pairs']:,} pairs of text and {last['pairs']:,} binarised ones; "
                "were its files changed by hand? Move the folder away and type the same again"
            )


def _write_manifest(job: PairJob, rows: Sequence[Counts], known: Mapping[str, Any]) -> None:
    source, target = job.languages
    tests = [split for split in job.splits if split.startswith("test")]
    manifest = {
        **job.settings,
        "what": job.recipe.what,
        "source": source,
        "target": target,
        "tests": {split: f"raw/{split}.{target}" for split in tests},
        "test_names": {split: job.data.test_names.get(split, split) for split in tests},
        "generate": {
            "remove_bpe": "subword_nmt" if job.recipe.subwords == "bpe" else "sentencepiece",
            "tokenizer": "moses" if job.recipe.form == "tokenised" else None,
        },
        "lowercased": job.recipe.lowercased,
        "text": job.text.name,
        "subwords": job.learnt.name,
        "counts": list(rows),
        "versions": versions(*PACKAGES)["versions"],
        "archives": known,
        "sha256": {
            str(path.relative_to(job.folder)): sha256(path)
            for path in sorted(job.folder.glob("[!.]*")) + sorted(job.folder.glob("[!.]*/*"))
            if path.is_file() and path.suffix != ".log"
        },
    }
    write_atomically(job.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


# Files ---------------------------------------------------------------------------------------------------------------


@contextmanager
def lines_to(path: Path) -> Iterator[IO[str]]:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def with_bar(items: Iterable[Any], name: str, total: int) -> Iterator[Any]:
    """`items`, with a progress bar where somebody looks."""
    return iter(Progress(items, desc=name, total=total, unit="line", unit_scale=True))


def versions(*packages: str) -> dict[str, dict[str, str]]:
    """Of the packages that are installed."""
    return {"versions": {name: version for name in packages if (version := _version(name)) is not None}}


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
