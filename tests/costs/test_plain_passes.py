"""What Intra-Distillation is measured against computes what Intra-Distillation computes."""

import pytest
import torch

from weighted_freezing_fairseq.costs.bench import VARIANTS, variant
from weighted_freezing_fairseq.costs.plain_passes import NAME
from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.workspace.configs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # fairseq's own
TINY = Size(layers=1, width=16, feed_forward=24, heads=2, vocabulary=50, sentences=5, length=6)


def test_the_plain_way_has_the_loss_and_the_gradients_of_ours():
    sample, task = synthetic(TINY, seed=1)
    found = []
    for method in (NAME, "intra_distillation_loop"):  # passes one by one, so that dropout draws the same
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


def test_it_is_a_variant_that_is_measured():
    assert VARIANTS[NAME] == ("intra_distillation", f"criterion._name={NAME}")
