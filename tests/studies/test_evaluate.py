"""Scoring: the whole set, the raw reference, and what is refused."""

import importlib.util
import json
import math
import random
import shutil
import subprocess
import time
from dataclasses import asdict

import pytest
import torch
from fairseq_runs import Fairseq
from locked import waits_for
from recipe_runs import start, wff
from scored_runs import a_run as scored_run
from scored_runs import prepared

from weighted_freezing_fairseq import data
from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import DATASETS
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.scoring.scores import all_scores, comet, read_lines, refuse_processed, score
from weighted_freezing_fairseq.workspace.contents import content_hash
from weighted_freezing_fairseq.workspace.locks import lock_folder


def test_lines_end_at_line_feeds_only(tmp_path):
    path = tmp_path / "x"
    path.write_bytes("a\u2028b\rc\nd\x85e\n\nf\n".encode())
    assert read_lines(path) == ["a\u2028b\rc", "d\x85e", "", "f"]
    path.write_bytes(b"no end")
    assert read_lines(path) == ["no end"]
    path.write_bytes(b"")
    assert read_lines(path) == []


def test_broken_files_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_lines(tmp_path / "missing")
    (tmp_path / "latin").write_bytes("für".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 \\(byte 1\\); type: iconv"):
        read_lines(tmp_path / "latin")


@pytest.mark.parametrize("line", ["▁A ▁dog", "A do@@ g", "it &apos;s"])
def test_a_processed_reference_is_refused(line, tmp_path):
    with pytest.raises(UserError, match="line 2 .* give --reference the raw, untouched text"):
        refuse_processed(["a dog.", line], tmp_path)


def test_score_equals_sacrebleu_and_carries_signatures():
    hypotheses, reference = ["the cat sat on the mat .", "hello"], ["the cat sat on a mat .", "hello there"]
    found = score(hypotheses, reference)
    assert "tok:13a" in found.bleu_signature and "nc:6" in found.chrf_signature and found.sentences == 2
    assert score(reference, reference).bleu == pytest.approx(100)
    # By hand: n-gram precisions 7/8, 4/6, 2/5, 1/4 and brevity exp(1 - 9/8). chrF: the sacrebleu command says 59.7.
    assert found.bleu == pytest.approx(100 * math.exp(1 - 9 / 8) * (7 / 8 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    assert found.chrf == pytest.approx(59.7, abs=0.05)


def test_legacy_scores_are_those_of_the_old_scripts():
    """By hand, on Moses' tokens: `The well-known end .` against `The well-known End .`, in lower case equal.

    Split at the hyphen, 5 of 6 tokens agree (the, well, ##AT##-##AT##, known, .), 3 of 5 pairs, 2 of 4 triples, 1 of 3
    fours; lengths are equal.
    """
    found = all_scores(["The well-known end."], ["The well-known End."], "en")
    assert found["legacy"]["multi_bleu_lowercased"] == pytest.approx(100)
    assert found["legacy"]["compound_split"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert found["bleu_lowercased"] == pytest.approx(100) and "case:lc" in found["bleu_lowercased_signature"]
    assert found["bleu"] < 100 and "case:mixed" in found["bleu_signature"]


def test_comet_is_for_those_who_have_it(tmp_path):
    with pytest.raises(UserError, match="give --comet the .ckpt that comet-score has downloaded"):
        comet(tmp_path / "no.ckpt", ["a"], ["b"], ["c"], 0)
    if importlib.util.find_spec("comet") is None:
        (tmp_path / "model.ckpt").touch()
        with pytest.raises(UserError, match="type: pip install unbabel-comet"):
            comet(tmp_path / "model.ckpt", ["a"], ["b"], ["c"], 0)


def test_counts_must_agree_and_empty_hypotheses_count():
    with pytest.raises(UserError, match="2 hypotheses against 3 reference lines"):
        score(["a", "b"], ["a", "b", "c"])
    with pytest.raises(UserError, match="nothing to score"):
        score([], [])
    assert score(["", ""], ["a b", "c"]).bleu == 0


def a_run(folder, data):
    """A finished run whose checkpoints cannot be loaded: a translation fails, and says so."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("best", "last"):
        (folder / f"checkpoints/checkpoint_{name}.pt").write_text("no checkpoint")
    about = {"dataset": "multi30k", "recipe": "clean", "pair": "de-en", "method": "standard", "seed": 1}
    (folder / "provenance.json").write_text(json.dumps({**about, "data": str(data), "command": "wff train multi30k"}))
    (folder / ".training.json").write_text('{"config": {}}')
    return folder


def scored(folder):
    """As if its best checkpoint was scored on test."""
    settings = {"choice": "best", "decode": {"beam": 5, "lenpen": 1.0, "max_len_a": 1.2, "max_len_b": 10}}
    (folder / ".scoring-test.best.json").write_text(json.dumps(settings))
    (folder / "scores").mkdir()
    (folder / "scores/test.best.json").write_text(json.dumps(all_scores(["a"], ["a"], "en")))


def refusal(capsys, *words):
    assert main(["evaluate", *map(str, words), "--device", "cpu"]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_references_are_counted_before_the_first_translation(tmp_path, capsys):
    """Of every set of every run: the first set could be translated, or rather would fail otherwise."""
    good = a_run(tmp_path / "good", prepared(tmp_path / "data/clean/de-en", 3, test=3))
    bad = a_run(tmp_path / "bad", prepared(tmp_path / "other/clean/de-en", 3, test=3, test1=2))
    line = refusal(capsys, good, bad)
    data = tmp_path / "other/clean/de-en"
    assert f"{data}/raw/test1.en has 2 lines, and test1 of {data}/bin has 3 sentences; move {data} away" in line
    assert "wff prepare multi30k --pairs de-en" in line
    assert not list(tmp_path.glob("*/.scoring*")) and not list(tmp_path.glob("*/scores"))
    weights, binarised = good / "checkpoints/checkpoint_best.pt", tmp_path / "data/clean/de-en/bin"
    (tmp_path / "long").write_text("a\n" * 4)
    line = refusal(capsys, weights, "--data", binarised, "--reference", tmp_path / "long")
    assert "long has 4 lines, and test of" in line and "has 3 sentences; type --reference with the raw file" in line
    line = refusal(capsys, weights, "--data", binarised, "--reference", tmp_path / "long", "--subset", "dev")
    assert "has no set 'dev'; type --subset with one of: test" in line


def test_a_set_that_is_scored_is_not_counted_again(tmp_path, capsys):
    data = prepared(tmp_path / "data/clean/de-en", 3, test=2)
    run = a_run(tmp_path / "run", data)
    scored(run)
    assert main(["evaluate", str(run), "--choices", "best", "--device", "cpu"]) == 0
    assert "lowercased BLEU" in capsys.readouterr().out


def test_the_manifest_of_a_run_is_read_once(tmp_path, monkeypatch):
    folder = prepared(tmp_path / "data/clean/de-en", 3, test=3)
    run, folders = a_run(tmp_path / "run", folder), []
    scored(run)
    manifest_of = data.manifest_of
    monkeypatch.setattr(data, "manifest_of", lambda path: folders.append(path) or manifest_of(path))
    assert main(["evaluate", str(run), "--choices", "best", "--device", "cpu"]) == 0
    assert folders == [folder]


def test_the_data_of_a_run_may_be_moved(tmp_path, capsys):
    run = a_run(tmp_path / "run", prepared(tmp_path / "data/clean/de-en", 3, test=3))
    stamp = {"config": {}, "contents": {"task.data": content_hash(tmp_path / "data/clean/de-en/bin")}}
    (run / ".training.json").write_text(json.dumps(stamp))
    (tmp_path / "data").rename(tmp_path / "moved")
    line = refusal(capsys, run)
    assert f"was trained on {tmp_path}/data/clean/de-en, which has no manifest.json; if the data was moved" in line
    assert f"wff evaluate {run} --data DIR" in line
    scored(run)
    assert main(["evaluate", str(run), "--choices", "best", "--device", "cpu", "--data", str(tmp_path / "moved")]) == 0
    assert json.loads((run / "provenance.json").read_text())["data"] == str(tmp_path / "moved/clean/de-en")
    other = prepared(tmp_path / "other/clean/de-en", 3, test=3)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "sha256": {"bin/test.de-en.en.bin": "another"}}))
    assert f"was not trained on {other}; give --data the folder" in refusal(capsys, run, "--data", tmp_path / "other")


def evaluate(*words, ok=True):
    done = wff("evaluate", *words)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def test_every_sentence_is_translated_and_scored(fairseq: Fairseq):
    fairseq.train("run", "--optimizer", "weighted_freeze", "--max-update", "3")
    checkpoint, reference = fairseq.folder / "run/checkpoint_last.pt", fairseq.data.parent / "test.y"
    out = fairseq.folder / "scores"
    words = [checkpoint, "--data", fairseq.data, "--reference", reference, "--device", "cpu", "--max-len-b", 20]
    done = evaluate(*words, "--out", out, "--json")
    found = json.loads(done.stdout)[str(checkpoint)]
    assert found["sentences"] == 21  # fairseq alone would give 16
    assert found == json.loads((out / "checkpoint_last.score.json").read_text())
    assert len((out / "checkpoint_last.hyp.txt").read_text().split("\n")) == 22
    short = fairseq.folder / "short.y"
    short.write_text("a b\n")
    refused = evaluate(*[short if word == reference else word for word in words], ok=False)
    assert refused.returncode == 2 and "has 1 lines, and test of" in refused.stderr


def test_a_run_is_scored_by_one_process_at_a_time(tmp_path, capsys):
    folder = scored_run(tmp_path, "standard", 1)
    manifest = {"dataset": "iwslt14", "recipe": "clean", "pair": "de-en", "tests": {"test": "raw/test.en"}}
    (tmp_path / "data/iwslt14/clean/de-en/manifest.json").write_text(json.dumps(manifest))
    done = {"choice": "best", "decode": asdict(DATASETS["iwslt14"].decode)}
    (folder / ".scoring-test.best.json").write_text(json.dumps(done))
    words = ["evaluate", str(folder), "--choices", "best", "--json", "--device", "cpu"]
    assert waits_for(lock_folder(folder), lambda: main(words)) == [0]
    assert f"{folder}/scores/test.best" in json.loads(capsys.readouterr().out)


def test_scoring_that_is_killed_goes_on_and_leaves_nothing(fairseq: Fairseq, tmp_path):
    fairseq.train("run/checkpoints", "--optimizer", "weighted_freeze", "--max-update", 3, "--save-interval-updates", 1)
    raw = tmp_path / "x-y/raw"
    raw.mkdir(parents=True)
    shutil.copy(fairseq.data.parent / "test.y", raw)
    shutil.copytree(fairseq.data, raw.with_name("bin"))
    manifest = {"dataset": "multi30k", "recipe": "clean", "pair": "x-y", "source": "x", "target": "y", "sha256": {}}
    manifest |= {"tests": {"test": "raw/test.y"}, "generate": {"remove_bpe": "sentencepiece", "tokenizer": None}}
    raw.with_name("manifest.json").write_text(json.dumps(manifest))
    about = {"dataset": "multi30k", "recipe": "clean", "pair": "x-y", "method": "weighted_freeze", "seed": 1}
    about |= {"data": str(raw.parent), "command": "wff train multi30k"}
    (tmp_path / "run/provenance.json").write_text(json.dumps(about))
    (tmp_path / "run/.training.json").write_text('{"config": {}}')
    undisturbed = shutil.copytree(tmp_path / "run", tmp_path / "undisturbed")
    options = ["--choices", "last,average", "--average-last", 2, "--device", "cpu"]
    evaluate(undisturbed, *options)
    run = tmp_path / "run"
    rng = random.Random(7)
    for goal in (".scoring-test.last.begun.json", "checkpoints/checkpoint_average.pt"):
        process = start("evaluate", run, *options, stderr=subprocess.DEVNULL)
        while not (run / goal).exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5) if goal.endswith("json") else 0)
        process.kill()
        assert process.wait() == -9, goal
    evaluate(run, *options)
    assert contents_of(run) == contents_of(undisturbed)


def contents_of(folder):
    """Names of all files, and the bytes of the scores."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() if "scores" in path.parts else b"" for path in paths}


def test_missing_checkpoint_and_data_are_named(tmp_path, capsys):
    (tmp_path / "ref").write_text("a\n")
    words = [tmp_path / "no.pt", "--reference", tmp_path / "ref", "--data"]

    def refused(*words):
        assert main(["evaluate", *map(str, words), "--device", "cpu"]) == 2
        return capsys.readouterr().err

    missing = f"there is no checkpoint {tmp_path}/no.pt; give a run folder, a save-dir of fairseq or a checkpoint"
    assert missing in refused(*words, tmp_path)
    assert f"there is no {tmp_path}/checkpoint_best.pt (checkpoints there: none)" in refused(tmp_path)
    torch.save({}, tmp_path / "no.pt")
    assert "make it with fairseq-preprocess" in refused(*words, tmp_path / "bin")
    assert "has no set 'test'; give --data a folder that fairseq-preprocess" in refused(*words, tmp_path)
    assert "add --data with the folder it was trained on" in refused(tmp_path / "no.pt")
    assert "leave --choices out, or give a folder" in refused(tmp_path / "no.pt", "--choices", "best")
    assert "--average-last must be at least 1, got 0" in refused(tmp_path, "--average-last", "0")
    assert "type --choices with some of best,last,average" in refused(words[0], "--choices", "b")
