"""Archives of the named data sets that a user unpacked by hand: the same outputs, byte for byte."""

import gzip
import tarfile

import miniature
import pytest

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import fetch, read_manifest
from weighted_freezing_fairseq.data.archives import find_unpacked


def unpack(archive, folder):
    """As `tar xzf` does."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def multi30k(folder):
    """Its files as they are called without .gz."""
    for path in miniature.multi30k(folder / "archives").iterdir():
        (folder / "unpacked").mkdir(exist_ok=True)
        (folder / "unpacked" / path.stem).write_bytes(gzip.decompress(path.read_bytes()))


def wmt17(folder):
    """All archives, unpacked side by side; dev.tgz has other files of the name of a test set."""
    for path in miniature.wmt17(folder / "archives").iterdir():
        unpack(path, folder / "unpacked")
    (folder / "unpacked/dev/newstest2014-deen-src.en.sgm").write_text("not this one")


def iwslt14(folder):
    """The archive of all pairs, unpacked once."""
    miniature.iwslt14(folder / "archives", ("de", "es"))
    unpack(folder / "archives/2014-01.tgz", folder / "unpacked")


def iwslt14_pairs(folder):
    """The archive of all pairs, and those of the pairs in it."""
    miniature.iwslt14(folder / "archives", ("de", "es"))
    unpack(folder / "archives/2014-01.tgz", folder / "unpacked")
    for path in list(folder.glob("unpacked/**/*-en.tgz")):
        unpack(path, path.parent)
        path.unlink()


def prepared(dataset, folder, *archives):
    words = ["prepare", *dataset.split(), "--pieces", 90, "--out", folder, "--jobs", 1, "--any-counts", "--archive"]
    assert main(list(map(str, [*words, *archives]))) == 0
    outputs = [path for part in ("raw", "text", "pieces", "bin") for path in folder.glob(f"*/*/{part}/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in outputs}


@pytest.mark.parametrize(
    ("dataset", "write"),
    [
        ("multi30k --pairs de-en", multi30k),
        ("wmt17 --recipe clean", wmt17),
        ("iwslt14 --langs de,es", iwslt14),
        ("iwslt14 --langs de,es", iwslt14_pairs),
    ],
)
def test_unpacked_archives_give_the_same_bytes(dataset, write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "_download", None)  # nothing is fetched
    write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "unpacked").rglob("*")}
    from_archives = prepared(dataset, tmp_path / "a", tmp_path / "archives")
    from_folder = prepared(dataset, tmp_path / "b", tmp_path / "unpacked")
    assert from_folder == from_archives and len(from_folder) > 12
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "unpacked").rglob("*")} == before
    for path in (tmp_path / "b").glob("*/*"):
        if path.is_dir() and path.name != "archives":
            for identity in read_manifest(path)["archives"].values():
                assert identity["from"] == "given" and len(identity["sha256"]) == 64
    capsys.readouterr()
    words = ["prepare", *dataset.split(), "--out", str(tmp_path / "c"), "--archive", str(tmp_path / "unpacked")]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"  take {tmp_path}/unpacked/" in said and "fetch" not in said


def test_unpacked_files_may_lie_with_archives_or_be_given_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_download", None)
    multi30k(tmp_path)
    expected = prepared("multi30k --pairs de-en", tmp_path / "a", tmp_path / "archives")
    mixed = tmp_path / "unpacked"
    (mixed / "deeper").mkdir()
    for name in ("train.de", "val.en"):
        (mixed / "deeper" / name).write_text("of another data set")
    for path in sorted((tmp_path / "archives").iterdir())[:3]:
        (mixed / path.stem).unlink()
        path.rename(mixed / path.name)
    assert prepared("multi30k --pairs de-en", tmp_path / "b", mixed) == expected
    assert prepared("multi30k --pairs de-en", tmp_path / "c", *sorted(mixed.iterdir())) == expected
    (tmp_path / "d").mkdir()
    mixed.rename(tmp_path / "d/archives")  # where archives are fetched
    (tmp_path / "empty").mkdir()
    assert prepared("multi30k --pairs de-en", tmp_path / "d", tmp_path / "empty") == expected


def test_a_link_that_leads_out_of_a_folder_is_no_unpacked_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "train.de").touch()
    (tmp_path / "folder/train.de").symlink_to(tmp_path / "train.de")
    found = find_unpacked({"train.de.gz": {"": True}}, [tmp_path / "folder"])["train.de.gz"]
    assert (found.members, found.missing) == ({}, ["train.de"])
