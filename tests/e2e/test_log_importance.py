"""`--log-importance` as it is typed: in a YAML that Hydra reads, and in fairseq-train on two processes."""

import csv
from pathlib import Path

import pytest
from fairseq_runs import Fairseq, assert_same, on_two_processes

HYDRA = """
common: {{cpu: true, log_importance: 1}}
task: {{_name: translation, data: {data}, source_lang: x, target_lang: y}}
model:
  _name: transformer_iwslt_de_en
  base_layers: 0  # fairseq 0.12.2 wants to be told
  encoder: {{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}}
  decoder: {{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}}
criterion: {{_name: label_smoothed_cross_entropy}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
dataset: {{max_tokens: 120, num_workers: 0, required_batch_size_multiple: 1, disable_validation: true}}
optimization: {{max_update: 1, lr: [0.01]}}
checkpoint: {{save_dir: {save}, no_save: true}}
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_hydra_checks_a_yaml_that_names_it(fairseq: Fairseq):
    cold = Fairseq(fairseq.data, fairseq.folder, warm=False)  # what is imported first is the point
    (fairseq.folder / "run.yaml").write_text(HYDRA.format(data=fairseq.data, save=fairseq.folder / "hydra"))
    words = ["--config-dir", fairseq.folder, "--config-name", "run"]
    process = cold.python("-m", "weighted_freezing_fairseq.hydra_train", *words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    assert "version_base" not in output  # of Hydra, when fairseq's command is imported
    assert {row["update"] for row in rows(fairseq.folder / "hydra/importance.csv")} == {"1"}


def test_two_processes_write_one_table_that_one_process_writes_too(fairseq: Fairseq):
    flags = ["--optimizer", "weighted_freeze", "--dropout", 0, "--attention-dropout", 0, "--clip-norm", 1]
    flags += ["--max-update", 2, "--log-importance", 2]
    assert_same(*on_two_processes(fairseq, "two", *flags))
    fairseq.train("one", *flags, "--update-freq", 2)
    two, one = (rows(fairseq.folder / name / "importance.csv") for name in ("two", "one"))
    for mine, other in zip(two, one, strict=True):
        assert mine["group"] == other["group"] and mine["frozen"] == other["frozen"]
        for name in ("mean", "std", "weight_norm", "gradient_norm"):
            assert float(mine[name]) == pytest.approx(float(other[name]), rel=1e-3), (mine["group"], name)
