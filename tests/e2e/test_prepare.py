"""`wff prepare` from miniature archives to what fairseq trains on, as a user types it."""

import gzip
import json
import subprocess
import time

import miniature
import numpy as np
from recipe_runs import start, wff

from weighted_freezing_fairseq.data import binary, read_manifest


def prepare(*words):
    done = wff("prepare", *words)
    assert done.returncode == 0, done.stderr
    return done


def words_of(folder, language, split="train"):
    """The dictionary, and the sentences in fairseq's data as words: what training sees."""
    entries = (folder / f"bin/dict.{language}.txt").read_text().splitlines()
    names = ["<s>", "<pad>", "</s>", "<unk>", *(entry.rpartition(" ")[0] for entry in entries)]
    index = folder / f"bin/{split}.{read_manifest(folder)['pair']}.{language}.idx"
    sentences = np.split(np.fromfile(index.with_suffix(".bin"), np.uint16), np.cumsum(list(binary.sizes(index)))[:-1])
    assert all(names[sentence[-1]] == "</s>" for sentence in sentences)
    return names, [" ".join(names[number] for number in sentence[:-1]) for sentence in sentences]


def kill_when_there(goal, *words):
    """kill -9 a preparation as soon as `goal` exists."""
    process = start("prepare", *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not goal.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9 and goal.exists()


def test_multi30k_and_a_second_call_does_nothing(tmp_path):
    archives = miniature.multi30k(tmp_path / "archives", train=60, others=5)
    few = ["multi30k", "--archive", archives, "--out", tmp_path / "data", "--jobs", 1, "--pairs", "de-en"]
    for words, told in (
        ([], "train has 60 pairs and should have 29,000"),
        (["--any-counts", "--pieces", 3], "another --pieces"),
    ):
        refused = wff("prepare", *few, *words)
        assert refused.returncode == 2 and told in refused.stderr
    words = [
        "multi30k",
        "--archive",
        archives,
        "--out",
        tmp_path / "data",
        "--pieces",
        200,
        "--jobs",
        1,
        "--any-counts",
    ]
    words += ["--pairs", "de-en", "--any-counts"]
    done = prepare(*words)
    counts = "60 train / 5 valid / 5 test_2016_flickr / 5 test_2017_flickr"
    assert done.stdout == f"de-en: {counts} pairs in {tmp_path}/data/clean/de-en\n"
    folder = tmp_path / "data/clean/de-en"
    manifest = read_manifest(folder)
    assert manifest["tests"] == {"test": "raw/test.en", "test1": "raw/test1.en"}
    assert manifest["test_names"] == {"test": "test_2016_flickr", "test1": "test_2017_flickr"}
    assert manifest["generate"] == {"remove_bpe": "sentencepiece", "tokenizer": None} and not manifest["lowercased"]
    for split, name in (
        ("train", "train"),
        ("valid", "val"),
        ("test", "test_2016_flickr"),
        ("test1", "test_2017_flickr"),
    ):
        for language in ("de", "en"):
            raw = (folder / f"raw/{split}.{language}").read_bytes()
            assert raw == gzip.decompress((archives / f"{name}.{language}.gz").read_bytes())
            pieces = (folder / f"pieces/{split}.{language}").read_text().splitlines()
            assert ["".join(line.split()).replace("▁", " ").strip() for line in pieces] == raw.decode().splitlines()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = prepare(*words)
    assert again.stdout == done.stdout and {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    hashes = manifest["sha256"]
    assert {"bin/train.de-en.de.bin", "bin/test1.de-en.en.idx", "bin/dict.de.txt", "spm.model"} <= hashes.keys()

    (folder / "raw/test.en").unlink()
    gone = wff("prepare", *words)
    assert gone.returncode == 2 and "raw/test.en is missing; move " in gone.stderr
    (folder / "manifest.json").unlink()  # as if killed just before it; and somebody changes what was counted
    rows = json.loads((folder / ".text.rows.json").read_text())
    rows[1]["pairs"] += 1
    (folder / ".text.rows.json").write_text(json.dumps(rows))
    changed = wff("prepare", *words)
    assert changed.returncode == 2 and "has 61 pairs of text and 60 binarised ones; were its files" in changed.stderr


def test_a_killed_preparation_goes_on_and_leaves_the_same_bytes_with_any_number_of_jobs(tmp_path):
    archive = miniature.iwslt14(tmp_path / "archives", ("de",), train=400)
    words = ["iwslt14", "--recipe", "fairseq", "--archive", archive, "--pieces", 1000]
    prepare(*words, "--out", tmp_path / "one", "--jobs", 1)
    killed = [*words, "--out", tmp_path / "two", "--jobs", 2]
    folder = tmp_path / "two/fairseq/de-en"
    kill_when_there(folder / ".raw.part", *killed)  # while two processes make tokens
    assert not (folder / "raw").exists()
    kill_when_there(folder / ".subwords.begun.json", *killed)  # while subwords are learnt
    assert not (folder / "manifest.json").exists()
    told = prepare(*killed).stderr
    assert "unpacked is done already" in told and "text is done already" in told
    one = tmp_path / "one/fairseq/de-en"
    assert (one / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    for name, sum_ in read_manifest(one)["sha256"].items():
        assert (one / name).read_bytes() == (folder / name).read_bytes(), (name, sum_)
    hidden = {path.name for path in folder.iterdir() if path.is_dir()}
    assert hidden == {"raw", "text", "pieces", "bin"}  # nothing half-made stays

    manifest = read_manifest(folder)
    assert manifest["generate"] == {"remove_bpe": "subword_nmt", "tokenizer": "moses"} and manifest["lowercased"]
    assert (folder / "bin/dict.de.txt").read_bytes() != (folder / "bin/dict.en.txt").read_bytes()  # a dictionary a side
    for language in ("de", "en"):
        text = (folder / f"text/train.{language}").read_text().splitlines()
        assert [line.replace("@@ ", "") for line in words_of(folder, language)[1]] == text
    again = wff("prepare", *words, "--out", tmp_path / "two", "--pieces", 999)
    assert again.returncode == 2 and "other settings (pieces 1000 instead of 999); give another --out" in again.stderr


def test_the_recipe_of_intra_distillation_and_a_pair_that_is_not_there(tmp_path):
    archive = miniature.iwslt14(tmp_path / "archives", ("fa",), train=80)
    words = ["--recipe", "intra-distillation", "--archive", archive, "--out", tmp_path, "--pieces", 300, "--jobs", 2]
    done = wff("prepare", "iwslt14", "--langs", "es,fa", *words)
    assert done.returncode == 2 and "es-en: " in done.stderr and "holds no train.tags.es-en.es" in done.stderr
    folder = tmp_path / "intra-distillation/fa-en"
    names, sentences = words_of(folder, "en", "test")
    # fairseq's four symbols, and every piece of the model but its three
    assert len(names) == 4 + 300 - 3 and names == words_of(folder, "fa")[0]
    text = (folder / "text/test.en").read_text().splitlines()
    assert ["".join(line.split()).replace("▁", " ").strip() for line in sentences] == text
    counts = read_manifest(folder)["counts"]
    assert {"step": "subwords", "learnt_on": ["train", "valid", "test"]}.items() <= counts[-7].items()
    last = {row["split"]: row for row in counts if row["step"] == "binarised"}
    for split, row in last.items():
        for language in ("fa", "en"):
            lines = (folder / f"pieces/{split}.{language}").read_text().splitlines()
            assert row["words"][language] == sum(len(line.split()) for line in lines) and row["pairs"] == len(lines)
            index = folder / f"bin/{split}.fa-en.{language}.idx"
            assert list(binary.sizes(index)) == [len(line.split()) + 1 for line in lines]
