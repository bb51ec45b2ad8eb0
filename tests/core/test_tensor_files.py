"""Files of torch.save that are damaged, crafted or unusual: each is refused in one place, with its reason."""

import math
import pickle
import zipfile

import pytest
import torch
from damaged import BAD_NUMBERS, UNUSUAL, flip

from weighted_freezing_fairseq.core import tensor_files
from weighted_freezing_fairseq.errors import UserError

RANDOM = torch.rand(5, generator=torch.Generator().manual_seed(1))


def read(path, **how):
    return tensor_files.read(path, "test file", "make another", **how)


def rewritten(path, **records: bytes) -> None:
    """The archive at `path` with other records, by the ends of their names, and with true checksums."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for end, content in records.items():
        (name,) = (name for name in contents if name.endswith(end.replace("__", "/")))
        contents[name] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_was_saved_comes_back(tmp_path, zipped, mapped):
    big = torch.zeros(4, 100)
    saved = {"w": RANDOM, "row": big[1], "tied": big[1], "column": big[:, 1], "deep": [{"text": "x", "number": 1}]}
    torch.save(saved, tmp_path / "f", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "f", mapped=mapped)
    assert torch.equal(found["w"], RANDOM) and found["deep"] == saved["deep"]
    assert found["row"].data_ptr() == found["tied"].data_ptr() != found["column"].data_ptr()
    assert found["column"].untyped_storage().data_ptr() == found["row"].untyped_storage().data_ptr()


def test_a_file_that_was_read_may_change_afterwards(tmp_path):
    torch.save({"w": torch.ones(1000)}, tmp_path / "f")
    found = read(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"")
    assert torch.equal(found["w"], torch.ones(1000))


@pytest.mark.parametrize("words", [RANDOM.numpy().tobytes(), b"settings"], ids=["numbers", "pickle"])
def test_one_flipped_bit_is_noticed(tmp_path, words):
    torch.save({"w": RANDOM, "settings": 1}, tmp_path / "f")
    flip(tmp_path / "f", words)
    with pytest.raises(
        UserError, match=r"f is not a whole test file: its record '.*' is damaged .*; copy it again, or ma"
    ):
        read(tmp_path / "f")


@pytest.mark.skipif(torch.__version__ < "2.6", reason="torch before 2.6 always writes them")
def test_a_file_without_checksums_loads(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": RANDOM}, tmp_path / "f")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read(tmp_path / "f")["w"], RANDOM)


def test_a_cut_file_is_not_whole(tmp_path):
    for zipped in (True, False):
        torch.save({"w": RANDOM}, tmp_path / "f", _use_new_zipfile_serialization=zipped)
        data = (tmp_path / "f").read_bytes()
        for size in (0, 3, 10, len(data) // 2, len(data) - 1):
            (tmp_path / "f").write_bytes(data[:size])
            with pytest.raises(UserError, match="f is not a whole test file"):
                read(tmp_path / "f")


def test_a_claim_of_more_numbers_than_there_are_reads_no_other_memory(tmp_path):
    torch.save({"w": torch.ones(7)}, tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "f") as archive:
        told = archive.read("f/data.pkl")
    seven, million = b"K\x07", b"J" + (10**6).to_bytes(4, "little")
    assert told.count(seven) == 2  # of the storage and of the shape
    rewritten(tmp_path / "f", **{"data.pkl": told.replace(seven, million)})
    with pytest.raises(UserError, match="f is not a whole test file"):
        read(tmp_path / "f")


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "f") as old, zipfile.ZipFile(tmp_path / "g", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UserError, match="g is not a whole test file"):
        read(tmp_path / "g")


def test_code_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path / "made").mkdir, ()

    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        save({"w": Hostile()}, tmp_path / "f")
        with pytest.raises(UserError, match="could run code on this machine; if you trust|not a whole test file"):
            read(tmp_path / "f")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_tensors_are_refused_by_name(tmp_path, kind):
    torch.save({"good": RANDOM, "bad.weight": UNUSUAL[kind]}, tmp_path / "f")
    with pytest.raises(UserError, match=r"f: the tensor bad.weight is .*, and must be dense; save .* in its place"):
        tensor_files.refuse_unusual(read(tmp_path / "f"), tmp_path / "f")


def test_usual_tensors_are_not_refused(tmp_path):
    big = torch.zeros(4, 100)
    usual = {"a": big[1:3], "b": big.T, "c": torch.empty(0, 5), "d": torch.tensor(1), "e": torch.nn.Parameter(big)}
    tensor_files.refuse_unusual(usual, tmp_path)


@pytest.mark.parametrize("kind", BAD_NUMBERS)
def test_bad_numbers_are_refused_by_name(kind):
    said = r"x: w (is not finite: it holds (nan|-inf)|is torch.complex64, and must be floating point); type this"
    with pytest.raises(UserError, match=said):
        tensor_files.refuse_bad_numbers({"v": RANDOM, "w": BAD_NUMBERS[kind]}, "x:", "type this")


def test_numbers_have_a_least_value_only_where_one_is_asked_for():
    tensors = {"w": torch.tensor([0.0, -0.0, -1.0]), "empty": torch.empty(0)}
    tensor_files.refuse_bad_numbers(tensors, "x:")
    with pytest.raises(UserError, match="x: w holds -1, and must be at least 0; type this"):
        tensor_files.refuse_bad_numbers(tensors, "x:", "type this", least=0)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        tensor_files.refuse_bad_numbers({"w": torch.ones(3).to(dtype)}, "x:", least=0)
        with pytest.raises(UserError, match="not finite"):
            tensor_files.refuse_bad_numbers({"w": torch.tensor([1, math.nan]).to(dtype)}, "x:")
