"""`wff prepare own --test wmt17`: sets that sacreBLEU has in its cache, and what is said where it has not."""

import pytest
import sacrebleu

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import read_manifest

SOURCES, REFERENCES = ["Das ist es .", "Ja !", "Nein , danke ."], ["This is it .", "Yes !", "No , thanks ."]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """sacreBLEU's cache with de-en of wmt17, as sacreBLEU leaves it: a file of lines for each field."""
    data = sacrebleu.DATASETS["wmt17"]
    folder = tmp_path / "cache/wmt17"
    (folder / "raw").mkdir(parents=True)
    monkeypatch.setattr(data, "_outdir", str(folder))  # SACREBLEU is read when sacrebleu is imported
    monkeypatch.setattr(data, "_rawdir", str(folder / "raw"))
    monkeypatch.setattr("sacrebleu.SACREBLEU_DIR", str(tmp_path / "cache"))
    for field in data.fieldnames("de-en"):
        texts = {"src": SOURCES, "ref": REFERENCES}.get(field, ["news"] * 3)
        (folder / f"wmt17.de-en.{field}").write_text("".join(f"{text}\n" for text in texts))
    for language, texts in (("de", "ab cd ef"), ("en", "uv wx yz"), ("cs", "gh ij kl")):
        lines = "".join(f"{texts} {number}\n" for number in range(40))
        (tmp_path / f"a.{language}").write_text(lines)
    return tmp_path


def prepare(folder, *words):
    options = ["--valid-lines", 2, "--pieces", 40, "--jobs", 1, "--out", folder / "out"]
    return main([str(word) for word in ("prepare", "own", *words, *options)])


def of_two_pairs(folder):
    return [
        "--pairs",
        "de-en,cs-en",
        "--train",
        *(f"{name}-en={folder}/a.{name},{folder}/a.en" for name in ("de", "cs")),
    ]


def test_a_set_of_sacrebleu_has_its_name_in_the_manifest(cache):
    assert prepare(cache, "--pair", "de-en", "--train", cache / "a.de", cache / "a.en", "--test", "wmt17") == 0
    folder = cache / "out/own/de-en"
    assert (folder / "raw/test.de").read_text().splitlines() == SOURCES
    assert (folder / "raw/test.en").read_text().splitlines() == REFERENCES
    manifest = read_manifest(folder)
    assert manifest["test_names"] == {"test": "wmt17"} and "wmt17.de-en.ref" in manifest["archives"]


def test_several_pairs_take_what_the_set_has_of_them(cache):
    for file in (cache / "cache/wmt17").glob("wmt17.de-en.*"):
        file.with_name(file.name.replace("de-en", "cs-en")).write_bytes(file.read_bytes())
    assert prepare(cache, *of_two_pairs(cache), "--test", "wmt17") == 0
    names = read_manifest(cache / "out/own/mul-en")["test_names"]
    assert names == {"test": "de-en:wmt17", "test1": "cs-en:wmt17"}


def test_without_a_network_the_cache_and_the_command_are_named(cache, capsys, monkeypatch):
    for name in ("http_proxy", "https_proxy"):  # nothing listens there
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert prepare(cache, *of_two_pairs(cache), "--test", "wmt17") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"wmt17 of cs-en is not complete in sacreBLEU's cache, {cache}/cache, and cannot be downloaded" in line
    assert "type: sacrebleu --download wmt17 --language-pair cs-en" in line and "SACREBLEU=DIR" in line


@pytest.mark.parametrize(
    ("pair", "test", "expected"),
    [
        ("xx-en", "wmt17", "--test wmt17 has no xx-en; its pairs are cs-en, de-en"),
        (
            "de-en",
            "wmt99",
            "there is no file wmt99; give --test files with one sentence per line, or a table, or the name",
        ),
    ],
)
def test_other_names_and_pairs_are_refused(pair, test, expected, cache, capsys):
    assert prepare(cache, "--pair", pair, "--train", cache / "a.de", cache / "a.en", "--test", test) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
