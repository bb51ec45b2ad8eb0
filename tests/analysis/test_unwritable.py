"""Commands that may not write, or find no room: one line that names the folder, and nothing left over."""

import errno
import shutil
import tempfile
from pathlib import Path

import pytest
from forked import allow_little, become_nobody, forked

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.files import explain

pytestmark = pytest.mark.filterwarnings("ignore:.*mismatched key_padding_mask")
COMMANDS = {
    "average": "average {a} {b} --out {out}",
    "pack": "pack {a} {b} --out {out}",
    "prune": "prune {a} --method magnitude --fraction 0.5 --out {out}",
    "fisher": "fisher {a} --data {data} --samples 4 --out {out}",
}


@pytest.fixture(scope="module")
def public(trained, toy_data):
    """Two checkpoints and data where every user may read them."""
    folder = Path(tempfile.mkdtemp())
    for name in ("a", "b"):
        shutil.copyfile(trained, folder / name)
    shutil.copytree(toy_data, folder / "data")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    for command, words in COMMANDS.items():  # imports what another user may not read
        out = folder / command
        assert main(words.format(a=folder / "a", b=folder / "b", data=folder / "data", out=out).split()) == 0
    yield folder
    shutil.rmtree(folder)


def test_a_write_that_does_not_know_where_names_the_folder_of_temporary_files():
    said = str(explain(OSError(errno.ENOSPC, "No space left on device")))
    assert said.startswith("No space left on device; ") and tempfile.gettempdir() in said and "export TMPDIR=" in said
    assert explain(OSError(errno.EIO, "Input/output error")) is None and explain(RuntimeError()) is None


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["not writable", "not to be made", "no room"])
def test_a_folder_that_cannot_be_written_is_named_in_one_line(public, tmp_path, command, kind):
    folder = public / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o555)
    out = folder / ("new/file" if kind == "not to be made" else "file")
    words = COMMANDS[command].format(a=public / "a", b=public / "b", data=public / "data", out=out).split()
    status, lines = forked(tmp_path, lambda: main(words), allow_little if kind == "no room" else become_nobody)
    assert (status, len(lines)) == (2, 1), "\n".join(lines)
    assert lines[0].startswith(f"wff {command}: ") and str(folder) in lines[0]
    if kind == "no room":
        assert "File too large" in lines[0] and f"df -h {folder}" in lines[0]
    else:
        assert "Permission denied" in lines[0] and f"ls -ld {folder}" in lines[0]
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_full_folder_for_temporary_files_is_named(public, tmp_path, monkeypatch):
    words = f"evaluate {public / 'a'} --data {public / 'data'} --reference {tmp_path / 'test.y'} --device cpu".split()
    (tmp_path / "test.y").write_text("a\n" * 21)
    full = tmp_path / "full"
    full.write_text("no folder at all")
    places = [str(full)]
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: places)
    monkeypatch.setattr(tempfile, "tempdir", None)
    status, lines = forked(tmp_path, lambda: main(words), lambda: None)
    assert status == 2 and lines[-1].startswith("wff evaluate: No usable temporary directory found")
    assert "export TMPDIR=FOLDER" in lines[-1] and len(lines) == 1
