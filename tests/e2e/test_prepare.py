"""`wff prepare` from miniature archives to what fairseq trains on, as a user types it."""

import gzip
import json

import miniature
from recipe_runs import wff

from weighted_freezing_fairseq.data import read_manifest


def prepare(*words):
    done = wff("prepare", *words)
    assert done.returncode == 0, done.stderr
    return done


def test_multi30k_both_ways_and_a_second_call_does_nothing(tmp_path):
    archives = miniature.multi30k(tmp_path / "archives", train=60, others=5)
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
    done = prepare(*words)
    assert done.stdout.splitlines() == [
        f"{pair}: 60 train / 5 valid / 5 test / 5 test1 pairs in {tmp_path}/data/clean/{pair}"
        for pair in ("de-en", "en-de")
    ]
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
    hashes = json.loads((folder / "manifest.json").read_text())["sha256"]
    assert {"bin/train.de-en.de.bin", "bin/test1.de-en.en.idx", "bin/dict.de.txt", "spm.model"} <= hashes.keys()
