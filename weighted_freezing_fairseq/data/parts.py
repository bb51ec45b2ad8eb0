"""Reads two files of a corpus as sentence pairs.

Format `text` has one sentence a line. `tags` is the training format of IWSLT: lines about a talk are dropped, tags of
titles and descriptions removed. `xml` is that of test sets (IWSLT's .xml, WMT's .sgm): segments are paired by document
and number.
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
# Lines about a talk, with and without an end tag.
_METADATA = re.compile(r"\s*</?(url|talkid|keywords|speaker|reviewer|reviewers|translator|translators|doc)\b", re.I)
_WRAPPED = re.compile(r"\s*<(title|description)>(.*)</\1>\s*$", re.I | re.S)
# Patterns for markup stop at the next tag, so that the time for a broken file grows linearly with its size.
_TAG = re.compile(r"<(?P<end>/?)(?P<name>doc|seg)\b(?P<attributes>[^<>]*)(?P<closed>>?)", re.I)
_ATTRIBUTE = r"""(?<![\w-]){}\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
_DOCUMENT, _NUMBER = (re.compile(_ATTRIBUTE.format(name), re.I) for name in ("docid", "id"))
# Formats that earlier versions read in another way, and how they are read now; recorded in stamps and manifests.
READING = {"tags": "entities resolved"}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]\w{1,31});", re.I | re.A)


def pairs(part: Part, source: Path, target: Path, counts: Counter[str]) -> Iterator[Pair]:
    """Yields the sentence pairs of two files, stripped; `counts` gets the number of repaired and of dropped lines."""
    if part.form == "xml":
        yield from _by_number(part, _segments(source, counts), _segments(target, counts), counts)
    else:
        yield from _by_line(part, source, target, counts)


def _by_line(part: Part, source: Path, target: Path, counts: Counter[str]) -> Iterator[Pair]:
    """Pairs the sentences of equal numbers; raises a UserError if one file has more."""
    sides = [_sentences(path, part.form, counts) for path in (source, target)]
    for number, (source_text, target_text) in enumerate(zip_longest(*sides)):
        if source_text is None or target_text is None:
            more = 1 + sum(1 for side in sides for _ in side)
            longer, shorter = (source.name, target.name) if target_text is None else (target.name, source.name)
            raise UserError(
                f"{part.name} is misaligned: {longer} has {number + more:,} sentences and {shorter} {number:,}; "
                f"{part.remedy}"
            )
        yield source_text, target_text


def _sentences(path: Path, form: str, counts: Counter[str]) -> Iterator[str]:
    with path.open("rb") as file:
        for line in lines.read(file, counts):
            if form == "tags":
                if _METADATA.match(line):
                    counts["lines about a talk"] += 1
                    continue
                if wrapped := _WRAPPED.match(line):
                    line = wrapped.group(2)
                line = _resolve_entities(line, counts)
            yield line.strip()


def _resolve_entities(text: str, counts: Counter[str]) -> str:
    """Replaces the entities of a sentence in markup; other ampersands stay."""
    # DEVIATION: the scripts of fairseq and of Xu et al. leave XML entities (`&amp;`) as they are, in IWSLT's training
    # set and in test sets. A sentence must have the same text in every file, and a reference must be plain text, so
    # entities are resolved in all sets, in source and target, before tokens are counted.
    return lines.clean(_ENTITY.sub(lambda entity: html.unescape(entity[0]), text), counts)


def _segments(path: Path, counts: Counter[str]) -> dict[tuple[str, str], str]:
    """The segments of a test set by document and number."""
    with path.open("rb") as file:
        text = "\n".join(lines.read(file, counts))
    segments: dict[tuple[str, str], str] = {}
    document, number, begin = "", "", 0  # of the open segment; number "": no segment is open
    for tag in _TAG.finditer(text):
        is_segment = tag["name"].lower() == "seg"
        if is_segment and tag["end"] and number:
            if (document, number) in segments:
                counts["segments of the same number"] += 1
            else:
                sentence = text[begin : tag.start()].replace("\n", " ")
                segments[document, number] = _resolve_entities(sentence, counts).strip()
        elif number:
            counts["segments without an end"] += 1
        number = ""
        if is_segment and not tag["end"]:
            number, begin = _attribute(_NUMBER, tag), tag.end()
            counts["segments without a number"] += not number
        elif not tag["end"]:
            document = _attribute(_DOCUMENT, tag) or document
    counts["segments without an end"] += bool(number)
    return segments


def _attribute(pattern: re.Pattern[str], tag: re.Match[str]) -> str:
    """The value of an attribute; "" if the tag lacks it or is not closed."""
    value = pattern.search(tag["attributes"]) if tag["closed"] else None
    return next(filter(None, value.groups()), "").strip() if value else ""


def _by_number(
    part: Part, source: dict[tuple[str, str], str], target: dict[tuple[str, str], str], counts: Counter[str]
) -> Iterator[Pair]:
    shared = source.keys() & target.keys()
    counts["segments that one side lacks"] += len(source) + len(target) - 2 * len(shared)
    if not shared:
        raise UserError(
            f"{part.name} has {len(source):,} and {len(target):,} segments and none with the same document and number; "
            "are both sides of the same test set? Give the right archive with --archive FILE"
        )
    for key in source:
        if key in shared:
            yield source[key], target[key]
