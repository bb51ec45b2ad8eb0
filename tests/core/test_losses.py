"""Losses against numbers worked out by hand, against their formulas in float64, and in the cases that break others."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_freezing_fairseq.core import penalties
from weighted_freezing_fairseq.core.divergences import (
    DIVERGENCES,
    js_divergence,
    mean_squared,
    teacher_divergence,
    x_divergence,
)
from weighted_freezing_fairseq.core.fused import TERMS, passes_loss
from weighted_freezing_fairseq.core.penalties import quadratic_penalty
from weighted_freezing_fairseq.core.rules import RULES, Given, sgd_update
from weighted_freezing_fairseq.core.schedules import adaptive_alpha

every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
ALPHA, EPS = 5.0, 0.1


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_p(*shape, seed=0, spread=1.0):
    return (spread * random(*shape, seed=seed)).log_softmax(-1)


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


# By hand, and from the formulas.


def test_golden_values():
    p, q = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.75, 0.25], dtype=torch.float64)
    both = torch.stack([p, q]).log()
    # m = (5/8, 3/8). KL(p||m) = .5 ln .8 + .5 ln 4/3 = .032270; KL(q||m) = .75 ln 1.2 + .25 ln 2/3 = .035375;
    # KL(m||p) = .625 ln 1.25 + .375 ln .75 = .031584; KL(m||q) = .625 ln 5/6 + .375 ln 1.5 = .038099.
    assert js_divergence(both).item() == pytest.approx((0.0322693 + 0.0353749) / 2, abs=1e-6)
    assert x_divergence(both).item() == pytest.approx((0.0322693 + 0.0353749 + 0.0315840 + 0.0380988) / 2, abs=1e-6)
    # squared: each is 1/8 from m in both words: 2 * (1/8)^2 = 1/32
    assert mean_squared(both.exp()).item() == pytest.approx(1 / 32)
    assert DIVERGENCES["mse"](both).item() == pytest.approx(1 / 32)
    # KL(q||p) = .75 ln 1.5 + .25 ln .5 = .304099 - .173287
    assert teacher_divergence(p.log(), q).item() == pytest.approx(0.1308120, abs=1e-6)
    # V = 2, eps = .1: e = .1, so .8 * -ln .75 + .1 * (-ln .75 - ln .25) = .9 * .2876821 + .1 * 1.3862944
    sums = passes_loss(q.log()[None, None], torch.tensor([0]), eps=0.1, strength=0)
    assert sums.cross_entropy.item() == pytest.approx(0.3975433, abs=1e-6)
    assert sums.nll.item() == pytest.approx(0.2876821, abs=1e-6)


def test_x_and_js_equal_their_formulas():
    logs = log_p(4, 6, 9)
    p = logs.exp()
    m = p.mean(0)
    torch.testing.assert_close(x_divergence(logs), (kl(p, m) + kl(m, p)).mean(0))  # Xu et al. eq. 8
    torch.testing.assert_close(js_divergence(logs), kl(p, m).mean(0))


@given(st.integers(1, 4), st.integers(2, 7), st.integers(0, 10**6), st.floats(0.1, 20))
@settings(deadline=None)
def test_x_is_the_mean_of_all_ordered_pairs_and_half_its_bound(passes, words, seed, spread):
    logs = log_p(passes, words, seed=seed, spread=spread)
    p = logs.exp()
    pairs = sum(kl(p[i], p[j]) for i in range(passes) for j in range(passes))
    torch.testing.assert_close(x_divergence(logs), pairs / passes**2, rtol=1e-8, atol=1e-12)
    jeffrey = 2 * pairs  # Xu et al. eq. 14; their Theorem C.1: X <= J / K^2
    assert x_divergence(logs) <= jeffrey / passes**2 + 1e-12


@every_divergence
@given(st.integers(1, 4), st.integers(0, 10**6), st.floats(0.1, 50))
@settings(deadline=None, max_examples=30)
def test_divergences_are_not_negative_zero_for_equal_passes_and_symmetric(divergence, passes, seed, spread):
    logs = log_p(passes, 3, 5, seed=seed, spread=spread)
    values = DIVERGENCES[divergence](logs)
    assert (values >= -1e-15).all()
    assert (DIVERGENCES[divergence](logs[:1].expand(passes, 3, 5)).abs() < 1e-15).all()
    order = torch.randperm(passes, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(DIVERGENCES[divergence](logs[order]), values)


def test_teacher_divergence_is_zero_for_the_same_distribution_and_takes_zero_probabilities():
    p = log_p(3, 5).exp()
    assert teacher_divergence(p.log(), p).abs().max() < 1e-15
    assert teacher_divergence(p.log(), torch.eye(5, dtype=torch.float64)[:3]).isfinite().all()


# The fused loss is welded to the formulas.


def fused_and_formula(divergence, passes=3, rows=7, chunk=3, teacher=False, weighted=True, dtype=torch.float64):
    """(loss, gradients) of both, at 2 * loss as if by a loss scale."""
    features = random(passes, rows, 5, seed=1, dtype=dtype).requires_grad_()
    weight = random(11, 5, seed=2, dtype=dtype).requires_grad_()
    target = torch.randint(11, (rows,), generator=torch.Generator().manual_seed(3))
    q = log_p(rows, 11, seed=4).exp().to(dtype) if teacher else None
    given_teacher = None if q is None else (lambda start, stop: q[start:stop])
    outputs = (features, target, weight) if weighted else (features @ weight.T, target)
    sums = passes_loss(
        *outputs, eps=EPS, divergence=divergence, strength=ALPHA, teacher=given_teacher, chunk=chunk, count_correct=True
    )
    scores = features @ weight.T
    logs, labels = scores.log_softmax(-1), target.expand(passes, rows)
    # torch spreads label smoothing over all 11 words, fairseq over the 10 that are not the target
    smooth, nll = (
        F.cross_entropy(scores.transpose(1, 2), labels, reduction="none", label_smoothing=eps)
        for eps in (EPS * 11 / 10, 0)
    )
    apart = teacher_divergence(logs[0], q) if teacher else DIVERGENCES[divergence](logs)
    by_formula = smooth.mean(0).sum() + ALPHA * apart.sum()
    torch.testing.assert_close(sums.cross_entropy, smooth.mean(0).sum())
    torch.testing.assert_close(sums.nll, nll.mean(0).sum())
    torch.testing.assert_close(sums.divergence, apart.sum())
    torch.testing.assert_close(sums.correct, logs.argmax(-1).eq(target).to(dtype).mean(0).sum())
    return [(loss, *torch.autograd.grad(2 * loss, [features, weight])) for loss in (sums.loss, by_formula)]


@pytest.mark.parametrize("weighted", [True, False], ids=["features", "scores"])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100, None])
@pytest.mark.parametrize("divergence", TERMS)
def test_fused_equals_the_formulas(divergence, chunk, weighted):
    teacher = divergence == "teacher"
    got, want = fused_and_formula(divergence, 1 if teacher else 3, chunk=chunk, teacher=teacher, weighted=weighted)
    for mine, its in zip(got, want, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


@every_divergence
def test_gradcheck(divergence):
    features, weight = random(3, 4, 3).requires_grad_(), random(6, 3, seed=1).requires_grad_()
    target, chosen = torch.tensor([0, 5, 2, 2]), {"eps": EPS, "divergence": divergence, "chunk": 3}
    assert torch.autograd.gradcheck(lambda h, w: passes_loss(h, target, w, **chosen).loss, (features, weight))
    scores = random(3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: passes_loss(z, target, **chosen).loss, (scores,))


def test_a_planted_error_of_a_thousandth_is_found(monkeypatch):
    from weighted_freezing_fairseq.core import fused

    def wrong(log_p, p, q):
        values, c, b = TERMS["x"](log_p, p, q)
        return values, c, b * 1.001

    monkeypatch.setattr(fused, "TERMS", {"x": wrong})
    with pytest.raises(AssertionError):
        got, want = fused_and_formula("x")
        for mine, its in zip(got, want, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("weighted", [True, False], ids=["features", "scores"])
@every_divergence
def test_a_gap_of_ten_thousand_between_scores_is_finite(divergence, dtype, weighted):
    """Where a softmax followed by a logarithm has 0 * log 0 from a gap of about 100 on."""
    scores = torch.zeros(3, 2, 4, dtype=dtype)
    scores[0, :, 0], scores[1, :, 1], scores[2, :, 2] = 1e4, 1e4, 1e4
    target = torch.tensor([3, 0])
    if weighted:
        outputs, weight = (scores / 100).requires_grad_(), (torch.eye(4, dtype=dtype) * 100).requires_grad_()
        sums = passes_loss(outputs, target, weight, eps=EPS, divergence=divergence)
        grads = torch.autograd.grad(sums.loss, [outputs, weight])
    else:
        outputs = scores.requires_grad_()
        sums = passes_loss(outputs, target, eps=EPS, divergence=divergence)
        grads = torch.autograd.grad(sums.loss, [outputs])
    assert sums.loss.dtype == torch.float32 and sums.loss.isfinite() and sums.divergence > 0.1
    for grad in grads:
        assert grad.dtype == dtype and grad.isfinite().all() and grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact_but_for_its_matrix_products(dtype):
    outputs, weight = random(3, 64, 16).to(dtype), random(50, 16, seed=1).to(dtype)
    target = torch.randint(50, (64,), generator=torch.Generator().manual_seed(0))
    grads = []
    for kind in (dtype, torch.float64):
        h, w = outputs.to(kind).requires_grad_(), weight.to(kind).requires_grad_()
        grads.append(torch.autograd.grad(passes_loss(h, target, w, eps=EPS).loss * 64, [h, w]))
    for half, exact in zip(*grads, strict=True):
        error = (half.double() - exact).norm() / exact.norm()
        assert error < 8 * torch.finfo(dtype).eps


def test_autocast_does_not_change_the_precision_of_the_loss():
    outputs, weight = random(3, 8, 16).float().requires_grad_(), random(50, 16, seed=1).float().requires_grad_()
    target = torch.arange(8)
    plain = passes_loss(outputs, target, weight, eps=EPS).loss
    with torch.autocast("cpu", torch.bfloat16):
        cast = passes_loss(outputs, target, weight, eps=EPS).loss
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=2e-2, atol=0)
    assert cast != plain  # the matrix products are in bfloat16
    grads = torch.autograd.grad(cast, [outputs, weight])
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


def test_no_rows_are_a_loss_of_zero():
    outputs, weight = torch.empty(3, 0, 4, requires_grad=True), torch.ones(5, 4, requires_grad=True)
    loss = passes_loss(outputs, torch.empty(0, dtype=torch.long), weight).loss
    loss.backward()
    assert loss == 0 and weight.grad.count_nonzero() == 0 and outputs.grad.shape == outputs.shape


@pytest.mark.parametrize("weighted", [True, False], ids=["features", "scores"])
@pytest.mark.parametrize("divergence", TERMS)
def test_ignored_rows_count_nothing_and_get_no_gradient(divergence, weighted):
    passes, counts = (1 if divergence == "teacher" else 3), torch.tensor([0, 2, 3, 6])
    target = torch.full((7,), -100).index_copy(0, counts, torch.tensor([3, 0, 4, 4]))
    outputs, weight = random(passes, 7, 4 if weighted else 5), random(5, 4, seed=1) if weighted else None
    outputs[:, [1, 4, 5]] = math.nan  # whatever is in them
    q = log_p(7, 5, seed=2).exp()

    def loss_and_gradients(rows, **given):
        chosen = [outputs[:, rows].requires_grad_(), *([weight.clone().requires_grad_()] if weighted else [])]
        if divergence == "teacher":
            given["teacher"] = lambda start, stop: q[rows][start:stop]
        sums = passes_loss(chosen[0], target[rows], *chosen[1:], eps=EPS, divergence=divergence, chunk=2, **given)
        return sums, torch.autograd.grad(sums.loss, chosen)

    every, of_every = loss_and_gradients(torch.arange(7), ignore_index=-100, count_correct=True)
    those, of_those = loss_and_gradients(counts, count_correct=True)
    assert every.loss == those.loss and every.nll == those.nll and every.correct == those.correct
    assert torch.equal(of_every[0][:, counts], of_those[0]) and of_every[0][:, [1, 4, 5]].count_nonzero() == 0
    assert all(map(torch.equal, of_every[1:], of_those[1:]))


def test_a_batch_of_ignored_rows_is_a_loss_of_zero():
    outputs, weight = random(2, 3, 4).requires_grad_(), random(5, 4).requires_grad_()
    loss = passes_loss(outputs, torch.ones(3, dtype=torch.long), weight, ignore_index=1).loss
    loss.backward()
    assert loss == 0 and weight.grad.count_nonzero() == 0 and outputs.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    ("outputs", "target", "weight", "words"),
    [
        ((4, 6), (4,), None, r"outputs.*\(K, N, V\).*got \(4, 6\).*outputs\[None\]"),
        ((2, 3, 4, 6), (12,), None, r"outputs.*got \(2, 3, 4, 6\).*outputs\.flatten\(1, -2\)"),
        ((2, 12, 6), (3, 4), None, r"target.*\(N,\) = \(12,\).*got \(3, 4\).*target\.flatten\(\)"),
        ((2, 4, 6), (8,), None, r"target.*\(N,\) = \(4,\).*got \(8,\)"),
        ((2, 4, 6), (4,), (6, 9), r"weight.*\(V, D\).*D = 6.*got \(6, 9\).*weight\.T"),
        ((2, 4, 6), (4,), (9,), r"weight.*got \(9,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_what_to_give(outputs, target, weight, words):
    with pytest.raises(ValueError, match=words):
        passes_loss(random(*outputs), torch.zeros(target, dtype=torch.long), weight and random(*weight))


def test_a_teacher_of_several_passes_is_refused():
    with pytest.raises(ValueError, match="one pass.*got 2"):
        target = torch.zeros(4, dtype=torch.long)
        passes_loss(random(2, 4, 6), target, divergence="teacher", teacher=lambda start, stop: None)


def test_nothing_as_large_as_all_scores_is_ever_held():
    rows, words = 512, 1000
    outputs, weight = random(3, rows, 8).float().requires_grad_(), random(words, 8, seed=1).float().requires_grad_()
    target = torch.zeros(rows, dtype=torch.long)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        passes_loss(outputs, target, weight, eps=EPS, chunk=16).loss.backward()
    events = sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    alive = peak = 0
    for event in events:
        alive += event.nbytes()
        peak = max(peak, alive)
    assert 0 < peak < 3 * rows * words * 4 / 5


# The penalty of EWC is its row of the table.


def test_one_step_of_sgd_with_the_penalty_is_the_row_of_the_table():
    theta, grad, fisher, anchor = (
        random(6, 7, seed=1),
        random(6, 7, seed=2),
        random(6, 7, seed=3).square(),
        random(6, 7),
    )
    eta, lam = 0.1, 0.7
    weight = torch.nn.Parameter(theta.clone())
    ((weight * grad).sum() + lam * quadratic_penalty(weight, fisher, anchor)).backward()
    torch.optim.SGD([weight], lr=eta).step()
    want = sgd_update(RULES["ewc"], theta, grad, fisher, Given(eta=eta, lam=lam, anchor=anchor))
    torch.testing.assert_close(weight.detach(), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_alignment_of_small_half_precision_weights_neither_overflows_nor_vanishes(dtype):
    """Squares of 1e-4 are below the smallest number of float16, and the gradient is a multiple of 1 / |W|."""
    generator = torch.Generator().manual_seed(1)
    half = [(1e-4 * torch.randn(4, 8, generator=generator)).to(dtype) for _ in range(2)]
    found = {}
    for exact, (theta, reference) in ((False, half), (True, [t.double() for t in half])):
        theta.requires_grad_()
        value = penalties.alignments([theta], [reference])
        found[exact] = value.double(), torch.autograd.grad(1e-4 * value.sum(), theta)[0].double()
    torch.testing.assert_close(found[False][0], found[True][0], rtol=1e-5, atol=0)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[False][1], found[True][1], rtol=eps, atol=eps)


def test_penalty_is_half_the_weighted_square_also_of_a_half_precision_weight():
    exact, fisher, anchor = random(300, 300).float(), random(300, 300, seed=1).float().square(), torch.zeros(300, 300)
    half = exact.half().requires_grad_()
    penalty = quadratic_penalty(half, fisher, anchor, exact)
    torch.testing.assert_close(penalty, (fisher * exact.square()).sum() / 2)
    (penalty * 8).backward()
    assert half.grad.dtype == torch.float16
    torch.testing.assert_close(half.grad, (8 * fisher * exact).half())


# The schedule of alpha.


def test_alpha_grows_from_zero_over_one_to_alpha():
    """Xu et al. eq. 11 and 12, and what their text says of them."""
    schedule = [adaptive_alpha(x, 50_000, 5.0, p=5, q=10) for x in range(50_001)]
    assert schedule[0] == 0
    assert schedule[5_000] == pytest.approx(1)  # N / q
    assert schedule[10_000] == 5 and set(schedule[10_000:]) == {5.0}  # from N / p on
    assert schedule[9_999] == pytest.approx(5, rel=1e-3) and schedule[:10_001] == sorted(schedule[:10_001])
    # gamma = log_{1/2}(1/5) = 2.3219: at N / 20, a quarter of the way to N / p, alpha' = 5 * 4^-2.3219 = 0.2
    assert schedule[2_500] == pytest.approx(0.2, rel=1e-4)


def test_alpha_is_linear_where_q_is_alpha_p_and_constant_up_to_one():
    assert adaptive_alpha(30, 1000, 5.0, p=5, q=25) == pytest.approx(5 * 30 / 200)
    assert {adaptive_alpha(x, 1000, 1.0, p=5, q=10) for x in range(1000)} == {1.0}
    assert adaptive_alpha(0, 1000, 0.5, p=5, q=10) == 0.5


@pytest.mark.parametrize("wrong", [{"divergence": "kl"}, {"divergence": "teacher"}, {"teacher": lambda a, b: None}])
def test_an_unknown_divergence_or_one_without_its_teacher_is_refused(wrong):
    with pytest.raises(ValueError, match="choose: x, js, mse, teacher"):
        passes_loss(random(1, 2, 3), torch.tensor([0, 1]), **wrong)


# Weight alignment (O'Neill et al. 2022) ------------------------------------------------------------------------------


def eq_5_by_hand(w, w_tilde):
    """The derivative of eq. 2 by each element of the pruned weights, number by number; rows are units."""
    grad = torch.zeros_like(w_tilde)
    for i in range(len(w)):
        dot = sum(w[i, j].item() * w_tilde[i, j].item() for j in range(w.shape[1]))
        a, b = w[i].norm().item(), w_tilde[i].norm().item()
        if a * b == 0:
            continue
        for j in range(w.shape[1]):
            grad[i, j] = math.copysign(1, dot) * (w[i, j] / (a * b) - w_tilde[i, j] * dot / (a * b**3)) / len(w)
    return grad


@pytest.fixture
def pruned_pair():
    generator = torch.Generator().manual_seed(3)
    w, w_tilde = (torch.randn(5, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    w_tilde = w_tilde * (torch.rand(5, 7, generator=generator) < 0.6)
    w_tilde[2] = 0  # a unit that was pruned away
    return w, w_tilde


def test_alignment_is_the_mean_absolute_cosine_and_its_gradient_is_eq_5_as_it_should_be(pruned_pair):
    w, w_tilde = pruned_pair
    theta = w_tilde.clone().requires_grad_()
    rho = penalties.alignments([theta], [w])[0]
    by_hand = [
        abs(sum((w[i] * w_tilde[i]).tolist())) / (w[i].norm().item() * w_tilde[i].norm().item())
        for i in range(5)
        if i != 2
    ]
    assert rho.item() == pytest.approx(sum(by_hand) / 5, abs=1e-12)
    rho.backward()
    torch.testing.assert_close(theta.grad, eq_5_by_hand(w, w_tilde), rtol=1e-10, atol=1e-12)


def test_golden_value_of_the_alignment():
    # cos((3, 4), (4, 3)) = 24 / 25, cos((1, 0), (-2, 0)) = -1 counts as 1: the mean is 0.98. As one layer:
    # |12 + 12 - 2| / (sqrt(26) sqrt(29)) = 22 / 27.459.
    w, w_tilde = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert penalties.alignments([w_tilde], [w])[0].item() == pytest.approx(0.98)
    assert penalties.alignments([w_tilde], [w], "layer")[0].item() == pytest.approx(22 / 27.459, abs=1e-5)


@pytest.mark.parametrize("level", ["unit", "layer"])
def test_alignment_passes_gradcheck_and_a_planted_error_does_not(pruned_pair, level, monkeypatch):
    w, w_tilde = pruned_pair
    theta = (w_tilde + 0.1).requires_grad_()
    check = functools.partial(
        torch.autograd.gradcheck, lambda t: penalties.alignments([t], [w], level), theta, rtol=1e-5
    )
    assert check(atol=1e-8)
    right = penalties._Alignment.backward
    planted = staticmethod(lambda ctx, scales: right(ctx, scales * 1.001))
    monkeypatch.setattr(penalties._Alignment, "backward", planted)
    assert not check(atol=1e-8, raise_exception=False)


def test_alignment_is_one_for_the_reference_whatever_its_scale_and_has_no_gradient_there(pruned_pair):
    w, _ = pruned_pair
    theta = (-2.5 * w).requires_grad_()
    rho = penalties.alignments([theta], [w])[0]
    rho.backward()
    assert rho.item() == pytest.approx(1) and theta.grad.abs().max() < 1e-12


def test_alignment_of_a_half_precision_copy_is_that_of_the_weight(pruned_pair):
    w, w_tilde = (t.float() for t in pruned_pair)
    half = w_tilde.bfloat16().requires_grad_()
    rho = penalties.alignments([half], [w], exacts=[w_tilde])[0]
    rho.backward()
    exact = w_tilde.clone().requires_grad_()
    expected = penalties.alignments([exact], [w])[0]
    expected.backward()
    assert rho.item() == expected.item() and torch.equal(half.grad, exact.grad.bfloat16())


def test_large_matrices_are_aligned_in_blocks():
    generator = torch.Generator().manual_seed(5)
    w, w_tilde = (torch.randn(300, 700, generator=generator) for _ in range(2))
    expected = torch.nn.functional.cosine_similarity(w, w_tilde, dim=1).abs().mean()
    torch.testing.assert_close(penalties.alignments([w_tilde], [w])[0], expected)


@pytest.mark.parametrize(("fisher", "anchor"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_quadratic_penalty_may_leave_out_fisher_or_anchor(fisher, anchor):
    generator = torch.Generator().manual_seed(5)
    theta, f, a = (torch.rand(300, 500, dtype=torch.float64, generator=generator) for _ in range(3))
    theta.requires_grad_()
    penalty = penalties.quadratic_penalty(theta, f if fisher else None, a if anchor else None)
    difference = theta.detach() - (a if anchor else 0)
    weight = f if fisher else 1
    torch.testing.assert_close(penalty.detach(), (weight * difference**2).sum() / 2)
    penalty.backward()
    torch.testing.assert_close(theta.grad, weight * difference)


def test_the_c_twin_of_the_alignment_is_the_torch_path_up_to_rounding(monkeypatch):
    generator = torch.Generator().manual_seed(5)
    shapes = [(1, 1), (3, 17), (40, 5000), (16, 1024)]
    pairs = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2)]
    pairs[0][1][1] = 0
    found = {}
    for name in ("kernels", "torch"):
        if name == "torch":
            monkeypatch.setattr(penalties.kernels_c, "ready", lambda pairs: False)
        for level in ("unit", "layer"):
            thetas = [w.clone().requires_grad_() for w in pairs[0]]
            rho = penalties.alignments(thetas, pairs[1], level)
            (rho * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum().backward()
            found[name, level] = [rho.detach().double(), *(theta.grad for theta in thetas)]
    for level in ("unit", "layer"):
        for mine, its in zip(found["kernels", level], found["torch", level], strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_chunks_of_a_large_vocabulary_have_rows_enough_to_move_its_weight_for():
    rows, words, chunks = 320, 60_000, []

    def teacher(start, stop):
        chunks.append((start, stop))
        return torch.full((stop - start, words), 1 / words)

    outputs, weight = random(1, rows, 2).float(), random(words, 2, seed=1).float()
    passes_loss(outputs, torch.zeros(rows, dtype=torch.long), weight, divergence="teacher", teacher=teacher)
    assert chunks == [(0, 160), (160, 320)]
