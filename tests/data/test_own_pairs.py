"""`wff prepare own --pairs`: several languages into one, as one corpus with one vocabulary."""

import json
import random
from pathlib import Path

import pytest

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import read_manifest
from weighted_freezing_fairseq.data.source_text import source_text_of
from weighted_freezing_fairseq.errors import UserError

SIZES = {"de": 80, "fr": 60, "cs": 40}
PAIRS = "de-en,fr-en,cs-en"


def sentences(language: str, count: int, seed: int = 1) -> list[str]:
    """Sentences that no other language has."""
    rng = random.Random(f"{language}{seed}")
    words = [f"{language}{ending}" for ending in ("a", "bo", "cu", "Dil", "em.", "fo,")]
    return [" ".join(rng.choices(words, k=rng.randint(3, 7))) + f" {number}" for number in range(count)]


@pytest.fixture
def files(tmp_path):
    """Training files of three languages into English, and a test set of German."""
    for language, count in SIZES.items():
        write(tmp_path / f"a.{language}", sentences(language, count))
        write(tmp_path / f"a.{language}.en", sentences(f"en-{language}", count))
    write(tmp_path / "t.de", sentences("de", 5, seed=2))
    write(tmp_path / "t.en", sentences("en-de", 5, seed=2))
    return tmp_path


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(f"{text}\n" for text in texts))


def read(path: Path) -> list[str]:
    return path.read_text().splitlines()


def prepare(files: Path, *more, out: str = "out", jobs: int = 1, status: int = 0) -> Path:
    train = [f"{language}-en={files}/a.{language},{files}/a.{language}.en" for language in SIZES]
    words = ["prepare", "own", "--pairs", PAIRS, "--train", *train, "--pieces", 90, "--jobs", jobs]
    words += ["--valid-lines", 4, "--test-lines", 3, "--out", files / out, *more]
    assert main([str(word) for word in words]) == status
    return files / out / "own/mul-en"


@pytest.mark.slow
def test_one_corpus_of_all_pairs_with_a_test_set_of_each(files, capsys):
    folder = prepare(files, "--test", f"de-en:news={files}/t.de,{files}/t.en")
    shown = capsys.readouterr().out
    assert "mul-en: 162 train / 12 valid / 5 de-en:news / 3 fr-en / 3 cs-en pairs in" in shown
    assert f"next: wff train own --data {files}/out --recipe own --pair mul-en" in shown
    manifest = read_manifest(folder)
    assert manifest["test_names"] == {"test": "de-en:news", "test1": "fr-en", "test2": "cs-en"}
    assert manifest["pairs"] == PAIRS.split(",") and "tags" not in manifest
    raw = {name: read(folder / f"raw/{name}.mul") for name in ("train", "valid", "test", "test1", "test2")}
    assert raw["test"] == sentences("de", 5, seed=2)
    # every 20th German, every 8th French, every 5th Czech pair: evenly from each language
    assert raw["valid"] == [
        *sentences("de", 80)[19::20],
        *(sentences("fr", 60)[line] for line in (15, 23, 39, 55)),
        *(sentences("cs", 40)[line] for line in (9, 14, 24, 34)),
    ]
    assert raw["test1"] == [sentences("fr", 60)[line] for line in (7, 31, 47)]
    assert len(raw["test2"]) == 3
    apart = {*raw["valid"], *raw["test1"], *raw["test2"]}
    assert raw["train"] == [
        line for name, count in SIZES.items() for line in sentences(name, count) if line not in apart
    ]
    rows = {row["split"]: row for row in manifest["counts"] if row["step"] == "text"}
    assert rows["train"]["by_pair"] == {"de-en": 76, "fr-en": 53, "cs-en": 33}
    assert (folder / "bin/dict.mul.txt").read_bytes() == (folder / "bin/dict.en.txt").read_bytes()
    two = prepare(files, "--test", f"de-en:news={files}/t.de,{files}/t.en", out="two", jobs=2)
    names = [path.relative_to(folder) for path in folder.rglob("[!.]*") if path.is_file()]
    assert all((two / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_pairs_may_share_their_target_and_no_reference_is_in_training(files):
    for language in ("de", "fr"):
        write(files / f"b.{language}", sentences(language, 60))
    write(files / "b.en", sentences("en", 60))
    train = [f"{language}-en={files}/b.{language},{files}/b.en" for language in ("de", "fr")]
    write(files / "t.de", sentences("other", 5))
    write(files / "t.en", sentences("en", 60)[10:15])
    words = [
        "prepare",
        "own",
        "--pairs",
        "de-en,fr-en",
        "--train",
        *train,
        "--test",
        f"fr-en={files}/t.de,{files}/t.en",
    ]
    words += ["--valid-lines", "3", "--test-lines", "0", "--limit", "50", "--pieces", "60", "--jobs", "1"]
    assert main([*words, "--out", str(files / "out")]) == 0
    folder = files / "out/own/mul-en"
    train_en = read(folder / "raw/train.en")
    assert not {*train_en} & {*sentences("en", 60)[10:15], *read(folder / "raw/valid.en")}
    manifest = read_manifest(folder)
    assert {row["part"]: row["pairs"] for row in manifest["counts"] if row["step"] == "read"}["train-2"] == 50
    [row] = [row for row in manifest["counts"] if row["step"] == "text" and row["split"] == "train"]
    assert row["by_pair"] == {"de-en": 42, "fr-en": 42} and len(train_en) == 84
    assert row["dropped"] == {"a source or a target that is in another split": 10}


@pytest.mark.parametrize("more", [(), ("--subwords", "bpe", "--moses", "--dictionary", "separate")])
def test_tags_are_one_symbol_of_the_dictionary_and_of_a_text_to_translate(files, more):
    folder = prepare(files, "--tags", *more)
    manifest = read_manifest(folder)
    firsts = [line.split()[0] for line in read(folder / "pieces/train.mul")]
    assert firsts == [f"__{line[:2]}__" for line in read(folder / "raw/train.mul")]
    assert {"__de__", "__fr__", "__cs__"} <= {line.split()[0] for line in read(folder / "bin/dict.mul.txt")}
    assert not any("__" in line for line in read(folder / "pieces/train.en"))
    text = read(folder / "raw/test1.mul")
    source = source_text_of(manifest, ("mul", "en"), folder / manifest["subwords"], "fr")
    assert source.pieces(text) == read(folder / "pieces/test1.mul") and source.languages == ("mul", "en")
    for language, advice in ((None, "--language de"), ("en", "type --language de")):
        with pytest.raises(UserError, match=advice):
            source_text_of(manifest, ("mul", "en"), folder / manifest["subwords"], language)


def test_a_killed_preparation_goes_on(files):
    folder = prepare(files, "--tags")
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()  # as if it had been killed after the text was written
    for step in ("subwords", "pieces", "binarised"):
        (folder / f".{step}.json").unlink()
    assert prepare(files, "--tags") == folder
    assert (folder / "manifest.json").read_bytes() == manifest
    assert json.loads(manifest)["tags"] is True


def test_what_to_type_where_the_corpus_is_missing(tmp_path):
    with pytest.raises(
        UserError, match="type: wff prepare own --name three --pairs A-en,B-en --train A-en=FILES B-en="
    ):
        read_manifest(tmp_path / "own/three/mul-en")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--pairs de-en --train x", "--pairs needs several pairs into one language; type --pair de-en"),
        ("--pairs de-en,fr-de --train de-en=x", "into one language, got de-en,fr-de; type --pairs de-en,fr-en"),
        ("--pairs de-en,de-en --train de-en={f}/a.de,{f}/a.de.en", "must be different pairs into one language"),
        ("--pairs de-en,fr-en --pair de-en --train x", "needs --train and --pair or --pairs; type --pair fr-en"),
        ("{two} --train {f}/a.de", "a.de does not say which of --pairs it is; type --train de-en=FILE,FILE"),
        ("{two} --train de-en={f}/a.de,{f}/a.de.en", "--train has no files of fr-en; add --train fr-en=FILE,FILE"),
        ("{two} {all} --valid de-en={f}/t.de,{f}/t.en", "or leave --valid out, to set pairs apart"),
        ("{two} {all} --test de-en={f}/a.de,{f}/t.en", "a.de is given 2 times; give each file to one split only"),
        ("{two} {all} --test de-en={f}/t.de,{f}/t.en de-en={f}/a.cs,{f}/a.cs.en", "own: --test PAIR:NAME=FILE"),
        ("{two} {all} --valid-lines 70", "72 of 80 pairs of de-en cannot be set apart"),
        ("--pair de-en --train {f}/a.de {f}/a.de.en --tags", "leave it out with --pair"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_to_type(words, expected, files, capsys):
    every = " ".join(f"--train {name}-en={files}/a.{name},{files}/a.{name}.en" for name in ("de", "fr"))
    typed = words.format(f=files, two="--pairs de-en,fr-en", all=every).split()
    assert main(["prepare", "own", *typed, "--test-lines", "2", "--jobs", "1", "--out", str(files / "out")]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
