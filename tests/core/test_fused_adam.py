"""Adam with its guide in one pass is welded to the base's own step: every row, every formula, every bit."""

import copy
import dataclasses
from types import MappingProxyType

import pytest
import torch
from fairseq.optim.adam import Adam as FairseqAdam
from fused_steps import BASES, CASES, UPDATES, assert_same_bits, trained
from guided_rows import some_fisher
from torch import nn

from weighted_freezing_fairseq.core import fused_adam, native
from weighted_freezing_fairseq.core.fixed import FixedMaskOptimizer
from weighted_freezing_fairseq.core.fused_adam import FusedAdam
from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.rules import RULES, Term
from weighted_freezing_fairseq.core.scope import Slot
from weighted_freezing_fairseq.costs.bench import _transient_bytes

pytestmark = pytest.mark.skipif(native.load() is None, reason="no C compiler on this machine")


@pytest.fixture
def taken(monkeypatch):
    """How many steps were taken in one pass; long tensors begin at a length that the tests have."""
    fused_adam._arithmetic()  # its trial is none of the test's steps
    monkeypatch.setattr(native, "_LONG", 1500)
    steps, take = [], FusedAdam.take_
    monkeypatch.setattr(FusedAdam, "take_", lambda self, *given: (steps.append(self), take(self, *given))[1])
    return steps


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("row", "settings"), CASES, ids=str)
def test_one_pass_gives_the_bits_of_the_base_and_its_guide(base, row, settings, taken):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        fused = trained(base, row, settings)
    finally:
        torch.set_num_threads(threads)
    # The base makes its state in the first update in which something moves.
    assert len(taken) == UPDATES - (2 if settings.get("observe") else 1)
    with native.switched_off():
        plain = trained(base, row, settings)
    assert len(taken) < UPDATES
    assert_same_bits(fused, plain, gradients=not row.startswith("weighted_freeze") or settings.get("stage") == "update")


@pytest.mark.parametrize("base", BASES)
def test_without_decay_too_and_a_planted_error_is_found(base, taken, monkeypatch):
    with native.switched_off():
        plain = trained(base, "weighted_freeze (important)", {}, decay=0.0)
    assert_same_bits(trained(base, "weighted_freeze (important)", {}, decay=0.0), plain, gradients=False)
    for name in ("beta1", "rest1", "beta2", "rest2", "eps", "rate"):
        planted = {
            key: lambda group, step, of=formula, name=name: (found := of(group, step))._replace(
                **{name: 1.001 * getattr(found, name)}
            )
            for key, formula in fused_adam.FORMULAS.items()
        }
        with monkeypatch.context() as context:
            context.setattr(fused_adam, "FORMULAS", MappingProxyType(planted))
            wrong = trained(base, "weighted_freeze (important)", {}, decay=0.0, special=False)
        with pytest.raises(AssertionError):
            assert_same_bits(wrong, plain, gradients=False)


def test_the_gradient_is_masked_on_its_way_to_adam_and_stays_as_it_was(taken):
    p = nn.Parameter(torch.randn(50, 50))
    optimizer = GuidedOptimizer(FairseqAdam([p]), [Slot("w", p, p.shape)])
    for step in range(2):  # the first is the base's own, which reads a masked gradient
        p.grad = torch.ones(50, 50)
        optimizer.step()
        assert (p.grad == 1).all() == bool(step)
    assert len(taken) == 1
    assert 0.2 < (optimizer.state[p]["exp_avg_sq"] < optimizer.state[p]["exp_avg_sq"].max()).float().mean() < 0.98


@pytest.mark.parametrize("base", BASES)
def test_the_base_goes_on_with_the_state_that_one_pass_left(base, taken):
    optimizer, weights = trained(base, "weighted_freeze (important)", {}, special=False)
    plain = BASES[base]([{**group, "params": list(group["params"])} for group in optimizer.param_groups])
    plain.load_state_dict({k: v for k, v in copy.deepcopy(optimizer.state_dict()).items() if k != "guided"})
    copies = [w.detach().clone() for w in weights]
    FusedAdam.of(optimizer.base).take_([])
    after, state = [w.detach().clone() for w in weights], copy.deepcopy(optimizer.base.state_dict()["state"])
    for w, old in zip(weights, copies, strict=True):
        w.detach().copy_(old)
    plain.step()
    assert all(torch.equal(w.detach(), mine) for w, mine in zip(weights, after, strict=True))
    torch.testing.assert_close(plain.state_dict()["state"], state, rtol=0, atol=0)


def ready(make, shape=(4, 4), dtype=torch.float32):
    """A base after its first step, and one parameter with a gradient."""
    p = nn.Parameter(torch.ones(shape, dtype=dtype))
    base = make([p])
    p.grad = torch.ones_like(p)
    base.step()
    return base, p


@pytest.mark.parametrize(
    "options",
    [{"amsgrad": True}, {"maximize": True}, {"foreach": True}, {"fused": True},
     {"lr": torch.tensor(0.1)}, {"betas": (0.4, 0.9)}],
    ids=str,
)  # fmt: skip
def test_unusual_options_are_left_to_the_base(options):
    assert FusedAdam.of(ready(lambda p: torch.optim.AdamW(p))[0]) is not None
    assert FusedAdam.of(ready(lambda p: torch.optim.AdamW(p, **options))[0]) is None


def test_what_the_kernel_cannot_read_or_somebody_watches_is_left_to_the_base(monkeypatch):
    class Mine(torch.optim.AdamW):
        pass

    assert FusedAdam.of(ready(Mine)[0]) is None
    assert FusedAdam.of(ready(torch.optim.NAdam)[0]) is None
    assert FusedAdam.of(ready(torch.optim.AdamW, dtype=torch.float64)[0]) is None
    assert FusedAdam.of(torch.optim.AdamW([nn.Parameter(torch.ones(3))])) is None  # no gradient, nothing to step
    base, p = ready(torch.optim.AdamW)
    p.grad = torch.ones(4, 8)[:, ::2]
    assert FusedAdam.of(base) is None
    base, _ = ready(torch.optim.AdamW)
    base.register_step_post_hook(lambda *_: None)
    assert FusedAdam.of(base) is None
    base, _ = ready(torch.optim.AdamW)
    torch.optim.lr_scheduler.StepLR(base, 1)  # counts the calls of base.step
    assert FusedAdam.of(base) is None
    base, _ = ready(torch.optim.AdamW)
    with native.switched_off():
        assert FusedAdam.of(base) is None
    monkeypatch.setattr(fused_adam, "_same_bits", lambda arithmetic: False)
    assert fused_adam._arithmetic.__wrapped__() is None


def test_a_row_that_somebody_changed_runs_as_changed(taken):
    p = nn.Parameter(torch.randn(50))
    half = dataclasses.replace(
        RULES["sage"], g=Term("-1/2", lambda importance, given: torch.full_like(importance, -0.5))
    )
    optimizer = GuidedOptimizer(FairseqAdam([p]), [Slot("w", p, p.shape)], half)
    for _ in range(3):
        p.grad = torch.randn(50)
        optimizer.step()
    assert not taken


@pytest.mark.parametrize(
    ("cls", "method", "settings"),
    [
        (GuidedOptimizer, "weighted_freeze", {}),
        (GuidedOptimizer, "weighted_freeze", {"stage": "update"}),
        (GuidedOptimizer, "weighted_freeze", {"variant": "smooth"}),
        (GuidedOptimizer, "sage", {}),
        (FixedMaskOptimizer, "lfr_cm", {"quantile": 0.75}),
        (FixedMaskOptimizer, "lfr_cm", {"quantile": 0.25}),
    ],
    ids=str,
)
def test_a_step_needs_next_to_no_memory(cls, method, settings):
    p = nn.Parameter(torch.randn(1000, 300))
    slots = [Slot("w", p, p.shape)]
    source = {"source": some_fisher(slots)} if method == "lfr_cm" else {}
    optimizer = cls(FairseqAdam([p]), slots, method, **settings, **source)
    for _ in range(2):
        p.grad = torch.randn(1000, 300)
        optimizer.step()
    assert _transient_bytes(optimizer.step, "cpu") < 0.01 * 4 * p.numel()
