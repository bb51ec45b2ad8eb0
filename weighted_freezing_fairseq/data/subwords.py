"""Subwords: SentencePiece's unigram model or subword-nmt's BPE, learnt from files, applied to a chunk of lines.

What is learnt depends on the text alone, not on where it lies or on the number of threads, and beyond a million lines
on an even sample, so that memory stays flat.
"""

import ctypes
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import atomic_file, write_atomically
from . import lines

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from subword_nmt.apply_bpe import BPE

MOST = 1_000_000  # lines that SentencePiece learns from; the recipe of Xu et al. has the same bound
_LONGEST = 4192  # bytes of a line; SentencePiece learns nothing from longer ones


def learn_pieces(files: Sequence[Path], model: Path, pieces: int, coverage: float = 1.0, **more: Any) -> Counter[str]:
    """A SentencePiece model of `files` (`more`: the trainer's own settings); what it saw, and what it could not use."""
    import sentencepiece

    seen: Counter[str] = Counter()
    written = io.BytesIO()  # a model on the disk would remember its path
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sample(files, seen),
            model_writer=written,
            vocab_size=pieces,
            character_coverage=coverage,
            hard_vocab_limit=False,  # little text has fewer; the manifest says how many
            num_threads=1,  # with more, the order of sums and so the pieces may differ
            minloglevel=2,
            **more,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(f"SentencePiece cannot learn {pieces} pieces here ({error}); type another --pieces") from None
    write_atomically(model, written.getvalue())
    _give_memory_back()
    seen["pieces"] = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()).get_piece_size()
    return seen


def _sample(files: Sequence[Path], seen: Counter[str]) -> Iterator[str]:
    """Every n-th line, where n is the smallest that leaves MOST."""
    step = -(-sum(map(lines.count, files)) // MOST) or 1
    for number, line in enumerate(line for file in files for line in lines.texts(file)):
        if number % step == 0:
            seen["lines"] += 1
            seen["lines too long to learn from"] += len(line.encode()) > _LONGEST
            yield line


def _give_memory_back() -> None:
    """To the system: glibc would keep the gigabytes that SentencePiece has freed until this process ends."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda most: None)(0)  # other C libraries lack it


def learn_bpe(files: Sequence[Path], codes: Path, merges: int) -> Counter[str]:
    """The merges of subword-nmt, learnt from `files` one after the other."""
    from subword_nmt.learn_bpe import learn_bpe

    with atomic_file(codes) as part, part.open("w", encoding="utf-8", newline="\n") as out:
        learn_bpe(_Lines(files), out, merges)
    return Counter({"lines": sum(map(lines.count, files)), "pieces": lines.count(codes) - 1})


class _Lines:
    """Several files as one, for a library that looks whether it has to decode."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[str]:
        return (f"{line}\n" for file in self.files for line in lines.texts(file))


def pieces_of(model: str, changed: int, texts: Sequence[str]) -> list[str]:
    """A chunk of lines in pieces of SentencePiece; `changed`: when the model was written."""
    return [" ".join(pieces) for pieces in _processor(model, changed).encode(list(texts), out_type=str, num_threads=1)]


def bpe_of(codes: str, changed: int, texts: Sequence[str]) -> list[str]:
    """A chunk of lines in units of BPE."""
    bpe = _bpe(codes, changed)
    return [bpe.process_line(text) for text in texts]


@lru_cache(maxsize=1)
def _processor(model: str, changed: int) -> "SentencePieceProcessor":
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=model)


@lru_cache(maxsize=1)
def _bpe(codes: str, changed: int) -> "BPE":
    from subword_nmt.apply_bpe import BPE

    with Path(codes).open(encoding="utf-8") as file:
        return BPE(file)


def dictionary_of(model: Path) -> list[tuple[str, int]]:
    """Every piece of a SentencePiece model for fairseq's dictionary, but for those that fairseq has itself."""
    processor = _processor(str(model), model.stat().st_mtime_ns)
    names = (processor.id_to_piece(number) for number in range(processor.get_piece_size()))
    own = {processor.id_to_piece(number) for number in (processor.unk_id(), processor.bos_id(), processor.eos_id())}
    return [(name, 100) for name in names if name not in own]
