"""`wff translate`: raw text in, detokenised text out, line by line, by a run's checkpoint or an ensemble of several.

The text goes through what the training data went through: the recipe's text steps and its subwords. A translation into
a file that was interrupted goes on after the lines that are done.
"""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..data import DATASETS, lines, read_manifest
from ..data.moses import detokenised
from ..data.recipe import Decode
from ..data.source_text import SourceText, source_text_of
from ..data.workers import chunks
from ..errors import UserError
from ..files import filename_in_errors, write_atomically
from ..forms import read_json
from ..scoring.interactive import Hypothesis, interactive
from ..scoring.translate import Pieces, pieces_of
from ..workspace.contents import MANIFEST, content_hash
from ..workspace.locks import lock_file
from ..workspace.machine import Machine
from ..workspace.progress import Progress, say
from ..workspace.runs import read_provenance
from ..workspace.trainings import binarised_in, checkpoint_of, data_of, is_run, settings_of
from .embedded import DECODE, EMBEDDED

_PLACEHOLDER = "."  # translated in place of a line that has no translation, so that every chunk is full
_LONGEST = 1024  # words that a model of fairseq reads unless its settings say otherwise


@dataclass(frozen=True)
class Translator:
    """What translates: checkpoints of the same data, how text becomes subwords and back, and the search.

    Args:
        checkpoints: several are an ensemble.
        data: binarised folder, for its dictionaries.
        longest: how many subwords of a sentence the models read, the end of the sentence included.
    """

    checkpoints: tuple[Path, ...]
    data: Path
    source: SourceText
    pieces: Pieces
    decode: Decode
    longest: int

    def text_of(self, hypothesis: Hypothesis) -> str:
        """The hypothesis as a reader wants it."""
        if self.pieces.tokenizer is None:
            return hypothesis.text
        return detokenised(hypothesis.text, self.source.languages[1])


# What translates -----------------------------------------------------------------------------------------------------


def translator_of(
    paths: Sequence[Path],
    choice: str | None = None,
    data: Path | None = None,
    subword_model: Path | None = None,
    search: Mapping[str, float] | None = None,
    language: str | None = None,
) -> Translator:
    """What run folders, save-dirs of fairseq or checkpoints translate with.

    Args:
        choice: of a folder's checkpoints: best, last or average; None: the best if there is one, else the last.
        data: the prepared or the binarised folder, where it was moved (default: as the training had it).
        subword_model: for data that this package has not prepared.
        search: fields of `Decode` that are not those of the recipe.
        language: of the text, for a model of several languages.
    """
    first, *others = trainings = [_Training.of(path, choice) for path in paths]
    binarised = binarised_in(data or first.data, first.checkpoint)
    for other in others:
        names = f"{other.checkpoint} and {first.checkpoint}"
        if data is None and content_hash(binarised_in(other.data, other.checkpoint)) != content_hash(binarised):
            raise UserError(f"{names} were trained on different data; an ensemble needs the same")
        if other.languages != first.languages:
            raise UserError(f"{names} translate different languages; an ensemble needs the same")
    folder, languages = binarised.parent, _languages(first, binarised)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        source = source_text_of(manifest, languages, subword_model or folder / manifest["subwords"], language)
        pieces = pieces_of(manifest)
        decode = DATASETS[manifest["dataset"]].decode if manifest["dataset"] in DATASETS else first.decode
    elif language is not None:
        raise UserError(f"{folder} does not say what languages it is made of; leave --language out")
    else:
        source = SourceText(languages, subword_model or _subword_model_near(binarised))
        pieces, decode = Pieces("subword_nmt" if source.is_bpe else "sentencepiece"), first.decode
    source.refuse_unusable()
    pieces = replace(pieces, bytes_to_text=source.has_bytes)
    checkpoints = tuple(training.checkpoint for training in trainings)
    longest = min(training.longest for training in trainings)
    return Translator(checkpoints, binarised, source, pieces, replace(decode, **(search or {})), longest)


@dataclass(frozen=True)
class _Training:
    """What is known of the training of a checkpoint.

    Args:
        languages: source and target; None where fairseq took them from the names of the data's files.
        decode: the search of its recipe.
        longest: how many subwords of a sentence the model reads.
    """

    checkpoint: Path
    data: Path
    languages: tuple[str | None, ...]
    decode: Decode
    longest: int

    @classmethod
    def of(cls, path: Path, choice: str | None) -> "_Training":
        """From a run folder, a save-dir of fairseq or a checkpoint."""
        checkpoint = checkpoint_of(path, choice)
        sections = settings_of(checkpoint)
        model, task = (sections.get(name, {}) for name in ("model", "task"))
        languages, decode = None, Decode()
        if is_run(path):
            about = read_provenance(path)
            languages = tuple(about["pair"].split("-"))
            decode = DECODE if about["dataset"] == EMBEDDED else decode
        lengths = [section.get("max_source_positions") or _LONGEST for section in (model, task)]
        languages = languages or (task.get("source_lang"), task.get("target_lang"))
        return cls(checkpoint, data_of(path, checkpoint), languages, decode, min(map(int, lengths)))


def _languages(training: _Training, binarised: Path) -> tuple[str, str]:
    """Source and target of a training, from the names of the data's files where nobody named them."""
    languages = training.languages
    if None in languages:
        names = (path.name.split(".") for path in sorted(binarised.glob("*.*-*.*")))
        languages = next((tuple(name[1].split("-")) for name in names if name[1].count("-") == 1), ())
    if len(languages) != 2:
        raise UserError(f"{binarised} does not say what languages it has; give --data a folder of fairseq-preprocess")
    return str(languages[0]), str(languages[1])


def _subword_model_near(binarised: Path) -> Path:
    """The SentencePiece model of a corpus that has no manifest: the embedded one keeps it above its folders."""
    for folder in binarised.parents[:2]:
        if (path := folder / "spm.model").is_file():
            return path
    raise UserError(
        f"{binarised.parent} does not say what {binarised} was cut into subwords with; add --subword-model FILE, a "
        "SentencePiece model or codes of subword-nmt"
    )


# Translation ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What is written of each sentence.

    Args:
        nbest: the number of translations, a line each.
        scores: put the score before each translation, separated by a tab.
        skip_long: leave the line of a sentence empty that has too many subwords; False: refuse it.
    """

    nbest: int = 1
    scores: bool = False
    skip_long: bool = False


def translate_lines(
    translator: Translator, sentences: Iterable[str], machine: Machine, chunk: int, form: Form, first: int = 0
) -> Iterator[list[str]]:
    """The lines of the output for each sentence, in their order; as many sentences at a time as `chunk` says.

    Args:
        sentences: without line ends.
        first: how many sentences came before them, for messages.
    """
    if form.nbest > translator.decode.beam:
        raise UserError(f"--nbest must be at most the beam, {translator.decode.beam}; type --beam {form.nbest}")
    arguments = (
        translator.checkpoints, translator.data, translator.source.languages, translator.decode, translator.pieces,
        machine, chunk, form.nbest,
    )  # fmt: skip
    number = first
    with interactive(*arguments) as process:
        for batch in chunks(sentences, chunk):
            pieces = translator.source.pieces([sentence.strip() for sentence in batch])
            readable = [_is_readable(translator, line, number + place, form) for place, line in enumerate(pieces, 1)]
            number += len(batch)
            to_translate = [line if good else _PLACEHOLDER for line, good in zip(pieces, readable, strict=True)]
            for hypotheses, good in zip(process.translate(to_translate), readable, strict=True):
                yield [_line(translator, hypothesis, form) if good else _empty(form) for hypothesis in hypotheses]


def _is_readable(translator: Translator, pieces: str, number: int, form: Form) -> bool:
    """Whether the model can read line `number`: it is not empty, and not too long, which is refused unless skipped."""
    length = len(pieces.split()) + 1
    if length <= translator.longest:
        return length > 1
    problem = f"line {number} has {length:,} subwords, and the model reads at most {translator.longest:,}"
    if not form.skip_long:
        raise UserError(f"{problem}; split the line, or add --skip-long to leave its translation empty")
    say(f"{problem}; its translation is left empty")
    return False


def _empty(form: Form) -> str:
    return "\t" if form.scores else ""


def _line(translator: Translator, hypothesis: Hypothesis, form: Form) -> str:
    text = translator.text_of(hypothesis)
    return f"{hypothesis.score:.4f}\t{text}" if form.scores else text


# Files ---------------------------------------------------------------------------------------------------------------


def translate_stream(
    translator: Translator, source: IO[bytes], output: IO[bytes], machine: Machine, chunk: int, form: Form
) -> int:
    """Translate a stream of lines; each chunk is written as soon as it is done. Returns the number of sentences."""
    sentences = lines.read(source, Counter())
    return _write(translate_lines(translator, sentences, machine, chunk, form), output, chunk)


def translate_file(translator: Translator, source: Path, output: Path, machine: Machine, chunk: int, form: Form) -> int:
    """Translate a file into a file, which appears when it is whole; goes on where an earlier call was interrupted.

    Returns the number of sentences that this call translated.
    """
    settings = {
        "input": content_hash(source),
        "checkpoints": [content_hash(path) for path in translator.checkpoints],
        "decode": asdict(translator.decode),
        "language": translator.source.language,
        **asdict(form),
    }
    part, stamp = (output.with_name(f".{output.name}.{name}") for name in ("part", "part.json"))
    with lock_file(output), filename_in_errors(output):
        done = _done(part, stamp, settings, form.nbest)
        if done:
            say(f"going on after {done:,} sentences of {source}")
        else:
            write_atomically(stamp, json.dumps(settings))
        total = lines.count(source)
        with source.open("rb") as stream, part.open("ab") as writer:
            sentences = islice(lines.read(stream, Counter()), done, None)
            rows = translate_lines(translator, sentences, machine, chunk, form, done)
            bar = Progress(rows, desc=source.name, unit="sentence", initial=done, total=total)
            count = _write(bar, writer, chunk)
        part.replace(output)
        stamp.unlink()
    return count


def _done(part: Path, stamp: Path, settings: Mapping[str, Any], nbest: int) -> int:
    """How many sentences an interrupted call has written to `part`, which is cut after the last of them."""
    if not stamp.is_file() or not part.is_file():
        part.unlink(missing_ok=True)
        return 0
    if dict(read_json(stamp, {}, f"type: rm {shlex.quote(str(stamp))}")) != settings:
        raise UserError(
            f"{part} holds a half-done translation of another input or by other settings; to start anew, type: "
            f"rm {shlex.quote(str(part))} {shlex.quote(str(stamp))}"
        )
    with part.open("rb+") as file:
        ends, size = [0], 0
        for line in file:
            size += len(line)
            ends.append(size)
        whole = (len(ends) - 1) - (size > 0 and not line.endswith(b"\n"))
        file.truncate(ends[whole - whole % nbest])
    return whole // nbest


def _write(rows: Iterable[list[str]], output: IO[bytes], chunk: int) -> int:
    count = 0
    for count, row in enumerate(rows, 1):
        output.write("".join(f"{line}\n" for line in row).encode())
        if count % chunk == 0:
            output.flush()
    output.flush()
    return count
