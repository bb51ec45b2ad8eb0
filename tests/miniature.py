"""Miniature archives of the corpora that `wff prepare` knows, in their true formats."""

import gzip
import io
import tarfile
from pathlib import Path

from weighted_freezing_fairseq.data import embedded as corpus


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


_ABOUT = """<url>http://example.org/talk/{number}</url>
<keywords>talks, science</keywords>
<speaker>A. Speaker</speaker>
<talkid>{number}</talkid>
"""


def tags(sentences: list[str], talk: int = 10) -> str:
    """The training format of IWSLT: talks of `talk` sentences, of which the first two are title and description."""
    text = ""
    for number, begin in enumerate(range(0, len(sentences), talk), 1):
        title, *rest = sentences[begin : begin + talk]
        text += _ABOUT.format(number=number) + f"<title>{title}</title>\n"
        if rest:
            text += f"<description>{rest[0]}</description>\n" + "".join(f" {line} \n" for line in rest[1:])
        text += f'<reviewer href="http://example.org/{number}">A. Reviewer</reviewer>\n<translator>A. T.</translator>\n'
    return text


def xml(sentences: list[str], name: str, language: str, escape: bool = True) -> str:
    """A test set of IWSLT: one document, entities where XML needs them."""
    told = [line.replace("&", "&amp;").replace("<", "&lt;") if escape else line for line in sentences]
    segments = "".join(f'<seg id="{number}"> {line} </seg>\n' for number, line in enumerate(told, 1))
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n<srcset setid="{name}" srclang="{language}">\n'
        f'<doc docid="535" genre="lectures">\n<talkid>535</talkid>\n<title>A title</title>\n{segments}</doc>\n'
        "</srcset>\n</mteval>\n"
    )


TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def iwslt14_texts(language: str, train: int = 60, test: int = 3) -> dict[str, dict[str, list[str]]]:
    """Sentences of each part: train and the five test sets."""
    texts = sentences(language, train + test * len(TESTS))
    cuts = {"train": slice(0, train)}
    cuts |= {name: slice(train + number * test, train + (number + 1) * test) for number, name in enumerate(TESTS)}
    return {part: {side: lines[cut] for side, lines in texts.items()} for part, cut in cuts.items()}


def iwslt14_files(language: str, texts: dict[str, dict[str, list[str]]]) -> dict[str, str]:
    """What the archive of one pair holds, by name."""
    pair = f"{language}-en"
    made = {f"{pair}/README": "terms of use\n"}
    for part, sides in texts.items():
        for side, text in sides.items():
            if part == "train":
                made[f"{pair}/train.tags.{pair}.{side}"] = tags(text)
            else:
                made[f"{pair}/IWSLT14.{part}.{pair}.{side}.xml"] = xml(text, part, side)
    return made


def iwslt14(folder: Path, languages=("de",), train: int = 60, test: int = 3) -> Path:
    """The organisers' archive of all pairs, each in an archive of its own."""
    members = {"2014-01/texts/README": "all pairs\n"}
    for language in languages:
        inner = tgz(iwslt14_files(language, iwslt14_texts(language, train, test)))
        members[f"2014-01/texts/{language}/en/{language}-en.tgz"] = inner
        members[f"2014-01/texts/en/{language}/en-{language}.tgz"] = b"not this one"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "2014-01.tgz"
    path.write_bytes(tgz(members))
    return path


def sgm(sentences: list[str], side: str) -> str:
    """A news test set of WMT: two documents whose numbers begin anew."""
    half = len(sentences) // 2
    documents = "".join(
        f'<doc sysid="ref" docid="{name}" genre="news" origlang="en">\n<hl>\n'
        + "".join(f'<seg id="{number}">{line.replace("&", "&amp;")}</seg>\n' for number, line in enumerate(part, 1))
        + "</hl>\n</doc>\n"
        for name, part in (("a-1", sentences[:half]), ("b-2", sentences[half:]))
    )
    return f'<{side}set setid="newstest" srclang="any">\n{documents}</{side}set>\n'


def wmt17(folder: Path, each: int = 40, news: int = 6) -> Path:
    """Its six archives, with other languages in them too."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = sentences("de", 4 * each + 2 * news)
    files = {
        "training-parallel-europarl-v7.tgz": "training/europarl-v7",
        "training-parallel-commoncrawl.tgz": "commoncrawl",
        "training-parallel-nc-v12.tgz": "training/news-commentary-v12",
        "rapid2016.tgz": "rapid2016",
    }
    begin = 0
    for archive, name in files.items():
        members: dict = {f"{name}.cs-en.cs": "Dobrý den.\n", f"{name}.cs-en.en": "Hello.\n"}
        members |= {f"{name}.de-en.{side}": lines(texts[side][begin : begin + each]) for side in ("de", "en")}
        (folder / archive).write_bytes(tgz(members))
        begin += each
    for archive, name in (("dev.tgz", "dev/newstest2016-ende"), ("test-full.tgz", "test-full/newstest2014-deen")):
        part = {side: texts[side][begin : begin + news] for side in ("de", "en")}
        members = {f"{name}-src.en.sgm": sgm(part["en"], "src"), f"{name}-ref.de.sgm": sgm(part["de"], "ref")}
        (folder / archive).write_bytes(tgz(members))
        begin += news
    return folder
