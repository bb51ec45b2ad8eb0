"""Multi30k (Elliott et al. 2016), task 1: image descriptions, one gzipped file a side, 29,000 / 1,014 / 1,000 / 1,000.

The texts derive from Flickr30k: research use.
"""

from collections.abc import Sequence

from .recipe import Archive, Dataset, Decode, Part, Place, Recipe

_MIRRORS = (
    "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/",
    "https://github.com/multi30k/dataset/raw/master/data/task1/raw/",
)
_TESTS = {"test": "test_2016_flickr", "test1": "test_2017_flickr"}
_FILES = {"train": "train", "valid": "val", **_TESTS}


def archives(pairs: Sequence[str]) -> dict[str, tuple[Archive, ...]]:
    languages = sorted({language for pair in pairs for language in pair.split("-")})
    names = [f"{name}.{language}.gz" for name in _FILES.values() for language in languages]
    return {name: (Archive(name, tuple(mirror + name for mirror in _MIRRORS)),) for name in names}


def parts(pair: str, recipe: str) -> tuple[Part, ...]:
    source, target = pair.split("-")
    return tuple(
        Part(name, split, Place(f"{name}.{source}.gz"), Place(f"{name}.{target}.gz")) for split, name in _FILES.items()
    )


MULTI30K = Dataset(
    name="multi30k",
    what="image descriptions, 29,000 pairs (research use)",
    pairs=("de-en", "en-de"),
    table={"clean": Recipe("cased, untokenised; SentencePiece learnt on train only, one dictionary", pieces=4000)},
    decode=Decode(beam=5, lenpen=1.0, max_len_a=1.2, max_len_b=10),
    archives=archives,
    parts=parts,
    counts={"train": 29_000, "val": 1014, "test_2016_flickr": 1000, "test_2017_flickr": 1000},
    test_names=_TESTS,
)
