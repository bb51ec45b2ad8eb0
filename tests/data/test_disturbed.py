"""`wff prepare` that is killed, meets another call, or may not write: what is there in the end, and what is said."""

import gzip
import random
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path

import miniature
import pytest
from forked import Killer, allow_little, become_nobody, forked
from labelled_files import glue, roberta
from locked import waits_for

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.workspace.locks import lock_folder

MOMENTS = 3  # of each command
COMMANDS = {
    "multi30k": "prepare multi30k --pairs de-en --pieces 150",
    "iwslt14": "prepare iwslt14 --langs de --recipe fairseq --pieces 200",
    "glue": "prepare glue --tasks RTE --encoder {encoder}",
    "own": "prepare own --pair de-en --train {own}/a.tsv.gz --valid-lines 8 --test {own}/t.de {own}/t.en --pieces 100",
}


@pytest.fixture(scope="module")
def public():
    """Archives where every user may read them, and what the commands make of them, after their imports."""
    folder = Path(tempfile.mkdtemp())
    miniature.multi30k(folder / "multi30k", 60, 5)
    miniature.iwslt14(folder / "iwslt14", ("de",))
    glue(folder / "glue", ["RTE"])
    roberta(folder / "encoder", weights=False)
    own_files(folder / "own")
    for name in COMMANDS:
        assert main(words(folder, name, folder / "whole" / name)) == 0
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def own_files(folder):
    """A table with pairs that the test set has, too, and a test set of two files."""
    folder.mkdir()
    train, test = miniature.sentences("de", 80), miniature.sentences("de", 6)
    with gzip.open(folder / "a.tsv.gz", "wt") as file:
        file.write("de\ten\n" + "".join(f"{a}\t{b}\n" for a, b in zip(train["de"], train["en"], strict=True)))
    for language in ("de", "en"):
        (folder / f"t.{language}").write_text(miniature.lines(test[language]))


def words(folder, name, out):
    archives = folder / name
    given = [] if name == "own" else ["--archive", str(archives), "--any-counts"]
    command = COMMANDS[name].format(encoder=folder / "encoder", own=folder / "own").split()
    return [*command, *given, "--out", str(out), "--jobs", "1"]


def contents(folder):
    return {
        str(path.relative_to(folder)): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_a_change_of_a_file_and_on_a_full_disk_it_goes_on_to_the_same_bytes(name, public, tmp_path):
    counting = Killer(tmp_path / "counted")
    assert forked(tmp_path, lambda: main(words(public, name, tmp_path / "counted")), counting)[0] == 0
    for moment in random.Random(name).sample(range(1, counting.count + 1), MOMENTS):
        call = partial(main, words(public, name, tmp_path / str(moment)))
        assert forked(tmp_path, call, Killer(tmp_path / str(moment), moment))[0] == -signal.SIGKILL
        full, said = forked(tmp_path, call, partial(allow_little, 2000))
        assert full == 0 or is_said_of_a_full_disk(full, said, tmp_path / str(moment)), (moment, said)
        assert call() == 0
        assert contents(tmp_path / str(moment)) == contents(public / "whole" / name), moment


def is_said_of_a_full_disk(status, lines, folder):
    *_, last = lines  # after the bar of subword-nmt
    path = last.removeprefix("wff prepare: File too large: ").partition("; make room in ")[0]
    return status == 2 and path.startswith(f"{folder}/") and "df -h " in last and "Traceback" not in "".join(lines)


def test_two_calls_at_once_do_the_work_once(public, tmp_path, capfd):
    folder = tmp_path / "out/clean/de-en"
    call = partial(main, words(public, "multi30k", tmp_path / "out"))
    assert waits_for(lock_folder(folder), call, call) == [0, 0]
    told = capfd.readouterr()
    assert told.err.count(f"{folder} is in use by another process") >= 2 and told.err.count("binarising") == 1
    assert len(set(told.out.splitlines())) == 1 and contents(tmp_path / "out") == contents(public / "whole/multi30k")


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_full_disk_is_one_line_and_a_later_call_goes_on(size, public, tmp_path):
    """From the first step on, and where subwords are stored."""
    call = partial(main, words(public, "multi30k", tmp_path / "out"))
    status, said = forked(tmp_path, call, partial(allow_little, size))
    assert is_said_of_a_full_disk(status, said, tmp_path / "out/clean/de-en"), said
    assert call() == 0 and contents(tmp_path / "out") == contents(public / "whole/multi30k")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_is_one_line(name, public, tmp_path):
    call = partial(main, words(public, name, public / "new" / "out"))
    status, said = forked(tmp_path, call, become_nobody)
    assert (status, said) == (
        2,
        [f"wff prepare: Permission denied: {public}/new; give another path, or let this user write there: "
         f"ls -ld {public}"],
    )  # fmt: skip
    assert not (public / "new").exists()


def test_a_half_made_folder_that_cannot_be_written_is_one_line_and_a_later_call_goes_on(public, tmp_path):
    out = public / "half"
    call = partial(main, words(public, "multi30k", out))
    assert forked(tmp_path, call, Killer(out, 60))[0] == -signal.SIGKILL
    for path in (out, *out.rglob("*")):
        path.chmod(0o555)
    status, said = forked(tmp_path, call, become_nobody)
    assert (status, len(said)) == (2, 1) and f"Permission denied: {out}/clean/de-en/" in said[0], said
    assert call() == 0 and contents(out) == contents(public / "whole/multi30k")


def test_what_is_there_already_is_found_in_a_folder_that_cannot_be_written(public, tmp_path):
    assert forked(tmp_path, lambda: main(words(public, "glue", public / "whole/glue")), become_nobody) == (0, [])
