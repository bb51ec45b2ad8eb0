"""Fisher information: by hand, against single samples, and what a measurement must leave alone."""

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core import fisher, per_sample

PAD = 1


class Tied(nn.Module):
    """Layers of every known kind: time first inside, samples first at both ends, output tied to an embedding."""

    def __init__(self, width: int = 6, words: int = 11) -> None:
        super().__init__()
        self.source = nn.Embedding(words, width, padding_idx=PAD)
        self.target = nn.Embedding(words, width, padding_idx=PAD)
        self.query, self.inner = nn.Linear(width, width), nn.Linear(width, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.5)
        self.dead = nn.Linear(3, 3)
        self.output = nn.Linear(width, words)
        self.output.weight = self.target.weight

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = self.source(source).sum(1)[:, None] + self.target(target)
        x = x.transpose(0, 1).contiguous()  # a contiguous input makes the output of a linear map a view
        query = self.query(x)
        query *= 0.5
        x = self.dropout(self.norm(query + x))
        return self.output(torch.relu(self.between(self.inner(x))).transpose(0, 1))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x


class WithOtherLayers(Tied):
    """And layers that nobody knows: a convolution, and positions that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(6, 6, 1)
        self.positions = nn.Parameter(torch.randn(20, 1, 6))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x.permute(1, 2, 0)).permute(2, 0, 1) + self.positions[: len(x)]


def likelihood_of(model):
    def log_likelihoods(pairs):
        source, target = (
            nn.utils.rnn.pad_sequence(side, batch_first=True, padding_value=PAD) for side in zip(*pairs, strict=True)
        )
        before = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
        tokens = model(source, before).log_softmax(-1).gather(-1, target[..., None])[..., 0]
        return (tokens * (target != PAD)).sum(1)

    return log_likelihoods


def pairs(*lengths):
    generator = torch.Generator().manual_seed(3)
    return [tuple(torch.randint(2, 11, (n,), generator=generator) for n in both) for both in lengths]


LENGTHS = [(3, 4), (5, 2), (4, 4), (2, 7), (6, 1), (3, 3)]


def one_by_one(model, items):
    parameters = fisher.trainable(model)
    totals = fisher.zeros(parameters)
    with fisher.without_dropout(model):
        fisher.add_one_by_one_(totals, parameters, likelihood_of(model), items)
    return {name: total / len(items) for name, total in totals.items()}


def batched(model, log_likelihoods, batches, **options):
    probe = [item for batch in batches for item in batch][:5]
    squares = fisher.SquaredGradients(model, log_likelihoods, probe, **options)
    totals = fisher.zeros(fisher.trainable(model))
    for batch in batches:
        squares.add_(totals, batch)
    return {name: total / sum(map(len, batches)) for name, total in totals.items()}


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-4 * float(wanted[name].max()), msg=name)


def test_opposite_gradients_give_one_for_samples_and_zero_for_the_batch():
    # log p = x * w: its gradient is x, here 1 and -1. Mean of squares: 1. Square of the sum: 0.
    model = nn.Linear(1, 1, bias=False)
    samples = [torch.tensor([1.0]), torch.tensor([-1.0])]

    def log_likelihoods(items):
        return model(torch.stack(list(items))).squeeze(1)

    assert batched(model, log_likelihoods, [samples])["weight"].tolist() == [[1.0]]
    totals = fisher.zeros(fisher.trainable(model))
    fisher.add_squared_sum_(totals, fisher.trainable(model), log_likelihoods, samples)
    assert totals["weight"].tolist() == [[0.0]]


def test_uses_of_one_parameter_are_added_before_they_are_squared():
    # log p = sum_t W x_t + W z: the gradient of W is 1 + 2 + 3, its square 36 and not 1 + 4 + 9.
    model = nn.Linear(1, 1, bias=False)

    def log_likelihoods(items):
        x = torch.stack(list(items))
        return model(x[:, :2]).sum((1, 2)) + model(x[:, 2:]).sum((1, 2))

    sample = torch.tensor([[1.0], [2.0], [3.0]])
    assert batched(model, log_likelihoods, [[sample, sample]])["weight"].tolist() == [[36.0]]


@pytest.mark.parametrize("memory", [1, 4 * 66 * 4, 512 << 20], ids=["one", "four", "all"])
def test_batches_equal_single_samples(memory):
    torch.manual_seed(1)
    model, items = Tied(), pairs(*LENGTHS)
    squares = fisher.SquaredGradients(model, likelihood_of(model), items[:3], memory)
    assert not squares.looped
    found = batched(model, likelihood_of(model), [items], memory=memory)
    assert_close(found, one_by_one(model, items))
    assert "output.weight" not in found  # counted once, as target.weight
    assert found["dead.weight"].eq(0).all() and found["target.weight"].gt(0).any()


def test_memory_bounds_the_gradients_that_are_alive_at_once():
    use = per_sample._Matrix(torch.randn(64, 3, 16), torch.randn(64, 3, 32))
    seen = []

    class Recorder(per_sample._Matrix):
        def put_(self, out, rows, add):
            seen.append(out.numel() * out.element_size())
            super().put_(out, rows, add)

    total, whole = torch.zeros(32, 16), torch.zeros(32, 16)
    per_sample.add_squares_(total, [Recorder(use.inputs, use.grads)], 64, memory=5 * 32 * 16 * 4)
    per_sample.add_squares_(whole, [use], 64, memory=1 << 30)
    assert max(seen) == 5 * 32 * 16 * 4 and len(seen) == 13
    torch.testing.assert_close(total, whole)


@pytest.mark.parametrize("sizes", [(6,), (1, 5), (2, 2, 2), (1,) * 6], ids=str)
def test_the_size_of_batches_does_not_matter(sizes):
    torch.manual_seed(1)
    model, items = Tied(), pairs(*LENGTHS)
    batches, start = [], 0
    for size in sizes:
        batches.append(items[start : start + size])
        start += size
    assert_close(batched(model, likelihood_of(model), batches), one_by_one(model, items))


def test_as_many_samples_as_positions():
    torch.manual_seed(1)
    model, items = Tied(), pairs((4, 4), (4, 4), (4, 4), (4, 4))
    squares = fisher.SquaredGradients(model, likelihood_of(model), items[:3])
    assert not squares.looped
    totals = fisher.zeros(fisher.trainable(model))
    squares.add_(totals, items)
    assert_close({name: total / 4 for name, total in totals.items()}, one_by_one(model, items))


def test_unknown_layers_are_measured_one_sample_at_a_time():
    torch.manual_seed(1)
    model, items = WithOtherLayers(), pairs(*LENGTHS)
    squares = fisher.SquaredGradients(model, likelihood_of(model), items[:3])
    assert list(squares.looped) == ["positions", "convolution.weight", "convolution.bias"]
    assert_close(batched(model, likelihood_of(model), [items]), one_by_one(model, items))


def test_a_wrong_gradient_is_found_out(monkeypatch):
    """An error of one in a thousand of a gradient, two of its square, and the parameter is not trusted."""
    torch.manual_seed(1)
    model, items = Tied(), pairs(*LENGTHS)

    def wrong(x, weight, bias=None):
        call = per_sample._linear(x, weight, bias)
        call.weight_use = lambda inputs, grads: per_sample._Matrix(inputs, grads * 1.001)
        return call

    monkeypatch.setattr(per_sample, "_LAYERS", {**per_sample._LAYERS, nn.functional.linear: wrong})
    squares = fisher.SquaredGradients(model, likelihood_of(model), items[:3])
    assert {"query.weight", "inner.weight"} <= set(squares.looped)
    assert "query.bias" not in squares.looped


def test_a_unit_between_on_and_off_is_no_error():
    """ReLU's derivative at 0 but for rounding: one sample of the probe may disagree, a wrong layer disagrees in all."""
    model, items = nn.Linear(2, 2), list(torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 1.0]]))

    def log_likelihoods(given):
        x = torch.stack(list(given))
        edge = (x == items[0]).all(1, keepdim=True) & (len(given) > 1)  # on alone, off in a batch
        return torch.where(edge, 0.0, model(x)).sum(1)

    assert fisher.SquaredGradients(model, log_likelihoods, items).looped == {}


def test_modes_and_gradients_are_left_alone():
    model, items = Tied(), pairs(*LENGTHS)
    model.train()
    model.norm.eval()
    model.query.weight.grad = torch.ones_like(model.query.weight)
    batched(model, likelihood_of(model), [items])
    assert model.training and model.dropout.training and not model.norm.training
    assert model.query.weight.grad.eq(1).all() and model.inner.weight.grad is None


def test_frozen_parameters_are_not_measured():
    model, items = Tied(), pairs(*LENGTHS)
    whole = one_by_one(model, items)
    for frozen in (model.source.weight, model.query.weight, model.norm.bias):
        frozen.requires_grad_(False)
    found = batched(model, likelihood_of(model), [items])
    assert whole.keys() - found.keys() == {"source.weight", "query.weight", "norm.bias"}
    assert_close(found, {name: whole[name] for name in found})


def test_a_longer_use_than_the_probe_showed_is_an_error():
    model = nn.Linear(2, 2)

    def log_likelihoods(items):
        x = torch.stack(list(items))
        return sum(model(x).sum(1) for _ in range(1 + (len(items) > 3)))

    items = list(torch.randn(4, 2))
    squares = fisher.SquaredGradients(model, log_likelihoods, items[:3])
    with pytest.raises(ValueError, match="weight is used more often .* give a probe of its kind"):
        squares.add_(fisher.zeros(fisher.trainable(model)), items)


def test_drawn_classes_give_the_exact_expectation():
    # Softmax regression: the Fisher information of w[c] is sum_y p_y (1[y = c] - p_c)^2 x^2 = p_c (1 - p_c) x^2.
    torch.manual_seed(1)
    model, x, draws = nn.Linear(1, 3, bias=False), torch.tensor([[0.7]]), 20_000
    logits = model(x).detach()
    u = torch.rand(draws, generator=torch.Generator().manual_seed(1))
    classes = fisher.categorical(logits.expand(draws, 3), u)

    def log_likelihoods(items):
        return model(x.expand(len(items), 1)).log_softmax(1).gather(1, torch.stack(list(items))[:, None]).squeeze(1)

    found = batched(model, log_likelihoods, [list(classes)])["weight"]
    p = logits.softmax(1)[0]
    torch.testing.assert_close(found, (p * (1 - p) * 0.7**2)[:, None], rtol=0.03, atol=0)


def test_a_class_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    u = torch.tensor([2.0**-24, 0.5, 0.5 + 2.0**-24, 1.0])
    assert fisher.categorical(logits.expand(4, 5), u).tolist() == [1, 1, 3, 3]


def test_batches_hold_every_item_once_within_the_bound():
    items = [3, 9, 10, 2, 8, 8, 40, 1]
    cut = fisher.batches(items, lambda n: n, max_tokens=20)
    assert cut == [[40], [10, 9], [8, 8], [3], [2], [1]]  # 8 is beside 10 too much, 2 is less than 3/4 of 3
    assert sorted(n for batch in cut for n in batch) == sorted(items)


def test_overlap_counts_the_common_top():
    a = {"x": torch.tensor([4.0, 3.0]), "y": torch.tensor([2.0, 1.0])}
    b = {"y": torch.tensor([3.0, 1.0]), "x": torch.tensor([4.0, 2.0])}
    assert fisher.overlap(a, b, 0.5) == 0.5
    assert fisher.overlap(a, a, 0.5) == 1
    assert fisher.overlap(a, b, 0.01) == 1  # of nothing
