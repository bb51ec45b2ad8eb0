"""Tables of labelled sentences: every row as it stands in the file, or counted; and folders made of them."""

import io
import json
import stat
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import labelled_files
import numpy as np
import pytest

from weighted_freezing_fairseq.data import GLUE, PAWSX, SENTENCES, XGLUE, XNLI, archives, binary, sentence_folder
from weighted_freezing_fairseq.data.encoders import Encoder, pieces_of
from weighted_freezing_fairseq.data.sentence_folder import TaskJob, _cut_to_length
from weighted_freezing_fairseq.data.sentences import rows
from weighted_freezing_fairseq.data.workers import Workers
from weighted_freezing_fairseq.errors import UserError


def source_of(data, task, split, place=0):
    return next(known for known in data.tasks[task].splits if known.name == split).files[place]


def read(tmp_path, text, task="rte", split="train", data=GLUE, place=0, ids=None):
    path = tmp_path / "file.tsv"
    path.write_bytes(text.encode())
    counts = Counter()
    source = source_of(data, task, split, place)
    found = list(rows(path, source, data.tasks[task], counts, ids))
    return found, {what: times for what, times in counts.items() if times}


def test_the_sizes_are_those_of_the_data_sets():
    """As fairseq's and the authors' own tables have them; XNLI: 15 languages, PAWS-X: 7; XGLUE's as in datasets."""
    sizes = {key: tuple(split.count for split in task.splits) for key, task in GLUE.tasks.items()}
    assert sizes == {
        "rte": (2490, 277, 3000), "cola": (8551, 1043, 1063), "mrpc": (3668, 408, 1725), "sts-b": (5749, 1500, 1379),
        "sst-2": (67_349, 872, 1821), "qnli": (104_743, 5463, 5463), "qqp": (363_846, 40_430, 390_965),
        "mnli": (392_702, 9815, 9832, 9796, 9847),
    }  # fmt: skip
    parts = {split.name: split.count for split in XNLI.tasks["en"].splits}
    assert len(parts) == 31 and parts["train"] == 392_702
    assert parts["valid"] == parts["dev.zh"] == 2490 and parts["test.en"] == 5010
    parts = {split.name: split.count for split in PAWSX.tasks["en"].splits}
    assert len(parts) == 15 and parts.pop("train") == 49_401 and {*parts.values()} == {2000}
    assert {"valid", "dev.de", "test.en", "test.zh"} < parts.keys() and "dev.en" not in parts
    languages = {key: " ".join(task.subsets["test"]) for key, task in XGLUE.tasks.items()}
    assert languages == {
        "nc": "de en es fr ru", "qam": "de en fr", "qadsm": "de en fr", "wpr": "de en es fr it pt zh",
        "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh", "pawsx": "de en es fr",
    }  # fmt: skip
    for key in ("nc", "qam", "qadsm"):
        parts = {split.name: split.count for split in XGLUE.tasks[key].splits}
        assert parts.pop("train") == 100_000 and {*parts.values()} == {10_000}
    parts = {split.name: split.count for split in XGLUE.tasks["wpr"].splits}
    assert parts["train"] == 99_997 and parts["valid"] == 10_008 and parts["dev.zh"] == 10_002
    assert parts["test.en"] == 10_004 and parts["test.fr"] == 10_020 and parts["test.zh"] == 9999


def test_alpha_is_that_of_the_paper():
    """Xu et al. 2022, Table 6."""
    found = {key: task.alpha for key, task in GLUE.tasks.items()}
    assert found == {
        "qnli": 0.5, "mnli": 0.5, "cola": 0.5, "qqp": 0.5, "sts-b": 1, "rte": 1, "sst-2": 0.5, "mrpc": 1.5
    }  # fmt: skip


def test_rows_are_read_as_they_stand(tmp_path):
    text = "index\tsentence1\tsentence2\tlabel\n"
    text += '0\tHe said "no\t"Yes" \tentailment\r\n'  # one quote is no beginning of anything; CRLF is a line end
    text += "1\ta\u2028b\t\tnot_entailment\n"
    text += "2\tcut short\n"
    text += "3\ta\tb\tc\tentailment\n"
    text += "4\ta\tb\tmaybe\n"
    text += "5\tlast\tline\tentailment"
    found, counts = read(tmp_path, text)
    assert found == [
        (('He said "no', '"Yes"'), "entailment"), (("a b", ""), "not_entailment"), (("last", "line"), "entailment"),
    ]  # fmt: skip
    assert counts == {
        "line end inside a line": 1, "an empty sentence, kept": 1, "fewer than 4 columns, dropped": 1,
        "more than 4 columns, dropped": 1, "the label 'maybe', dropped": 1,
    }  # fmt: skip


def test_cola_has_a_header_in_its_test_only(tmp_path):
    found, _ = read(tmp_path, "gj04\t1\t\tHe left.\ngj04\t0\t*\tLeft he.\n", "cola")
    assert found == [(("He left.",), "1"), (("Left he.",), "0")]
    assert read(tmp_path, "index\tsentence\n0\tHe left.\n", "cola", "test")[0] == [(("He left.",), "")]


def test_scores_are_numbers_from_0_to_5(tmp_path):
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    text = header + "".join(f"0\tx\tx\tx\tx\tx\tx\ta\tb\t{score}\n" for score in ("0.000", "5.000", "5.1", "nan", ""))
    found, counts = read(tmp_path, text, "sts-b")
    assert [label for _, label in found] == ["0.000", "5.000"]
    assert counts == {f"the label {text!r}, dropped": 1 for text in ("5.1", "nan", "")}


def test_mrpc_in_its_own_archive_is_cut_by_ids(tmp_path):
    text = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n0\t9\t10\tc\td\n1\t7\t10\te\tf\n"
    ids = tmp_path / "dev_ids.tsv"
    ids.write_text("9\t10\n")
    assert read(tmp_path, text, "mrpc", "valid", place=1, ids=ids)[0] == [(("c", "d"), "0")]
    train, counts = read(tmp_path, text, "mrpc", "train", place=1, ids=ids)
    assert [label for _, label in train] == ["1", "1"] and counts == {"byte order mark": 1}


def test_qqp_has_other_columns_in_its_test(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    found, counts = read(tmp_path, f"{header}7\t1\t2\tWho?\tWhom?\t1\n\tcut short\t0\n", "qqp")
    assert found == [(("Who?", "Whom?"), "1")] and counts == {"fewer than 6 columns, dropped": 1}
    assert read(tmp_path, "id\tquestion1\tquestion2\n0\ta\tb\n", "qqp", "test")[0] == [(("a", "b"), "")]


@pytest.mark.parametrize("split", ["train", "valid", "dev.mismatched", "test", "test.mismatched"])
def test_the_label_of_mnli_is_the_gold_one(tmp_path, split):
    member = source_of(GLUE, "mnli", split).member
    text = labelled_files.glue_file("MNLI", Path(member).stem, 4)
    assert text.partition("\n")[0].count("label") == (2 if split == "train" else 0 if "test" in split else 6)
    found, counts = read(tmp_path, text.replace("\tx", "\tneutral"), "mnli", split)
    labels = ["contradiction", "entailment", "neutral", "contradiction"]
    assert [label for _, label in found] == ([""] * 4 if "test" in split else labels) and not counts
    assert all(one and other.endswith(f" {label[0]}") for ((one, other), _), label in zip(found, labels, strict=True))


def test_languages_of_xnli_are_rows_of_one_file(tmp_path):
    text = "language\tgold_label\tsentence1\tsentence2\nde\tneutral\ta\tb\nen\t-\tc\td\nen\tcontradiction\te\tf\n"
    text += "de\tneutral\ta\tb\tc\n"  # counted where it belongs
    found, counts = read(tmp_path, text, "en", "valid", XNLI)
    assert found == [(("e", "f"), "contradiction")] and counts == {"the label '-', dropped": 1}
    german, counts = read(tmp_path, text, "en", "dev.de", XNLI)
    assert german == [(("a", "b"), "neutral")] and counts == {"more than 4 columns, dropped": 1}
    train = "premise\thypo\tlabel\na\tb\tcontradictory\n"
    assert read(tmp_path, train, "en", "train", XNLI)[0] == [(("a", "b"), "contradiction")]


def test_each_language_of_pawsx_has_its_files(tmp_path, encoder):
    archives = labelled_files.paws_x(tmp_path / "archives")
    job, manifest = made(tmp_path / "en", encoder, "en", archives, PAWSX)
    assert job.summary() == "24 train / 3 valid / 39 in 13 more sets"
    files = {row["split"]: row["file"] for row in manifest["counts"] if row["step"] == "text"}
    assert (
        files["train"] == "en/train.tsv" and files["valid"] == "en/dev_2k.tsv" and files["test.ko"] == "ko/test_2k.tsv"
    )
    assert (job.folder / "raw/dev.de.input1").read_text().splitlines()[0] == "NS"  # counts, as in XTREME
    assert (job.folder / "labels/dev.txt").read_text() == "0\n1\n0\n" * 7
    assert list(manifest["subsets"]["dev"]) == ["de", "en", "es", "fr", "ja", "ko", "zh"]


def test_an_archive_of_pawsx_that_is_broken_is_refused(tmp_path, encoder):
    def attempt(archive, told, any_counts=True):
        with pytest.raises(UserError, match=told):
            made(tmp_path / "en", encoder, "en", [archive], PAWSX, any_counts=any_counts)

    [whole] = labelled_files.paws_x(tmp_path / "archives")
    attempt(whole, "train of PAWS-X has 24 rows in en/train.tsv and should have 49,401: .*--any-counts", False)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:-300])
    attempt(cut, "cut.tar.gz is damaged or incomplete .*--archive")
    with tarfile.open(whole) as archive:
        archive.extractall(tmp_path, filter="data")
    korean = tmp_path / "x-final/ko/dev_2k.tsv"
    korean.write_text(korean.read_text().replace("\tlabel", "\tnoisy_label"))
    attempt(tmp_path / "x-final", "ko/dev_2k.tsv has no column 'label' .it has: id, sentence1, sentence2, noisy_label")
    korean.unlink()
    attempt(tmp_path / "x-final", "x-final holds no ko/dev_2k.tsv")


@pytest.mark.parametrize("key", XGLUE.tasks)
def test_each_task_and_language_of_xglue_has_its_files(key, tmp_path, encoder):
    [archive] = labelled_files.xglue(tmp_path / "archives")
    job, manifest = made(tmp_path / key, encoder, key, [archive], XGLUE)
    task = XGLUE.tasks[key]
    files = {row["split"]: row["file"] for row in manifest["counts"] if row["step"] == "text"}
    own = {"train": f"xglue.{key}.en.train", "valid": f"xglue.{key}.en.dev", "test.de": f"xglue.{key}.de.test"}
    others = {
        "xnli": {"train": "multinli.train.en.tsv", "valid": "XNLI/en.dev", "test.de": "XNLI/de.test"},
        "pawsx": {"train": "en/train.tsv", "valid": "en/dev_2k.tsv", "test.de": "de/test_2k.tsv"},
    }
    assert {split: files[split] for split in own} == others.get(key, own)
    assert (manifest["rows"]["train"], manifest["rows"]["test.de"]) == (24, 3)
    assert [manifest["subsets"][subset] for subset in ("dev", "test")] == [
        dict(task.subsets[s]) for s in ("dev", "test")
    ]
    labels = [task.labels[number % len(task.labels)] for number in range(3)] * len(task.subsets["test"])
    gold = [line.split("\t") for line in (job.folder / "labels/test.txt").read_text().splitlines()]
    assert [label for label, *_ in gold] == labels
    queries = [[str(number // 3)] for number in range(len(labels))]  # three rows each, in every language anew
    assert [query for _, *query in gold] == (queries if key == "wpr" else [[]] * len(labels))
    inputs = [(job.folder / f"raw/valid.input{n}").read_text().splitlines()[0] for n in (0, 1)]
    assert inputs[1].startswith("a title ") == (key in ("qadsm", "wpr"))
    assert "\t" not in "".join(inputs) and inputs[1].endswith(f" {labels[0][0]}")


def test_rows_of_one_query_that_do_not_follow_each_other_are_two_rankings(tmp_path, encoder):
    [archive] = labelled_files.xglue(tmp_path / "archives")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    folder = tmp_path / "xglue_full_dataset"
    (folder / "WPR/xglue.wpr.de.dev").write_text("".join(f"{q}\ttitle\ttext\t1\n" for q in "a a b a a".split()))
    (folder / "WPR/xglue.wpr.en.dev").write_text("a\ttitle\ttext\t4\n")
    job, _ = made(tmp_path / "wpr", encoder, "wpr", [folder], XGLUE)
    gold = (job.folder / "labels/dev.txt").read_text().splitlines()
    assert gold[:7] == ["1\t0", "1\t0", "1\t1", "1\t2", "1\t2", "4\t3", "0\t4"]


def test_an_archive_of_xglue_that_is_broken_is_refused(tmp_path, encoder):
    def attempt(archive, told, any_counts=True, key="nc"):
        with pytest.raises(UserError, match=told):
            made(tmp_path / key, encoder, key, [archive], XGLUE, any_counts=any_counts)

    [whole] = labelled_files.xglue(tmp_path / "archives")
    attempt(whole, "train of NC has 24 rows in xglue.nc.en.train and should have 100,000: .*--any-counts", False)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:-300])
    attempt(cut, "cut.tar.gz is damaged or incomplete .*--archive")
    with tarfile.open(whole) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "xglue_full_dataset"
    russian = folder / "NC/xglue.nc.ru.test"
    text = russian.read_text()
    # the tests of the archive before 26 November 2020
    russian.write_text("".join(line.rpartition("\t")[0] + "\n" for line in text.splitlines()))
    attempt(folder, "ru.test has no row for test.ru, 3 x fewer than 3 columns, dropped; give another with --archive")
    russian.write_text("".join(f"query\t{line}\n" for line in text.splitlines()))  # as Data_Format.txt has it
    attempt(folder, "ru.test has no row for test.ru, 3 x more than 3 columns, dropped; give another with --archive")
    russian.unlink()
    attempt(folder, "xglue_full_dataset holds no xglue.nc.ru.test")
    (folder / "WPR/xglue.wpr.en.train").write_text("a\ttitle\ttext\t5\n")
    attempt(folder, "xglue.wpr.en.train has no row for train, 1 x the label '5', dropped", key="wpr")
    training = folder / "XNLI/multinli.train.en.tsv"
    training.write_text(training.read_text().partition("\n")[2])
    attempt(folder, "multinli.train.en.tsv has no column 'premise'", key="xnli")


def test_a_file_of_another_task_is_told_by_its_columns(tmp_path):
    with pytest.raises(UserError, match="has no column 'sentence1' .it has: index, question.* --archive"):
        read(tmp_path, "index\tquestion\tsentence\tlabel\n")


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [((3, 2), 5, (3, 2)), ((9, 2), 5, (3, 2)), ((2, 9), 5, (2, 3)), ((9, 9), 5, (3, 2)), ((3, 10), 5, (3, 2)),
     ((9, 1), 5, (4, 1)), ((9, 0), 5, (5, 0)), ((9,), 5, (5,)), ((5,), 5, (5,))],
)  # fmt: skip
def test_the_longer_sentence_is_cut(lengths, room, kept):
    row = [[f"{side}{n}" for n in range(length)] for side, length in enumerate(lengths)]
    cut, found = _cut_to_length(row, room)
    assert found == [" ".join(pieces[:length]) for pieces, length in zip(row, kept, strict=True)]
    assert cut == (lengths != kept)


def test_hostile_members_of_a_zip_are_left_alone(tmp_path):
    archive = tmp_path / "a.zip"
    link, device = (zipfile.ZipInfo(f"{name}/RTE/train.tsv") for name in ("link", "device"))
    link.external_attr, device.external_attr = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFBLK | 0o600) << 16
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("../RTE/train.tsv", "out")
        made.writestr("/RTE/train.tsv", "root")
        made.writestr("..\\RTE\\train.tsv", "windows")
        made.writestr(link, "/etc/passwd")
        made.writestr(device, "")
        made.writestr("glue/RTE/train.tsv", "good")
        made.writestr("other/RTE/train.tsv", "again")
    found = archives.copy_out_of_all([archive], {"RTE/train.tsv": tmp_path / "out"})
    assert (tmp_path / "out").read_text() == "good" and found.members == {"RTE/train.tsv"}
    assert found.skipped == {
        "a name that leads out of the archive": 3, "a link": 1, "neither file nor folder": 1,
        "a second file of the same name": 1,
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "out"}


def test_members_are_found_in_folders_zips_tars_and_files(tmp_path):
    import miniature

    folder = tmp_path / "RTE"
    folder.mkdir()
    (folder / "train.tsv").write_text("folder")
    (folder / "dev.tsv").symlink_to("/etc/passwd")
    (tmp_path / "all.tgz").write_bytes(miniature.tgz({"glue/RTE/dev.tsv": "tar"}))
    (tmp_path / "test").mkdir()
    (tmp_path / "test/test.tsv").write_text("file")
    goals = {
        name: tmp_path / f"{number}.out" for number, name in enumerate(("RTE/train.tsv", "RTE/dev.tsv", "test.tsv"))
    }
    found = archives.copy_out_of_all([folder, tmp_path / "all.tgz", tmp_path / "test/test.tsv"], goals)
    assert [goal.read_text() for goal in goals.values()] == ["folder", "tar", "file"]
    assert found.skipped == {"a link that leads out of the folder": 1}


def test_a_damaged_zip_is_told(tmp_path):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as made:
        made.writestr("RTE/train.tsv", "some text that is stored")
    (tmp_path / "a.zip").write_bytes(whole.getvalue().replace(b"some text", b"other txt"))
    with pytest.raises(UserError, match="a.zip is damaged or incomplete .*--archive"):
        archives.copy_out_of_all([tmp_path / "a.zip"], {"RTE/train.tsv": tmp_path / "out"})


def test_an_encoder_is_known_by_its_files(tmp_path):
    folder = labelled_files.roberta(tmp_path / "roberta", weights=False)
    encoder = Encoder.of(folder)
    assert encoder.kind == "roberta" and pieces_of(encoder, ["dog", " do", ""])[0] == "257"
    assert [len(text.split()) for text in pieces_of(encoder, ["dog", " do", "", "ü"])] == [1, 2, 0, 2]
    with pytest.raises(UserError, match="has no model.pt; give --encoder"):
        _ = encoder.weights
    (folder / "vocab.bpe").unlink()
    with pytest.raises(UserError, match="needs a folder with dict.txt, encoder.json, vocab.bpe or dict.txt, sent"):
        Encoder.of(folder)
    with pytest.raises(UserError, match="there is no folder .*/x; give --encoder"):
        Encoder.of(tmp_path / "x")


def ids_of(folder: Path, column: str, split: str) -> list[list[str]]:
    """The lines of a binarised column, as the words of its dictionary."""
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    names += [line.split(" ")[0] for line in (folder / f"bin/{column}/dict.txt").read_text().splitlines()]
    index = folder / f"bin/{column}/{split}.idx"
    ends = np.cumsum(list(binary.sizes(index)))
    numbers = np.split(np.fromfile(index.with_suffix(".bin"), np.uint16), ends[:-1])
    return [[names[number] for number in row] for row in numbers]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Encoder.of(labelled_files.roberta(tmp_path_factory.mktemp("encoder") / "roberta", weights=False))


def made(folder, encoder, task, given, data=GLUE, longest=128, any_counts=True):
    job = TaskJob(data, data.tasks[task], encoder, folder, longest, any_counts)
    with Workers(1) as workers:
        sentence_folder.make(job, given, workers)
    return job, json.loads((folder / "manifest.json").read_text())


def test_a_folder_of_classes_step_by_step(tmp_path, encoder):
    job, manifest = made(
        tmp_path / "rte", encoder, "rte", [labelled_files.glue(tmp_path / "glue", ["RTE"])], longest=20
    )
    table = [line.split("\t") for line in (tmp_path / "glue/RTE/dev.tsv").read_text().splitlines()][1:]
    assert [row[1] for row in table] == (job.folder / "raw/valid.input0").read_text().splitlines()
    assert [row[3] for row in table] == (job.folder / "labels/dev.txt").read_text().splitlines()
    assert not (job.folder / "labels/test.txt").exists() and not (job.folder / ".unpacked").exists()
    pieces = [encoder_text.split() for encoder_text in pieces_of(encoder, [row[2] for row in table])]
    found = ids_of(job.folder, "input1", "valid")
    whole = [row[:-1] == cut for row, cut in zip(found, pieces, strict=True)]
    assert all(row[-1] == "</s>" and row[:-1] == cut[: len(row) - 1] for row, cut in zip(found, pieces, strict=True))
    lengths = [len(a) + len(b) - 2 for a, b in zip(ids_of(job.folder, "input0", "valid"), found, strict=True)]
    assert max(lengths) == 16 and not all(whole)  # with the four around them: 20
    assert [row[0] for row in ids_of(job.folder, "label", "valid")] == [row[3] for row in table]
    assert (job.folder / "bin/label/dict.txt").read_text() == "entailment 1\nnot_entailment 1\n"
    assert manifest["rows"] == {"train": 24, "valid": 10, "test": 5} and job.is_done()
    cut = {row["split"]: row["cut_to_length"] for row in manifest["counts"] if row["step"] == "pieces"}
    assert cut["valid"] >= 1


def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path, encoder, monkeypatch, capsys):
    given = [labelled_files.glue(tmp_path / "glue", ["RTE"])]
    whole, _ = made(tmp_path / "whole", encoder, "rte", given)
    for step in ("_write_labels", "_in_pieces", "_binarise", "_write_manifest"):
        with monkeypatch.context() as patched:
            patched.setattr(sentence_folder, step, killed)
            with pytest.raises(KeyboardInterrupt):
                made(tmp_path / "rte", encoder, "rte", given)
        assert not (tmp_path / "rte/manifest.json").exists()
    job, _ = made(tmp_path / "rte", encoder, "rte", given)
    assert "text is done already" in (said := capsys.readouterr().err) and "binarised is done already" in said
    for path in sorted(whole.folder.rglob("[!.]*")):
        mine = job.folder / path.relative_to(whole.folder)
        assert path.is_dir() or path.read_bytes() == mine.read_bytes(), path
    assert not list(job.folder.glob(".*.part")) and not (job.folder / ".unpacked").exists()
    with pytest.raises(
        UserError,
        match=r"was made with other settings \(longest 128 instead of 64\); give another --out",
    ):
        TaskJob(GLUE, job.task, encoder, job.folder, 64).is_done()
    (job.folder / "raw/train.input0").unlink()
    with pytest.raises(UserError, match="raw/train.input0 is missing; move .*rte away"):
        job.is_done()
    (tmp_path / "mine/raw").mkdir(parents=True)
    with pytest.raises(UserError, match="mine/raw was not made by wff prepare; give another --out"):
        TaskJob(GLUE, job.task, encoder, tmp_path / "mine", 128).is_done()


def killed(*_):
    raise KeyboardInterrupt


def test_a_folder_of_scores_and_one_without_a_test(tmp_path, encoder):
    glue = labelled_files.glue(tmp_path / "glue", ["STS-B"])
    (glue / "STS-B/test.tsv").unlink()
    job, manifest = made(tmp_path / "sts-b", encoder, "sts-b", [glue])
    raw = (job.folder / "raw/valid.label").read_text().split()
    assert raw[:3] == ["0.000", "0.500", "1.000"]
    assert (job.folder / "bin/label/valid.label").read_text().split()[:4] == ["0", "0.1", "0.2", "0.3"]  # of 5
    assert not (job.folder / "bin/label/dict.txt").exists() and list(manifest["subsets"]) == ["dev"]


def test_mnli_has_two_sets_of_dev_and_test(tmp_path, encoder):
    glue = labelled_files.glue(tmp_path / "glue", ["MNLI"], {"train": 6, "dev": 4, "test": 3})
    job, manifest = made(tmp_path / "mnli", encoder, "mnli", [glue])
    assert manifest["rows"] == {"train": 6, "valid": 4, "dev.mismatched": 4, "test": 3, "test.mismatched": 3}
    assert job.summary() == "6 train / 4 valid / 3 test / 7 in 2 more sets"
    text = {name: (job.folder / f"raw/{name}.input0").read_text() for name in ("valid", "dev.mismatched")}
    for name, file in (("valid", "dev_matched"), ("dev.mismatched", "dev_mismatched")):
        rows = [line.split("\t") for line in (glue / f"MNLI/{file}.tsv").read_text().splitlines()[1:]]
        assert text[name].splitlines() == [row[8] for row in rows]
        labels = job.folder / f"labels/{'dev' if name == 'valid' else file}.txt"
        assert labels.read_text().split() == [row[15] for row in rows]
    assert text["valid"] != text["dev.mismatched"]
    assert sorted(path.name for path in (job.folder / "labels").iterdir()) == ["dev.txt", "dev_mismatched.txt"]
    (glue / "MNLI/dev_mismatched.tsv").unlink()
    with pytest.raises(UserError, match="holds no MNLI/dev_mismatched.tsv"):
        made(tmp_path / "again", encoder, "mnli", [glue])


def test_what_cannot_be_right_is_refused(tmp_path, encoder):
    glue = labelled_files.glue(tmp_path / "glue", ["RTE"])
    task = GLUE.tasks["rte"]

    def attempt(any_counts=False):
        job = TaskJob(GLUE, task, encoder, tmp_path / "rte", 128, any_counts)
        with Workers(1) as workers:
            sentence_folder.make(job, [glue], workers)

    with pytest.raises(
        UserError, match="train of RTE has 24 rows in RTE/train.tsv and should have 2,490: .*any-counts"
    ):
        attempt()
    test = glue / "RTE/test.tsv"
    test.write_text(test.read_text() + "9\tcut short\n")
    with pytest.raises(UserError, match="test.tsv has rows that cannot be read .fewer than 3 columns, dropped"):
        attempt(any_counts=True)
    (glue / "RTE/dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(UserError, match="RTE/dev.tsv has no row for valid"):
        attempt(any_counts=True)
    (glue / "RTE/train.tsv").unlink()
    with pytest.raises(UserError, match="holds no RTE/train.tsv"):
        attempt(any_counts=True)


def test_every_data_set_has_its_facts():
    for data in SENTENCES.values():
        for task in data.tasks.values():
            splits = {split.name for split in task.splits}
            assert {split for own in task.subsets.values() for split in own.values()} | {"train"} == splits
