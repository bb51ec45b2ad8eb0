"""`wff prepare` as a command: what is asked for, what is refused and with which words, and what a dry run says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import miniature
import pytest

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import DATASETS, prepared, read_manifest
from weighted_freezing_fairseq.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def prepare(capsys, *words):
    """Status, standard output and the last line of the messages."""
    status = main(["prepare", *map(str, words)])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_the_table_names_every_data_set_with_its_pairs_and_recipes():
    assert {name: data.recipes for name, data in DATASETS.items()} == {
        "iwslt14": ("clean", "intra-distillation", "fairseq"),
        "wmt17": ("intra-distillation", "clean"),
        "multi30k": ("clean",),
        "own": (),
    }
    assert len(DATASETS["iwslt14"].pairs) == 8 and DATASETS["wmt17"].pairs == ("en-de",)
    assert (DATASETS["wmt17"].decode.beam, DATASETS["wmt17"].decode.lenpen) == (4, 0.6)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pairs", "de-fr"], "there is no 'de-fr' here; type --pairs and one of: ar-en, de-en"),
        (["--langs", "xx"], "no pair of 'xx' here; type --langs with some of: ar,de,es,fa,he,it,nl,pl"),
        (["--langs", "en"], "no pair of 'en' here; type --langs"),
        (["--langs", "de", "--pairs", "de-en"], "--pairs and --langs say the same; type one of them"),
        (["--recipe", "mine"], "there is no 'mine' here; type --recipe and one of: clean, intra-distillation, fairseq"),
        (["--recipe", "fairseq", "--langs", "fa"], "no pair of 'fa' here; type --langs with some of: de"),
        (["--pieces", "0"], "--pieces must be at least 1, got 0; type --pieces 1, or leave it out"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0; type --jobs 1, or leave it out"),
        (
            ["--archive", "/no/where.tgz"],
            "there is no archive /no/where.tgz; give --archive a file, or a folder of them",
        ),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_type(words, told, capsys, tmp_path):
    status, out, error = prepare(capsys, "iwslt14", "--out", tmp_path / "data", *words)
    assert (status, out) == (2, "") and told in error and len(error.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(capsys, tmp_path):
    archive = miniature.iwslt14(tmp_path / "archives", ("de",), 30)
    out = tmp_path / "data"
    assert prepare(capsys, "iwslt14", "--langs", "de,es", "--out", out, "--dry-run")[:2] == (
        0,
        "".join(
            f"{pair}: would make {out}/clean/{pair}\n  fetch 2014-01.tgz from drive:1GnBarJIbNgEIIDvUyKDtLmv35Qcxg6Ed\n"
            "  recipe clean: cased, untokenised; SentencePiece learnt on train only, one dictionary\n"
            "  learn 12,000 subwords (unigram) on train\n"
            for pair in ("de-en", "es-en")
        ),
    )
    _, told, _ = prepare(capsys, "iwslt14", "--langs", "de", "--archive", archive, "--out", out, "--dry-run")
    assert f"take {archive}" in told
    _, told, _ = prepare(capsys, "wmt17", "--recipe", "clean", "--out", out, "--dry-run")
    assert told.count("\n  fetch ") == 6 and "fetch rapid2016.tgz from https://data.statmt.org" in told
    assert not out.exists()


def test_a_folder_that_is_not_of_this_command_is_left_alone(capsys, tmp_path):
    archive = miniature.iwslt14(tmp_path / "archives", ("de",), 30)
    mine = prepared(tmp_path / "data", "clean", "de-en") / "raw/thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    words = ["iwslt14", "--langs", "de", "--archive", archive, "--out", tmp_path / "data"]
    status, _, error = prepare(capsys, *words)
    assert status == 2 and "de-en/raw was not made by wff prepare; give another --out, or move it away" in error
    assert mine.read_text() == "years of work"


def test_every_pair_that_fails_is_told(capsys, tmp_path):
    archive = miniature.iwslt14(tmp_path / "archives", ("de",), 30)
    words = ["iwslt14", "--langs", "es,fa", "--archive", archive, "--out", tmp_path / "data", "--jobs", 1]
    status, _, error = prepare(capsys, *words)
    assert status == 2
    for pair in ("es-en", "fa-en"):
        assert f"{pair}: {archive} holds no train.tags.{pair}.{pair[:2]} (it has: 2014-01/texts/README" in error
    assert (archive.is_file(), list((tmp_path / "data").rglob("raw"))) == (True, [])


def test_a_manifest_that_is_not_there_says_what_to_type(tmp_path):
    told = f"type: wff prepare iwslt14 --pairs de-en --recipe clean --out {tmp_path}/iwslt14"
    with pytest.raises(UserError, match=told):
        read_manifest(prepared(tmp_path / "iwslt14", "clean", "de-en"))


def test_a_folder_that_cannot_be_written_to_is_told(capsys, tmp_path):
    archive = miniature.iwslt14(tmp_path / "archives", ("de",), 30)
    (tmp_path / "data").write_text("a file")
    words = ["iwslt14", "--langs", "de", "--archive", archive, "--out", tmp_path / "data", "--jobs", 1]
    status, _, error = prepare(capsys, *words)
    assert status == 2 and error.count("\n") == 1
    assert f"Not a directory: {tmp_path}/data; a folder is needed there: give another path, or move it away" in error


def test_a_missing_package_is_told_before_the_work(capsys, tmp_path, monkeypatch):
    archive = miniature.iwslt14(tmp_path / "archives", ("de",), 30)
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    monkeypatch.setitem(sys.modules, "subword_nmt", None)
    words = ["iwslt14", "--recipe", "fairseq", "--archive", archive, "--out", tmp_path / "data"]
    status, _, error = prepare(capsys, *words)
    assert status == 2 and not (tmp_path / "data").exists()
    assert "needs subword-nmt and sacremoses; type: pip install subword-nmt sacremoses" in error


@pytest.mark.parametrize("script", "prepare train evaluate reproduce iwslt14/reproduce wmt17/reproduce".split())
def test_the_scripts_hand_on_options_and_variables(script, tmp_path):
    for name in (f"{script}.sh", "reproduce.sh", "wff.sh"):
        (tmp_path / "scripts" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "scripts/setup.sh").write_text("echo set up >&2\n")
    (tmp_path / ".venv/bin/wff").write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    (tmp_path / ".venv/bin/wff").chmod(0o755)
    dataset, command = script.split("/") if "/" in script else ("multi30k", script)
    variable = "CHOICES" if script == "evaluate" else "OUT"
    named = [] if "/" in script else [dataset]

    def run(*words, **variables):
        call = ["bash", tmp_path / f"scripts/{script}.sh", *named, *words]
        environment = {"PATH": os.environ["PATH"], **variables}
        return subprocess.run(call, env=environment, cwd="/", capture_output=True, text=True, check=True).stdout

    assert run() == f"<{command}><{dataset}>"
    assert run("--dry-run", "--gpus", "2", **{variable: "my value"}) == (
        f"<{command}><{dataset}><--{variable.lower()}><my value><--dry-run><--gpus><2>"
    )
    assert "bash scripts/" in run("--help")
