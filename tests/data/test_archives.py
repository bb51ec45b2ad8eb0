"""Archives, whole, damaged and hostile: what is wanted comes out under our names, and nothing else is written."""

import gzip
import struct
import tarfile
import zipfile

import miniature
import pytest

from weighted_freezing_fairseq.data.archives import copy_out, copy_out_of_all, missing_member
from weighted_freezing_fairseq.errors import UserError


def put(tmp_path, members):
    path = tmp_path / "a.tgz"
    path.write_bytes(miniature.tgz(members) if isinstance(members, dict) else members)
    return path


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_members_come_out_by_the_end_of_their_name_and_from_archives_inside(tmp_path):
    inner = miniature.tgz({"de-en/train.de": "eins\n", "de-en/train.en": "one\n"})
    path = put(tmp_path, {"./x/not-train.de": "no\n", "x/texts/de/en/de-en.tgz": inner, "x/last": "l\n"})
    goals = {name: tmp_path / "out" / name for name in ("train.de", "train.en", "nowhere")}
    (tmp_path / "out").mkdir()
    found = copy_out(path, goals, nested=["de-en.tgz"])
    assert found.members == {"train.de", "train.en"} and not found.skipped
    assert (tmp_path / "out/train.de").read_text() == "eins\n" and (tmp_path / "out/train.en").read_text() == "one\n"
    assert found.names == ["./x/not-train.de", "x/last"]


def test_a_gzipped_file_is_its_own_member(tmp_path):
    path = tmp_path / "train.de.gz"
    path.write_bytes(gzip.compress(b"eins\n"))
    copy_out(path, {"": tmp_path / "out"})
    assert (tmp_path / "out").read_bytes() == b"eins\n"


def test_hostile_members_are_counted_and_nothing_is_written_for_them(tmp_path):
    device = tarfile.TarInfo("train.de")
    device.type = tarfile.CHRTYPE
    members = {
        "../train.de": "up\n",
        "/tmp/train.de": "root\n",
        "a/../../train.de": "up\n",
        "..\\train.de": "up\n",
        "1": miniature.link("train.de", "/etc/passwd"),
        "2": miniature.link("x/train.de", "../../etc/passwd", hard=True),
        "3": device,
        "good/train.de": "eins\n",
        "again/train.de": "zwei\n",
    }
    work = tmp_path / "work"
    (work / "out").mkdir(parents=True)
    path = put(work, members)
    found = copy_out(path, {"train.de": work / "out/train.de"})
    assert found.skipped == {
        "a name that leads out of the archive": 4,
        "a link": 2,
        "neither file nor folder": 1,
        "a second file of the same name": 1,
    }
    assert everything(tmp_path) == ["work/a.tgz", "work/out/train.de"]
    assert (work / "out/train.de").read_text() == "eins\n"


def test_a_wanted_member_that_is_a_link_is_missing_and_the_message_says_so(tmp_path):
    path = put(tmp_path, {"1": miniature.link("de-en/train.de", "/etc/passwd"), "fr-en/train.fr": "un\n"})
    found = copy_out(path, {"train.de": tmp_path / "out"})
    assert str(missing_member(path, "train.de", found)) == (
        f"{path} holds no train.de (it has: fr-en/train.fr; 1 x a link, skipped); is it of another pair or data "
        "set? Give the right one with --archive FILE"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", [0.05, 0.5, 0.98])
def test_an_archive_that_was_cut_short_says_so(tmp_path, part):
    whole = miniature.tgz(
        {f"{number}.de": str(number) * 3000 + gzip.compress(bytes([number]) * 999).hex() for number in range(9)}
    )
    path = put(tmp_path, whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match=r"a.tgz is damaged or incomplete \(.*\); move it away .* --archive"):
        copy_out(path, {"0.de": tmp_path / "out"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"<html>quota</html>",
        lambda data: gzip.compress(b"no tar at all"),
        lambda data: data[:-8] + b"\0" * 8,  # gzip's checksum and length
        lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:],
    ],
    ids=["web page", "no tar", "checksum", "a byte"],
)
def test_a_damaged_archive_says_so(tmp_path, damage):
    path = put(tmp_path, damage(miniature.tgz({"train.de": "eins\n" * 100})))
    with pytest.raises(UserError, match="is damaged or incomplete"):
        copy_out(path, {"train.de": tmp_path / "out"})


def test_a_damaged_archive_inside_another_says_so(tmp_path):
    inner = miniature.tgz({"train.de": "eins\n" * 5000})
    path = put(tmp_path, {"de-en.tgz": inner[: len(inner) // 2]})
    with pytest.raises(UserError, match="is damaged or incomplete"):
        copy_out(path, {"train.de": tmp_path / "out"}, nested=["de-en.tgz"])


def test_a_full_disk_is_not_the_archives_fault(tmp_path):
    path = put(tmp_path, {"train.de": "eins\n"})
    with pytest.raises(OSError, match="No such file or directory"):
        copy_out(path, {"train.de": tmp_path / "not there/out"})


def test_archives_nested_too_deep_are_refused(tmp_path):
    content = miniature.tgz({"train.de": "eins\n"})
    for depth in range(1, 21):
        if depth == 4:
            shallow = content
        content = miniature.tgz({"de-en.tgz": content})
    goal = tmp_path / "out"
    with pytest.raises(UserError, match="a.tgz holds archives nested more than 4 deep; .* --archive FILE"):
        copy_out(put(tmp_path, content), {"train.de": goal}, nested=["de-en.tgz"])
    assert not goal.exists()
    copy_out(put(tmp_path, shallow), {"train.de": goal}, nested=["de-en.tgz"])
    assert goal.read_text() == "eins\n"


def zip_of(tmp_path, compression):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("RTE/train.tsv", "eins\n" * 1000)
    return path


def test_a_zip_member_of_an_unknown_compression_is_refused(tmp_path):
    path = zip_of(tmp_path, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for start, offset in ((data.index(b"PK\x03\x04"), 8), (data.index(b"PK\x01\x02"), 10)):
        struct.pack_into("<H", data, start + offset, 9)  # Deflate64, which Windows uses above 2 GB
    path.write_bytes(data)
    with pytest.raises(
        UserError,
        match=r"a.zip cannot be read here \(.*compression.*\); unpack it with another program .* --archive FOLDER",
    ):
        copy_out_of_all([path], {"train.tsv": tmp_path / "out"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_member_says_so(tmp_path, compression):
    path = zip_of(tmp_path, compression)
    data = bytearray(path.read_bytes())
    start = 30 + len("RTE/train.tsv") + 10
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        copy_out_of_all([path], {"train.tsv": tmp_path / "out"})


def test_a_zip_with_an_undecodable_name_says_so(tmp_path):
    path = zip_of(tmp_path, zipfile.ZIP_STORED)
    data = path.read_bytes().replace(b"RTE/train.tsv", b"RTE/train\xfftsv")
    data = bytearray(data)
    for start, offset in ((data.index(b"PK\x03\x04"), 6), (data.index(b"PK\x01\x02"), 8)):
        struct.pack_into("<H", data, start + offset, 0x800)  # "names are UTF-8"
    path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        copy_out_of_all([path], {"train.tsv": tmp_path / "out"})
