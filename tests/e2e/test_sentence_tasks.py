"""Every method on sentence_prediction through the real fairseq-train: a tiny RoBERTa, classes and scores of sentences.

Each run takes another optimizer of the package, so that all of them are seen to work there.
"""

import json
import logging
import re
import sys
from pathlib import Path

import pytest
import tiny_sentences
import torch
from fairseq_runs import (
    PRECISIONS,
    USER_DIR,
    Fairseq,
    assert_close,
    assert_same,
    kill_when_saved,
    logged,
    on_two_processes,
)

from weighted_freezing_fairseq.__main__ import main

RUN = """--batch-size 12 --required-batch-size-multiple 1 --num-workers 0 --cpu --log-format json --log-interval 1
  --no-epoch-checkpoints --disable-validation --lr 0.003""".split()
ADAM = ["--optimizer", "adam"]
INTRA = ["--criterion", "intra_distillation", "--alpha", 2, "--alpha-p", 2, "--pass-mode", "recompute"]


class Sentences(Fairseq):
    kind = "classes"

    def train_words(self, name: str, *args: object, plugin: bool = True, without: str = "") -> list[object]:
        task = tiny_sentences.CLASSIFICATION if self.kind == "classes" else tiny_sentences.REGRESSION
        user_dir = ["--user-dir", USER_DIR] if plugin else ["--data-buffer-size", 0]
        words = [word for word in [*tiny_sentences.TINY_ROBERTA, *task, *RUN] if word != without]
        return [self.data / self.kind, *user_dir, *words, "--save-dir", self.folder / name, *args]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_sentences.write(tmp_path_factory.mktemp("sentences"))


@pytest.fixture
def sentences(data: Path, tmp_path: Path) -> Sentences:
    return Sentences(data, tmp_path)


REPORTED = [*ADAM, "--max-update", 12, "--clip-norm", 0.5]
REPORTED += ["--report-mcc", "--best-checkpoint-metric", "mcc"] if sys.version_info >= (3, 11) else []  # not in 0.12.2


@pytest.fixture(scope="module")
def stock(data: Path, tmp_path_factory) -> dict:
    """A run of stock fairseq, and the Fisher information of its end as `wff fisher` gives it."""
    runs = Sentences(data, tmp_path_factory.mktemp("stock"))
    words = [*REPORTED, "--criterion", "sentence_prediction"]
    output = runs.train("run", *words, plugin=False, without="--disable-validation")
    checkpoint = runs.folder / "run/checkpoint_last.pt"
    fisher = checkpoint.with_name("fisher.pt")
    words = ["fisher", checkpoint, "--data", data / "classes", "--samples", 30, "--out", fisher]
    assert main([*map(str, words)]) == 0
    logging.disable(logging.NOTSET)
    return {"output": output, "checkpoint": checkpoint, "fisher": fisher, "state": runs.checkpoint("run")}


def last(output: str, kind: str = "train_inner") -> dict[str, float]:
    return {key: float(value) for key, value in logged(output, kind)[-1].items() if value != []}


def test_a_neutral_run_is_bit_identical_to_sentence_prediction_with_its_reports(sentences: Sentences, stock: dict):
    words = [*REPORTED, "--criterion", "alignreg", "--alignreg", "none"]
    output = sentences.train("neutral", *words, without="--disable-validation")
    for key in ("model", "last_optimizer_state"):
        assert_same(sentences.checkpoint("neutral")[key], stock["state"][key])
    mine, its = ({k: v for k, v in last(o, "valid").items() if "wp" not in k} for o in (output, stock["output"]))
    assert mine == its and "valid_accuracy" in mine and ("valid_mcc" in mine) == ("--report-mcc" in REPORTED)


@pytest.mark.parametrize("row", ["intra_distillation", "ewc"])
def test_a_run_that_goes_on_from_its_middle_is_an_uninterrupted_one(sentences: Sentences, row: str):
    """intra_distillation after a kill, too."""
    flags = {
        "intra_distillation": [*INTRA, "--optimizer", "weighted_freeze"],
        "ewc": ["--criterion", "ewc", "--ewc-lambda", 50, "--optimizer", "sage"],
    }[row]
    flags = [*flags, "--save-interval-updates", 6, "--max-update", 12, "--update-freq", 2, "--clip-norm", 1]
    output = sentences.train("straight", *flags)
    for line in logged(output):
        terms = [float(line[key]) for key in ("ce_loss", "divergence" if row == "intra_distillation" else "ewc")]
        total = terms[0] + float(line.get("alpha", 1)) * terms[1]
        assert float(line["loss"]) == pytest.approx(total, abs=2e-3) and 0 <= float(line["accuracy"]) <= 100
    assert terms[1] > 0
    middle = sentences.folder / "straight/checkpoint_2_6.pt"
    if row == "intra_distillation":
        kill_when_saved(sentences, "killed", middle.name, *flags)
        middle = sentences.folder / "killed" / middle.name
    sentences.train("resumed", *flags, "--restore-file", middle)
    straight, resumed = sentences.checkpoint("straight"), sentences.checkpoint("resumed")
    for key in ("model", "last_optimizer_state"):
        assert_same(straight[key], resumed[key])
    assert_same(*(c["extra_state"].get("guided_criterion") for c in (straight, resumed)))


def test_two_processes_equal_one_with_twice_the_update_freq_and_gather_predictions(sentences: Sentences):
    sentences.kind = "scores"
    flags = [*ADAM, *INTRA, "--dropout", 0, "--attention-dropout", 0, "--max-update", 6, "--clip-norm", 1]
    flags += ["--batch-size-valid", 8]  # three batches: one process has one that only fills up
    if sys.version_info >= (3, 11):
        flags += ["--report-pearson-and-spearman", "--best-checkpoint-metric", "pearson"]
        flags.append("--maximize-best-checkpoint-metric")
    two = on_two_processes(sentences, "two", *flags, without="--disable-validation")
    assert_same(*two)
    output = sentences.train("one", *flags, "--update-freq", 2, without="--disable-validation")
    assert_close(sentences.checkpoint("one")["model"], two[0])
    best = [sentences.checkpoint(name)["extra_state"]["best"] for name in ("one", "two")]
    assert best[0] == pytest.approx(best[1], abs=0.11) and last(output)["mse_loss"] > 0


def test_a_sum_over_the_batch_counts_the_sentences_of_all_processes(sentences: Sentences):
    """In the first update, of equal weights, all that differs is the dropout: a few percent; half without the other."""
    flags = [*ADAM, *INTRA, "--divergence-reduction", "sum", "--dropout", 0.3, "--batch-size", 60, "--max-update", 1]
    log = sentences.folder / "two.log"
    on_two_processes(sentences, "two", *flags, "--log-file", log)
    one = last(sentences.train("one", *flags, "--update-freq", 2))["divergence"]
    two = float(re.findall(r'"train_divergence": "([^"]+)"', log.read_text())[-1])
    print(f"summed divergence on two processes and on one: {two} {one}")
    assert two == pytest.approx(one, rel=0.2) and one > 0


YAML = """
common: {{user_dir: {user_dir}, cpu: true, bf16: true, log_format: json, log_interval: 1}}
task: {{_name: sentence_prediction, data: {data}, num_classes: 3, init_token: 0, separator_token: 2, max_positions: 40}}
model:
  _name: roberta_base
  encoder_layers: 2
  encoder_embed_dim: 32
  encoder_ffn_embed_dim: 48
  encoder_attention_heads: 2
criterion:
  _name: self_distillation
  classification_head_name: sentence_classification_head
  regression_target: false
  teacher: {teacher}
optimizer: {{_name: fish_mask, fish_density: 0.3, fish_updates: 2}}
lr_scheduler: {{_name: fixed}}
dataset: {{batch_size: 12, required_batch_size_multiple: 1, num_workers: 0, disable_validation: true}}
optimization: {{max_update: 8, lr: [0.003], sentence_avg: true}}
checkpoint: {{save_dir: {save}, no_epoch_checkpoints: true}}
"""


def test_a_student_from_yaml_in_bf16_with_a_mask(sentences: Sentences, stock: dict):
    paths = {"user_dir": USER_DIR, "data": sentences.data / "classes", "save": sentences.folder / "student"}
    (sentences.folder / "run.yaml").write_text(YAML.format(teacher=stock["checkpoint"], **paths))
    output = sentences("hydra_train", "--config-dir", sentences.folder, "--config-name", "run")
    (shown,) = (line for line in output.splitlines() if '"train_loss"' in line)  # in Hydra's own format
    line = {key: float(value) for key, value in json.loads(shown.split(" - ")[-1]).items()}
    assert line["train_loss"] == pytest.approx(line["train_ce_loss"] + line["train_teacher_kl"], abs=2e-3)
    assert line["train_teacher_kl"] > 0 and line["train_frozen_fraction"] == pytest.approx(0.7, abs=0.2)
    model = sentences.checkpoint("student")["model"]
    assert all(t.isfinite().all() for t in model.values() if t.is_floating_point())


def test_ewc_of_an_old_task_in_fp16_holds_the_weights(sentences: Sentences, stock: dict):
    flags = ["--optimizer", "lfr_cm", "--fisher", stock["fisher"], "--lfr-quantile", 0.5, *PRECISIONS["fp16"]]
    flags += ["--finetune-from-model", stock["checkpoint"], "--criterion", "ewc", "--ewc-anchor", stock["fisher"]]
    line = last(sentences.train("held", *flags, "--ewc-lambda", 100, "--max-update", 4))
    assert line["ewc"] > 0 and line["frozen_fraction"] > 0.2 and torch.tensor(line["loss"]).isfinite()


def test_alignreg_prunes_an_encoder_near_a_published_one(sentences: Sentences, stock: dict):
    """A reference with names of older fairseq and without a head for classes, as RoBERTa's own checkpoints are."""
    state = stock["state"]
    old = {n.replace("encoder", "decoder", 1): t for n, t in state["model"].items() if "classification" not in n}
    torch.save({**state, "model": old}, sentences.folder / "published.pt")
    flags = [*ADAM, "--criterion", "alignreg", "--alignreg-reference", sentences.folder / "published.pt"]
    flags += ["--finetune-from-model", sentences.folder / "published.pt", "--alignreg", "frobenius"]
    flags += ["--prune", "magnitude", "--prune-interval", 1, "--prune-step", 0.25, "--prune-target", 0.5]
    lines = logged(sentences.train("pruned", *flags, "--max-update", 5))
    assert [float(line["sparsity"]) for line in lines] == pytest.approx([0, 0.25, 0.5, 0.5, 0.5], abs=1e-2)
    assert float(lines[0]["alignreg"]) == 0 < float(lines[-1]["alignreg"])  # the run begins at its reference
    model = sentences.checkpoint("pruned")["model"]
    layers = [t for n, t in model.items() if ".layers." in n and n.endswith(".weight") and t.dim() == 2]
    assert len(layers) == 12 and all(int((t == 0).sum()) == t.numel() // 2 for t in layers)
    assert (model["classification_heads.sentence_classification_head.dense.weight"] != 0).all()
