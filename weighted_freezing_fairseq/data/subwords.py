"""Subwords: SentencePiece's models or subword-nmt's BPE, learnt from files and applied to chunks of lines.

The model depends on the text only, not on its path or the number of threads. SentencePiece learns from an even sample
of at most a million lines, so that memory stays bounded.
"""

import ctypes
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import atomic_file, write_atomically
from . import lines

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MOST = 1_000_000  # lines that SentencePiece learns from, as in the recipe of Xu et al.
TOO_LONG = "lines too long to learn from"  # in the counts of `learn_pieces`
_BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")
_LONGEST = 4192  # bytes of a line; SentencePiece ignores longer ones


def learn_pieces(files: Sequence[Path], model: Path, pieces: int, coverage: float = 1.0, **more: Any) -> Counter[str]:
    """Writes a SentencePiece model of `files`; `more` are settings of its trainer.

    Returns:
        Numbers of lines, of lines that are too long, and of pieces.
    """
    import sentencepiece

    counts: Counter[str] = Counter()
    buffer = io.BytesIO()  # a model that SentencePiece writes to a file contains its path
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sample(files, counts),
            model_writer=buffer,
            vocab_size=pieces,
            character_coverage=coverage,
            hard_vocab_limit=False,  # a small text has fewer pieces; the manifest says how many
            num_threads=1,  # with more threads the order of sums, and so the pieces, may differ
            minloglevel=2,
            **more,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(f"SentencePiece cannot learn {pieces} pieces here ({error}); type another --pieces") from None
    write_atomically(model, buffer.getvalue())
    if sys.platform == "linux":  # glibc would keep the gigabytes that SentencePiece has freed; others lack malloc_trim
        getattr(ctypes.CDLL(None), "malloc_trim", lambda padding: None)(0)
    counts["pieces"] = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue()).get_piece_size()
    return counts


def _sample(files: Sequence[Path], counts: Counter[str]) -> Iterator[str]:
    """Yields every n-th line, with the smallest n that leaves at most MOST lines."""
    step = -(-sum(map(lines.count, files)) // MOST) or 1
    for number, line in enumerate(line for file in files for line in lines.texts(file)):
        if number % step == 0:
            counts["lines"] += 1
            counts[TOO_LONG] += len(line.encode()) > _LONGEST
            yield line


def learn_bpe(files: Sequence[Path], codes: Path, merges: int) -> Counter[str]:
    """Writes the merges that subword-nmt learns from the concatenated `files`."""
    from subword_nmt.learn_bpe import learn_bpe

    with atomic_file(codes) as part, part.open("w", encoding="utf-8", newline="\n") as out:
        learn_bpe(chain.from_iterable(map(lines.texts, files)), out, merges)
    return Counter({"lines": sum(map(lines.count, files)), "pieces": lines.count(codes) - 1})


def tag(language: str) -> str:
    """The symbol that says what language a source sentence has, as in fairseq's multilingual models."""
    return f"__{language}__"


def is_bpe(model: Path) -> bool:
    """Whether a file has codes of subword-nmt, which begin with their version."""
    return model.read_bytes()[:8] == b"#version"


def pieces_of(model: Path, texts: Sequence[str]) -> list[str]:
    """Splits lines into subwords, joined by spaces; `model` is one of SentencePiece, or a file of BPE codes."""
    return _splitter(model, model.stat().st_mtime_ns)(texts)


@lru_cache(maxsize=1)
def _splitter(model: Path, modified: int) -> Callable[[Sequence[str]], list[str]]:
    """The function that splits lines; `modified` is part of the key of the cache."""
    if is_bpe(model):
        from subword_nmt.apply_bpe import BPE

        with model.open(encoding="utf-8") as file:
            bpe = BPE(file)
        return lambda texts: [bpe.process_line(text) for text in texts]
    processor = _processor(model)
    return lambda texts: [" ".join(line) for line in processor.encode(list(texts), out_type=str, num_threads=1)]


def has_bytes(model: Path) -> bool:
    """Whether a SentencePiece model writes letters that it does not know as bytes."""
    processor = _processor(model)
    return any(map(processor.is_byte, range(processor.get_piece_size())))


def text_of_bytes(text: str) -> str:
    """Joins the pieces of SentencePiece that stand for bytes, as <0xC3><0xA9>, to letters; line ends become spaces."""

    def letters(run: re.Match[str]) -> str:
        return bytes.fromhex(run[0][3:-1].replace("><0x", "")).decode(errors="replace")

    return lines.clean(_BYTES.sub(letters, text), Counter())


def _processor(model: Path) -> "SentencePieceProcessor":
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def dictionary_of(model: Path) -> list[tuple[str, int]]:
    """Every piece of a SentencePiece model for fairseq's dictionary, except the symbols that fairseq adds."""
    processor = _processor(model)
    special = {processor.unk_id(), processor.bos_id(), processor.eos_id()}
    return [
        (processor.id_to_piece(number), 100) for number in range(processor.get_piece_size()) if number not in special
    ]
