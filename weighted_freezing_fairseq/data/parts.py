"""Two files of a corpus as sentence pairs: which lines are sentences, and which belong together.

`text` is one sentence a line. `tags` is the training format of IWSLT: lines about a talk are dropped, titles and
descriptions unwrapped. `xml` is that of test sets (IWSLT's .xml, WMT's .sgm): segments are paired by document and
number.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from ..errors import UserError
from . import lines
from .recipe import Part

Pair = tuple[str, str]
# Lines about a talk, not of it. Some end in their own tag, some stand alone.
_ABOUT = re.compile(r"\s*</?(url|talkid|keywords|speaker|reviewer|reviewers|translator|translators|doc)\b", re.I)
_WRAPPED = re.compile(r"\s*<(title|description)>(.*)</\1>\s*$", re.I | re.S)
# Every pattern for markup stops at the next tag, so that broken files take time in proportion to their size.
_TAG = re.compile(r"<(?P<end>/?)(?P<name>doc|seg)\b(?P<attributes>[^<>]*)(?P<closed>>?)", re.I)
_ATTRIBUTE = r"""(?<![\w-]){}\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
_DOCUMENT, _NUMBER = (re.compile(_ATTRIBUTE.format(name), re.I) for name in ("docid", "id"))
# Of forms that an earlier version read in another way: how they are read now, which stamps and manifests keep.
READING = {"tags": "entities resolved"}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]\w{1,31});", re.I | re.A)


def pairs(part: Part, source: Path, target: Path, counts: Counter[str]) -> Iterator[Pair]:
    """The sentence pairs of two files, stripped and otherwise as they are; `counts` says what was mended or dropped."""
    if part.form == "xml":
        yield from _by_number(part, _segments(source, counts), _segments(target, counts), counts)
    else:
        yield from _by_line(part, source, target, counts)


def _by_line(part: Part, source: Path, target: Path, counts: Counter[str]) -> Iterator[Pair]:
    """Line by line; where one side is longer nobody can know which lines belong together."""
    sides = [_sentences(path, part.form, counts) for path in (source, target)]
    for number, (one, other) in enumerate(zip_longest(*sides)):
        if one is None or other is None:
            more = 1 + sum(1 for side in sides for _ in side)
            longer, shorter = (source.name, target.name) if other is None else (target.name, source.name)
            raise UserError(
                f"{part.name} is misaligned: {longer} has {number + more:,} sentences and {shorter} {number:,}; "
                "fetch its archive again, or give another with --archive FILE"
            )
        yield one, other


def _sentences(path: Path, form: str, counts: Counter[str]) -> Iterator[str]:
    with path.open("rb") as file:
        for line in lines.read(file, counts):
            if form == "tags":
                if _ABOUT.match(line):
                    counts["lines about a talk"] += 1
                    continue
                if wrapped := _WRAPPED.match(line):
                    line = wrapped.group(2)
                line = _resolved(line, counts)
            yield line.strip()


def _resolved(text: str, counts: Counter[str]) -> str:
    """A sentence out of markup, its entities resolved. An ampersand that begins none stays."""
    # DEVIATION: the scripts of fairseq and of Xu et al. leave XML's entities as they are (`&amp;`), in IWSLT's training
    # set and in test sets. A sentence must be the same text wherever it stands, and a reference the sentence itself, so
    # they are resolved in both, in source and target, before tokens are counted.
    return lines.mended(_ENTITY.sub(lambda entity: html.unescape(entity[0]), text), counts)


def _segments(path: Path, counts: Counter[str]) -> dict[tuple[str, str], str]:
    """The segments of a test set by document and number."""
    with path.open("rb") as file:
        text = "\n".join(lines.read(file, counts))
    found: dict[tuple[str, str], str] = {}
    document, number, begin = "", "", 0  # of the segment that is open; no number: none is
    for tag in _TAG.finditer(text):
        opens_segment = not tag["end"] and tag["name"].lower() == "seg"
        if tag["end"] and tag["name"].lower() == "seg" and number:
            if (document, number) in found:
                counts["segments of the same number"] += 1
            else:
                sentence = text[begin : tag.start()].replace("\n", " ")
                found[document, number] = _resolved(sentence, counts).strip()
        elif number:
            counts["segments without an end"] += 1
        number = ""
        if opens_segment:
            number, begin = _attribute(_NUMBER, tag), tag.end()
            counts["segments without a number"] += not number
        elif not tag["end"]:
            document = _attribute(_DOCUMENT, tag) or document
    counts["segments without an end"] += bool(number)
    return found


def _attribute(pattern: re.Pattern[str], tag: re.Match[str]) -> str:
    """Its value in a tag; "" where the tag lacks it, or has no end."""
    value = pattern.search(tag["attributes"]) if tag["closed"] else None
    return next(filter(None, value.groups()), "").strip() if value else ""


def _by_number(
    part: Part, source: dict[tuple[str, str], str], target: dict[tuple[str, str], str], counts: Counter[str]
) -> Iterator[Pair]:
    both = source.keys() & target.keys()
    counts["segments that one side lacks"] += len(source) + len(target) - 2 * len(both)
    if not both:
        raise UserError(
            f"{part.name} has {len(source):,} and {len(target):,} segments and none with the same document and number; "
            "are both sides of the same test set? Give the right archive with --archive FILE"
        )
    for key in source:
        if key in both:
            yield source[key], target[key]
