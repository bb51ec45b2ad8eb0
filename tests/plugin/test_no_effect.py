"""What a user asks for in vain is said in the log, with the flag and what to type; what works is not."""

import logging

import pytest
import torch

from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.core.scope import catalogue
from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin import no_effect, parameters, passes
from weighted_freezing_fairseq.workspace.configs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore")  # fairseq's own

TINY = Size(layers=1, width=16, feed_forward=24, heads=2, vocabulary=30, sentences=4, length=8)
SAMPLE, TASK = synthetic(TINY, seed=1)
DROPOUT = ["model.dropout=0.1"]
NO_DROPOUT = ["model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0"]
FISH = ["optimizer._name=fish_mask", "optimizer.fish_density=0.1"]
SPG = ["optimizer._name=spg", "optimizer.fisher=FISHER"]  # stands for a file
INTRA = ["criterion._name=intra_distillation"]
ALIGN = ["criterion._name=alignreg"]


@pytest.fixture(scope="module")
def fisher(tmp_path_factory):
    path = tmp_path_factory.mktemp("fisher") / "fisher.pt"
    model = subject_of("standard", CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, TASK).trainer.get_model()
    snapshot.save(path, "fisher", {entry.name: torch.rand(p.shape) for entry, p in catalogue(model)})
    return path


@pytest.fixture
def said(caplog, fisher):
    """The warnings of a run with these settings, built and trained for one update."""
    no_effect.warn.cache_clear()
    caplog.set_level(logging.WARNING)

    def warnings(*settings):
        settings = ["optimization.max_update=50", *(setting.replace("FISHER", str(fisher)) for setting in settings)]
        trainer = subject_of("standard", CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, TASK, settings).trainer
        for _ in range(2):
            trainer.train_step([SAMPLE])
        return [record.message for record in caplog.records if record.name.startswith("weighted_freezing_fairseq")]

    return warnings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([*INTRA, *NO_DROPOUT], ["--num-passes 3", "the same", "--dropout 0.1"]),
        ([*INTRA, *DROPOUT, "criterion.num_passes=1"], ["--num-passes 1 ", "type --num-passes 3"]),
        ([*INTRA, *DROPOUT, "criterion.alpha_schedule=constant", "criterion.alpha_p=4"],
         ["--alpha-p 4.0 has no effect", "type --alpha-schedule adaptive"]),
        ([*INTRA, *DROPOUT, "criterion.alpha=0.5", "criterion.alpha_q=12"], ["--alpha-q 12.0", "type --alpha 5"]),
        (["criterion._name=ewc", "criterion.ewc_lambda=1", "criterion.ewc_start=60"],
         ["--ewc-lambda 1 ", "--max-update 50", "type --ewc-start 1"]),
        ([*ALIGN, "criterion.alignreg=none", "criterion.alignreg_lambda=1"], ["-lambda 1.0", "type --alignreg cosine"]),
        ([*ALIGN, "criterion.alignreg=frobenius", "criterion.alignreg_level=layer"], ["--alignreg-level layer"]),
        ([*ALIGN, "criterion.prune_interval=3"], ["--prune-interval 3", "type --prune magnitude"]),
        ([*ALIGN, "criterion.prune=lamp", "criterion.prune_interval=3", "criterion.prune_gate_lr=1"],
         ["--prune-gate-lr 1.0", "type --prune l0"]),
        (["optimizer._name=weighted_freeze", "optimizer.importance_start=51"], ["--importance-start 51", "type", "50"]),
        (["optimizer._name=weighted_freeze", "optimizer.base_optimizer=sgd", "optimizer.adam_betas='(0.9, 0.98)'"],
         ["--adam-betas (0.9, 0.98)", "--base-optimizer sgd has no such setting"]),
        (["optimizer._name=sage", "optimizer.sage_variant=light", "optimizer.sage_beta=0.5"],
         ["--sage-beta 0.5", "--sage-variant full"]),
        (["optimizer._name=mofo", "optimizer.importance_norm=global"], ["--importance-norm global", "leave it out"]),
        (["optimizer._name=cautious_decay"], ["no effect without weight decay", "type --weight-decay 0.01"]),
        ([*SPG, "optimizer.spg_apply=update", "optimizer.importance_norm=global"], ["--importance-norm global"]),
        (["optimizer._name=lisa", "optimizer.importance_norm=global"], ["--importance-norm global", "leave it out"]),
        (SPG, ["--spg-apply gradient", "--base-optimizer adam divides", "type --spg-apply update"]),
        ([*FISH, "optimizer.fish_updates=50"], ["--fish-updates 50", "no weight moves", "type --fish-updates 5"]),
        ([*FISH, "optimizer.fish_source=random", "optimizer.fish_updates=5"], ["-updates 5", "--fish-source fisher"]),
        ([*FISH, "optimizer.fish_source=lift", "optimizer.fish_updates=5"], ["-updates 5", "--fish-source fisher"]),
        ([*FISH, "optimizer.fish_source=smt", "optimizer.fish_block=4"],
         ["--fish-updates 100: no weight moves", "--max-update 50"]),
        ([*FISH, "optimizer.fish_source=sift", "optimizer.fish_block=4"], ["--fish-block 4", "--fish-source smt"]),
        ([*FISH, "optimizer.fish_source=sift", "optimizer.fish_rank=4"], ["--fish-rank 4", "--fish-source lift"]),
        ([*FISH, "optimizer.fish_source=bias"], ["--fish-density 0.1", "all biases"]),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_said_once_with_what_to_type(said, settings, words):
    (warning,) = said(*settings)
    for word in words:
        assert word in warning


def test_a_finished_mask_needs_no_estimate(said, tmp_path):
    fish = ["optimizer._name=fish_mask", f"optimizer.fish_mask={tmp_path}/mask.pt"]
    trainer = subject_of("standard", CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, TASK, []).trainer
    snapshot.save(tmp_path / "mask.pt", "mask", {n: p > 0 for n, p in trainer.get_model().named_parameters()})
    (warning,) = said(*fish, "optimizer.fish_updates=5")
    assert "--fish-updates 5 has no effect" in warning and "--fish-mask" in warning


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        [*INTRA, *DROPOUT],
        [*INTRA, *DROPOUT, "criterion.alpha=0"],
        [*INTRA, *DROPOUT, "common.memory_efficient_bf16=true", "common.bf16=true"],
        [*INTRA, "model.dropout=0", "model.attention_dropout=0.1"],
        ["criterion._name=ewc", "criterion.ewc_lambda=1", "lr_scheduler.warmup_updates=49"],
        [*ALIGN, "criterion.alignreg_level=layer", "criterion.prune=l0", "criterion.prune_interval=3",
         "criterion.prune_gate_lr=1"],
        ["optimizer._name=weighted_freeze", "optimizer.importance_start=50"],
        ["optimizer._name=sage", "optimizer.sage_beta=0.5"],
        ["optimizer._name=cautious_decay", "optimizer.weight_decay=0.01"],
        [*SPG, "optimizer.spg_apply=update"],
        ["optimizer._name=lisa", "optimizer.lisa_layers=1"],
        [*SPG, "optimizer.base_optimizer=sgd", "optimizer.adam_betas=null"],
        [*FISH, "optimizer.fish_updates=49"],
        [*FISH, "optimizer.fish_source=sift"],
        [*FISH, "optimizer.fish_source=smt", "optimizer.fish_updates=9", "optimizer.fish_block=4"],
        [*FISH, "optimizer.fish_source=lift", "optimizer.fish_rank=4"],
    ],
)  # fmt: skip
def test_what_works_is_not_warned_of(said, settings):
    assert said(*settings) == []


def test_a_model_without_matrices_to_prune_is_refused_without_a_flag_that_alignreg_lacks():
    criterion = subject_of("standard", CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, TASK, ALIGN).trainer.criterion
    embedding = torch.nn.Embedding(3, 2)
    with (
        parameters.published(embedding),
        pytest.raises(UserError, match="this model has none; type another --criterion"),
    ):
        criterion.use_optimizer(torch.optim.SGD(embedding.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_passes_that_differ_by_rounding_are_the_same(dtype):
    one = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    rounded = one * (1 + torch.finfo(dtype).eps)
    assert not passes.differ(torch.stack([one, rounded, one]).to(dtype))
    assert passes.differ(torch.stack([one, 1.1 * one]).to(dtype))
