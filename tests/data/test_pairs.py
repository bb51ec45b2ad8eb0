"""Lines and segments of broken files: source and target stay together, and everything mended is counted."""

import time
from collections import Counter

import miniature
import pytest

from weighted_freezing_fairseq.data import lines, parts
from weighted_freezing_fairseq.data.recipe import Part, Place
from weighted_freezing_fairseq.errors import UserError


def read(tmp_path, source, target, form="text"):
    counts = Counter()
    paths = []
    for name, content in (("p.de", source), ("p.en", target)):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
    part = Part("p", "train", Place("a"), Place("a"), form)
    return list(parts.pairs(part, *paths, counts)), {what: times for what, times in counts.items() if times}


@pytest.mark.parametrize(
    ("raw", "mended", "counted"),
    [
        (b"a\rb", "a b", "line end inside a line"),
        ("a\u2028b".encode(), "a b", "line end inside a line"),
        ("a\x85b\u2029c\x0b\x0c\x1c\x1d\x1ed".encode(), "a b c     d", "line end inside a line"),
        (b"a\0b", "ab", "NUL"),
        (b"a\xffb\xc3", "a\ufffdb\ufffd", "invalid UTF-8"),
        ("\ufeffa".encode(), "a", "byte order mark"),
        (b"a\r", "a", None),  # Windows' line end is one
        ("a\u00a0b".encode(), "a\u00a0b", None),
    ],
)
def test_broken_characters_are_mended_and_counted(tmp_path, raw, mended, counted):
    found, counts = read(tmp_path, raw + b"\nzwei\n", b"one\ntwo\n")
    assert found == [(mended, "one"), ("zwei", "two")]
    assert counts == ({counted: 1} if counted else {})


def test_the_last_line_needs_no_end(tmp_path):
    assert read(tmp_path, "eins\nzwei", "one\ntwo\n")[0] == [("eins", "one"), ("zwei", "two")]
    assert [lines.count(tmp_path / name) for name in ("p.de", "p.en")] == [2, 2]


@pytest.mark.parametrize(
    ("source", "target", "longer"), [("1\n2\n3\n", "1\n", "p.de has 3"), ("1\n", "1\n2\n\n4\n", "p.en has 4")]
)
def test_sides_of_unequal_length_are_refused_with_both_counts(tmp_path, source, target, longer):
    with pytest.raises(UserError, match=f"p is misaligned: {longer} sentences and p... 1; .* --archive FILE"):
        read(tmp_path, source, target)


def test_lines_about_a_talk_are_dropped_and_titles_unwrapped(tmp_path):
    texts = {side: [f"{side} {number}" for number in range(25)] for side in ("de", "en")}
    found, counts = read(tmp_path, miniature.tags(texts["de"]), miniature.tags(texts["en"]), "tags")
    assert found == list(zip(texts["de"], texts["en"], strict=True))
    assert counts == {"lines about a talk": 2 * 3 * 6}


def test_a_sentence_that_only_looks_like_markup_stays(tmp_path):
    line = "Use <title> or <b>bold</b>, 5 < 6 & so on"
    assert read(tmp_path, f"{line}\n", "x\n", "tags")[0] == [(line, "x")]


ESCAPED = "R&amp;D &lt;a&gt; &quot;it&apos;s&quot; &#246;&#x2019;&eacute; &amp;lt; A&T &copy &none; &#99999999; 3 & 4"
RESOLVED = 'R&D <a> "it\'s" ö’é &lt; A&T &copy &none; &#99999999; 3 & 4'


@pytest.mark.parametrize("form", ["tags", "xml"])
def test_entities_are_resolved_once_in_training_and_test_sets_alike(tmp_path, form):
    file = f'<seg id="1">{ESCAPED}</seg>\n' if form == "xml" else f"{ESCAPED}\n"
    assert read(tmp_path, file, file, form)[0] == [(RESOLVED, RESOLVED)]


def test_plain_text_has_no_entities(tmp_path):
    assert read(tmp_path, "R&amp;D\n", "R&amp;D\n")[0] == [("R&amp;D", "R&amp;D")]


@pytest.mark.parametrize("form", ["tags", "xml"])
def test_an_entity_cannot_end_a_line(tmp_path, form):
    text = "a&#10;b&#13;c&#x2028;d&#0;e"
    file = f'<seg id="1">{text}</seg>\n' if form == "xml" else f"{text}\n"
    found, counts = read(tmp_path, file, file, form)
    assert found == [("a b c d\ufffde",) * 2] and counts == {"line end inside a line": 2}


def test_segments_are_sentences_and_entities_are_resolved(tmp_path):
    texts = {"de": ["Bach & Söhne", "5 < 6", "é"], "en": ["Bach & Sons", "5 < 6 &amp; more", "e"]}
    found, counts = read(tmp_path, *(miniature.xml(texts[side], "dev", side) for side in ("de", "en")), "xml")
    assert found == list(zip(texts["de"], ["Bach & Sons", "5 < 6 &amp; more", "e"], strict=True)) and not counts


def test_segments_are_paired_by_document_and_number(tmp_path):
    one = '<doc docid="a"><seg id="1">a1</seg>\n<seg id="2">a2</seg></doc>\n<DOC docid="b">\n<seg id="1">b1</seg></DOC>'
    other = '<doc sysid="ref" docid="b"><seg id="1">B\n1</seg></doc>\n<doc docid="a"><seg id="2">A2</seg>'
    other += '<seg id="2">A2!</seg></doc>'
    found, counts = read(tmp_path, one, other, "xml")
    assert found == [("a2", "A2"), ("b1", "B 1")]
    assert counts == {"segments that one side lacks": 1, "segments of the same number": 1}


def test_a_segment_without_an_end_is_counted_and_swallows_nothing(tmp_path):
    found, counts = read(
        tmp_path, '<seg id="1">a\n<seg id="2">b</seg>\n', '<seg id="1">A</seg>\n<seg id="2">B</seg>\n', "xml"
    )
    assert found == [("b", "B")]
    assert counts == {"segments without an end": 1, "segments that one side lacks": 1}


def test_test_sets_of_which_nothing_fits_are_refused(tmp_path):
    with pytest.raises(UserError, match="p has 1 and 0 segments and none .* --archive FILE"):
        read(tmp_path, '<seg id="1">a</seg>', "no segments", "xml")


def test_attributes_are_read_in_any_quotes_and_order(tmp_path):
    one = "<doc genre='x' docid='a b'>\n<seg type=\"id\" id = 1>a</seg></doc>"
    other = '<DOC docid="a b"><SEG\nxml-id="2" id="1">A</SEG></DOC>'
    assert read(tmp_path, one, other, "xml")[0] == [("a", "A")]


def test_a_segment_without_a_number_is_counted(tmp_path):
    found, counts = read(tmp_path, "<seg>x</seg><seg id='1'>a</seg>", "<seg id='1'>A</seg></seg>", "xml")
    assert found == [("a", "A")] and counts == {"segments without a number": 1}


HOSTILE = {
    "xml": ['<seg id="1"', '<seg id="1">', "<doc ", '<doc docid="', f"<seg id{' ' * 1000}", "&#1"],
    "tags": ["<title>", "</title> ", "<doc"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in HOSTILE.items() for text in texts])
def test_five_megabytes_of_broken_markup_take_seconds(tmp_path, form, text):
    begin = '<seg id="a">a</seg>' if form == "xml" else "<title>"
    start = time.process_time()
    read(tmp_path, begin + text * (5_000_000 // len(text)), begin, form)
    assert time.process_time() - start < 20  # one or two; with a pattern that goes back, 6 s for 11 kB
