"""Switch layers: every token alone as the oracle, and figures worked out by hand."""

import math

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.fisher import SquaredGradients, add_one_by_one_, trainable, zeros
from weighted_freezing_fairseq.core.scope import scope_of
from weighted_freezing_fairseq.core.switch import (
    FeedForward,
    SwitchFeedForward,
    assign,
    balance_loss,
    within_capacity,
    z_loss,
)

T, B, WIDTH, EXPERTS = 7, 3, 6, 4


def a_layer(experts=EXPERTS, dtype=torch.float64, **settings):
    torch.manual_seed(5)
    made = [FeedForward(nn.Linear(WIDTH, 9), nn.Linear(9, WIDTH), torch.relu, nn.Identity()) for _ in range(experts)]
    return SwitchFeedForward(made, WIDTH, **{"jitter": 0.0, **settings}).to(dtype)


def a_batch(dtype=torch.float64):
    """Sentences of 7, 4 and 1 tokens, all that the experts see."""
    x = torch.randn(T, B, WIDTH, generator=torch.Generator().manual_seed(6), dtype=dtype)
    return x, torch.arange(T) >= torch.tensor([7, 4, 1])[:, None]


def one_by_one(layer, x, padding, factor, by_sentence):
    """Every token alone, sentence by sentence: its output, and what the layer's own loss is made of."""
    output, taken, routed = torch.zeros_like(x), {}, []
    lengths = (~padding).sum(1).tolist()
    for b in range(B):
        for t in range(T):
            if padding[b, t]:
                continue
            p = (layer.router.weight @ x[t, b]).softmax(0)
            best = int(p.argmax())
            routed.append((best, p))
            tokens = lengths[b] if by_sentence else sum(lengths)
            key = (b, best) if by_sentence else best
            taken[key] = taken.get(key, 0) + 1
            if not factor or taken[key] <= math.ceil(factor * tokens / EXPERTS):
                output[t, b] = p[best] * layer.experts[best](x[t, b][None])[0]
    share = [sum(best == e for best, _ in routed) / len(routed) for e in range(EXPERTS)]
    mean_p = torch.stack([p for _, p in routed]).mean(0)
    return output, EXPERTS * sum(f * p for f, p in zip(share, mean_p, strict=True))


def gradients(layer, value):
    return torch.autograd.grad(value, list(layer.parameters()), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("factor", [0, 0.5, 1.0, 1.25])
def test_dispatch_equals_a_loop_over_tokens(training, factor):
    layer = a_layer(capacity=factor, eval_capacity=factor, balance_weight=0.3).train(training)
    x, padding = a_batch()
    layer.padding, layer.auxiliary_scale = padding, 2.5
    weights = torch.randn(T, B, WIDTH, generator=torch.Generator().manual_seed(7), dtype=x.dtype)
    expected, auxiliary = one_by_one(layer, x, padding, factor, by_sentence=not training)
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    with torch.no_grad():  # in evaluation, gradients go another way
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-14)
    assert (found == 0).all(-1).sum() > 9 if factor == 0.5 else (found[padding.T] == 0).all()
    total = (expected * weights).sum() + (2.5 * 0.3 * auxiliary if training else 0)
    for mine, its in zip(gradients(layer, (found * weights).sum()), gradients(layer, total), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)


def test_one_expert_is_the_dense_layer_bit_for_bit():
    layer = a_layer(experts=1, dtype=torch.float32, capacity=1.0)
    x = a_batch(torch.float32)[0].requires_grad_()
    dense, switch = layer.experts[0](x), layer(x)
    assert torch.equal(dense, switch)
    (mine,), (its,) = (torch.autograd.grad(y.square().sum(), x) for y in (dense, switch))
    assert torch.equal(mine, its) and layer.statistics[0][2] == 0  # p is 1, its entropy 0


def routed(*sentences):
    """Rows of tokens that go to the experts named, sentence by sentence; "-" is padding."""
    longest = max(map(len, sentences))
    names = [sentence.ljust(longest, "-") for sentence in sentences]
    p = torch.tensor([[[0.1 + (name[t] == e) for e in "abcd"] for name in names] for t in range(longest)])
    return assign(p, torch.tensor([[letter == "-" for letter in name] for name in names]))


@pytest.mark.parametrize(
    ("sentences", "factor", "by_sentence", "kept"),
    [
        # 8 tokens, 4 experts: 2 places each. Of five a's the first two are kept, both of the first sentence.
        (("aaab", "abac"), 1.0, False, ("aa.b", ".b.c")),
        (("aaab", "abac"), 1.25, False, ("aaab", ".b.c")),  # 2.5 places are 3
        (("aaab", "abac"), 0.25, False, ("a..b", "...c")),  # half a place is one
        (("aaab", "abac"), 0.0, False, ("aaab", "abac")),
        (("a", "aaaa"), 1.0, False, ("a", "a...")),  # 5 tokens, not 8: 1.25 places are 2
        (("aaaa", "a"), 1.0, True, ("a...", "a")),  # 4 / 4 = 1 place in the first, 1 / 4 -> 1 in the second
        (("aaab", "abac"), 2.0, True, ("aa.b", "abac")),  # 2 places in each
    ],
)
def test_capacity_of_routings_made_by_hand(sentences, factor, by_sentence, kept):
    found = within_capacity(routed(*sentences), factor, by_sentence)
    expected = routed(*(name.replace(".", "-") for name in kept))
    assert torch.equal(found[: len(expected)], expected) and not found[len(expected) :].any()


def test_capacity_by_sentence_does_not_depend_on_the_batch():
    together = within_capacity(routed("aaabaa", "aacb", "ddd"), 1.5, by_sentence=True)
    for place, sentence in enumerate(("aaabaa", "aacb", "ddd")):
        alone = within_capacity(routed(sentence), 1.5, by_sentence=True)
        assert torch.equal(together[: len(sentence), place], alone[:, 0])


def test_losses_and_notes_by_hand():
    """Three tokens and a padding between two experts, p = 3/4 to a, 1/2 + 0 to a (a tie is a's), 1/4 to a.

    f = (2/3, 1/3); P = (1/2, 1/2): 2 (1/3 + 1/6) = 1. With all at p = 3/4: f = (1, 0), P = (3/4, 1/4): 3/2.
    """
    p = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.9, 0.1]], dtype=torch.float64)[:, None]
    padding = torch.tensor([[False, False, False, True]])
    assert balance_loss(p, assign(p, padding)) == pytest.approx(1.0)
    assert balance_loss(p[:1], assign(p[:1])) == pytest.approx(1.5)
    # log(e^0 + e^(ln 3)) = ln 4, log(e^1 + e^1) = 1 + ln 2; the third is padding.
    logits = torch.tensor([[0.0, math.log(3)], [1.0, 1.0], [50.0, 0.0]])[:, None]
    rows = assign(logits.softmax(-1), torch.tensor([[False, False, True]]))
    assert z_loss(logits, rows) == pytest.approx((math.log(4) ** 2 + (1 + math.log(2)) ** 2) / 2)
    # Expert a gets three tokens of four and has ceil(0.5 * 4 / 2) = 1 place: 2 of 4 dropped, the other's one is not.
    layer = a_layer(experts=2, capacity=0.5)
    with torch.no_grad():
        layer.router.weight.zero_()[0, 0] = math.log(3)
    x = torch.zeros(4, 1, WIDTH, dtype=torch.float64)
    x[:3, 0, 0], x[3, 0, 0] = 1, -1
    layer(x)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert layer.statistics[0].tolist() == pytest.approx([0.75, 0.5, entropy, 2 * (0.75 * 0.625 + 0.25 * 0.375)])


def test_an_expert_without_tokens_has_a_gradient_of_zero():
    layer = a_layer()
    with torch.no_grad():
        layer.router.weight.zero_()  # all the same: the first is chosen
    layer(a_batch()[0]).sum().backward()
    assert layer.experts[0].fc1.weight.grad.abs().sum() > 0
    assert all(p.grad is not None and not p.grad.any() for p in layer.experts[1:].parameters())


def test_a_batch_of_padding_alone_is_nothing():
    layer = a_layer(z_weight=1.0)
    layer.padding, layer.auxiliary_scale = torch.ones(B, T, dtype=torch.bool), 1.0
    output = layer(a_batch()[0])
    output.sum().backward()
    assert not output.any() and all(p.grad.isfinite().all() for p in layer.parameters())


def test_evaluation_adds_no_loss_and_notes_nothing():
    layer = a_layer(z_weight=1.0).eval()
    layer.auxiliary_scale = 1e6
    layer(a_batch()[0] * 0).sum().backward()
    assert not layer.router.weight.grad.any() and not layer.statistics


def test_jitter_multiplies_what_the_router_sees_within_its_bounds():
    router = a_layer().router
    with torch.no_grad():
        router.weight.zero_()[0, 0] = 1
    x = torch.full((2000, 1, WIDTH), 3.0, dtype=torch.float64)
    seen = router(x, jitter=0.1)[..., 0] / 3
    assert 0.9 <= seen.min() < 0.901 and 1.099 < seen.max() <= 1.1
    assert torch.equal(router(x)[..., 0], x[..., 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_routed_in_float32(dtype):
    layer, exact = a_layer(dtype=dtype), a_layer(dtype=torch.float32)
    exact.load_state_dict({name: w.float() for name, w in layer.state_dict().items()})
    x = a_batch(torch.float32)[0].to(dtype)
    assert torch.equal(layer.router(x), exact.router(x.float()))
    output = layer(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), exact(x.float()), rtol=0.05, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert exact.router(x).dtype == torch.float32


def test_gradients_of_single_sentences_are_told_apart():
    """Also where, in the probe, an expert happens to get one token of each sentence."""
    layer = a_layer(dtype=torch.float32)
    sentences = [torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n)) for n in (6, 2, 5, 3, 4, 7, 1, 9)]

    def log_likelihoods(items):
        layer.padding = torch.arange(max(map(len, items))) >= torch.tensor([len(item) for item in items])[:, None]
        return layer(nn.utils.rnn.pad_sequence(list(items))).square().sum((0, 2))

    fast = SquaredGradients(layer, log_likelihoods, sentences[:5])
    assert not fast.looped
    mine, its = zeros(trainable(layer)), zeros(trainable(layer))
    fast.add_(mine, sentences)
    layer.eval()
    add_one_by_one_(its, trainable(layer), log_likelihoods, sentences)
    for name, squares in its.items():
        torch.testing.assert_close(mine[name], squares, rtol=1e-3, atol=1e-6, msg=name)


def test_experts_are_in_scope_and_the_router_is_not():
    names = {slot.name for slot in scope_of(a_layer())}
    assert names == {f"experts.{e}.{fc}.weight" for e in range(EXPERTS) for fc in ("fc1", "fc2")}
