"""Files that are whole or not there."""

import subprocess
import sys

import pytest

from weighted_freezing_fairseq.files import atomic_file, atomic_folder, write_atomically


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep/file"
    write_atomically(path, "text\n")
    assert path.read_bytes() == b"text\n"
    with pytest.raises(KeyError), atomic_file(path) as part:
        part.write_bytes(b"hal")
        raise KeyError
    assert path.read_bytes() == b"text\n"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["file"]


def test_folders_appear_whole_and_take_the_place_of_older_ones(tmp_path):
    goal = tmp_path / "deep/folder"
    for content in ("old", "new"):
        with atomic_folder(goal) as part:
            (part / content).write_text(content)
    with pytest.raises(KeyError), atomic_folder(goal) as part:
        (part / "half").write_text("half")
        raise KeyError
    assert [path.name for path in goal.iterdir()] == ["new"]
    assert [path.name for path in goal.parent.iterdir()] == ["folder"]


def test_what_a_killed_process_left_in_a_folder_is_thrown_away(tmp_path):
    goal = tmp_path / "folder"
    writer = atomic_folder(goal)
    (writer.__enter__() / "half").write_text("half")  # and no exit, as after a kill
    assert [path.name for path in tmp_path.iterdir()] == [".folder.part"]
    with atomic_folder(goal) as part:
        assert list(part.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_writer_left_goes_and_a_live_writer_keeps_its_own(tmp_path):
    code = "import os; from pathlib import Path; from weighted_freezing_fairseq.files import atomic_file\n"
    code += "with atomic_file(Path('a.txt')) as part:\n    part.write_text('half'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_file(tmp_path / "a.txt") as first, atomic_file(tmp_path / "a.txt") as second:
        assert set(tmp_path.iterdir()) == {first, second} and first != second
        first.write_text("first")
        second.write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "first"
