"""The C kernel is welded to the torch path, bit for bit, and its absence changes nothing but time."""

import itertools
import os
import shutil
import sys
import threading
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_runs import finished

from weighted_freezing_fairseq.core import kernels_c
from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.importance import METRICS
from weighted_freezing_fairseq.core.rules import forms, rule_of
from weighted_freezing_fairseq.core.scope import Slot

pytestmark = pytest.mark.skipif(kernels_c.load() is None, reason="no C compiler on this machine")


FREEZE_RULES = [row.variant for row in forms("weighted_freeze")]
SAGE_VARIANTS = [row.variant for row in forms("sage")]


def masked(sizes, importance, norm, plain, threads=1, special=(), variant=""):
    """Gradients after one guided step, by the kernel or in torch."""
    generator = torch.Generator().manual_seed(1)
    slots = []
    for index, size in enumerate(sizes):
        p = torch.nn.Parameter(torch.randn(size, generator=generator))
        p.grad = torch.randn(size, generator=generator)
        for position, value in enumerate(special[:size]):
            p.grad[position] = value
        slots.append(Slot(str(index), p, p.shape))
    rule = rule_of("weighted_freeze", variant)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        base = torch.optim.SGD([s.parameter for s in slots], lr=0.1)
        with kernels_c.switched_off() if plain else nullcontext():
            GuidedOptimizer(base, slots, rule, importance=importance, norm=norm).step()
    finally:
        torch.set_num_threads(before)
    return [s.parameter.grad for s in slots]


@pytest.mark.parametrize("importance", METRICS)
@pytest.mark.parametrize("norm", ["tensor", "global"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("variant", FREEZE_RULES)
def test_kernel_equals_torch_bit_for_bit(importance, norm, threads, variant):
    sizes = [1, 2, 15, 16, 17, 1000, 70_001]
    fast = masked(sizes, importance, norm, plain=False, threads=threads, variant=variant)
    slow = masked(sizes, importance, norm, plain=True, variant=variant)
    for a, b in zip(fast, slow, strict=True):
        assert torch.equal(a, b)
    assert any((g == 0).any() for g in fast)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_kernel_equals_torch_for_any_sizes(sizes):
    for importance, norm in itertools.product(METRICS, ["tensor", "global"]):
        pairs = zip(*(masked(sizes, importance, norm, plain) for plain in (False, True)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def scaled(sizes, variant, plain, threads=1, special=(), **settings):
    """Weights and averages after three SAGE updates around Adam, by the kernel or in torch."""
    generator = torch.Generator().manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]
    slots = [Slot(str(index), p, p.shape) for index, p in enumerate(parameters)]
    rule = rule_of("sage", variant)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        base = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1)
        optimizer = GuidedOptimizer(base, slots, rule, **settings)
        for _ in range(3):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator) * 1e-3
                for position, value in enumerate(special[: len(p)]):
                    p.grad[position] = value
            with kernels_c.switched_off() if plain else nullcontext():
                optimizer.step()
    finally:
        torch.set_num_threads(before)
    return [*(p.detach() for p in parameters), *optimizer.averages.values()]


@pytest.mark.parametrize("variant", SAGE_VARIANTS)
@pytest.mark.parametrize("settings", [{}, {"state_dtype": torch.bfloat16}, {"norm": "global", "eps": 1e-4}])
@pytest.mark.parametrize("threads", [1, 3])
def test_sage_kernel_equals_torch_bit_for_bit(variant, settings, threads):
    sizes = [1, 2, 15, 16, 17, 1000, 70_001]
    fast = scaled(sizes, variant, plain=False, threads=threads, special=(0.0, 1e-30), **settings)
    slow = scaled(sizes, variant, plain=True, special=(0.0, 1e-30), **settings)
    assert len(fast) == len(slow) and all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("variant", SAGE_VARIANTS)
def test_sage_shows_nan_and_infinite_gradients_as_torch_does(variant):
    fast, slow = (scaled([50], variant, plain, special=(torch.nan, torch.inf)) for plain in (False, True))
    assert all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(fast, slow, strict=True))
    assert not fast[0][:2].isfinite().any()


def test_nan_and_infinite_gradients_stay_visible():
    for plain in (False, True):
        (grad,) = masked([50], "magnitude", "tensor", plain, special=(torch.nan, torch.inf, -torch.inf))
        assert grad[0].isnan() and not grad[1:3].isfinite().all()
        assert grad[3:].isfinite().all()


def test_masks_are_those_of_torch_and_hide_no_overflow():
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(shape, generator=generator) for shape in ((0,), (3,), (100, 77))]
    tensors[1][1] = torch.nan
    masks = [torch.rand(t.shape, generator=generator) < 0.5 for t in tensors]
    masks[1][:] = False
    expected = [t * mask for t, mask in zip(tensors, masks, strict=True)]
    kernels_c.mask_(list(zip(tensors, masks, strict=True)))
    for mine, its in zip(tensors, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0, equal_nan=True)
    assert tensors[1][1].isnan()


def test_of_nothing_nothing_is_made():
    kernels_c.mask_([])
    kernels_c.restore_([])
    assert kernels_c.row_sums([]) == []


def test_other_devices_dtypes_and_layouts_are_left_to_torch():
    x = torch.zeros(4, 4)
    assert kernels_c.readable(x)
    assert not kernels_c.readable(x.double())
    assert not kernels_c.readable(x.t()[:, :2])
    assert not kernels_c.readable(torch.zeros(4, device="meta"))


def run_fresh(code, tmp_path, **environment):
    """In a process that has not loaded the kernels."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    return finished([sys.executable, "-c", code], env=environment)


LOAD = """
import logging
from weighted_freezing_fairseq.core.kernels_c import load
logging.basicConfig(level=logging.INFO, force=True)
print(load())
"""


@pytest.mark.slow
def test_compiles_once_into_the_cache_and_loads_from_it(tmp_path):
    first, second = run_fresh(LOAD, tmp_path), run_fresh(LOAD, tmp_path, PATH="")
    assert "CDLL" in first.stdout and "CDLL" in second.stdout, first.stderr + second.stderr
    assert len(list(tmp_path.rglob("*.so"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": ""}, "no C compiler"),
        ({"CC": "false"}, "failed"),
    ],
)
def test_without_a_compiler_torch_takes_over_and_the_log_says_so(tmp_path, environment, reason):
    done = run_fresh(LOAD, tmp_path, **environment)
    assert done.stdout.strip() == "None" and reason in done.stderr and "plain torch" in done.stderr


STEP = """
import logging, os
import torch
from weighted_freezing_fairseq import GuidedOptimizer, scope_of
logging.basicConfig(level=logging.INFO, force=True)
model = torch.nn.Linear(4, 4)
optimizer = GuidedOptimizer(torch.optim.Adam(model.parameters()), scope_of(model))
torch.optim.Adam(model.parameters()).step()  # without gradients: nothing but imports
{before}  # all that a step imports is imported: another user may not see where this Python lies
for _ in range(3):
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
print("stepped")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "reason"),
    [
        pytest.param(
            "del os.environ['HOME'], os.environ['XDG_CACHE_HOME']; os.setuid(54321)",
            "no home folder",
            marks=pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become nobody"),
        ),
        ("os.environ['XDG_CACHE_HOME'] = os.path.abspath(torch.__file__)", "Not a directory"),
    ],
    ids=["no home", "cache under a file"],
)
def test_without_a_cache_folder_torch_takes_over_with_one_line_in_the_log(tmp_path, before, reason):
    done = run_fresh(STEP.format(before=before), tmp_path)
    assert done.stdout == "stepped\n", done.stderr
    assert reason in done.stderr and "XDG_CACHE_HOME" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_switched_off_by_hand(tmp_path):
    assert run_fresh(LOAD, tmp_path, WFF_NATIVE="0").stdout.strip() == "None"
    assert not list(tmp_path.iterdir())


def test_source_is_shipped():
    assert kernels_c.SOURCE.is_file() and shutil.which("cc")


def test_work_is_done_side_by_side():
    together = threading.Barrier(3)
    assert kernels_c._in_threads(3, lambda index: (together.wait(20), 10 * index)[1]) == [0, 10, 20]
    assert kernels_c._in_threads(0, str) == [] and kernels_c._in_threads(1, str) == ["0"]
