"""What guided steps are measured against takes the step of fairseq's Adam."""

import torch

from weighted_freezing_fairseq.costs.bench import VARIANTS, variant
from weighted_freezing_fairseq.costs.fused_adamw import NAME
from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.workspace.configs import CONFIGS

TINY = Size(layers=1, width=16, feed_forward=24, heads=2, vocabulary=50, sentences=5, length=6)


def test_it_takes_the_step_of_fairseq_and_is_the_fused_one():
    _, task = synthetic(TINY, seed=1)
    found = []
    for method in ("standard", NAME):
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


def test_it_is_a_variant_that_is_measured():
    assert VARIANTS[NAME] == ("standard", f"optimizer._name={NAME}")
