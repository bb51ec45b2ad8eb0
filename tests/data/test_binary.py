"""fairseq's data: the same bytes as fairseq-preprocess writes, and no sentence that gets lost unseen."""

import errno
import random

import pytest
from forked import allow_little, forked

from weighted_freezing_fairseq.data import binary, lines
from weighted_freezing_fairseq.errors import UserError

# Words that are fairseq's own, words that the dictionary lacks, empty lines, white space of every kind.
ODD = ["", " ", "<unk> a </s> b <s> <pad>", "a  b\u00a0c\u3000d\te ", "ä é 漢 \U0001f600", "madeupword0000", "a" * 300]


@pytest.fixture
def texts(tmp_path):
    """train, valid and two tests of x and y."""
    rng = random.Random(1)
    words = [f"w{number}" for number in range(200)]
    for name, count in (("train", 500), ("valid", 20), ("test", 21), ("test1", 3)):
        for language in "xy":
            some = words if name != "train" else words[:150]
            made = [" ".join(rng.choices(some, k=rng.randint(1, 30))) for _ in range(count)]
            (tmp_path / f"{name}.{language}").write_text("".join(f"{line}\n" for line in made + ODD), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("part", "parts", "words"), [(0, 3, 90), (2, 3, 70_000), (0, 1, 90), (599, 600, 90)])
def test_a_part_has_the_bytes_of_every_nth_line(texts, part, parts, words, tmp_path):
    binary.save_dictionary([(f"w{number}", 100) for number in range(words)], tmp_path / "dict.txt")
    whole = (texts / "train.x").read_text(encoding="utf-8").split("\n")[:-1]
    (tmp_path / "part.txt").write_text("".join(f"{line}\n" for line in whole[part::parts]), encoding="utf-8")
    binary.write(texts / "train.x", tmp_path / "dict.txt", tmp_path / "train.x-y.x")
    binary.write(tmp_path / "part.txt", tmp_path / "dict.txt", tmp_path / "wanted")
    binary.write_part(tmp_path / "train.x-y.x", part, parts, tmp_path / "found.x")
    for end in ("bin", "idx"):
        assert (tmp_path / f"found.x.{end}").read_bytes() == (tmp_path / f"wanted.{end}").read_bytes()


@pytest.mark.parametrize("kind", ["joined", "separate", "pieces", "large"])
def test_the_bytes_are_those_of_fairseq_preprocess(fairseq, texts, kind, tmp_path):
    words = ["-s", "x", "-t", "y", "--destdir", tmp_path / "theirs"]
    words += [w for name in ("train", "valid") for w in (f"--{name}pref", tmp_path / name)]
    counts = [binary.word_counts(texts / f"train.{language}") for language in "xy"]
    if kind == "joined":
        words.append("--joined-dictionary")
        entries = [binary.dictionary(counts)] * 2
    elif kind == "separate":
        entries = [binary.dictionary([count]) for count in counts]
    else:  # given; more words than 16 bits hold
        entries = [[(f"w{number}", 100) for number in range(70_000 if kind == "large" else 90)]] * 2
        binary.save_dictionary(entries[0], tmp_path / "dict.txt")
        words += ["--srcdict", tmp_path / "dict.txt", "--tgtdict", tmp_path / "dict.txt", "--padding-factor", 1]
    fairseq("preprocess", *words, "--testpref", f"{tmp_path}/test,{tmp_path}/test1")

    ours = tmp_path / "ours"
    ours.mkdir()
    for language, names in zip("xy", entries, strict=True):
        dictionary = ours / f"dict.{language}.txt"
        binary.save_dictionary(names, dictionary)
        for name in ("train", "valid", "test", "test1"):
            text = texts / f"{name}.{language}"
            found = binary.write_and_check((text, dictionary, ours / f"{name}.x-y.{language}"))
            assert found["sentences"] == lines.count(text)
            assert found["words"] == sum(len(line.split()) for line in lines.texts(text))
    theirs = sorted(path.name for path in (tmp_path / "theirs").iterdir() if path.name != "preprocess.log")
    assert theirs == sorted(path.name for path in ours.iterdir()) and len(theirs) == 2 + 2 * 2 * 4
    for name in theirs:
        assert (ours / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_a_full_disk_is_told_as_such(texts, tmp_path):
    binary.save_dictionary([("a", 1)], tmp_path / "dict.txt")

    def call():
        with pytest.raises(OSError) as caught:
            binary.write(texts / "train.x", tmp_path / "dict.txt", tmp_path / "full")
        return caught.value.errno

    assert forked(tmp_path, call, allow_little) == (errno.EFBIG, [])


def test_large_sets_are_written_in_blocks(texts, tmp_path, monkeypatch):
    binary.save_dictionary(binary.dictionary([binary.word_counts(texts / "train.x")]), tmp_path / "dict")
    for name, block in (("a", 1 << 14), ("b", 7)):
        monkeypatch.setattr(binary, "_BLOCK", block)
        binary.write_and_check((texts / "train.x", tmp_path / "dict", tmp_path / name))
    assert (tmp_path / "a.idx").read_bytes() == (tmp_path / "b.idx").read_bytes()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a b\nc\n", "line 2 of .* has 2 words with its end, and in .* 3; move that folder away and prepare it again"),
        ("a b\n", "line 2 of .* has no words with its end, and in .* 3"),
        ("a b\nc d\ne\n", "line 3 of .* has 2 words with its end, and in .* none"),
    ],
)
def test_text_and_data_that_differ_are_refused(text, told, tmp_path):
    (tmp_path / "text").write_text("a b\nc d\n")
    (tmp_path / "dict").write_text("a 1\n")
    assert binary.write(tmp_path / "text", tmp_path / "dict", tmp_path / "x") == {
        "sentences": 2,
        "words": 4,
        "unknown": 3,
    }
    binary.refuse_different(tmp_path / "text", tmp_path / "x.idx")
    (tmp_path / "text").write_text(text)
    with pytest.raises(UserError, match=told):
        binary.refuse_different(tmp_path / "text", tmp_path / "x.idx")


def test_an_index_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.idx").write_bytes(b"TNTIDX\x00\x00" + bytes(40))
    with pytest.raises(UserError, match="is not an index of fairseq's mmap data; move its folder away and prepare it"):
        list(binary.sizes(tmp_path / "x.idx"))
