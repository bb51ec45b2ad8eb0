"""IWSLT'14: TED talks in eight languages, each to English; which files hold what, and three recipes.

The organisers' 2014-01.tgz holds an archive for each pair; fairseq mirrors the German one. The texts are CC BY-NC-ND.
All recipes keep the same pairs for training and validation, since all count lengths in Moses tokens.
"""

from collections.abc import Sequence

from .recipe import Archive, Dataset, Decode, Part, Place, Recipe

LANGUAGES = ("ar", "de", "es", "fa", "he", "it", "nl", "pl")
TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
_ALL = Archive("2014-01.tgz", ("drive:1GnBarJIbNgEIIDvUyKDtLmv35Qcxg6Ed", "drive:12HrS9S2DEvw746SosPojfgY5I6HXFVEA"))
_GERMAN = Archive(
    "de-en.tgz",
    (
        "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz",
        "http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz",
    ),
)


def archives(pairs: Sequence[str]) -> dict[str, tuple[Archive, ...]]:
    """For each pair its own archive, if the user has it, or that of all pairs; German alone has an archive to fetch."""
    alternatives = {pair: (Archive(f"{pair}.tgz", ()), _ALL) for pair in pairs}
    if "de-en" in alternatives:
        alternatives["de-en"] = (_GERMAN, _ALL) if len(pairs) == 1 else (*alternatives["de-en"], _GERMAN)
    return alternatives


def parts(pair: str, recipe: str) -> tuple[Part, ...]:
    source, target = pair.split("-")
    train = [Place(pair, f"train.tags.{pair}.{language}") for language in (source, target)]
    tests = [
        Part(
            name, "test", *(Place(pair, f"IWSLT14.{name}.{pair}.{language}.xml") for language in (source, target)),
            form="xml", required=name != "TEDX.dev2012",
        )
        for name in TESTS
    ]  # fmt: skip
    return (Part("train", "train", train[0], train[1], form="tags"), *tests)


_CLEANING = {"longest": 175, "ratio": 1.5, "valid_every": 23}
_ABOUT = {"train": 160_239, "valid": 7283, "test": 6750}

IWSLT14 = Dataset(
    name="iwslt14",
    what="TED talks, 89,000 to 169,000 pairs to English (CC BY-NC-ND)",
    pairs=tuple(f"{language}-en" for language in LANGUAGES),
    table={
        "clean": Recipe(
            "cased, untokenised; SentencePiece learnt on train only, one dictionary",
            pieces=12_000,
            about=_ABOUT,
            **_CLEANING,
        ),
        "intra-distillation": Recipe(
            "Xu et al.: lowercased, untokenised; SentencePiece learnt on train, valid and test (a leak), its pieces "
            "are the dictionary",
            pieces=12_000,
            form="detokenised",
            lowercased=True,
            straight_apostrophes=True,
            coverage=0.99999995,
            learnt_on=("train", "valid", "test"),
            dictionary="pieces",
            about=_ABOUT,
            **_CLEANING,
        ),
        "fairseq": Recipe(
            "fairseq's prepare-iwslt14.sh: lowercased Moses tokens; joint BPE learnt on train, a dictionary a side",
            pieces=10_000,
            form="tokenised",
            lowercased=True,
            straight_apostrophes=True,
            subwords="bpe",
            dictionary="separate",
            pairs=("de-en",),
            about=_ABOUT,
            **_CLEANING,
        ),
    },
    decode=Decode(beam=5, lenpen=1.0),
    archives=archives,
    parts=parts,
    nested=("{pair}.tgz",),
)
