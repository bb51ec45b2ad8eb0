"""A pretrained encoder as fairseq publishes it: a folder of weights, a dictionary, and the files of its subwords.

RoBERTa has GPT-2's bytes, which fairseq itself encodes; XLM-R has SentencePiece. Left out on purpose: downloads, and
what is in the weights.
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
# The files of the subwords, by the name of the recipe that data in them goes under.
KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"roberta": ("encoder.json", "vocab.bpe"), "xlmr": ("sentencepiece.bpe.model",)}
)


@dataclass(frozen=True)
class Encoder:
    """One folder, and which of KINDS it is."""

    folder: Path
    kind: str

    @classmethod
    def of(cls, folder: Path) -> "Encoder":
        """What the user gave as --encoder."""
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}; give --encoder the unpacked roberta.base or xlmr.base of fairseq"
            )
        kinds = [kind for kind, files in KINDS.items() if all((folder / name).is_file() for name in files)]
        if not (folder / DICTIONARY).is_file() or len(kinds) != 1:
            wanted = " or ".join(", ".join((DICTIONARY, *files)) for files in KINDS.values())
            raise UserError(f"{folder} is no encoder of one kind: --encoder needs a folder with {wanted}")
        return cls(folder.resolve(), kinds[0])

    @property
    def dictionary(self) -> Path:
        """fairseq's."""
        return self.folder / DICTIONARY

    @property
    def weights(self) -> Path:
        """The checkpoint that training starts from."""
        if not (self.folder / WEIGHTS).is_file():
            raise UserError(f"{self.folder} has no {WEIGHTS}; give --encoder a folder of fairseq's with its weights")
        return self.folder / WEIGHTS

    @property
    def files(self) -> tuple[Path, ...]:
        """All that decides how text is cut and numbered."""
        return (self.dictionary, *(self.folder / name for name in KINDS[self.kind]))

    @cached_property
    def sums(self) -> dict[str, str]:
        """The SHA-256 of each of them, by its name."""
        return {path.name: sha256(path) for path in self.files}


def pieces_of(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """A chunk of lines in subwords, with spaces between."""
    if encoder.kind == "xlmr":
        model = encoder.folder / KINDS["xlmr"][0]
        return subwords.pieces_of(str(model), model.stat().st_mtime_ns, texts)
    bpe = _gpt2(*(str(encoder.folder / name) for name in KINDS["roberta"]))
    return [" ".join(map(str, bpe.encode(text))) for text in texts]


@lru_cache(maxsize=1)
def _gpt2(names: str, merges: str) -> Any:
    # A process of the pool says what `wff` keeps to itself: that a speech task of fairseq would like another package.
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    return get_encoder(names, merges)
