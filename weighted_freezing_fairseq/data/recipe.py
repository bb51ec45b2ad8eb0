"""What a data set and a recipe are, as values: which file holds what, and every choice that is made about the text.

A recipe has no code of its own: the steps (`steps.py`, `subwords.py`, `binary.py`) read its fields, the manifest keeps
them, and a process of the pool can be sent them. Left out on purpose: how a corpus is fetched and read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decode:
    """How hypotheses are searched: fairseq's own settings, the target at most max_len_a * source + max_len_b long."""

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200


@dataclass(frozen=True)
class Archive:
    """A gzipped file of a corpus: its name on the disk, and where it is, the best place first.

    A mirror `drive:ID` is a file of Google Drive.
    """

    name: str
    mirrors: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where one side of a part is: a key of `Dataset.archives`, and the member there ("": the archive is the file)."""

    archive: str
    member: str = ""


@dataclass(frozen=True)
class Part:
    """Two files that belong together, line by line, and the split that they go to, in the order of the parts."""

    name: str
    split: str
    source: Place
    target: Place
    form: str = "text"  # or `tags`, `xml`: see `parts.py`
    required: bool = True


@dataclass(frozen=True)
class Recipe:
    """What is done to the text; the defaults do nothing to it."""

    what: str
    pieces: int
    longest: int | None = None  # in Moses' tokens, on either side of a training pair; None: no pair is dropped
    ratio: float = 1.5  # of the longer side to the shorter one
    valid_every: int | None = None  # this training pair and every one so many further on is for validation ...
    valid_most: int | None = None  # ... until there are so many
    form: str = "untouched"  # or `tokenised`; `detokenised`: tokenised, lowercased, and put together again
    lowercased: bool = False
    straight_apostrophes: bool = False  # U+2019 -> ' in the test set, and only there
    subwords: str = "unigram"  # of SentencePiece; or `bpe`, of subword-nmt
    coverage: float = 1.0  # of the characters, by the pieces of SentencePiece
    learnt_on: tuple[str, ...] = ("train",)
    dictionary: str = "joined"  # or `separate`; `pieces`: every piece of the SentencePiece model, used or not
    pairs: tuple[str, ...] | None = None  # None: all of the data set
    about: Mapping[str, int] = field(default_factory=dict)  # pairs in each split of de-en, as others report them

    @property
    def changes_text(self) -> bool:
        """Whether the text that subwords are learnt on is another than the raw one."""
        return self.form != "untouched" or self.lowercased


@dataclass(frozen=True)
class Dataset:
    """A corpus: its pairs, its recipes (the first is the default), and where its files are."""

    name: str
    what: str
    pairs: tuple[str, ...]
    table: Mapping[str, Recipe]
    decode: Decode
    archives: Callable[[Sequence[str]], Mapping[str, tuple[Archive, ...]]]  # of pairs: what may serve, the best first
    parts: Callable[[str, str], tuple[Part, ...]]  # of a pair and a recipe
    nested: tuple[str, ...] = ()  # endings of archives inside the archives
    counts: Mapping[str, int] = field(default_factory=dict)  # pairs in each part, where that is beyond doubt
    test_names: Mapping[str, str] = field(default_factory=lambda: {"test": "test"})

    @property
    def recipes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.table)
