"""Miniature archives of the corpora that `wff prepare` knows, in their true formats."""

import gzip
import io
import tarfile
from pathlib import Path

from weighted_freezing_fairseq.recipes import corpus


def tgz(members: dict[str, bytes | str | tarfile.TarInfo]) -> bytes:
    """A gzipped tar with these members in this order; a TarInfo is put in as it is (links, devices)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def link(name: str, goal: str, hard: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE if hard else tarfile.SYMTYPE, goal
    return info


def lines(sentences) -> str:
    return "".join(f"{sentence}\n" for sentence in sentences)


def sentences(language: str, count: int, seed: int = 1) -> dict[str, list[str]]:
    """Real sentences of both sides, by language: the embedded corpus."""
    sizes = {"train": count, "valid": 1, "test": 1}
    pairs = corpus.generate(f"{language}-en", seed=seed, sizes=sizes)["train"]
    return {language: [one for one, _ in pairs], "en": [other for _, other in pairs]}


def multi30k(folder: Path, train: int = 60, others: int = 5) -> Path:
    """The eight files of Multi30k, as they lie in its repository."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = sentences("de", train + 3 * others)
    begin = 0
    for name, count in (
        ("train", train),
        *((name, others) for name in ("val", "test_2016_flickr", "test_2017_flickr")),
    ):
        for language in ("de", "en"):
            data = lines(texts[language][begin : begin + count]).encode()
            (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(data, mtime=0))
        begin += count
    return folder
