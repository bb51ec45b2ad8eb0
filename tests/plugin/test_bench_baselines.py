"""What methods are measured against takes the same steps and computes the same loss as what it stands for."""

import pytest
import torch

import weighted_freezing_fairseq.plugin.bench_baselines  # noqa: F401
from weighted_freezing_fairseq.costs.cases import variant
from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.workspace.configs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # fairseq's own
TINY = Size(layers=1, width=16, feed_forward=24, heads=2, vocabulary=50, sentences=5, length=6)


def test_adamw_of_torch_is_the_fused_one_and_takes_the_step_of_fairseq():
    _, task = synthetic(TINY, seed=1)
    found = []
    for method in ("standard", "adamw_of_torch"):
        path, more = variant(method, [CONFIGS / "toy"], passes=None)
        subject = subject_of(method, path, TINY, "cpu", 1, task, [*more, "optimizer.weight_decay=0.1"])
        subject.trainer.optimizer.set_lr(0.01)
        torch.manual_seed(2)
        for _ in range(3):
            for p in subject.trainer.optimizer.params:
                p.grad = 1 + torch.rand(p.shape)  # eps stands elsewhere, which small ones show
            subject.step()
        found.append([p.detach() for p in subject.trainer.model.parameters()])
    assert subject.trainer.optimizer.optimizer.defaults["fused"]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)  # of steps of 0.01


@pytest.mark.slow
def test_the_plain_way_has_the_loss_and_the_gradients_of_ours():
    sample, task = synthetic(TINY, seed=1)
    found = []
    for method in (
        "intra_distillation_plain",
        "intra_distillation_loop",
    ):  # passes one by one, so that dropout draws the same
        path, more = variant(method, [CONFIGS / "toy"], passes=3)
        more = [*more, "criterion.alpha_schedule=constant", "model.dropout=0.3"]
        trainer = subject_of(method, path, TINY, "cpu", 1, task, more).trainer
        trainer.model.train(), trainer.criterion.train(), torch.manual_seed(2)
        loss, _, logged = trainer.criterion(trainer.model, sample)
        loss.backward()
        terms = {name: torch.as_tensor(logged[name]) for name in ("nll_loss", "ce_loss", "divergence", "alpha")}
        assert terms["divergence"] > 0.01
        found.append((loss.detach(), terms, {name: p.grad for name, p in trainer.model.named_parameters()}))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
