"""The folder of one language pair, made in four steps: corpus, cleaning, subwords, binarising; then the manifest.

Every step streams, so that memory does not grow with the corpus. A killed run continues with the step that it was in.
The manifest has the same bytes for the same archives, recipe and package versions.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import atomic_folder
from ..workspace.contents import manifest_of, split_pairs
from ..workspace.progress import say
from . import archives, binary, lines, parts, subwords
from .cleaning import clean_evaluation, clean_training
from .folder_job import Counts, FolderJob, versions
from .recipe import Dataset, Part, Recipe
from .workers import Workers, chunks

_SPLIT_ORDER = ("train", "valid", "test")
_SUBWORD_FIELDS = ("pieces", "subwords", "coverage", "learnt_on", "dictionary")  # of `Recipe`


@dataclass(frozen=True)
class PairJob(FolderJob):
    """One language pair, prepared by one recipe in `folder`."""

    data: Dataset
    recipe_name: str
    recipe: Recipe
    pair: str
    folder: Path
    any_counts: bool = False  # accept files with more or fewer pairs than expected
    limit: int | None = None  # use the first pairs of the training set only
    # How many training pairs of each language pair go to splits without files.
    held_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)  # what identifies the user's files
    tags: bool = False  # begin each source sentence with a symbol for its language

    first_step = "unpacked"
    outputs = ("raw", "text", "pieces", "bin")
    counts_form = {"step": str, "split": str, "pairs": int, "sentences": {str: int}}
    optional_settings = ("limit", "held_out", "pairs", "tags")

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        source, target = self.pair.split("-")
        return source, target

    def pair_of(self, part: Part) -> str:
        """The language pair of a part."""
        return part.pair or self.pair

    @property
    def pairs(self) -> tuple[str, ...]:
        """The language pairs of the parts: one, or several into the same language."""
        return tuple(dict.fromkeys(map(self.pair_of, self.parts)))

    def tag(self, pair: str) -> str:
        """The symbol that begins the source sentences of one of the pairs."""
        return subwords.tag(pair.partition("-")[0])

    def unpacked(self, part: Part) -> tuple[Path, Path]:
        """The files of source and target of a part."""
        source, target = self.pair_of(part).split("-")
        return self.folder / f".unpacked/{part.name}.{source}", self.folder / f".unpacked/{part.name}.{target}"

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the corpus that the recipe reads."""
        return self.data.parts(self.pair, self.recipe_name)

    @property
    def splits(self) -> list[str]:
        """train, valid, test, and further tests in fairseq's order."""
        splits = {part.split for part in self.parts} | ({"valid"} if self.recipe.valid_every else set())
        splits |= {split for numbers in self.held_out.values() for split in numbers}
        return sorted(splits, key=lambda split: (_SPLIT_ORDER.index(split.rstrip("0123456789")), split))

    @property
    def text_folder(self) -> Path:
        """The folder of the cleaned text: the raw one if the recipe does not change the text."""
        return self.folder / ("text" if self.recipe.changes_text else "raw")

    @property
    def subword_model(self) -> Path:
        """The file of the learnt subwords."""
        return self.folder / ("bpe.codes" if self.recipe.subwords == "bpe" else "spm.model")

    @property
    def settings(self) -> dict[str, Any]:
        recipe = {key: value for key, value in asdict(self.recipe).items() if key not in ("what", "about", "pairs")}
        reading = {part.form: parts.READING[part.form] for part in self.parts if part.form in parts.READING}
        return {
            "dataset": self.data.name,
            "recipe": self.recipe_name,
            "pair": self.pair,
            "steps": json.loads(json.dumps(recipe)),  # comparable with what is read back: lists instead of tuples
            **({"reading": reading} if reading else {}),
            **({"limit": self.limit} if self.limit else {}),
            **({"held_out": {pair: dict(numbers) for pair, numbers in self.held_out.items()}} if self.held_out else {}),
            **({"inputs": dict(self.inputs)} if self.inputs else {}),
            **({"pairs": list(self.pairs)} if len(self.pairs) > 1 else {}),
            **({"tags": True} if self.tags else {}),
        }

    @property
    def text_settings(self) -> dict[str, Any]:
        """The settings without those of the subwords: the text stays when the subwords are learnt anew."""
        recipe = self.settings["steps"].items()
        return {**self.settings, "steps": {key: value for key, value in recipe if key not in _SUBWORD_FIELDS}}

    def summary(self) -> str:
        """The number of pairs in each split of the finished folder."""
        manifest = manifest_of(self.folder)
        names = manifest["test_names"]
        return " / ".join(f"{pairs:,} {names.get(split, split)}" for split, pairs in split_pairs(manifest).items())


@dataclass(frozen=True)
class ArchiveFile:
    """An archive on the disk, and its size and hash for the manifest."""

    path: Path
    identity: Mapping[str, Any]

    @property
    def identities(self) -> Mapping[Path, Mapping[str, Any]]:
        """Size and hash of each file."""
        return {self.path: self.identity}


@dataclass(frozen=True)
class UnpackedArchive:
    """The members of an archive that was unpacked by hand, and the size and hash of each file.

    path: the first file, for messages.
    """

    path: Path
    members: Mapping[str, Path]
    identities: Mapping[Path, Mapping[str, Any]]


Sources = Mapping[str, ArchiveFile | UnpackedArchive]


def make(job: PairJob, sources: Sources, workers: Workers) -> None:
    """Makes the folder of a pair.

    Args:
        sources: the file of each archive that the parts of the pair name.
    """
    counts = [*read_corpus(job, sources), *clean(job, workers)]
    counts += segment(job, workers, counts)
    counts += binarise(job, workers)
    _check_counts(job, counts)
    _write_manifest(job, counts, sources)


def read_corpus(job: PairJob, sources: Sources) -> list[Counts]:
    """Step 1: copies the files of the pair out of the archives, to .unpacked/PART.LANGUAGE."""
    settings = {**job.text_settings, "archives": _identities(job, sources)}
    return job.run_step("unpacked", partial(_unpack, job, sources), settings)


def clean(job: PairJob, workers: Workers) -> list[Counts]:
    """Step 2: writes the sentence pairs that the recipe keeps, to raw/, and their cleaned text to text/."""
    settings = {**job.text_settings, "versions": versions("sacremoses")}
    counts = job.run_step("text", partial(_clean, job, workers), settings, reset=("unpacked", "text"))
    shutil.rmtree(job.folder / ".unpacked", ignore_errors=True)
    return counts


def segment(job: PairJob, workers: Workers, text_counts: Sequence[Counts]) -> list[Counts]:
    """Step 3: learns the subwords, and writes the text in subwords to pieces/."""
    settings = {**job.settings, "versions": versions("sentencepiece", "subword-nmt")}
    counts = job.run_step("subwords", partial(_learn_subwords, job, workers), settings)
    by_pair = {row["split"]: row["by_pair"] for row in text_counts if "by_pair" in row}
    return counts + job.run_step("pieces", partial(_write_pieces, job, workers, by_pair))


def binarise(job: PairJob, workers: Workers) -> list[Counts]:
    """Step 4: writes fairseq's data to bin/, with the recipe's dictionaries."""
    return job.run_step("binarised", partial(_binarise, job, workers))


# 1. Corpus -----------------------------------------------------------------------------------------------------------


def _identities(job: PairJob, sources: Sources) -> dict[str, Any]:
    names = sorted({side.archive for part in job.parts for side in part.sides})
    files = {path: identity for name in names for path, identity in sources[name].identities.items()}
    distinct = len({path.name for path in files}) == len(files)
    return {path.name if distinct else str(path): dict(identity) for path, identity in files.items()}


def _unpack(job: PairJob, sources: Sources) -> list[Counts]:
    """Reads each archive once."""
    counts: list[Counts] = []
    nested = [name.format(pair=job.pair) for name in job.data.nested]
    with atomic_folder(job.folder / ".unpacked") as folder:
        for name, source in sources.items():
            targets: dict[str, Path] = {}
            copies: list[tuple[Path, Path]] = []  # of what several pairs share, such as their target
            for part in job.parts:
                for side, path in zip(part.sides, job.unpacked(part), strict=True):
                    if side.archive == name and side.member in targets:
                        copies.append((targets[side.member], folder / path.name))
                    elif side.archive == name:
                        targets[side.member] = folder / path.name
            if not targets:
                continue
            say(f"{job.pair}: reading {source.path.name}")
            if isinstance(source, UnpackedArchive):
                extracted = archives.copy_files(source.members, targets)
            else:
                extracted = job.data.copy_out(source.path, targets, nested)
            for written, copy in copies:
                shutil.copyfile(written, copy)
            for reason, times in sorted(extracted.skipped.items()):
                say(f"{job.pair}: {source.path.name} has {times:,} x {reason}: skipped")
                counts.append({"step": "unpacked", "archive": source.path.name, "left_alone": reason, "times": times})
            for part in job.parts:
                members = [side.member for side in part.sides if side.archive == name]
                missing = [member for member in members if member not in extracted.members]
                if missing and part.required:
                    raise archives.missing_member(source.path, missing[0], extracted)
                if missing:
                    say(f"{job.pair}: {source.path.name} has no {', '.join(missing)}: {part.split} lacks {part.name}")
                    counts.append({"step": "unpacked", "split": part.split, "missing": part.name})
    return counts


# 2. Cleaning ---------------------------------------------------------------------------------------------------------


def _clean(job: PairJob, workers: Workers) -> list[Counts]:
    counts: list[Counts] = []
    with ExitStack() as stack:
        names = ["raw", "text"] if job.recipe.changes_text else ["raw"]
        folders = [stack.enter_context(atomic_folder(job.folder / name)) for name in names]
        for split in dict.fromkeys(part.split for part in job.parts):
            counts += _clean_split(job, workers, split, folders, counts)
        if job.data.disjoint:
            _drop_overlap(job, folders, counts)
    return counts


def _read_part(job: PairJob, part: Part, counts: list[Counts]) -> Iterator[parts.Pair]:
    """Yields the sentence pairs of a part, up to the job's limit on training pairs of its languages.

    Appends the number of pairs and of repaired lines to `counts`.
    """
    source, target = job.unpacked(part)
    if not (source.is_file() and target.is_file()):
        return  # an optional part, reported by `_unpack`
    repairs: Counter[str] = Counter()
    number = 0
    pairs = parts.pairs(part, source, target, repairs)
    if job.limit and part.split == "train":
        alike = {other.name for other in job.parts if other.split == "train" and other.pair == part.pair}
        read = sum(row["pairs"] for row in counts if row["step"] == "read" and row["part"] in alike)
        pairs = islice(pairs, job.limit - read)
    for pair in lines.with_bar(pairs, f"{job.pair} {part.name}", lines.count(source)):
        number += 1
        yield pair
    repairs_made = {what: times for what, times in sorted(repairs.items()) if times}
    if repairs_made:
        say(f"{job.pair}: {part.name}: " + ", ".join(f"{times:,} x {what}" for what, times in repairs_made.items()))
    counts.append({"step": "read", "split": part.split, "part": part.name, "pairs": number, "found": repairs_made})
    expected = job.data.counts.get(part.name)
    if expected is not None and number != expected and not (job.any_counts or job.limit):
        raise UserError(
            f"{part.name} has {number:,} pairs and should have {expected:,}: is an archive incomplete, or another "
            "version? Give another with --archive, or accept this one with --any-counts"
        )
    if number == 0 and not job.limit:
        raise UserError(f"{part.name} has no sentence in it; {part.remedy}")


def _clean_split(
    job: PairJob, workers: Workers, split: str, folders: Sequence[Path], read_counts: list[Counts]
) -> list[Counts]:
    """Writes the pairs of a split that the recipe keeps to `folders`: raw, and the cleaned text if there is a second.

    Training pairs at regular distances go to the validation set instead, or to the splits that the job holds out.
    """
    is_training = split == "train"
    clean_chunk = partial(_clean_chunk, job.recipe, clean_training if is_training else clean_evaluation)
    held_out = {pair: _held_out(job, pair) for pair in job.pairs} if is_training else {}
    expected = ["train", *(["valid"] if job.recipe.valid_every else []), *chain(*job.held_out.values())]
    pairs_in: dict[str, Counter[str]] = {name: Counter() for name in (expected if is_training else [split])}
    dropped: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    empty = 0
    read = (
        (job.pair_of(part), chunk)
        for part in job.parts
        if part.split == split
        for chunk in chunks(_read_part(job, part, read_counts))
    )
    with ExitStack() as stack:

        def writer(split: str) -> Callable[[Sequence[str]], None]:
            paths = [folder / f"{split}.{language}" for folder in folders for language in job.languages]
            return stack.enter_context(lines.writer(paths))

        writers = {split: writer(split)}
        for (languages, chunk), cleaned in workers.map_with_input(clean_chunk, read):
            every, splits = held_out.get(languages, (0, iter(())))
            for pair, (reason, text) in zip(chunk, cleaned, strict=True):
                if reason:
                    dropped[reason] += 1
                    continue
                numbers[languages] += 1
                empty += not all(pair)
                texts = (*pair, *text) if len(folders) == 2 else pair
                goal = next(splits, split) if every and numbers[languages] % every == 0 else split
                if goal not in writers:
                    writers[goal] = writer(goal)
                writers[goal](texts)
                pairs_in[goal][languages] += 1
    counts = [_split_counts(job, name, by_pair, dropped if name == split else {}) for name, by_pair in pairs_in.items()]
    if not is_training:
        counts[0]["kept"] = {"an empty side": empty} if empty else {}
    if empty:
        say(f"{job.pair}: {split}: {empty:,} pairs have an empty side; they stay, to be scored")
    return counts


def _clean_chunk(
    recipe: Recipe, clean: Callable[..., list[tuple[str, parts.Pair]]], item: tuple[str, list[parts.Pair]]
) -> list[tuple[str, parts.Pair]]:
    languages, pairs = item
    return clean(recipe, languages.split("-"), pairs)


def _held_out(job: PairJob, languages: str) -> tuple[int, Iterator[str]]:
    """The distance between two held-out training pairs of these languages, and the split of each of them.

    Raises:
        UserError: the corpus is too small for what the job holds out.
    """
    if job.recipe.valid_every:
        return job.recipe.valid_every, repeat("valid", *filter(None, [job.recipe.valid_most]))
    held_out = job.held_out.get(languages, {})
    total = sum(held_out.values())
    if not total:
        return 0, iter(())
    training = [part for part in job.parts if part.split == "train" and job.pair_of(part) == languages]
    lines_read = sum(lines.count(job.unpacked(part)[0]) for part in training)
    pairs = min(lines_read, job.limit or lines_read)
    every = pairs // total
    if pairs and every < 2:
        raise UserError(
            f"{total:,} of {pairs:,} pairs of {languages} cannot be set apart; type smaller --valid-lines and "
            "--test-lines, or give --valid and --test files"
        )
    # Each split is spread over the whole corpus.
    order = sorted((number / count, name) for name, count in held_out.items() for number in range(count))
    return every, iter([name for _, name in order])


def _drop_overlap(job: PairJob, folders: Sequence[Path], counts: list[Counts]) -> None:
    """Removes training pairs whose source sentence is in another split, and corrects the counts.

    Of several language pairs, those whose target is in another split, too: texts with translations in several languages
    would show a test set's references in training.
    """
    several = len(job.pairs) > 1
    row = next(row for row in counts if row["step"] == "text" and row["split"] == "train")
    overlaps = bytearray(row["pairs"])  # a byte a pair
    for language in job.languages if several else job.languages[:1]:
        others = [folders[0] / f"{split}.{language}" for split in job.splits if split != "train"]
        seen = {lines.hash_of(text) for path in others for text in lines.texts(path)}
        for number, text in enumerate(lines.texts(folders[0] / f"train.{language}")):
            overlaps[number] |= lines.hash_of(text) in seen
    if not any(overlaps):
        return
    for path in [folder / f"train.{language}" for folder in folders for language in job.languages]:
        kept = path.with_name(f"{path.name}.kept")
        with lines.writer([kept]) as write:
            for text, overlap in zip(lines.texts(path), overlaps, strict=True):
                if not overlap:
                    write([text])
        kept.replace(path)
    reason = f"a source {'or a target ' if several else ''}that is in another split"
    row["pairs"] -= sum(overlaps)
    row["dropped"][reason] = sum(overlaps)
    say(f"{job.pair}: {sum(overlaps):,} training pairs dropped for {reason}")
    by_pair = row.get("by_pair", {job.pair: len(overlaps)})
    first = 0
    for pair, number in by_pair.items():
        by_pair[pair] -= sum(overlaps[first : first + number])
        first += number
        if by_pair[pair] == 0:
            raise UserError(f"every training pair of {pair} is in another split, too; give other --train files")


def _split_counts(job: PairJob, split: str, by_pair: Mapping[str, int], dropped: Mapping[str, int]) -> Counts:
    """The counts of a split, printed beside the published ones where the recipe knows them."""
    dropped = dict(sorted(dropped.items()))
    losses = "".join(f", {times:,} dropped for {reason}" for reason, times in dropped.items())
    pairs = sum(by_pair.values())
    if pairs == 0:
        remedies = {part.split: part.remedy for part in reversed(job.parts)}
        raise UserError(f"nothing is left for {split} of {job.pair}{losses}; {remedies.get(split, remedies['train'])}")
    published = job.recipe.about.get(split) if job.pair == "de-en" else None
    comparison = "" if published is None else f" (published: {published:,})"
    say(f"{job.pair}: {split} has {pairs:,} pairs{comparison}{losses}")
    several = {"by_pair": dict(by_pair)} if len(job.pairs) > 1 else {}
    return {"step": "text", "split": split, "pairs": pairs, **several, "dropped": dropped}


# 3. Subwords ---------------------------------------------------------------------------------------------------------


def _learn_subwords(job: PairJob, workers: Workers) -> list[Counts]:
    """Learns in a worker process, so that several pairs can learn at a time."""
    recipe = job.recipe
    splits = [split for split in job.splits if split.rstrip("0123456789") in recipe.learnt_on]
    files = [job.text_folder / f"{split}.{language}" for split in splits for language in job.languages]
    say(f"{job.pair}: learning {recipe.pieces:,} subwords on {', '.join(splits)}")
    if recipe.subwords == "bpe":
        counts = workers.call(subwords.learn_bpe, files, job.subword_model, recipe.pieces)
    else:
        settings = {"model_type": "bpe", "byte_fallback": True} if recipe.subwords == "byte-bpe" else {}
        learn = partial(subwords.learn_pieces, **settings)
        counts = workers.call(learn, files, job.subword_model, recipe.pieces, recipe.coverage)
    if counts[subwords.TOO_LONG]:
        say(f"{job.pair}: {counts[subwords.TOO_LONG]:,} lines are too long to learn subwords from")
    if counts["pieces"] < recipe.pieces:
        say(f"{job.pair}: the text yields only {counts['pieces']:,} subwords")
    return [{"step": "subwords", "learnt_on": splits, **{what: number for what, number in counts.items() if number}}]


def _write_pieces(job: PairJob, workers: Workers, by_pair: Mapping[str, Mapping[str, int]]) -> list[Counts]:
    """Writes the splits in subwords; `by_pair` are the numbers of consecutive lines of each language pair."""
    split_chunk = partial(subwords.pieces_of, job.subword_model)
    counts = []
    with atomic_folder(job.folder / "pieces") as folder:
        for split in job.splits:
            words = dict.fromkeys(job.languages, 0)
            pairs = 0
            for language in job.languages:
                path = job.text_folder / f"{split}.{language}"
                texts = lines.with_bar(lines.texts(path), f"{job.pair} pieces {path.name}", lines.count(path))
                pairs = 0
                tags: Iterable[str] = repeat("")
                if job.tags and language == job.languages[0]:
                    tags = chain(*(repeat(f"{job.tag(pair)} ", number) for pair, number in by_pair[split].items()))
                with lines.writer([folder / path.name]) as write:
                    split_lines = chain.from_iterable(workers.map(split_chunk, chunks(texts)))
                    for prefix, line in zip(tags, split_lines, strict=False):
                        line = prefix + line
                        pairs += 1
                        words[language] += len(line.split())
                        write([line])
            counts.append({"step": "pieces", "split": split, "pairs": pairs, "words": words})
    return counts


# 4. Binarising -------------------------------------------------------------------------------------------------------


def _binarise(job: PairJob, workers: Workers) -> list[Counts]:
    say(f"{job.pair}: binarising")
    pieces = job.folder / "pieces"
    with atomic_folder(job.folder / "bin") as folder:
        for language, entries in zip(job.languages, _dictionaries(job, workers), strict=True):
            binary.save_dictionary(entries, folder / f"dict.{language}.txt")
        sides = [(split, language) for split in job.splits for language in job.languages]
        files = [
            (pieces / f"{split}.{language}", folder / f"dict.{language}.txt", folder / f"{split}.{job.pair}.{language}")
            for split, language in sides
        ]
        sizes = dict(zip(sides, workers.map(binary.write_and_check, files), strict=True))
    counts: list[Counts] = []
    for split in job.splits:
        row: Counts = {"step": "binarised", "split": split, "pairs": sizes[split, job.languages[0]]["sentences"]}
        for what in ("sentences", "words", "unknown"):
            row[what] = {language: sizes[split, language][what] for language in job.languages}
        counts.append(row)
    return counts


def _dictionaries(job: PairJob, workers: Workers) -> list[binary.Entries]:
    """The dictionaries of source and target."""
    if job.recipe.dictionary == "pieces":
        tags = [(job.tag(pair), 100) for pair in job.pairs] if job.tags else []
        return [subwords.dictionary_of(job.subword_model) + tags] * 2
    frequencies = list(
        workers.map(binary.word_counts, [job.folder / "pieces" / f"train.{language}" for language in job.languages])
    )
    if job.recipe.dictionary == "joined":
        return [binary.dictionary(frequencies)] * 2
    return [binary.dictionary([frequency]) for frequency in frequencies]


# Manifest ------------------------------------------------------------------------------------------------------------


def _check_counts(job: PairJob, counts: Sequence[Counts]) -> None:
    """Raises a UserError if a pair or a subword was lost between the text and the binarised data."""
    rows = {(row["step"], row.get("split")): row for row in counts}
    for split in job.splits:
        for step in ("text", "pieces", "binarised"):
            if (step, split) not in rows:
                raise UserError(
                    f"{job.folder} has no counts of {split} in .{step}.rows.json; move it away, and prepare it again"
                )
        text, pieces, binarised = (rows[step, split] for step in ("text", "pieces", "binarised"))
        numbers = {text["pairs"], pieces["pairs"], *binarised["sentences"].values()}
        if len(numbers) > 1 or pieces["words"] != binarised["words"]:
            raise UserError(
                f"{split} of {job.folder} has {text['pairs']:,} pairs of text and {binarised['pairs']:,} binarised "
                "ones; were its files changed by hand? Move the folder away and type the same command again"
            )


def _write_manifest(job: PairJob, counts: Sequence[Counts], sources: Sources) -> None:
    source, target = job.languages
    tests = [split for split in job.splits if split.startswith("test")]
    content = {
        "what": job.recipe.what,
        "source": source,
        "target": target,
        "tests": {split: f"raw/{split}.{target}" for split in tests},
        "test_names": {split: job.data.test_names.get(split, split) for split in tests},
        "generate": {
            "remove_bpe": "subword_nmt" if job.recipe.subwords == "bpe" else "sentencepiece",
            "tokenizer": "moses" if job.recipe.form == "tokenised" else None,
            **({"bytes": True} if job.recipe.subwords == "byte-bpe" else {}),
        },
        "lowercased": job.recipe.lowercased,
        "text": job.text_folder.name,
        "subwords": job.subword_model.name,
    }
    job.write_manifest(content, counts, archives=_identities(job, sources))
