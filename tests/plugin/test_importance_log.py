"""`log_importance` through fairseq's own training, in this process: what it writes, and that it changes nothing."""

import csv
import re
from pathlib import Path

import pytest
import torch
from fairseq.trainer import Trainer
from fairseq_runs import assert_same
from in_process import Here
from omegaconf import OmegaConf

from weighted_freezing_fairseq.core.masks import keep_mask, stream_key, uniform
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin.importance_log import COLUMNS, ImportanceLog, interval_of

pytestmark = pytest.mark.filterwarnings("ignore")  # fairseq's own

INTRA = ["criterion._name=intra_distillation", "criterion.alpha_schedule=constant"]
FREEZE = ["optimizer._name=weighted_freeze", "optimizer.base_optimizer=sgd"]
FISH = ["optimizer._name=fish_mask", "optimizer.fish_density=0.05", "optimizer.fish_updates=2"]
PRECISIONS = {
    "amp": ["common.amp=true"],
    "fp16": ["common.fp16=true", "common.fp16_no_flatten_grads=true", "common.fp16_init_scale=4"],
    "memory-efficient-fp16": ["common.fp16=true", "common.memory_efficient_fp16=true", "common.fp16_init_scale=4"],
    "bf16": ["common.bf16=true"],
    "memory-efficient-bf16": ["common.bf16=true", "common.memory_efficient_bf16=true"],
}
MATRICES = ("encoder.layers.0.fc1.weight", "decoder.layers.0.fc1.weight")
Row = dict[str, str]


def rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def overall(path: Path, column: str) -> list[float]:
    return [float(row[column]) for row in rows(path) if row["by"] == "model"]


def listening(trainer: Trainer) -> list[ImportanceLog]:
    return [listener for listener in trainer.listeners if isinstance(listener, ImportanceLog)]


def hooks(trainer: Trainer) -> int:
    held = trainer.optimizer.optimizer
    return len(held._optimizer_step_pre_hooks) + len(held._optimizer_step_post_hooks)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], [*FREEZE, *INTRA], FISH], ids=["standard", "weighted_freeze", "fish_mask"])
def test_training_is_bit_identical_with_it_and_nothing_is_there_without(here: Here, settings: list[str]):
    plain = here.run("without", *settings, "optimization.max_update=5")
    usual = hooks(here.trainer)
    assert listening(here.trainer) == [] and not plain.exists()
    path = here.run("with", *settings, "optimization.max_update=5", every=2)
    assert hooks(here.trainer) == usual + bool(settings)
    found, wanted = here.checkpoint("with"), here.checkpoint("without")
    assert_same(found["model"], wanted["model"])
    assert_same(found["last_optimizer_state"], wanted["last_optimizer_state"])
    table = rows(path)
    assert tuple(table[0]) == COLUMNS and list(dict.fromkeys(row["update"] for row in table)) == ["2", "4"]
    assert all(float(row["std"]) > 0 and float(row["gradient_norm"]) > 0 for row in table)
    frozen = [row["frozen"] for row in table if row["by"] == "model"]
    if settings == FISH:  # in the first two updates no weight moves; fairseq 0.12.2's unused ones are in the density
        assert float(frozen[0]) == 1 and float(frozen[1]) == pytest.approx(0.94, abs=0.011)
    else:
        assert all(0.2 < float(share) < 0.8 for share in frozen) if settings else set(frozen) == {""}


def test_the_figures_are_those_of_the_gradient_that_is_stepped_with(here: Here):
    sgd = [*FREEZE, "optimizer.importance_start=1000"]  # stock SGD has no settings that Hydra knows
    path = here.run("run", *sgd, "optimization.lr=[0.5]", "checkpoint.save_interval_updates=1", every=2)
    before, after = (here.checkpoint("run", f"checkpoint_1_{update}.pt")["model"] for update in (1, 2))
    weights = torch.cat([before[name].double().flatten() for name in MATRICES])
    # What SGD did to each weight, divided by the learning rate.
    gradients = (weights - torch.cat([after[name].double().flatten() for name in MATRICES])) / 0.5
    (row,) = (row for row in rows(path) if row["group"] == "fc1")
    assert float(row["mean"]) == pytest.approx((weights * gradients).abs().mean().item(), rel=1e-3)
    assert float(row["weight_norm"]) == pytest.approx(weights.norm().item(), rel=1e-6)
    assert float(row["gradient_norm"]) == pytest.approx(gradients.norm().item(), rel=1e-3)
    assert overall(path, "gradient_norm") == pytest.approx([0.5], rel=1e-3)  # clipped


def test_frozen_is_what_the_mask_says_and_all_is_shown(here: Here, caplog: pytest.LogCaptureFixture):
    more = ["optimization.max_update=3", "checkpoint.save_interval_updates=1"]
    with caplog.at_level("INFO"):
        path = here.run("run", *FREEZE, *more, f"common.tensorboard_logdir={here.folder / 'tb'}", every=2)
    old, frozen = here.checkpoint("run", "checkpoint_1_1.pt")["model"], 0
    for name in MATRICES:
        scores = old[name].abs()
        u = uniform(scores.numel(), stream_key(1, 2, name)).view(scores.shape)
        frozen += int((~keep_mask(scores, scores.min(), scores.max(), u)).sum())
    table = {row["group"]: row for row in rows(path)}
    assert float(table["fc1"]["frozen"]) == frozen / 1024
    assert {table[name]["frozen"] for name in ("embedding", "norm", "bias")} == {"0.0"}  # not guided

    shown = re.findall(r'"sensitivity_std": "([^"]*)"', caplog.text)  # in updates 2 and 3, and of the epoch
    assert len(set(shown)) == 1 and float(shown[0]) == pytest.approx(overall(path, "std")[0], rel=1e-5)
    others = {"importance_std", "frozen_fraction", "sensitivity_gini", "sensitivity_top20_over_bottom80"}
    assert others <= set(re.findall(r'"(\w+)"', caplog.text))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(here.folder / "tb/importance")).Reload()
    (point,) = events.Scalars("std/model")
    assert point.step == 2 and point.value == pytest.approx(overall(path, "std")[0], rel=1e-6)
    tags = events.Tags()["scalars"]
    assert {"top20_over_bottom80/fc1", "frozen/encoder.layers.0", "gini/self-attention_q"} <= set(tags)
    assert not any(" " in tag for tag in tags)


def test_a_killed_run_goes_on_as_if_nothing_had_been(here: Here):
    settings = [*FREEZE, "checkpoint.save_interval_updates=3"]
    wanted = here.run("straight", *settings, "optimization.max_update=6", every=2).read_text()
    path = here.run("killed", *settings, "optimization.max_update=3", every=2)
    # It had come to update 4, and was writing of it when it was killed.
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace("2,", "4,", 1) + "\n4,type,embed")
    here.run("killed", *settings, "optimization.max_update=6", every=2)
    assert path.read_text() == wanted


def test_half_batches_give_the_figures_of_the_whole(here: Here):
    settings = ["dataset.max_tokens=100000", "model.dropout=0", "optimization.max_update=1"]
    whole = rows(here.run("whole", *settings, "dataset.batch_size=300", every=1))
    halves = rows(here.run("halves", *settings, "dataset.batch_size=150", "optimization.update_freq=[2]", every=1))
    for one, other in zip(whole, halves, strict=True):
        for name in COLUMNS[3:-1]:  # a score may lie at the edge of a bin
            rel = 1e-4 if name in ("mean", "std", "weight_norm", "gradient_norm") else 4e-3
            assert float(one[name]) == pytest.approx(float(other[name]), rel=rel), (one["group"], name)


def test_every_precision_gives_the_figures_of_float32(here: Here):
    settings = ["model.dropout=0", "optimization.max_update=1"]
    wanted = overall(here.run("fp32", *settings, every=1), "mean")
    for name, more in PRECISIONS.items():
        found = overall(here.run(name, *settings, *more, every=1), "mean")
        assert found == (wanted if name == "amp" else pytest.approx(wanted, rel=0.05)), name


def test_what_cannot_be_written_is_said(here: Here, caplog: pytest.LogCaptureFixture):
    path = here.run("run", "optimization.max_update=1", every=2)
    (log,) = listening(here.trainer)
    with caplog.at_level("INFO"):
        log.clipped(here.trainer, torch.tensor(torch.inf))
        log.updated(here.trainer)
    assert "gradients of update 2 overflow" in caplog.text and rows(path) == []
    path.write_text("update,mean\n1,2\n")
    with pytest.raises(UserError, match="move it away"):
        here.run("run", "checkpoint.reset_optimizer=true", every=2)
    assert path.read_text() == "update,mean\n1,2\n"


@pytest.mark.parametrize(
    ("interval", "change", "words"),
    [
        (-3, {}, "type --log-importance 200, or 0: never"),
        ("often", {}, "type --log-importance 200, or 0: never"),
        (2, {"optimization": {"use_bmuf": True}}, "leave out --use-bmuf"),
        (2, {"distributed_training": {"zero_sharding": "os"}}, "leave out --zero-sharding"),
        (2, {"distributed_training": {"ddp_backend": "fully_sharded"}}, "replace --ddp-backend fully_sharded"),
    ],
)
def test_what_cannot_be_measured_says_what_to_type(interval: object, change: dict, words: str):
    usual = {"ddp_backend": "legacy_ddp", "zero_sharding": "none"}
    cfg = {"common": {}, "distributed_training": usual, "optimization": {"use_bmuf": False}}
    plain = OmegaConf.create(cfg)
    OmegaConf.set_struct(plain, True)
    assert interval_of(plain) == 0  # composed before fairseq knew of it
    with pytest.raises((UserError, ValueError), match=re.escape(words)):
        interval_of(OmegaConf.merge(cfg, change, {"common": {"log_importance": interval}}))
