"""Operations and bytes, counted by hand and by the code."""

import pytest
import torch

from weighted_freezing_fairseq import FixedMaskOptimizer, GuidedOptimizer, scope_of
from weighted_freezing_fairseq.core import kernels_c
from weighted_freezing_fairseq.costs.operations import Rates, operations, step_bytes

M, N, K = 5, 7, 11


def test_a_product_and_its_two_gradients():
    a, b = torch.rand(M, K, requires_grad=True), torch.rand(K, N, requires_grad=True)
    assert operations(lambda: a @ b).products == 2 * M * N * K
    assert operations(lambda: (a @ b).backward(torch.ones(M, N))).products == 3 * 2 * M * N * K


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b, c: torch.mm(a, b, out=c),
        lambda a, b, c: c.addmm_(a, b),
        lambda a, b, c: torch.addmm(c, a, b),
        lambda a, b, c: c[None].baddbmm_(a[None], b[None]),
    ],
)
def test_a_product_in_every_spelling(product):
    assert operations(lambda: product(torch.rand(M, K), torch.rand(K, N), torch.rand(M, N))).products == 2 * M * N * K


def test_attention_counts_as_its_two_products():
    q = torch.rand(2, 3, 4, 8)  # batch, heads, length, width

    def attend():
        torch.nn.functional.scaled_dot_product_attention(q, q, q)

    assert operations(attend).products == 2 * 2 * (2 * 3) * 4 * 4 * 8


def test_an_operation_for_each_number():
    x = torch.rand(100)
    assert operations(lambda: x.mul_(2).add_(1)).others == 200
    assert operations(lambda: x.sum()).others == 100
    assert operations(lambda: x.view(10, 10).t().clone()).others == 0  # moved, not computed


def test_c_kernels_do_not_hide_what_is_computed():
    model = torch.nn.Linear(64, 64, bias=False)
    optimizer = GuidedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), scope_of(model), "weighted_freeze")
    model.weight.grad = torch.rand(64, 64)
    assert operations(optimizer.step).others > 5 * 64**2  # |w|, its range, a random number, a comparison, a product
    with kernels_c.switched_off():
        assert kernels_c.load() is None


def _stepped(make, model):
    optimizer = make(torch.optim.Adam(model.parameters()), scope_of(model))
    model.weight.grad = torch.rand_like(model.weight)
    optimizer.step()
    return optimizer


def test_the_least_that_a_step_moves():
    size, step = 4 * 100 * 10, 4  # float32; Adam also counts its steps
    plain = _stepped(lambda base, _: base, torch.nn.Linear(100, 10, bias=False))
    assert step_bytes(plain, ()) == 3 * size + 2 * (2 * size + step)
    freeze = _stepped(lambda b, s: GuidedOptimizer(b, s, "weighted_freeze"), torch.nn.Linear(100, 10, bias=False))
    assert step_bytes(freeze, ()) == step_bytes(plain, ())
    sage = _stepped(lambda b, s: GuidedOptimizer(b, s, "sage"), torch.nn.Linear(100, 10, bias=False))
    assert step_bytes(sage, ()) == step_bytes(plain, ()) + 2 * size
    assert step_bytes(plain, [torch.zeros(1000)]) == step_bytes(plain, ()) + size

    def sparse(base, slots):
        mask = torch.zeros(10, 100, dtype=torch.bool)
        mask[0, :10] = True
        return FixedMaskOptimizer(base, slots, "fish_mask", masks={"weight": mask})

    fish = _stepped(sparse, torch.nn.Linear(100, 10, bias=False))
    moving = 3 * 40 + 2 * (2 * 40 + step)
    assert step_bytes(fish, ()) == moving + 1000 + 10 * (8 + 4)  # a mask, and for each number its position and a copy


def test_a_bound_is_the_time_of_both():
    rates = Rates.measure("cpu", lambda: None)
    assert rates.flops > 1e8 and rates.bytes > 1e8
    assert Rates(100.0, 10.0).seconds(200, 30) == 5
