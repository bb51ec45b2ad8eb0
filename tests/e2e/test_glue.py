"""GLUE, XNLI, PAWS-X, XGLUE and one's own table in small, from files to tables, with encoders in fairseq's format."""

import json
import re
import subprocess
import time
from pathlib import Path

import labelled_files
import numpy as np
import pytest
import torch
from recipe_runs import CONFIGS, start, wff
from sklearn.metrics import ndcg_score

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.data import read_manifest
from weighted_freezing_fairseq.report.tables import write
from weighted_freezing_fairseq.scoring.scores import read_lines
from weighted_freezing_fairseq.studies.prune_iterative import zero_fraction
from weighted_freezing_fairseq.workspace.checkpoints import read_checkpoint

SMALL = "".join(f"\n  {name}: {value}" for name, value in labelled_files.SMALL.items())


def shortened(name: str, folder: Path, epochs: int = 2) -> None:
    """A copy of a YAML in `folder`, for the tiny encoder and few updates."""
    text = (CONFIGS / name).read_text()
    text, models = re.subn(r"_name: roberta_\w+.*", f"_name: roberta_base{SMALL}", text)
    assert models == 1
    for pattern, value in ((r"max_epoch: \d+", f"max_epoch: {epochs}"), (r"log_interval: \d+", "log_interval: 1")):
        text = re.sub(pattern, value, text)
    text = re.sub(r"batch_size: \d+", "batch_size: 8", text)
    (folder / Path(name).parent).mkdir(exist_ok=True)
    (folder / name).write_text(text)


def typed(*words, status=0):
    done = wff(*words)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    labelled_files.glue(folder / "glue_data", ("RTE", "STS-B", "MNLI"))
    labelled_files.roberta(folder / "roberta.base")
    for name in ("glue/standard.yaml", "glue/weighted_freeze.yaml"):
        shortened(name, folder, epochs=12)
    prepared("glue", folder / "data", folder / "roberta.base", folder / "glue_data", "--tasks", "RTE,STS-B,MNLI")
    return folder


def prepared(data, out, encoder, *given_and_more):
    """In this process, which has imported what it needs."""
    words = ["prepare", data, "--out", out, "--encoder", encoder, "--jobs", 1, "--any-counts", "--archive"]
    assert main([str(word) for word in (*words, *given_and_more)]) == 0


def words_of(place, *more):
    words = ["train", "glue", "--data", place / "data", "--configs", place / "glue", "--out", place / "runs"]
    return [*words, "--encoder", place / "roberta.base", "--device", "cpu", *more]


def test_a_task_from_files_to_tables_through_a_kill(place):
    """One test, since the processes that share out tests would each train."""
    cells = place / "runs/roberta/rte"
    kill_when_saved(cells / "standard-1", *words_of(place, "--task", "RTE"))
    typed(*words_of(place, "--task", "RTE"))
    starts_from_the_encoder_and_goes_on_from_its_own(place, cells / "standard-1")
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.name != ".lock"}
    assert main([str(word) for word in words_of(place, "--task", "rte")]) == 0  # does nothing
    assert before == {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.name != ".lock"}
    done = typed("evaluate", cells / "standard-1", "--choices", "best")
    assert "accuracy|scikit-learn:" in done.stdout
    predictions_are_those_of_the_checkpoint(place, cells / "standard-1")
    report = write([place / "runs"], place / "report", ["li-7"])
    [cell] = [cell for cell in report.sheets["li-7"].cells if cell.state == "run"]
    assert (cell.method, cell.pair, cell.paper, cell.sentences) == ("standard", "rte", 67.9, 10)


def kill_when_saved(run, *words):
    """kill -9 a warm recipe when it has saved, and wait until its training is dead, too: it has many updates left."""
    process = start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "checkpoints/checkpoint_last.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9
    size = -1
    while size != (size := (run / "train.log").stat().st_size):
        time.sleep(1.5)


def starts_from_the_encoder_and_goes_on_from_its_own(place, run):
    log = (run / "train.log").read_text()
    assert log.count("loading pretrained model from") == 1 and log.count("Loaded checkpoint") == 2
    provenance = json.loads((run / "provenance.json").read_text())
    assert (provenance["dataset"], provenance["recipe"], provenance["pair"]) == ("glue", "roberta", "rte")
    assert len(provenance["sittings"]) == 2 and (run / "tensorboard/train_inner").is_dir()
    settings = (run / "run.yaml").read_text()
    assert "max_update: 36" in settings and "warmup_updates: 0" in settings and "num_classes: 2" in settings
    old = torch.load(place / "roberta.base/model.pt", weights_only=False)["model"]
    new = torch.load(run / "checkpoints/checkpoint_last.pt", weights_only=False)["model"]
    # What is not trained for a task is as it was; what is, has moved by no more than 36 updates of 2e-4.
    assert torch.equal(old["decoder.lm_head.dense.weight"], new["encoder.lm_head.dense.weight"])
    name = "sentence_encoder.layers.0.fc1.weight"
    moved = (old[f"decoder.{name}"] - new[f"encoder.{name}"]).abs().max()
    assert 0 < moved <= 36 * 2e-4


def predictions_are_those_of_the_checkpoint(place, run):
    from fairseq.models.roberta import RobertaModel

    lines = read_lines(run / "scores/dev.best.hyp.txt")
    data = place / "data/roberta/rte"
    bpe = {"gpt2_encoder_json": "encoder.json", "gpt2_vocab_bpe": "vocab.bpe"}
    bpe = {name: str(place / "roberta.base" / file) for name, file in bpe.items()}
    model = RobertaModel.from_pretrained(
        str(run / "checkpoints"), "checkpoint_best.pt", str(data / "bin"), bpe="gpt2", **bpe
    )
    model.eval()
    for number, texts in enumerate(zip(*(read_lines(data / f"raw/valid.input{n}") for n in (0, 1)), strict=True)):
        label = int(model.predict("sentence_classification_head", model.encode(*texts)).argmax())
        assert lines[number] == ["entailment", "not_entailment"][label]
    found = json.loads((run / "scores/dev.best.json").read_text())
    gold = read_lines(data / "labels/dev.txt")
    assert (
        found["score"]
        == found["scores"]["accuracy"]
        == 100 * np.mean([a == b for a, b in zip(lines, gold, strict=True)])
    )
    server = (run / "server/best/RTE.tsv").read_text().splitlines()
    assert server[0] == "index\tprediction" and [line.split("\t")[0] for line in server[1:]] == list("01234")
    assert not (run / "scores/test.best.json").exists()


def test_mnli_is_scored_on_both_sets_and_predicted_for_both_of_the_server(place):
    typed(*words_of(place, "--task", "MNLI", "--set", "optimization.max_update=2"))
    run = place / "runs/roberta/mnli/standard-1"
    found = json.loads(typed("evaluate", run, "--choices", "best", "--json").stdout)
    assert list(found) == [f"{run}/scores/{name}.best" for name in ("dev", "dev_mismatched")]
    for name, split in (("dev", "valid"), ("dev_mismatched", "dev.mismatched")):
        predicted, scores = read_lines(run / f"predictions/best/{split}"), found[f"{run}/scores/{name}.best"]
        gold = read_lines(place / f"data/roberta/mnli/labels/{name}.txt")
        assert scores["score"] == 100 * np.mean([a == b for a, b in zip(predicted, gold, strict=True)])
        assert scores["sentences"] == 10 and list(scores["sets"]) == [name]
    for name, split in (("MNLI-m", "test"), ("MNLI-mm", "test.mismatched")):
        rows = enumerate(read_lines(run / f"predictions/best/{split}"))
        assert read_lines(run / f"server/best/{name}.tsv") == ["index\tprediction", *(f"{n}\t{x}" for n, x in rows)]
    assert "num_classes: 3" in (run / "run.yaml").read_text()


def test_a_regression_is_scored_by_its_correlations(place):
    typed(*words_of(place, "--task", "STS-B", "--method", "weighted_freeze", "--set", "optimization.max_update=2"))
    run = place / "runs/roberta/sts-b/weighted_freeze-1"
    found = json.loads(typed("evaluate", run, "--choices", "last", "--json").stdout)[f"{run}/scores/dev.last"]
    lines = [float(line) for line in read_lines(run / "scores/dev.last.hyp.txt")]
    gold = [float(line) for line in read_lines(place / "data/roberta/sts-b/labels/dev.txt")]
    assert found["metric"] == "pearson" and found["scores"]["pearson"] == pytest.approx(
        100 * np.corrcoef(lines, gold)[0, 1]
    )
    assert max(gold) == 4.5 and "best_checkpoint_metric: pearson" in (run / "run.yaml").read_text()


def test_a_fish_mask_is_that_of_the_encoder_with_a_new_classifier(place, capsys):
    """Sung et al. section 2.2: 0.5 % of the numbers, with the whole classifier, and nothing else moves."""
    encoder = labelled_files.roberta(place / "wide/roberta.base", encoder_ffn_embed_dim=1024)
    (place / "wide/glue").mkdir()
    for name in ("untrained", "fish_mask"):
        shortened(f"glue/{name}.yaml", place)
        text = (place / f"glue/{name}.yaml").read_text()
        (place / f"wide/glue/{name}.yaml").write_text(text.replace("ffn_embed_dim: 32", "ffn_embed_dim: 1024"))
    words = ["train", "glue", "--data", place / "data", "--configs", place / "wide/glue", "--out", place / "wide/runs"]
    words += ["--encoder", encoder, "--device", "cpu", "--task", "RTE", "--seed", 2, "--method"]
    assert main([str(word) for word in (*words, "fish_mask")]) == 2
    assert "which is not trained; type: wff train glue" in capsys.readouterr().err
    typed(*words, "untrained")
    typed(*words, "fish_mask")
    start, tuned = (place / f"wide/runs/roberta/rte/{name}-2" for name in ("untrained", "fish_mask"))
    mask = snapshot.load(start / "fish_mask.pt", "mask")
    numbers = sum(tensor.numel() for tensor in mask.tensors.values())
    assert sum(int(tensor.sum()) for tensor in mask.tensors.values()) == round(0.005 * numbers)
    assert mask.about["samples"] == 24 and mask.about["estimator"] == "per-sample"  # 1,024, of which there are 24
    old, new = (read_checkpoint(run / "checkpoints/checkpoint_last.pt")[1] for run in (start, tuned))
    published = torch.load(encoder / "model.pt", weights_only=False)["model"]
    assert torch.equal(old["encoder.lm_head.weight"], published["decoder.lm_head.weight"])
    for name, tensor in mask.tensors.items():
        moved = old[name] != new[name]
        assert not (moved & ~tensor).any(), name
        if "classification_heads." in name:
            assert tensor.all() and moved.any() and (old[name] - new[name]).abs().max() <= 6.1 * 2e-4
    found = json.loads(typed("evaluate", tuned, "--choices", "best", "--json").stdout)
    assert found[f"{tuned}/scores/dev.best"]["metric"] == "accuracy"


def test_a_table_of_ones_own_is_trained_scored_and_reported(place, capsys):
    header, *lines = labelled_files.glue_file("RTE", "train", 40).splitlines()
    text = "\n".join([header, *(line.replace("not_entailment", "does not follow") for line in lines)]) + "\n"
    (place / "own.tsv").write_text(text)
    words = ["--text", "sentence1", "--text2", "sentence2", "--label", "label", "--name", "mine", "--jobs", 1]
    words += ["--train", place / "own.tsv", "--encoder", place / "roberta.base", "--out", place / "own"]
    assert main([str(word) for word in ("prepare", "sentences", *words, "--valid-lines", 8)]) == 0
    assert f"next: wff train sentences --data {place}/own --task mine --encoder" in capsys.readouterr().out
    words = ["--data", place / "own", "--configs", place / "glue", "--out", place / "own-runs", "--device", "cpu"]
    words += ["--encoder", place / "roberta.base", "--tasks", "mine", "--set", "optimization.max_update=2"]
    shown = typed("reproduce", "sentences", *words, "--methods", "standard", "--seeds", "1-1").stdout
    assert "sentences, recipe roberta" in shown and "| accuracy | F1 |" in " ".join(shown.split())
    run = place / "own-runs/roberta/mine/standard-1"
    assert main(["evaluate", str(run), "--choices", "best", "--json"]) == 0  # does nothing
    [scores] = json.loads(capsys.readouterr().out).values()
    predicted = read_lines(run / "scores/dev.best.hyp.txt")
    gold = read_lines(place / "own/roberta/mine/labels/dev.txt")
    assert {*predicted} <= {"does not follow", "entailment"} == {*gold}
    assert scores["score"] == 100 * np.mean([a == b for a, b in zip(predicted, gold, strict=True)])
    assert "num_classes: 2" in (run / "run.yaml").read_text()


@pytest.mark.parametrize(
    ("data", "write_archives", "languages"), [("xnli", labelled_files.xnli, 15), ("pawsx", labelled_files.paws_x, 7)]
)
def test_a_task_is_trained_on_english_and_scored_in_every_language(data, write_archives, languages, tmp_path):
    archives = write_archives(tmp_path / "archives")
    encoder = labelled_files.xlmr(tmp_path / "xlmr.base")
    shortened(f"{data}/standard.yaml", tmp_path)
    prepared(data, tmp_path / "data", encoder, *archives)
    manifest = read_manifest(tmp_path / "data/xlmr/en")
    assert manifest["rows"]["train"] == 24 and len(manifest["subsets"]["dev"]) == languages
    typed("train", data, "--data", tmp_path / "data", "--configs", tmp_path / data, "--out", tmp_path / "runs",
          "--encoder", encoder, "--device", "cpu", "--set", "optimization.max_update=2")  # fmt: skip
    run = tmp_path / "runs/xlmr/en/standard-1"
    found = json.loads(typed("evaluate", run, "--choices", "best", "--json").stdout)
    dev = found[f"{run}/scores/dev.best"]
    assert list(dev["sets"]) == list(manifest["subsets"]["dev"]) and dev["sentences"] == 3 * languages
    assert dev["score"] == pytest.approx(np.mean(list(dev["sets"].values())))  # since all are of one size
    assert found[f"{run}/scores/test.best"]["sentences"] == 3 * languages
    german, first = read_lines(run / "predictions/best/dev.de"), 3 * list(dev["sets"]).index("de")
    assert read_lines(run / "scores/dev.best.hyp.txt")[first : first + 3] == german
    assert set(german) <= set(manifest["labels"])
    report = write([tmp_path / "runs"], tmp_path / "report", ["li-4" if data == "xnli" else "li-4-pawsx"])
    [cell] = [cell for sheet in report.sheets.values() for cell in sheet.cells if cell.state == "run"]
    assert (cell.method, cell.score) == ("standard", dev["score"])


def test_a_model_pruned_on_english_is_scored_in_every_language(tmp_path):
    archives = labelled_files.xglue(tmp_path / "archives", each=9)
    encoder = labelled_files.xlmr(tmp_path / "xlmr.base")
    shortened("xglue/cosine.yaml", tmp_path, epochs=5)
    prepared("xglue", tmp_path / "data", encoder, *archives, "--tasks", "WPR")
    words = [
        "--data",
        tmp_path / "data",
        "--configs",
        tmp_path / "xglue",
        "--out",
        tmp_path / "runs",
        "--device",
        "cpu",
    ]
    words += ["--set", "criterion.prune_unit=updates", "--set", "criterion.prune_interval=1", "--encoder", encoder]
    typed("train", "xglue", "--task", "WPR", "--method", "cosine", *words)
    run = tmp_path / "runs/xlmr/wpr/cosine-1"
    for choice in ("best", "last"):
        assert zero_fraction(run / f"checkpoints/checkpoint_{choice}.pt") == pytest.approx(0.686, abs=0.01)
    assert "num_classes: 5" in (run / "run.yaml").read_text()
    found = json.loads(typed("evaluate", run, "--choices", "best", "--json").stdout)
    scores = found[f"{run}/scores/test.best"]
    assert (scores["metric"], scores["sentences"]) == ("ndcg", 63) and "nDCG|scikit-learn:" in scores["signature"]
    assert list(scores["sets"]) == "de en es fr it pt zh".split()
    pages = np.arange(9)[None] % 5  # the labels, three pages for each query
    for language, score in scores["sets"].items():
        predicted = np.array(read_lines(run / f"predictions/best/test.{language}"), int)
        assert score == pytest.approx(100 * ndcg_score(pages.reshape(3, 3), predicted.reshape(3, 3)))
    assert scores["score"] == pytest.approx(np.mean(list(scores["sets"].values())))  # since all have three queries
    report = write([tmp_path / "runs"], tmp_path / "report", ["oneill-1"])
    [cell] = [cell for cell in report.sheets["oneill-1"].cells if cell.state == "run"]
    assert (cell.method, cell.pair, cell.paper, cell.score) == ("cosine", "wpr", 72.51, scores["score"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prepare", "glue", "--archive", "x"], "give --encoder the folder of a pretrained model"),
        (
            ["prepare", "glue", "--encoder", "{place}/roberta.base", "--out", "{place}/new"],
            "give --archive the files of RTE",
        ),
        (["prepare", "glue", "--encoder", "{place}/roberta.base", "--langs", "de"], "--langs is for translation"),
        (["prepare", "glue", "--encoder", "{place}/roberta.base", "--tasks", "WNLI"], "type some of: rte,cola"),
        (["prepare", "glue", "--encoder", "{place}/roberta.base", "--recipe", "xlmr"], "type --recipe roberta"),
        (["prepare", "glue", "--encoder", "{place}/roberta.base", "--max-length", "3"], "type --max-length 128"),
        (["prepare", "multi30k", "--encoder", "x"], "are for glue, xnli, pawsx, xglue, sentences; leave them out"),
        (
            ["train", "sentences", "--data", "{place}/nowhere/sentences"],
            "type: wff prepare sentences --name own --train",
        ),
        (["train", "glue", "--data", "{place}/nowhere/x"], "type: wff prepare glue --tasks rte --archive FILES"),
        (["train", "glue", "--data", "{place}/data", "--out", "{place}/new"], "give its folder: --encoder DIR"),
        (["evaluate", "{place}/finished", "--choices", "average"], "type --choices best,last"),
    ],
)
def test_a_wrong_call_is_told_what_to_type(words, told, place, capsys):
    finished = place / "finished"
    finished.mkdir(exist_ok=True)
    (finished / ".training.json").touch()
    (finished / "provenance.json").write_text('{"dataset": "glue", "method": "sage", "seed": 1}')
    assert main([word.format(place=place) for word in words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_a_dry_run_does_nothing(place, capsys):
    out = str(place / "dry")
    assert (
        main(["prepare", "glue", "--dry-run", "--tasks", "RTE", "--encoder", str(place / "roberta.base"), "--out", out])
        == 0
    )
    assert "RTE: would make" in (said := capsys.readouterr().out) and "at most 128 in one example" in said
    words = [str(word) for word in words_of(place, "--dry-run", "--task", "SST-2", "--out", out)]
    assert main(words) == 0 and "/dry/roberta/sst-2/standard-1, on cpu" in capsys.readouterr().out
    assert not (place / "dry").exists()
