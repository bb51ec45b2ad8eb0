"""Data sets and recipes as values: which file holds what, and every choice about the text.

A recipe has no code of its own: the steps of `folder.py` read its fields, and the manifest keeps them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .archives import Extracted, copy_out

OWN = "own"  # the data set of the user's files (`own.py`)
MANY = "mul"  # the source language of a corpus of several pairs: "multiple languages" in ISO 639-2


@dataclass(frozen=True)
class Decode:
    """Settings of fairseq's beam search; a target has at most max_len_a * source length + max_len_b tokens."""

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200


@dataclass(frozen=True)
class Archive:
    """A gzipped file of a corpus: its file name, and its addresses, the best first (`drive:ID`: Google Drive)."""

    name: str
    mirrors: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where one side of a part is: a key of `Dataset.archives`, and a member ("": the archive is the file)."""

    archive: str
    member: str = ""


@dataclass(frozen=True)
class Part:
    """Two aligned files of a corpus, and their split; a split has the sentences of its parts in order."""

    name: str
    split: str
    source: Place
    target: Place
    form: str = "text"  # or `tags`, `xml`: see `parts.py`
    required: bool = True
    remedy: str = "fetch its archive again, or give another with --archive FILE"  # where its sentences are invalid
    pair: str = ""  # of its languages; "": that of the corpus

    @property
    def sides(self) -> tuple[Place, Place]:
        """Source and target."""
        return self.source, self.target


@dataclass(frozen=True)
class Recipe:
    """What is done to the text; the defaults leave it as it is."""

    what: str
    pieces: int  # subwords to learn
    longest: int | None = None  # Moses tokens on either side of a training pair; None: no pair is dropped
    ratio: float = 1.5  # largest ratio of the lengths of both sides of a training pair
    valid_every: int | None = None  # every n-th training pair goes to the validation set ...
    valid_most: int | None = None  # ... until it has so many
    form: str = "untouched"  # or `tokenised`; `detokenised`: tokenised, lowercased, and detokenised
    lowercased: bool = False
    straight_apostrophes: bool = False  # replace U+2019 by ' in test sets only
    subwords: str = "unigram"  # of SentencePiece; or `bpe`, of subword-nmt; `byte-bpe`: with bytes, of SentencePiece
    coverage: float = 1.0  # share of the characters that SentencePiece covers
    learnt_on: tuple[str, ...] = ("train",)
    dictionary: str = "joined"  # or `separate`; `pieces`: every piece of the SentencePiece model, used or not
    pairs: tuple[str, ...] | None = None  # None: all of the data set
    about: Mapping[str, int] = field(default_factory=dict)  # published number of pairs in each split of de-en

    @property
    def changes_text(self) -> bool:
        """Whether the cleaned text differs from the raw text."""
        return self.form != "untouched" or self.lowercased


@dataclass(frozen=True)
class Dataset:
    """A corpus: its pairs, its recipes (the first is the default), and where its files are."""

    name: str
    what: str
    pairs: tuple[str, ...]
    table: Mapping[str, Recipe]
    decode: Decode
    archives: Callable[[Sequence[str]], Mapping[str, tuple[Archive, ...]]]  # of pairs: alternatives, the best first
    parts: Callable[[str, str], tuple[Part, ...]]  # of a pair and a recipe
    nested: tuple[str, ...] = ()  # endings of archives inside the archives
    counts: Mapping[str, int] = field(default_factory=dict)  # pairs in each part, where it is certain
    test_names: Mapping[str, str] = field(default_factory=lambda: {"test": "test"})
    disjoint: bool = False  # drop training pairs whose source sentence is in another split
    copy_out: Callable[[Path, Mapping[str, Path], Sequence[str]], Extracted] = copy_out  # members to files

    @property
    def recipes(self) -> tuple[str, ...]:
        """The names of the recipes."""
        return tuple(self.table)
