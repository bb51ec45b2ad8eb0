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
_SEGMENT = re.compile(
    r'<doc\b[^>]*?docid\s*=\s*"(?P<doc>[^"]*)"|<seg\b[^>]*?id\s*=\s*"?(?P<seg>[^">\s]+)"?[^>]*>(?P<text>(?:(?!<seg\b).)*?)</seg>'
    r"|<seg\b(?P<open>)",
    re.I | re.S,
)


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
            yield line.strip()


def _segments(path: Path, counts: Counter[str]) -> dict[tuple[str, str], str]:
    """The segments of a test set by document and number, entities resolved."""
    found: dict[tuple[str, str], str] = {}
    document = ""
    with path.open("rb") as file:
        text = "\n".join(lines.read(file, counts))
    for match in _SEGMENT.finditer(text):
        if match["doc"] is not None:
            document = match["doc"]
        elif match["text"] is None:
            counts["segments without an end"] += 1
        elif (document, match["seg"]) in found:
            counts["segments of the same number"] += 1
        else:
            # DEVIATION: the scripts of fairseq and of Xu et al. leave XML's entities in test sets as they are
            # (`&amp;`). A reference must be the sentence itself, so they are resolved, in source and target.
            found[document, match["seg"]] = " ".join(html.unescape(match["text"]).split("\n")).strip()
    return found


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
