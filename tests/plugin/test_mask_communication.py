"""`--mask-communication` where nothing could come of it."""

import pytest
import torch
from omegaconf import OmegaConf

from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin.optimizers import FishMask
from weighted_freezing_fairseq.workspace.configs import CONFIGS

TINY = Size(layers=1, width=16, feed_forward=24, heads=2, vocabulary=50, sentences=5, length=6)
SPARSE = ["optimizer._name=fish_mask", "optimizer.fish_density=0.1", "optimizer.mask_communication=true"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimization.use_bmuf=true", "leave out --use-bmuf"),
        ("distributed_training.ddp_comm_hook=fp16", "leave out --ddp-comm-hook"),
    ],
)
def test_what_exchanges_gradients_otherwise_is_refused_with_what_to_type(setting: str, words: str):
    _, task = synthetic(TINY, seed=1)
    with pytest.raises(UserError, match=words):
        subject_of("fish_mask", CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, task, [*SPARSE, setting])


def test_a_part_of_a_composite_is_refused_with_what_to_type():
    parts = [{"params": [torch.nn.Parameter(torch.zeros(3))]}]
    with pytest.raises(UserError, match="leave out mask_communication"):
        FishMask(OmegaConf.create({"mask_communication": True}), parts)
