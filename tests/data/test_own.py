"""`wff prepare own`: files of sentence pairs of one's own, in every form that is taken, and what is refused."""

import bz2
import gzip
import json
import lzma
import sys
from pathlib import Path

import miniature
import pyarrow
import pyarrow.ipc
import pytest
from pyarrow import parquet

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.cli import prepare
from weighted_freezing_fairseq.data import own, read_manifest
from weighted_freezing_fairseq.scoring.translate import Pieces

TEXTS = miniature.sentences("de", 90, seed=4)
TESTS = miniature.sentences("de", 7, seed=5)


def text(sentences):
    return "".join(f"{sentence}\n" for sentence in sentences)


@pytest.fixture
def files(tmp_path):
    """The same pairs in every form, by the words that a user types."""
    folder = tmp_path / "files"
    folder.mkdir()
    pairs = list(zip(TEXTS["de"], TEXTS["en"], strict=True))
    for language in ("de", "en"):
        (folder / f"a.{language}").write_text(text(TEXTS[language]))
        (folder / f"t.{language}").write_text(text(TESTS[language]))
        for suffix, compress in ((".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)):
            (folder / f"a.{language}{suffix}").write_bytes(compress(text(TEXTS[language]).encode()))
    table = text(f"7\t{de}\t{en}" for de, en in pairs)
    (folder / "a.tsv").write_bytes(f"\ufeffid\tGerman\tEnglish\r\n{table}".encode())
    rows = text(json.dumps({"German": de, "English": en, "id": 1}) for de, en in pairs)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    quoted = text('"{}","{}"'.format(*(side.replace('"', '""') for side in pair)) for pair in pairs)
    (folder / "a.csv").write_text("German,English\n" + quoted)
    columns = {"id": range(90), "German": TEXTS["de"], "English": TEXTS["en"]}
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet", row_group_size=40)
    saved_to_disk(folder / "saved", [pairs[:50], pairs[50:]])
    return folder


def saved_to_disk(folder, shards):
    """A translation data set as `save_to_disk` of Hugging Face's datasets leaves it."""
    folder.mkdir()
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    kind = pyarrow.struct({"German": pyarrow.string(), "English": pyarrow.string()})
    for name, pairs in zip(names, shards, strict=True):
        rows = [pair and dict(zip(("German", "English"), pair, strict=True)) for pair in pairs]
        table = pyarrow.table({"translation": pyarrow.array(rows, kind)})
        with pyarrow.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "2b4ec9c26aa84087", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"translation": {"_type": "Translation"}}}))


def prepared(tmp_path, files, train, *more, name="own", out="out", status=0):
    test = ["--test", str(files / "t.de"), str(files / "t.en")]
    words = [
        "prepare",
        "own",
        "--pair",
        "de-en",
        "--train",
        *map(str, train),
        *test,
        "--valid-lines",
        "6",
        "--pieces",
        "90",
    ]
    words += ["--out", str(tmp_path / out), "--jobs", "1", "--name", name, *map(str, more)]
    assert main(words) == status
    return tmp_path / out / name / "de-en"


def contents(folder):
    files = [path for name in ("raw", "pieces", "bin") for path in (folder / name).iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_every_form_of_the_same_pairs_gives_the_same_bytes(files, tmp_path):
    plain = contents(prepared(tmp_path, files, [files / "a.de", files / "a.en"], name="plain"))
    assert plain["raw/test.en"].decode() == text(TESTS["en"])
    for suffix in (".gz", ".xz", ".bz2"):
        form = [files / f"a.de{suffix}", files / f"a.en{suffix}"]
        assert contents(prepared(tmp_path, files, form, name=suffix[1:])) == plain, suffix
    columns = ["--columns", "German,English"]
    for table in ("a.tsv", "a.jsonl.gz", "a.csv", "a.parquet", "saved"):
        assert contents(prepared(tmp_path, files, [files / table], *columns, name=table)) == plain, table
    two = prepared(tmp_path, files, [files / "a.de", files / "a.en"], "--jobs", 2, name="two")
    assert contents(two) == plain


def test_splits_are_set_apart_evenly_and_have_nothing_in_common_with_training(files, tmp_path):
    folder = prepared(tmp_path, files, [files / "a.de", files / "a.en"])
    splits = {name: (folder / f"raw/{name}.de").read_text().splitlines() for name in ("train", "valid", "test")}
    assert splits["valid"] == TEXTS["de"][14::15] and splits["test"] == TESTS["de"]
    rest = [line for number, line in enumerate(TEXTS["de"], 1) if number % 15]
    assert splits["train"] == [line for line in rest if line not in {*splits["valid"], *splits["test"]}]
    [row] = [row for row in read_manifest(folder)["counts"] if row["step"] == "text" and row["split"] == "train"]
    dropped = len(rest) - len(splits["train"])
    assert (
        row["pairs"] == len(splits["train"]) and row["dropped"].get("a source that is in another split", 0) == dropped
    )


def test_a_pair_of_the_test_set_leaves_the_training_set(files, tmp_path):
    (files / "b.de").write_text(text([*TEXTS["de"], TESTS["de"][2], TESTS["de"][2]]))
    (files / "b.en").write_text(text([*TEXTS["en"], "another translation", TESTS["en"][2]]))
    with_overlap = prepared(tmp_path, files, [files / "b.de", files / "b.en"])
    train = (with_overlap / "raw/train.de").read_text().splitlines()
    assert not {*train} & {*TESTS["de"]}
    assert len(train) == len((with_overlap / "pieces/train.en").read_text().splitlines())


def test_several_files_tests_by_name_limit_and_every_option(files, tmp_path):
    words = ["prepare", "own", "--pair", "de-en", "--train", files / "a.de", files / "a.en", "--train", files / "a.tsv"]
    for language in ("de", "en"):
        (files / f"v.{language}").write_text(text(TESTS[language]))
    rows = zip(TESTS["de"], TESTS["en"], strict=True)
    (files / "t.csv").write_text("German,English\n" + text(f'"{de}","{en}"' for de, en in rows))
    words += ["--valid", files / "v.de", files / "v.en", "--columns", "German,English", "--limit", 100, "--jobs", 1]
    words += ["--test", f"news={files / 't.de'},{files / 't.en'}", "--test", files / "t.csv", "--lowercase", "--moses"]
    words += ["--subwords", "bpe", "--dictionary", "separate", "--ratio", 3, "--max-length", 40, "--pieces", 60]
    assert main([*map(str, words), "--name", "mine", "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out/mine/de-en"
    manifest = read_manifest(folder)
    assert manifest["test_names"] == {"test": "news", "test1": "test1"} and manifest["lowercased"] is True
    assert manifest["generate"] == {"remove_bpe": "subword_nmt", "tokenizer": "moses"} and manifest["limit"] == 100
    read = {row["part"]: row["pairs"] for row in manifest["counts"] if row["step"] == "read"}
    assert read == {"train-1": 90, "train-2": 10, "valid-1": 7, "test": 7, "test1": 7}
    trained = (folder / "text/train.en").read_text()
    assert trained == trained.lower() != (folder / "raw/train.en").read_text()
    assert (folder / "bin/dict.de.txt").read_bytes() != (folder / "bin/dict.en.txt").read_bytes()


def test_the_default_held_out_sets_are_a_share_of_the_limit(files, tmp_path, capsys):
    words = ["prepare", "own", "--pair", "zh_CN-en", "--train", files / "a.de", files / "a.en", "--limit", 40]
    words += ["--name", "a b", "--pieces", 80, "--jobs", 1, "--out", tmp_path / "out"]
    assert main([*map(str, words)]) == 0
    shown = capsys.readouterr().out
    assert "/ 2 valid / 2 test pairs in" in shown
    assert f"next: wff train own --data {tmp_path}/out --recipe 'a b' --pair zh_CN-en\n" in shown


def test_one_test_takes_several_named_sets(monkeypatch):
    monkeypatch.setattr(prepare.test_sets, "files_of", lambda name, pair: (Path(name), Path(pair)))
    words = ["wmt14", "news=a.fr,a.en", "old=b.tsv"]
    sets = prepare._user_files("test", words, ["fr-en"])
    assert [(test.name, *map(str, test.files)) for test in sets] == [
        ("wmt14", "wmt14", "fr-en"), ("news", "a.fr", "a.en"), ("old", "b.tsv"),
    ]  # fmt: skip
    sets = prepare._user_files("test", ["wmt14", "cs-en:news=a.cs,a.en"], ["de-en", "cs-en"])
    assert [(test.pair, test.name) for test in sets] == [("de-en", "wmt14"), ("cs-en", "wmt14"), ("cs-en", "news")]
    assert len(prepare._user_files("test", ["a.fr", "a.en"], ["fr-en"])) == 1


def test_lowercased_text_that_is_not_tokenised_is_lowercased_in_training_too(files, tmp_path):
    folder = prepared(tmp_path, files, [files / "a.de", files / "a.en"], "--lowercase", "--max-length", 0)
    raw = (folder / "raw/train.en").read_text()
    assert (folder / "text/train.en").read_text() == raw.lower() != raw


def test_a_second_call_changes_nothing_and_other_files_are_refused(files, tmp_path, capsys):
    call = [files / "a.de", files / "a.en"]
    folder = prepared(tmp_path, files, call)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert prepared(tmp_path, files, call) == folder
    prepared(tmp_path, files, call, "--limit", 50, status=2)
    assert "was made with other settings (limit None instead of 50)" in capsys.readouterr().err
    (files / "a.en").write_text((files / "a.en").read_text().replace("a", "e", 1))
    prepared(tmp_path, files, call, status=2)
    assert "was made with other settings (train (train-1)" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_option_that_is_left_out_makes_other_data(files, tmp_path, capsys):
    call = [files / "a.de", files / "a.en"]
    folder = prepared(tmp_path, files, call, "--limit", 50)
    prepared(tmp_path, files, call, status=2)
    assert f"{folder} was made with other settings (limit 50 instead of None)" in capsys.readouterr().err


def test_what_is_wrong_in_the_text_of_tables_is_repaired_and_counted(files, tmp_path):
    rows = {
        "tsv": "German\tEnglish\na\rb\tc\nd\tf\xff\n\n",
        "csv": 'German,English\n"a\rb",c\nd,f\xff\n\n',
        "jsonl": '{"German": "a\\rb", "English": "c"}\n{"German": "d", "English": "f\\ud800"}\n\n',
    }
    for form, table in rows.items():
        path = files / f"b.{form}"
        path.write_bytes(table.encode("latin-1"))
        targets = {column: files / f"b.{column}" for column in ("German", "English")}
        found = own.copy_out(path, targets).skipped
        assert found == {"line end inside a line": 1, "invalid UTF-8": 1}, form
        assert [path.read_text() for path in targets.values()] == ["a b\nd\n", "c\nf\ufffd\n"], form


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "type --pair fr-en --train a.fr a.en"),
        ("--pair de --train {f}/a.de {f}/a.en", "of letters, digits, _ and @, with one hyphen between them, got 'de'"),
        ("--pair a/b-en --train {f}/a.de {f}/a.en", "with one hyphen between them, got 'a/b-en'; type --pair"),
        ("--pair ../x-en --train {f}/a.de {f}/a.en", "with one hyphen between them, got '../x-en'; type --pair"),
        ("{train} {f}/a.de", "or a table whose name ends in .tsv, .csv, .jsonl, .parquet or .arrow"),
        ("{train} {f}/a.de {f}/no", "there is no file {f}/no; give --train files with one sentence per line"),
        ("{train} {f}/a.de {f}/a.de", "--train has the same file twice"),
        ("{good} --test {f}/a.de {f}/t.en", "a.de is given 2 times; give each file to one"),
        ("{good} {f}/t.en", "repeat --train for more"),
        ("{good} --valid-lines 0", "give --valid FILES, or --valid-lines 100"),
        ("{good} --valid-lines 80", "pairs of de-en cannot be set apart; type smaller --valid-lines"),
        ("{good} --test {f}/t.de {f}/t.en --test-lines 5", "leave one of them out"),
        ("{train} {f}/a.de {f}/t.en", "train-1.de has 90 sentences and train-1.en 7; correct {f}/a.de and"),
        ("{train} {f}/a.tsv", "line 2 of {f}/a.tsv has no column 'de' (it has: id, German, English); type"),
        ("{train} {f}/short.tsv", "line 3 of {f}/short.tsv has 1 columns, and its header 2; correct it"),
        ("{train} {f}/bad.jsonl", "line 2 of {f}/bad.jsonl is not valid JSON"),
        ("{train} {f}/list.jsonl", "line 1 of {f}/list.jsonl is not a JSON object"),
        ("{train} {f}/number.jsonl", "line 1 of {f}/number.jsonl has 3 in column 'en'; it must be text"),
        ("{train} {f}/cut.gz {f}/a.en", "cut.gz is damaged or incomplete"),
        ("{train} {f}/bad.bz2 {f}/a.en", "bad.bz2 is damaged or incomplete"),
        ("{train} {f}/quote.csv", "the row from line 2 of {f}/quote.csv on is not valid CSV (field larger than"),
        ("{train} {f}/cut.parquet", "cut.parquet is damaged or incomplete"),
        ("{train} {f}/a.parquet", "row 1 of {f}/a.parquet has no column 'de' (it has: id, German, English); type"),
        ("{train} {f}/a.parquet --columns German,no", "row 1 of {f}/a.parquet has no column 'no' (it has: id, German"),
        ("{train} {f}/a.parquet --columns id,English", "row 1 of {f}/a.parquet has 0 in column 'id'; it must be text"),
        ("{train} {f}/saved", "data-00000-of-00002.arrow has no column 'de' (it has: translation, German, English)"),
        ("{train} {f}/null --columns German,English", "row 2 of {f}/null/data-00000-of-00001.arrow has no column"),
        ("{train} {f}/dict", "dict has the splits train, test; give one of them, as {f}/dict/train"),
        ("{train} {f}", "is not a folder of save_to_disk; give the files in it"),
        ("{train} {f}/empty {f}/empty2", "train-1 has no sentence in it; correct {f}/empty and"),
        ("{good} --valid-lines 30 --limit 50", "32 of 50 pairs of de-en cannot be set apart"),
        ("{train} {f}/blank.de {f}/blank.en", "for an empty side; correct {f}/blank.de and {f}/blank.en, and type"),
        ("{train} {f}/a.parquet.gz", "{f}/a.parquet.gz cannot be read: tables of this form are not compressed as a wh"),
        ("{good} --columns de", "--columns must be two different names, got de; type --columns fr,en"),
        ("{good} --columns fr,fr", "--columns must be two different names, got fr,fr; type --columns fr,en"),
        ("{good} --columns fr,en", "--columns is for tables, and no file is one; leave it out"),
        ("{good} --any-counts", "--any-counts is not for own files; leave it out"),
        ("{good} --ratio 0.5", "--ratio must be a number of at least 1, got 0.5; type --ratio 9"),
        ("{good} --ratio nan", "--ratio must be a number of at least 1, got nan; type --ratio 9"),
        ("{good} --ratio 3 --max-length 0", "--ratio has no effect with --max-length 0; leave one of them out"),
        ("{good} --test a={f}/t.de,{f}/t.en a={f}/t.de,{f}/t.en", "name of its own: --test NAME=FILE,FILE"),
        ("{good} --name a/b", "--name must be a name for a folder, got 'a/b'"),
        ("{good} --subwords byte-bpe --dictionary separate", "leave --dictionary separate out"),
        ("{good} --recipe x", "--recipe is not for own files; leave it out"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_to_type(words, expected, files, tmp_path, capsys):
    (files / "short.tsv").write_text("de\ten\na\tb\nc\n")
    (files / "bad.jsonl").write_text('{"de": "a", "en": "b"}\n{"de": \n')
    (files / "list.jsonl").write_text('["a", "b"]\n')
    (files / "number.jsonl").write_text('{"de": "a", "en": 3}\n')
    (files / "cut.gz").write_bytes((files / "a.de.gz").read_bytes()[:-20])
    (files / "bad.bz2").write_bytes((files / "a.de.bz2").read_bytes()[:20] + bytes(90))
    (files / "quote.csv").write_text('de,en\n"a,b\n' + "a,b\n" * 40_000)
    (files / "cut.parquet").write_bytes((files / "a.parquet").read_bytes()[:-20])
    saved_to_disk(files / "null", [[("a", "b"), None]])
    (files / "dict").mkdir()
    (files / "dict/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for language, lines in {"de": "\n" * 90, "en": text(TEXTS["en"])}.items():
        (files / f"blank.{language}").write_text(lines)
    (files / "a.parquet.gz").touch()
    (files / "empty").touch()
    (files / "empty2").touch()
    call = [
        "prepare",
        "own",
        *words.replace("{good}", "{train} {f}/a.de {f}/a.en").format(f=files, train="--pair de-en --train").split(),
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "1",
    ]
    assert main(call) == 2
    assert expected.format(f=files) in capsys.readouterr().err.splitlines()[-1]


def test_without_pyarrow_the_message_says_what_to_install(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    prepared(tmp_path, files, [files / "a.parquet"], status=2)
    assert "a.parquet is read by pyarrow, which is missing; type: pip install pyarrow" in capsys.readouterr().err


def test_options_of_own_files_are_refused_with_a_named_data_set(capsys):
    assert main(["prepare", "multi30k", "--train", "a", "b"]) == 2
    assert "--train is for own files; leave it out, or type: wff prepare own" in capsys.readouterr().err


def test_the_first_pairs_of_a_named_data_set(tmp_path):
    archives = miniature.multi30k(tmp_path / "archives", train=60)
    words = ["prepare", "multi30k", "--pairs", "de-en", "--limit", "20", "--pieces", "90", "--archive", str(archives)]
    assert main([*words, "--any-counts", "--jobs", "1", "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out/clean/de-en"
    with gzip.open(archives / "train.de.gz", "rt") as file:
        assert (folder / "raw/train.de").read_text() == "".join(list(file)[:20])
    assert read_manifest(folder)["limit"] == 20


def test_byte_bpe_knows_every_letter_and_its_bytes_become_text_again(files, tmp_path):
    for language in ("de", "en"):
        (files / f"rare.{language}").write_text(text([*TEXTS[language], "ein łoś и 🐻"] * 30))
        (files / f"t.{language}").write_text(text(["neu: Ω ☂ «x» <b>"]))
    options = ["--subwords", "byte-bpe", "--pieces", 400]
    folder = prepared(tmp_path, files, [files / "rare.de", files / "rare.en"], *options)
    manifest = read_manifest(folder)
    [row] = [row for row in manifest["counts"] if row["step"] == "binarised" and row["split"] == "test"]
    assert row["unknown"] == {"de": 0, "en": 0} and manifest["generate"]["bytes"] is True
    pieces = (folder / "pieces/test.de").read_text().removesuffix("\n")
    assert "<0xCE> <0xA9>" in pieces  # the Greek letter is not in the training text
    joined = pieces.replace(" ", "").replace("\u2581", " ").strip()  # as fairseq joins pieces of SentencePiece
    assert Pieces(bytes_to_text=True).text(joined) == "neu: Ω ☂ «x» <b>"
    assert Pieces().text(joined) == joined
    assert Pieces(bytes_to_text=True).text("a<0xFF>b<0x0A>c") == "a\ufffdb c"
