"""Triton's kernels on a GPU compute what plain torch does there (scripts/gpu.sh).

Without a GPU test_kernels_triton.py interprets them; TRITON_INTERPRET=1 runs these tests in the interpreter too.
"""

import os

import pytest
import torch
from fused_steps import BASES, CASES, trained

from weighted_freezing_fairseq.core import kernels_c, kernels_triton

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
if DEVICE.type == "cuda" and not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter computes with numpy


@pytest.fixture
def launched(monkeypatch):
    """The kernels that are launched; none of them in C."""
    monkeypatch.setattr(kernels_c, "load", lambda: None)
    found = []
    whole = kernels_triton.guide_
    monkeypatch.setattr(kernels_triton, "guide_", lambda *given: (found.append("guide_"), whole(*given)))
    return found


def test_the_trial_finds_nothing(launched):
    assert kernels_triton.trial(DEVICE) == ""


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("row", "settings"), CASES, ids=str)
def test_launches_compute_what_plain_torch_does(base, row, settings, launched):
    _, fast = trained(base, row, settings, special=False, device=DEVICE)
    assert ("guide_" in launched) == (row != "fish_mask" and row != "lfr_cm")
    launched.clear()
    with kernels_c.switched_off():
        _, slow = trained(base, row, settings, special=False, device=DEVICE)
    assert not launched
    # Rounding may turn a few verdicts of a mask, whose weights then differ by whole steps.
    apart = [~torch.isclose(one, other, rtol=1e-4, atol=1e-7) for one, other in zip(fast, slow, strict=True)]
    assert sum(int(each.sum()) for each in apart) <= 0.001 * sum(each.numel() for each in apart)
