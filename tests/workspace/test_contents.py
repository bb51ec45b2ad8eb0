"""A training is known by what it was trained on, wherever that lies now."""

import json
import os
import shutil
import zipfile

import pytest
import torch

from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.workspace.contents import content_hash, same_settings, with_contents
from weighted_freezing_fairseq.workspace.steps import once


@pytest.fixture
def place(tmp_path):
    """Prepared data, a teacher, and the settings of a run on them."""
    prepared = tmp_path / "data/clean/de-en"
    (prepared / "bin").mkdir(parents=True)
    (prepared / "bin/train.idx").write_bytes(b"sentences")
    manifest = {"sha256": {"raw/train.de": "r", "bin/train.idx": "a", "bin/dict.txt": "b"}, "versions": "1"}
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    torch.manual_seed(1)
    torch.save({"model": {"a": torch.rand(500_000)}}, tmp_path / "teacher.pt")
    return tmp_path


def settings(place, **more):
    criterion = {"_name": "self_distillation", "teacher": str(place / "teacher.pt"), **more}
    return with_contents({"task": {"data": str(place / "data/clean/de-en/bin")}, "criterion": criterion})


def train_again(run, found):
    """Whether the step must be done; an error where it was done with other settings."""
    worked = []
    once(run, "training", found, lambda: worked.append(True))
    return bool(worked)


def test_moved_data_and_teachers_are_the_same_and_others_in_their_place_are_refused(place):
    run = place / "runs/student-1"
    run.mkdir(parents=True)
    assert train_again(run, settings(place)) and not train_again(run, settings(place))
    moved = place / "elsewhere"
    moved.mkdir()
    for name in ("data", "teacher.pt", "runs"):
        (place / name).rename(moved / name)
    assert not train_again(moved / "runs/student-1", settings(moved))
    with pytest.raises(UserError, match="holds the step training of other settings"):
        train_again(moved / "runs/student-1", settings(moved, alpha=2))
    state = torch.load(moved / "teacher.pt", weights_only=True)
    state["model"]["a"][250_000] += 1  # one number in two megabytes
    torch.save(state, moved / "teacher.pt")
    with pytest.raises(UserError, match="holds the step training of other settings"):
        train_again(moved / "runs/student-1", settings(moved))


def test_data_prepared_anew_counts_by_its_binarised_files(place):
    recorded = settings(place)
    path = place / "data/clean/de-en/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"] = "2"
    path.write_text(json.dumps(manifest))
    assert same_settings(recorded, settings(place))
    manifest["sha256"]["bin/train.idx"] = "c"
    path.write_text(json.dumps(manifest))
    assert not same_settings(recorded, settings(place))


def test_a_stamp_of_an_older_version_compares_by_path(place, tmp_path):
    found = settings(place)
    old = {"config": found["config"]}
    (tmp_path / ".training.json").write_text(json.dumps(old))
    assert not train_again(tmp_path, found)
    shutil.copytree(place / "data", place / "copy")
    assert not same_settings(
        old, with_contents({**found["config"], "task": {"data": str(place / "copy/clean/de-en/bin")}})
    )


def test_what_is_gone_compares_by_path(place):
    recorded = settings(place)
    (place / "teacher.pt").unlink()
    assert same_settings(recorded, settings(place))
    assert not same_settings(recorded, settings(place, teacher="/another.pt"))


def test_folders_without_a_manifest_are_hashed_without_their_logs(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/train.bin").write_bytes(b"abc")
        (tmp_path / name / "preprocess.log").write_text(name)
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two")
    (tmp_path / "two/deep/train.bin").write_bytes(b"abd")
    assert content_hash(tmp_path / "one") != content_hash(tmp_path / "two")


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 3 << 20, 4 << 20])
def test_files_up_to_four_mebibytes_are_hashed_whole(size, tmp_path):
    data = bytearray(os.urandom(size))
    path = tmp_path / "file"
    path.write_bytes(data)
    first = content_hash(path)
    for place in {0, size // 3, size // 2, size - 1} if size else set():
        data[place] ^= 1
        path.write_bytes(data)
        assert content_hash(path) != first, place
        data[place] ^= 1
    path.write_bytes(data + b"x")
    assert content_hash(path) != first


def test_any_tensor_of_a_large_checkpoint_counts(tmp_path):
    """Also one that lies between the blocks: the zip directory has its CRC."""
    found = set()
    for changed in (0, 1):
        path = tmp_path / "large.pt"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(1500):
                data = bytes([changed and number == 20]) * 8000
                archive.writestr(zipfile.ZipInfo(f"archive/data/{number}"), data)
        found.add(content_hash(path))
    assert len(found) == 2
