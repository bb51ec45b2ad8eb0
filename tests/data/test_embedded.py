"""The embedded corpus: the same bytes everywhere, nothing leaked, plain lines, and never a user's file replaced."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from weighted_freezing_fairseq.data import embedded as corpus
from weighted_freezing_fairseq.errors import UserError

SMALL = {"train": 150, "valid": 30, "test": 40}
SMALL_ARGUMENTS = [word for split, size in SMALL.items() for word in (f"--{split}-lines", str(size))]
UNIT_ID = re.compile(r"\b(area|digital|duration|energy|frequency|graphics|length|mass|power|pressure|speed|volume)-")


def wff(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "weighted_freezing_fairseq", "corpus", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1", **environment},
        check=False,
    )


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def sentences(made: corpus.Corpus, side: int) -> list[str]:
    return [pair[side] for split in made.values() for pair in split]


@pytest.fixture(scope="module", params=corpus.PAIRS)
def made(request: pytest.FixtureRequest) -> tuple[str, corpus.Corpus]:
    return request.param, corpus.generate(request.param, sizes=SMALL)


def test_sizes_are_those_asked_for(made):
    assert {split: len(pairs) for split, pairs in made[1].items()} == SMALL


@pytest.mark.parametrize("side", [0, 1])
def test_nothing_occurs_twice_within_or_across_splits(made, side):
    every = sentences(made[1], side)
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("side", [0, 1])
def test_every_sentence_is_one_plain_line(made, side):
    for sentence in sentences(made[1], side):
        assert sentence and sentence == sentence.strip() and "  " not in sentence
        assert sentence.splitlines() == [sentence]
        assert not re.search(
            "[\t\r\u00a0\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202f\u2066-\u2069\ufeff]", sentence
        )
        assert not UNIT_ID.search(sentence), "a unit without a name in this language"


def test_every_kind_speaks_every_language():
    for kind in corpus.KINDS:
        for pair in corpus.PAIRS:
            made = corpus.generate(pair, sizes={"train": 20, "valid": 1, "test": 1}, kinds=[kind])
            assert len(made["train"]) == 20
            assert set(corpus.KINDS[kind].label) == {*corpus.LANGUAGES, "en"}


def test_golden_sentences():
    # Read by eye; Babel 2.14, 2.16 and 2.18 agree on these.
    def said(kind: str, value: tuple, language: str) -> str:
        return corpus.clean(corpus.KINDS[kind].format(value, language))

    assert said("number", (23,), "en") == "twenty-three"
    assert said("number", (23,), "de") == "dreiundzwanzig"
    assert said("number", (23,), "pl") == "dwadzieścia trzy"
    assert said("number", (23,), "he") == "עשרים ושלוש"
    assert said("territory", ("NO",), "nl") == "Noorwegen"
    assert said("language", ("fi",), "it") == "finlandese"
    assert said("measure", (3, "length-meter"), "pl") == "3 metry"
    assert said("measure", (5, "length-meter"), "pl") == "5 metrów"
    assert said("city", ("Europe/Athens",), "de") == "Athen"
    assert said("city", ("Europe/Athens",), "en") == "Athens"


@pytest.mark.parametrize(
    ("language", "values", "shape", "expected"),
    [
        ("es", (("FR",), ("IT",)), "and", "Francia e Italia"),
        ("es", (("FR",), ("DE",)), "and", "Francia y Alemania"),
        ("es", (("FR",), ("OM",)), "or", "Francia u Omán"),
        ("de", (("FR",), ("IT",)), "and", "Frankreich und Italien"),
    ],
)
def test_a_list_heeds_the_sound_that_follows(language, values, shape, expected):
    assert corpus._format_sentence([("territory", shape, values)], language) == expected


def test_hebrew_hyphen_and_persian_digits():
    thrice_and_four = [("measure", "and", ((3, "length-meter"), (4, "length-meter")))]
    assert " ו-4 " in corpus._format_sentence(thrice_and_four, "he")
    assert re.search("۳.*۴", corpus._format_sentence(thrice_and_four, "fa"))


def test_clean_keeps_the_persian_joiner_alone():
    assert corpus.clean(" \u200fa\u00a0\u202fb\u2028c\u200cd\u00ade\r\n") == "a b c\u200cde"
    assert corpus.clean("e\u0301") == "\u00e9"


def test_a_planted_leak_is_found():
    made = corpus.generate("de-en", sizes=SMALL)
    made["train"][3] = ("anders", made["test"][5][1])
    with pytest.raises(AssertionError, match="occurs twice"):
        corpus._assert_clean(made)


def test_kinds_restrict_and_their_order_does_not_matter():
    prices = corpus.generate("nl-en", sizes=SMALL, kinds=["percent", "number"])
    assert prices == corpus.generate("nl-en", sizes=SMALL, kinds=["number", "percent"])
    labels = {label for _, target in sum(prices.values(), []) for label in re.findall(r"(\w+):", target)}
    assert labels == {"Number", "Share"}


def test_the_test_set_does_not_depend_on_the_other_splits():
    more = corpus.generate("it-en", sizes={**SMALL, "train": 200, "valid": 10})
    assert more["test"] == corpus.generate("it-en", sizes=SMALL)["test"]


def test_another_seed_is_another_corpus():
    assert corpus.generate("de-en", 1, SMALL)["test"] != corpus.generate("de-en", 2, SMALL)["test"]


def test_two_processes_write_the_same_bytes_and_a_true_manifest(tmp_path):
    folders = tmp_path / "one", tmp_path / "two"
    for folder, environment in zip(
        folders, ({"PYTHONHASHSEED": "1", "LC_ALL": "C"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"}), strict=True
    ):
        result = wff("--pair", "fa-en", "--out", folder, *SMALL_ARGUMENTS, **environment)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"wrote fa-en (seed 1; 150 train, 30 valid, 40 test) to {folder}\n"
    files = [{name: data for name, (data, _) in snapshot(folder).items()} for folder in folders]
    assert files[0] == files[1]

    manifest = json.loads(files[0].pop("corpus.json"))
    assert sorted(files[0]) == ["test.en", "test.fa", "train.en", "train.fa", "valid.en", "valid.fa"]
    assert manifest["sha256"] == {name: hashlib.sha256(data).hexdigest() for name, data in files[0].items()}
    assert (manifest["pair"], manifest["seed"], manifest["sizes"]) == ("fa-en", 1, SMALL)
    assert manifest["kinds"] == list(corpus.KINDS)
    assert set(manifest["versions"]) == {"babel", "num2words"}
    assert {name: data.count(b"\n") for name, data in files[0].items() if name.endswith("en")} == {
        f"{split}.en": size for split, size in SMALL.items()
    }


def test_a_second_run_touches_nothing_and_says_so(tmp_path):
    arguments = ["--pair", "de-en", "--out", tmp_path / "c", "--kinds", "date,money", *SMALL_ARGUMENTS]
    first = json.loads(wff(*arguments, "--json").stdout)
    before = snapshot(tmp_path / "c")
    second = json.loads(wff(*arguments, "--json").stdout)
    assert (first.pop("written"), second.pop("written")) == (True, False)
    assert first == second and first["kinds"] == ["date", "money"]
    assert wff(*arguments).stdout.startswith(
        "nothing to do: de-en (seed 1; 150 train, 30 valid, 40 test) is already in "
    )
    assert snapshot(tmp_path / "c") == before


def test_an_interrupted_run_is_finished(tmp_path):
    corpus.write("de-en", tmp_path, sizes=SMALL)
    whole = {name: data for name, (data, _) in snapshot(tmp_path).items()}
    for name in ("corpus.json", "test.de"):
        (tmp_path / name).unlink()
    assert corpus.write("de-en", tmp_path, sizes=SMALL)[1]
    assert {name: data for name, (data, _) in snapshot(tmp_path).items()} == whole
    (tmp_path / "train.en").unlink()
    assert corpus.write("de-en", tmp_path, sizes=SMALL)[1]
    assert {name: data for name, (data, _) in snapshot(tmp_path).items()} == whole


# Every error, raised once; the words say what to type -----------------------------------------------------------------


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr, exit status 2."""
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("wff corpus: ") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("pair", ["fr-en", "en-de"])
def test_an_unknown_pair_lists_those_there_are(tmp_path, pair):
    result = wff("--pair", pair, "--out", tmp_path)
    assert_refused(
        result, repr(pair), "type --pair and one of: ar-en de-en es-en fa-en he-en it-en nl-en pl-en mul-en\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    corpus.write("de-en", tmp_path, sizes=SMALL)
    before = snapshot(tmp_path)
    result = wff("--pair", "de-en", "--out", tmp_path, "--seed", 2, *SMALL_ARGUMENTS)
    assert_refused(result, "holds a corpus with seed 1 instead of 2", "type another folder: --out DIR")
    assert snapshot(tmp_path) == before


def test_a_file_of_the_user_is_refused_and_left_alone(tmp_path):
    (tmp_path / "test.de").write_text("meins\n", encoding="utf-8")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"test\.de exists and is not of this corpus; type another folder: --out DIR"):
        corpus.write("de-en", tmp_path, sizes=SMALL)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ["not json", "{}", "[]", '{"pair": "de-en"}'])
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "corpus.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a manifest of wff corpus; type another folder: --out DIR"):
        corpus.write("de-en", tmp_path, sizes=SMALL)


def test_out_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot write to .*file.* \(.+\); type another folder: --out DIR"):
        corpus.write("de-en", tmp_path / "file", sizes=SMALL)


@pytest.mark.parametrize("kinds", [["prose"], []])
def test_unknown_kinds_list_the_known(kinds):
    with pytest.raises(
        UserError, match=r"no kind of expression is called .+; type --kinds and some of: date,time,.*city"
    ):
        corpus.generate("de-en", sizes=SMALL, kinds=kinds)


@pytest.mark.parametrize("size", [0, -5])
def test_an_empty_split_is_refused(size):
    with pytest.raises(
        UserError, match=rf"valid cannot have {size} sentence pairs; type, for instance: --valid-lines \d+"
    ):
        corpus.generate("de-en", sizes={**SMALL, "valid": size})


def test_missing_generator_packages_say_what_to_install(monkeypatch):
    monkeypatch.setattr(corpus, "_IMPORT_ERROR", ImportError("No module named 'babel'"))
    with pytest.raises(UserError, match="No module named 'babel'.*type: pip install babel num2words"):
        corpus.generate("de-en", sizes=SMALL)


def test_help_works_without_the_generator_packages():
    code = (
        "import sys; sys.modules['babel'] = None\n"
        "from weighted_freezing_fairseq.__main__ import main; sys.exit(main(['corpus', '--help']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stderr == ""
    assert "example:\n  wff corpus --pair de-en --out" in result.stdout
    assert all(
        option in result.stdout
        for option in ("--seed", "--train-lines", "--valid-lines", "--test-lines", "--kinds", "--json")
    )


def test_all_pairs_are_one_after_another_and_nothing_leaks_between_them():
    many = corpus.generate(corpus.MANY_TO_ONE, sizes=SMALL)
    for split in ("valid", "test"):
        assert many[split] == [line for pair in corpus.PAIRS for line in corpus.generate(pair, sizes=SMALL)[split]]
    held_out = {target for split in ("valid", "test") for _, target in many[split]}
    assert not held_out & {target for _, target in many["train"]}
    assert len(many["train"]) > 7 * SMALL["train"]
    pairs = [(f"s{n}", f"t{n}") for n in range(4)]
    first = {"train": pairs[:2], "valid": [], "test": [("s", "t3")]}
    second = {"train": pairs[2:], "valid": [("s", "t0")], "test": []}
    assert corpus._many_to_one([first, second])["train"] == [pairs[1], pairs[2]]
