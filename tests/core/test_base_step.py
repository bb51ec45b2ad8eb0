"""The fused step of the base is welded to the base's own: every Adam, a hundred steps, and a planted error."""

import copy
import dataclasses

import pytest
import torch
from fairseq.optim.adam import Adam as FairseqAdam
from fused_steps import BASES, CASES, assert_same_bits, trained
from torch import nn

from weighted_freezing_fairseq.core import base_step, kernels_c
from weighted_freezing_fairseq.core.base_step import ADAMS, step_base
from weighted_freezing_fairseq.core.fixed import FixedMaskOptimizer
from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.rules import RULES, Term
from weighted_freezing_fairseq.core.scope import Slot
from weighted_freezing_fairseq.costs.measure import _transient_bytes

every_base = pytest.mark.parametrize("base", BASES)


@pytest.fixture
def fused_steps(monkeypatch):
    """How many parameters torch's fused steps took, call by call."""
    taken = []
    for name in ("_fused_adam_", "_fused_adamw_"):
        whole = getattr(torch, name)
        monkeypatch.setattr(
            torch,
            name,
            lambda parameters, *rest, of=whole, **more: (taken.append(len(parameters)), of(parameters, *rest, **more)),
        )
    base_step._works(torch.device("cpu"))  # its trial is none of the test's steps
    taken.clear()
    return taken


def stepped(base, steps, fused, **options):
    """Weights and state after some steps; the second parameter has no gradient in every third."""
    generator = torch.Generator().manual_seed(1)
    parameters = [nn.Parameter(torch.randn(size, generator=generator) * 0.1) for size in ((31, 33), (7,), (1,))]
    groups = [{"params": parameters[:2], "lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-5}, {"params": parameters[2:]}]
    optimizer = BASES[base](groups, lr=1e-3, **options)
    with torch.no_grad():
        for step in range(steps):
            for p in parameters:
                p.grad = (
                    torch.randn(p.shape, generator=generator) * torch.randn(p.shape, generator=generator).exp() * 1e-3
                )
            parameters[1].grad = None if step % 3 == 1 else parameters[1].grad
            step_base(optimizer, fused)
    return optimizer, [p.detach() for p in parameters]


@every_base
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_hundred_fused_steps_equal_the_bases_own(base, decay, fused_steps):
    own, expected = stepped(base, 100, False, weight_decay=decay)
    assert not fused_steps
    fused, weights = stepped(base, 100, True, weight_decay=decay)
    assert sum(fused_steps) >= 99 + 66 + 99 - 1  # the first step creates the state
    for mine, its in zip(weights, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)  # of 100 steps of up to 0.02
    mine, its = fused.state_dict()["state"], own.state_dict()["state"]
    assert mine.keys() == its.keys()
    for index, entry in its.items():
        assert {key: type(value) for key, value in mine[index].items()} == {k: type(v) for k, v in entry.items()}
        assert mine[index]["step"] == entry["step"]
        torch.testing.assert_close(mine[index]["exp_avg"], entry["exp_avg"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(mine[index]["exp_avg_sq"], entry["exp_avg_sq"], rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("name", ["lr", "beta1", "beta2", "eps", "weight_decay"])
def test_a_planted_error_in_the_fused_step_is_found(name, monkeypatch):
    _, expected = stepped("fairseq", 100, False, weight_decay=0.1)
    whole = torch._fused_adamw_
    monkeypatch.setattr(
        torch, "_fused_adamw_", lambda *given, **options: whole(*given, **{**options, name: 0.99 * options[name]})
    )
    _, weights = stepped("fairseq", 100, True, weight_decay=0.1)
    with pytest.raises(AssertionError):
        for mine, its in zip(weights, expected, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5 if name != "eps" else 1e-8)


@every_base
def test_the_base_goes_on_with_the_state_that_fused_steps_left(base):
    optimizer, weights = stepped(base, 5, True)
    plain = BASES[base]([{**group, "params": list(group["params"])} for group in optimizer.param_groups])
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = [weight.clone() for weight in weights]
    with torch.no_grad():
        step_base(optimizer, True)
        after = [weight.clone() for weight in weights]
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
        plain.step()
    for weight, expected in zip(weights, after, strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)


@every_base
@pytest.mark.parametrize(("row", "settings"), CASES, ids=str)
def test_kernels_before_a_fused_step_give_the_bits_of_plain_torch(base, row, settings):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        by_kernel = trained(base, row, settings)
    finally:
        torch.set_num_threads(threads)
    with kernels_c.switched_off():
        plain = trained(base, row, settings)
    assert_same_bits(by_kernel, plain)


def ready(make, shape=(4, 4), dtype=torch.float32):
    """A base after its first step, and one parameter with a gradient."""
    p = nn.Parameter(torch.ones(shape, dtype=dtype))
    base = make([p])
    p.grad = torch.ones_like(p)
    base.step()
    return base, p


@pytest.mark.parametrize(
    "options",
    [{"amsgrad": True}, {"maximize": True}, {"foreach": True}, {"fused": True}, {"lr": torch.tensor(0.1)}],
    ids=str,
)
def test_unusual_options_are_left_to_the_base(options, fused_steps):
    step_base(ready(torch.optim.AdamW)[0])
    assert fused_steps == [1]
    base, p = ready(lambda parameters: torch.optim.AdamW(parameters, **options))
    fused_steps.clear()
    before = p.detach().clone()
    with torch.no_grad():
        step_base(base)
    assert fused_steps == ([1] if options.get("fused") else []) and not torch.equal(p, before)


def test_what_the_fused_step_cannot_take_or_a_caller_watches_is_left_to_the_base(fused_steps, monkeypatch):
    class Mine(torch.optim.AdamW):
        pass

    half = ready(torch.optim.AdamW, dtype=torch.bfloat16)[0]
    double = ready(torch.optim.AdamW, dtype=torch.float64)[0]
    hooked = ready(torch.optim.AdamW)[0]
    hooked.register_step_post_hook(lambda *_: None)
    scheduled = ready(torch.optim.AdamW)[0]
    torch.optim.lr_scheduler.StepLR(scheduled, 1)  # counts the calls of base.step
    strided, p = ready(torch.optim.AdamW)
    p.grad = torch.ones(4, 8)[:, ::2]
    for base in (ready(Mine)[0], ready(torch.optim.NAdam)[0], half, double, hooked, scheduled, strided):
        with torch.no_grad():
            step_base(base)
        (state,) = base.state.values()
        assert not fused_steps and state["step"] == 2
    step_base(torch.optim.AdamW([nn.Parameter(torch.ones(3))]))  # no gradient, nothing to step
    monkeypatch.setattr(base_step, "_works", lambda device: False)
    step_base(ready(torch.optim.AdamW)[0])
    assert not fused_steps


def test_the_formula_is_that_of_the_very_class():
    assert ADAMS[FairseqAdam].eps_before_correction and ADAMS[FairseqAdam].decoupled
    # eps / sqrt(1 - 0.98) after one update, and eps itself when the correction is over
    group = {"eps": 1e-8, "betas": (0.9, 0.98)}
    assert ADAMS[FairseqAdam].eps(group, 1) == pytest.approx(1e-8 / 0.02**0.5)
    assert ADAMS[FairseqAdam].eps(group, 1e6) == pytest.approx(1e-8)
    assert ADAMS[torch.optim.AdamW].eps(group, 1) == 1e-8


def test_a_row_that_a_caller_changed_runs_as_changed(monkeypatch):
    p = nn.Parameter(torch.randn(50))
    half = dataclasses.replace(
        RULES["sage"], g=Term("-1/2", lambda importance, given: torch.full_like(importance, -0.5))
    )
    monkeypatch.setattr(kernels_c, "guide_", lambda *_: pytest.fail("a kernel does not know this row"))
    optimizer = GuidedOptimizer(FairseqAdam([p]), [Slot("w", p, p.shape)], half)
    plain = nn.Parameter(p.detach().clone())
    base = FairseqAdam([plain])
    before = p.detach().clone()
    p.grad = torch.randn(50)
    plain.grad = p.grad.clone()
    optimizer.step()
    base.step()
    torch.testing.assert_close(p.detach() - before, 0.5 * (plain.detach() - before))


@pytest.mark.parametrize("base", ADAMS, ids=lambda base: base.__module__)
@pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"maximize": True}], ids=str
)
def test_no_adam_changes_gradients(base, options):
    p = nn.Parameter(torch.randn(9))
    base = base([p], weight_decay=0.1, **(options if base.__module__.startswith("torch") else {}))
    assert base_step.leaves_gradients(base)
    for _ in range(3):
        p.grad = torch.randn(9)
        before = p.grad.clone()
        step_base(base)
        assert torch.equal(p.grad, before)
    base.register_step_pre_hook(lambda base, args, kwargs: p.grad.zero_())
    assert not base_step.leaves_gradients(base)


@pytest.mark.skipif(kernels_c.load() is None, reason="no C compiler on this machine")
@pytest.mark.parametrize(
    ("cls", "method", "settings", "copies"),
    [
        (GuidedOptimizer, "weighted_freeze", {}, 0),
        (GuidedOptimizer, "weighted_freeze", {"variant": "smooth"}, 0),
        (GuidedOptimizer, "weighted_freeze", {"stage": "update"}, 1),  # the old weight
        (GuidedOptimizer, "sage", {}, 1),
        (FixedMaskOptimizer, "lfr_cm", {"quantile": 0.75}, 1),  # the old weight
        (FixedMaskOptimizer, "lfr_cm", {"quantile": 0.25}, 0.75),  # of a quarter, weight and gradient, and positions
    ],
    ids=str,
)
def test_what_a_step_needs_beside_the_state(cls, method, settings, copies):
    p = nn.Parameter(torch.randn(1000, 300))
    slots = [Slot("w", p, p.shape)]
    source = {"source": {"w": torch.rand(p.shape)}} if method == "lfr_cm" else {}
    optimizer = cls(FairseqAdam([p]), slots, method, **settings, **source)
    for _ in range(2):
        p.grad = torch.randn(1000, 300)
        optimizer.step()
    assert _transient_bytes(optimizer.step, "cpu") <= (copies + 0.01) * 4 * p.numel()
