"""`wff prepare sentences`: tables of one's own labelled sentences, in every form that is taken; what is refused."""

import gzip
import json
import random

import labelled_files
import pyarrow
import pyarrow.ipc
import pytest

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import lines, read_manifest, sentence_folder
from weighted_freezing_fairseq.data.fetch import sha256

CLASSES = ("so so", "10", "9", "good")


def examples(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        one, other = (" ".join(rng.choices(labelled_files.WORDS, k=rng.randint(2, 6))) for _ in range(2))
        yield {"one": one, "other": other, "kind": rng.choice(CLASSES), "score": f"{rng.randint(-4, 8) / 2}"}


TRAIN, TESTS = list(examples(60, seed=1)), list(examples(7, seed=2))
PAIRS = ["--text", "one", "--text2", "other"]


def tsv(rows):
    return "".join("\t".join(line) + "\n" for line in (rows[0].keys(), *(row.values() for row in rows)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return labelled_files.xlmr(tmp_path_factory.mktemp("encoder") / "xlmr", weights=False)


@pytest.fixture
def files(tmp_path):
    """The same rows in every form."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.tsv").write_text(tsv(TRAIN))
    (folder / "t.tsv").write_text(tsv(TESTS))
    (folder / "backwards.tsv").write_text(tsv(TRAIN[::-1]))
    quoted = "".join(",".join('"{}"'.format(cell.replace('"', '""')) for cell in row.values()) + "\n" for row in TRAIN)
    (folder / "a.csv").write_text("\ufeff" + ",".join(TRAIN[0]) + "\n" + quoted)
    as_json = [{**row, "score": float(row["score"]), "id": 1} for row in TRAIN]
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in as_json).encode()))
    (folder / "saved").mkdir()  # as `save_to_disk` of Hugging Face's datasets leaves it
    table = pyarrow.Table.from_pylist(TRAIN)
    with pyarrow.ipc.new_stream(folder / "saved/data.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "saved/state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    return folder


@pytest.fixture
def prepared(tmp_path, files, encoder):
    def prepare(*words, name="own", status=0):
        words = ["--encoder", encoder, "--out", tmp_path / "out", "--name", name, "--jobs", 1, *words]
        assert main(["prepare", "sentences", *map(str, words)]) == status
        return tmp_path / f"out/xlmr/{name}"

    return prepare


def contents(folder):
    files = [path for name in ("raw", "pieces", "bin", "labels") for path in (folder / name).rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def rows_of(folder, split):
    return list(zip(*(lines.texts(folder / f"raw/{split}.{name}") for name in ("input0", "input1")), strict=True))


def test_every_form_of_the_same_rows_gives_the_same_bytes(files, prepared):
    words = [*PAIRS, "--test", f"news={files / 't.tsv'}"]
    plain = contents(prepared("--train", files / "a.tsv", *words, "--label", "kind", name="plain"))
    for table in ("a.csv", "a.jsonl.gz"):
        assert contents(prepared("--train", files / table, *words, "--label", "kind", name=table)) == plain, table
    assert contents(prepared("--train", files / "saved", *words, "--label", "kind", name="saved")) == plain
    two = prepared("--train", files / "a.tsv", *words, "--label", "kind", "--jobs", 2, name="two")
    assert contents(two) == plain
    assert plain["bin/label/dict.txt"].decode() == "10 1\n9 1\ngood 1\nso so 1\n"
    assert plain["labels/news.txt"].decode() == "".join(f"{row['kind']}\n" for row in TESTS)
    scores = ["--label", "score", "--regression"]
    first, second = (
        prepared("--train", files / name, *words, *scores, name=f"s-{name}") for name in ("a.tsv", "a.csv")
    )
    assert contents(first) == contents(second)
    assert (first / "labels/news.txt").read_text() == "".join(f"{row['score']}\n" for row in TESTS)
    scaled = [float(value) * 4 for value in (first / "bin/label/news.label").read_text().split()]
    assert scaled == [float(row["score"]) for row in TESTS]
    manifest = read_manifest(first)
    assert (manifest["scale"], manifest["labels"], manifest["metrics"]) == (4.0, [], ["pearson", "spearman"])


def test_rows_are_set_apart_whatever_their_order_and_leave_training(files, prepared):
    more = [TESTS[2], {**TRAIN[5], "kind": "good"}]  # of the test; and a second row with the sentences of another
    (files / "more.tsv").write_text(tsv(more))
    words = [*PAIRS, "--label", "kind", "--valid-lines", 9, "--test", files / "t.tsv"]
    folder = prepared("--train", files / "a.tsv", files / "more.tsv", *words)
    backwards = prepared("--train", files / "backwards.tsv", "--train", files / "more.tsv", *words, name="backwards")
    splits = {split: rows_of(folder, split) for split in ("train", "valid", "test")}
    assert splits["test"] == [(row["one"], row["other"]) for row in TESTS]
    assert sorted(splits["valid"]) == sorted(rows_of(backwards, "valid")) and len(splits["valid"]) in (9, 10)
    assert not {*splits["train"]} & {*splits["valid"], *splits["test"]}
    assert {*splits["train"], *splits["valid"]} == {(row["one"], row["other"]) for row in TRAIN}
    manifest = read_manifest(folder)
    found = manifest["counts"][0]["found"]
    assert found == {"in another split, dropped": 1, "set apart": len(splits["valid"])}
    assert manifest["rows"]["train"] == 62 - sum(found.values()) == len(splits["train"])
    assert manifest["counts"][0]["files"][0]["sha256"] == sha256(files / "a.tsv")
    own_test = prepared("--train", files / "a.tsv", *words[:-4], "--valid-lines", 5, "--test-lines", 6, name="both")
    assert {split: len(rows_of(own_test, split)) for split in ("train", "valid", "test")} == {
        "train": 49, "valid": 5, "test": 6,
    }  # fmt: skip


def test_a_kill_in_any_step_leads_to_the_same_bytes_and_a_second_call_changes_nothing(
    files, prepared, monkeypatch, capsys
):
    words = ["--train", files / "a.tsv", "--dev", files / "t.tsv", "--text", "one", "--label", "kind"]
    whole = contents(folder := prepared(*words, name="whole"))
    folder = folder.with_name("own")
    assert "raw/train.input1" not in whole and len(whole["raw/valid.label"].splitlines()) == 7

    def killed(*_):
        raise KeyboardInterrupt

    for step in ("_write_labels", "_in_pieces", "_binarise", "_write_manifest"):
        with monkeypatch.context() as patched:
            patched.setattr(sentence_folder, step, killed)
            with pytest.raises(KeyboardInterrupt):
                prepared(*words)
        assert not (folder / "manifest.json").exists()
    assert contents(prepared(*words)) == whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    prepared(*words)
    prepared(*words, "--test-lines", 5, name="more")
    capsys.readouterr()
    prepared(*words, name="more", status=2)
    assert "was made with other settings (held_out {'test': 5} instead of None)" in capsys.readouterr().err
    (files / "a.tsv").write_text(tsv(TRAIN[1:]))
    capsys.readouterr()
    prepared(*words, status=2)
    assert "own was made with other settings (train a.tsv@" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--train {f}/a.tsv", "needs --train, --text and --label; type --train t.tsv --text COLUMN --label COLUMN"),
        ("{good} --train {f}/no.tsv", "there is no file {f}/no.tsv; give a table whose name ends in .tsv, .csv, "),
        ("{good} --train {f}/plain", "plain is not a table; give one whose name ends in .tsv, .csv, .jsonl, .parquet"),
        ("{good} --test {f}/a.tsv", "{f}/a.tsv is given 2 times; give each file to one split only"),
        ("{good} --text2 one", "column 'one' is given 2 times; give each column once"),
        ("{good} --text2 no", "line 2 of {f}/a.tsv has no column 'no' (it has: one, other, kind, score); type --text"),
        ("{good} --label no", "line 2 of {f}/a.tsv has no column 'no' (it has: one, other, kind, score); type --label"),
        ("{good} --regression", "line 2 of {f}/a.tsv has the score '{kind}'; it must be a number"),
        ("{good} --train {f}/empty.tsv", "line 3 of {f}/empty.tsv has the label '', which cannot be one; correct it"),
        ("{good} --train {f}/short.tsv", "line 3 of {f}/short.tsv has 1 columns, and its header 4; correct it"),
        ("{good} --train {f}/null.jsonl", "line 1 of {f}/null.jsonl has None in column 'kind'; it must be text"),
        ("{good} --train {f}/many.tsv", "column 'kind' has more than 1,000 classes; type --label with the column of"),
        ("{good} --dev {f}/new.tsv", "line 2 of {f}/new.tsv has the label 'new', which no training row has; correct"),
        ("{good} --dev {f}/header.tsv", "{f}/header.tsv has no row; give another file"),
        ("--train {f}/new.tsv --text one --label kind", "every row has the label 'new'; give --train files with at le"),
        ("{good} --valid-lines 60", "60 of 60 rows cannot be set apart; reduce --valid-lines, or give --valid FILES"),
        ("{good} --test-lines 200", "of 60 rows cannot be set apart; reduce --test-lines, or give --test FILES"),
        ("{good} --test train={f}/t.tsv", "a test set cannot be called 'train'; type --test NAME=FILE with another"),
        ("{good} --test valid={f}/t.tsv", "a test set cannot be called 'valid'; type --test NAME=FILE with another"),
        ("{good} --test {f}/t.tsv test={f}/a.csv", "two test sets are called test; give each a name of its own: --"),
        ("{good} --test {f}", "{f} is not a folder of save_to_disk; give the files in it"),
        ("{good} --valid-lines 0", "--valid-lines must be at least 1, got 0; type --valid-lines 1"),
        ("{good} --dev {f}/t.tsv --valid-lines 5", "--valid and --valid-lines both give rows for valid; leave one of"),
        ("{good} --test dev={f}/t.tsv", "a test set cannot be called 'dev'; type --test NAME=FILE with another name"),
        ("{good} --name a/b", "--name must be a name for a folder, got 'a/b'"),
        ("{good} --max-length 4", "--max-length must be between 8 and 512, got 4; type --max-length 128"),
        ("{good} --pieces 9", "--pieces is not for sentences; leave it out"),
        ("{good} --moses", "--moses is for own files; leave it out, or type: wff prepare own"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_to_type(words, expected, files, prepared, capsys):
    header = "\t".join(TRAIN[0]) + "\n"
    (files / "plain").touch()
    (files / "empty.tsv").write_text(f"{header}a\tb\tgood\t1\na\tb\t\t1\n")
    (files / "short.tsv").write_text(f"{header}a\tb\tgood\t1\na\n")
    (files / "null.jsonl").write_text('{"one": "a", "kind": null}\n')
    (files / "many.tsv").write_text(header + "".join(f"a\tb\t{n}\t1\n" for n in range(1001)))
    (files / "new.tsv").write_text(f"{header}a\tb\tnew\t1\n")
    (files / "header.tsv").write_text(header)
    good = "--train {f}/a.tsv --text one --label kind"
    prepared(*words.format(good=good, f="{f}").format(f=files).split(), status=2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert expected.format(f=files, kind=TRAIN[0]["kind"]) in said


def test_a_dry_run_does_nothing_and_other_data_sets_have_no_such_columns(files, prepared, capsys):
    folder = prepared("--train", files / "a.tsv", "--text", "one", "--label", "kind", "--dry-run")
    said = capsys.readouterr().out
    assert f"own: would make {folder}\n  read {files}/a.tsv\n" in said and not folder.parent.exists()
    assert main(["prepare", "multi30k", "--label", "kind"]) == 2
    assert "--label is for own files; leave it out, or type: wff prepare sentences" in capsys.readouterr().err
