"""A pretrained encoder as fairseq publishes it: a folder with weights, a dictionary, and the files of its subwords.

RoBERTa has GPT-2's byte-level BPE, which fairseq implements; XLM-R has SentencePiece.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import UserError
from . import subwords
from .fetch import sha256

WEIGHTS, DICTIONARY = "model.pt", "dict.txt"
# The files of the subwords by the kind of the encoder, which is also the recipe of data in these subwords.
KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"roberta": ("encoder.json", "vocab.bpe"), "xlmr": ("sentencepiece.bpe.model",)}
)


@dataclass(frozen=True)
class Encoder:
    """The folder of an encoder, and its kind, a key of KINDS."""

    folder: Path
    kind: str

    @classmethod
    def of(cls, folder: Path) -> "Encoder":
        """The encoder in the folder that the user gave as --encoder."""
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}; give --encoder the unpacked roberta.base or xlmr.base of fairseq"
            )
        kinds = [kind for kind, files in KINDS.items() if all((folder / name).is_file() for name in files)]
        if not (folder / DICTIONARY).is_file() or len(kinds) != 1:
            expected = " or ".join(", ".join((DICTIONARY, *files)) for files in KINDS.values())
            raise UserError(f"{folder} does not hold one encoder: --encoder needs a folder with {expected}")
        return cls(folder.resolve(), kinds[0])

    @property
    def dictionary(self) -> Path:
        """fairseq's dictionary."""
        return self.folder / DICTIONARY

    @property
    def weights(self) -> Path:
        """The checkpoint that training starts from."""
        if not (self.folder / WEIGHTS).is_file():
            raise UserError(f"{self.folder} has no {WEIGHTS}; give --encoder a folder that has the weights")
        return self.folder / WEIGHTS

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that decide the subwords of a text and their numbers."""
        return (self.dictionary, *(self.folder / name for name in KINDS[self.kind]))

    @cached_property
    def sums(self) -> dict[str, str]:
        """The SHA-256 of each of `files`, by name."""
        return {path.name: sha256(path) for path in self.files}


def pieces_of(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Splits lines into the encoder's subwords, joined by spaces."""
    if encoder.kind == "xlmr":
        return subwords.pieces_of(encoder.folder / KINDS["xlmr"][0], texts)
    bpe = _gpt2(*(str(encoder.folder / name) for name in KINDS["roberta"]))
    return [" ".join(map(str, bpe.encode(text))) for text in texts]


@lru_cache(maxsize=1)
def _gpt2(names: str, merges: str) -> Any:
    # `wff` silences the warning that a speech task of fairseq lacks a package; so must a worker process.
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    return get_encoder(names, merges)
