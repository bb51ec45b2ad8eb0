"""The oracle: every row of the table, through the path that trains, equals its f, g, h; a planted error must fail."""

import dataclasses
import math
import re
from collections.abc import Callable

import pytest
import torch

from weighted_freezing_fairseq.core.fixed import FixedMaskOptimizer
from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.importance import METRICS
from weighted_freezing_fairseq.core.layers import DrawnLayersOptimizer
from weighted_freezing_fairseq.core.masks import keep_probability, stream_key, uniform
from weighted_freezing_fairseq.core.optimizers import class_of
from weighted_freezing_fairseq.core.rules import (
    PURPOSES,
    RULES,
    Given,
    Rule,
    Term,
    as_markdown,
    rows,
    rule_of,
    sgd_update,
    soft_mask,
)  # fmt: skip
from weighted_freezing_fairseq.core.scope import Slot
from weighted_freezing_fairseq.core.soft_mask import SoftMaskOptimizer

ETA, EPS, MAX_SCALE, TAU, LAM, NAME = 0.1, 0.05, 4.0, 0.4, 0.7, "w"
GENERATOR = torch.Generator().manual_seed(5)
THETA, GRAD, ANCHOR, AVERAGE = (torch.randn(6, 7, dtype=torch.float64, generator=GENERATOR) for _ in range(4))
MASK = torch.rand(6, 7, generator=GENERATOR) < 0.3
FISHER = torch.rand(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) ** 3  # of an old task
KEEP = (torch.rand(3, 6, 7, generator=GENERATOR) < 0.7).double()
TEACHER = torch.randn(6, 7, dtype=torch.float64, generator=GENERATOR).softmax(-1)
U = uniform(42, stream_key(1, 1, NAME)).view(6, 7).double()

# Each row written out from its source, number by number, without the code under test.
by_hand: dict[str, Callable[[float, float, int, int], float]] = {}


def _magnitudes() -> list[float]:
    return [abs(x) for row in THETA.tolist() for x in row]


def _weighted_freeze(w, g, i, j):
    lo, hi = min(_magnitudes()), max(_magnitudes())
    keep = U[i, j].item() <= (hi - abs(w)) / (hi - lo)  # Li et al. section 3.3: important weights frozen more often
    return w - ETA * g * keep


def _weighted_freeze_printed(w, g, i, j):
    lo, hi = min(_magnitudes()), max(_magnitudes())
    return w - ETA * g * (U[i, j].item() <= (abs(w) - lo) / (hi - lo))  # Li et al. Algorithm 1, to the letter


def _weighted_freeze_smooth(w, g, i, j):
    lo, hi = min(_magnitudes()), max(_magnitudes())
    return w - ETA * g * (U[i, j].item() <= math.sqrt(0.5 * (abs(w) - lo) / (hi - lo)))  # the author's --smooth-scores


def _weighted_freeze_random(w, g, i, j):
    lo, hi = min(_magnitudes()), max(_magnitudes())
    rate = sum((hi - x) / (hi - lo) for x in _magnitudes()) / 42  # the share that `important` updates
    return w - ETA * g * (U[i, j].item() <= rate)


def _sage(w, g, i, j):
    importance, average = abs(w * g), abs(AVERAGE[i, j].item())
    return w - ETA * min(MAX_SCALE, (abs(importance - average) + EPS) / (average + EPS)) * g  # Liang et al. section 3


def _sage_li(w, g, i, j):
    importance, average = abs(w * g), abs(AVERAGE[i, j].item())
    return w - ETA * min(MAX_SCALE, (abs(importance - average) + EPS) / (importance + EPS)) * g  # Li et al. eq. 2


def _sage_light(w, g, i, j):
    importances = [abs(x * y) for x, y in zip(THETA.flatten().tolist(), GRAD.flatten().tolist(), strict=True)]
    return w - ETA * min(MAX_SCALE, (sum(importances) / 42 + EPS) / (abs(w * g) + EPS)) * g  # Li et al. eq. 4


def _spg(w, g, i, j):
    mean = sum(x for row in FISHER.tolist() for x in row) / 42
    return w - ETA * g * (1 - math.tanh(math.sqrt(FISHER[i, j].item() / mean)))  # Konishi et al., standardised by rms


def _ewc(w, g, i, j):
    fisher, anchor = g * g, ANCHOR[i, j].item()
    return w - ETA * (g + LAM * fisher * (w - anchor))  # derivative of L_B + lambda / 2 F (theta - theta_A) ** 2


# The K passes of a model whose scores of seven words are theta times a pass's dropout mask, in every row of theta.


def _probabilities(theta, keep):
    exps = [math.exp(w * k) for w, k in zip(theta, keep, strict=True)]
    return [x / sum(exps) for x in exps]


def _kl(p, q):
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def _divergence(theta, i, passes, reverse):
    """1/K sum_k KL(p_k || m), and with `reverse` KL(m || p_k) too, of row i (Xu et al. eq. 8, section 4.2)."""
    p = [_probabilities(theta, KEEP[k, i].tolist()) for k in range(passes)]
    m = [sum(column) / passes for column in zip(*p, strict=True)]
    return sum(_kl(of_pass, m) + reverse * _kl(m, of_pass) for of_pass in p) / passes


def _from_teacher(theta, i):
    return _kl(TEACHER[i].tolist(), _probabilities(theta, KEEP[0, i].tolist()))  # Xu et al. eq. 3


def _unaligned(theta, i):
    anchor = ANCHOR[i].tolist()
    dot = sum(x * y for x, y in zip(theta, anchor, strict=True))
    return -abs(dot) / (math.hypot(*theta) * math.hypot(*anchor)) / 6  # O'Neill et al. eq. 2 and 3, of six units


def _with_term(term, mask=False):
    """The step down the loss and `term`, a function of one row of theta and its number, by central differences."""

    def step(w, g, i, j):
        theta, small = THETA[i].tolist(), 1e-5
        low, high = (term([x + sign * small * (k == j) for k, x in enumerate(theta)], i) for sign in (-1, 1))
        return (w - ETA * (g + LAM * (high - low) / (2 * small))) * (MASK[i, j].item() if mask else 1)

    return step


by_hand = {
    "weighted_freeze (important)": _weighted_freeze,
    "weighted_freeze (printed)": _weighted_freeze_printed,
    "weighted_freeze (smooth)": _weighted_freeze_smooth,
    "weighted_freeze (random)": _weighted_freeze_random,
    "sage (full)": _sage,
    "sage (li)": _sage_li,
    "sage (light)": _sage_light,
    "fish_mask": lambda w, g, i, j: w - ETA * g * MASK[i, j].item(),
    "lfr_cm": lambda w, g, i, j: w - ETA * g * (g * g <= TAU),
    "lisa": lambda w, g, i, j: w - ETA * g,  # its layer is the only one; test_layers.py has others
    "spg": _spg,
    "ewc": _ewc,
    "intra_distillation": _with_term(lambda theta, i: _divergence(theta, i, 3, True)),
    "intra_distillation (js)": _with_term(lambda theta, i: _divergence(theta, i, 3, False)),
    "intra_distillation (r_drop)": _with_term(lambda theta, i: _divergence(theta, i, 2, True)),
    "self_distillation": _with_term(_from_teacher),
    "alignreg": _with_term(_unaligned, mask=True),
}


def expected(rule: Rule) -> torch.Tensor:
    return torch.tensor(
        [[by_hand[rule.label](THETA[i, j].item(), GRAD[i, j].item(), i, j) for j in range(7)] for i in range(6)],
        dtype=torch.float64,
    )


def term_of(rule: Rule, theta: torch.Tensor) -> torch.Tensor:
    """R of a criterion row at theta."""
    if rule.name == "intra_distillation":
        passes = 2 if rule.variant == "r_drop" else 3
        return rule.loss.value((theta * KEEP[:passes]).log_softmax(-1)).sum()
    if rule.name == "self_distillation":
        return rule.loss.value((theta * KEEP[0]).log_softmax(-1), TEACHER).sum()
    return rule.loss.value(theta, ANCHOR) if rule.name == "alignreg" else rule.loss.value(theta, GRAD**2, ANCHOR)


def slope_of(rule: Rule) -> torch.Tensor:
    """dR / dtheta, by autograd."""
    theta = THETA.clone().requires_grad_()
    return torch.autograd.grad(term_of(rule, theta), theta)[0]


def everything(rule: Rule, scores: torch.Tensor) -> Given:
    return Given(
        lo=scores.min(), hi=scores.max(), rate=keep_probability(scores.mean(), scores.min(), scores.max()), u=U,
        average=AVERAGE.abs(), mean=scores.mean(), eps=EPS, max_scale=MAX_SCALE,
        tau=TAU, mask=MASK, eta=ETA, lam=LAM, anchor=ANCHOR, step=-ETA * GRAD, grad=GRAD,
        slope=slope_of(rule) if rule.loss else None, momentum=GRAD, fraction=0.3, coin=U[0, 0],
        alignment=THETA.mean(), gamma=soft_mask(FISHER), drawn=torch.tensor(1.0), theta=THETA,
    )  # fmt: skip


def table(rule: Rule) -> torch.Tensor:
    """The row's f, g, h under SGD."""
    metric = METRICS.get(rule.metric)
    scores = metric(THETA, GRAD) if metric else torch.zeros_like(THETA)
    return sgd_update(rule, THETA, GRAD, scores, everything(rule, scores))


def trained(rule: Rule, stage: str | None = None) -> torch.Tensor:
    """One step of torch's SGD, guided by the row."""
    parameter = torch.nn.Parameter(THETA.clone())
    parameter.grad = GRAD.clone()
    slot = Slot(NAME, parameter, parameter.shape)
    base = torch.optim.SGD([parameter], lr=ETA)
    mask = {"masks": {NAME: MASK}} if "mask" in rule.needs else {"tau": TAU, "source": {NAME: GRAD**2}}
    settings = {
        GuidedOptimizer: {"stage": stage, "eps": EPS, "max_scale": MAX_SCALE, "beta": 0.5},
        SoftMaskOptimizer: {"stage": stage, "fisher": {NAME: FISHER}},
        DrawnLayersOptimizer: {"layers": 1, "layer_pattern": NAME},
        FixedMaskOptimizer: mask,
    }
    optimizer = class_of(rule)(base, [slot], rule, **settings[class_of(rule)])
    if "average" in rule.needs:
        optimizer._average_of(slot)
        # after one update average = 0.5 * before + 0.5 * I, divided by 1 - 0.5 for its short life
        optimizer.averages[NAME] = AVERAGE.abs() - (THETA * GRAD).abs()
    optimizer.step()
    return parameter.detach()


def example(rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    """What the row makes of its example, through the path that trains, and what it must."""
    theta, grad, after = (
        torch.tensor(numbers, dtype=torch.float64)
        for numbers in (rule.example.theta, rule.example.grad, rule.example.after)
    )
    parameter = torch.nn.Parameter(theta)
    parameter.grad = grad
    settings = dict(rule.example.constants)
    decay = settings.pop("weight_decay", 0.0)
    base = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=decay)  # the first step shows no momentum
    class_of(rule)(base, [Slot(NAME, parameter, parameter.shape)], rule, **settings).step()
    return parameter.detach(), after


def check(rule: Rule, got: torch.Tensor) -> None:
    error = (got - expected(rule)).abs().max().item()
    assert error <= 1e-6, f"{rule.label} differs from {rule.source} by {error:.2e}"


def off_by_a_thousandth(rule: Rule, term: str) -> Rule:
    """The row with one coefficient 0.1 % off."""
    right = getattr(rule, term)
    return dataclasses.replace(
        rule, **{term: Term(right.text, lambda importance, given: 1.001 * right.value(importance, given))}
    )


ROWS = {row.label: row for row in rows()}
TRAINABLE = [r for r in rows() if r.kind == "optimizer"]
STAGED = [
    (r, stage)
    for r in TRAINABLE
    if r.label in by_hand
    for stage in ((None, *GuidedOptimizer.stages) if issubclass(class_of(r), GuidedOptimizer) else (None,))
]
staged = pytest.mark.parametrize(("rule", "stage"), STAGED, ids=[f"{r.label}-{stage}" for r, stage in STAGED])
every_row = pytest.mark.parametrize("rule", ROWS.values(), ids=ROWS)
every_row_by_hand = pytest.mark.parametrize("rule", [ROWS[label] for label in by_hand], ids=by_hand)


WITH_EXAMPLE = [r for r in rows() if r.example]


def test_every_row_is_worked_out_by_hand_here_or_in_its_example():
    assert by_hand.keys() | {r.label for r in WITH_EXAMPLE} == ROWS.keys()
    assert not by_hand.keys() & {r.label for r in WITH_EXAMPLE}


@pytest.mark.parametrize("rule", WITH_EXAMPLE, ids=lambda rule: rule.label)
def test_training_step_equals_the_example_of_its_row_and_a_planted_error_does_not(rule):
    torch.testing.assert_close(*example(rule), rtol=0, atol=1e-9)
    with pytest.raises(AssertionError):
        term = "f" if rule.name == "cautious_decay" else "g"
        torch.testing.assert_close(*example(off_by_a_thousandth(rule, term)), rtol=0, atol=1e-9)


@every_row_by_hand
def test_row_equals_its_source(rule):
    check(rule, table(rule))


@staged
def test_training_step_equals_its_source(rule, stage):
    check(rule, trained(rule, stage))


@every_row_by_hand
@pytest.mark.parametrize("term", ["f", "g", "h"])
def test_planted_error_in_the_table_is_found_and_named(rule, term):
    wrong = off_by_a_thousandth(rule, term)
    if torch.equal(table(wrong), table(rule)):
        assert term == "h" and rule.h.text == "0"  # 1.001 * 0: nothing to find
        return
    with pytest.raises(AssertionError, match=re.escape(f"{rule.label} differs from")):
        check(wrong, table(wrong))


@staged
def test_planted_error_in_training_is_found_and_named(rule, stage):
    wrong = off_by_a_thousandth(rule, "g")
    with pytest.raises((AssertionError, ValueError), match=re.escape(f"{rule.label} differs from {rule.source}")):
        check(wrong, trained(wrong, stage))


@every_row
def test_row_reads_only_what_it_declares(rule):
    full = everything(rule, THETA.abs())
    only = Given(**{name: getattr(full, name) for name in rule.needs})
    for term in (rule.f, rule.g, rule.h):
        assert torch.equal(term.value(THETA.abs(), only), term.value(THETA.abs(), full))


def test_f_and_h_of_ewc_descend_its_loss_term():
    rule = RULES["ewc"]
    given = everything(rule, GRAD**2)
    pull = (rule.f.value(GRAD**2, given) - 1) * THETA + rule.h.value(GRAD**2, given)
    torch.testing.assert_close(pull, -ETA * LAM * slope_of(rule))


def test_rows_name_a_metric_a_stage_and_a_source():
    for rule in rows():
        assert rule.metric in METRICS or rule.metric in ("implicit", "momentum")
        assert rule.source and rule.extra_state and rule.extra_passes
        assert (rule.kind == "criterion") == rule.stage.startswith("loss") == (rule.loss is not None)


def test_rows_of_a_purpose_stand_together_in_the_order_of_the_purposes():
    purposes = [rule.purpose for rule in rows()]
    assert purposes == sorted(purposes, key=PURPOSES.index) and set(purposes) == set(PURPOSES)


def test_table_is_read_only():
    with pytest.raises(TypeError):
        RULES["new"] = RULES["sage"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        RULES["sage"].name = "other"


def test_markdown_has_a_row_for_every_method():
    lines = as_markdown().splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_a_variant_is_found_by_name():
    assert rule_of("sage", "light").extra_state == "none" and rule_of("sage") is RULES["sage"]
    with pytest.raises(ValueError, match="its variants: full, li, light"):
        rule_of("sage", "heavy")
    with pytest.raises(ValueError, match="its variants: none"):
        rule_of("ewc", "light")
