"""Triton's kernels equal the C kernels and plain torch: run by `test_kernels_triton.py` under the interpreter."""

from itertools import cycle

import guided_rows
import pytest
import torch
from fused_steps import BASES, CASES, assert_same_bits, trained
from guided_rows import ROWS, STAGED, TABLE, a_model, guided_model, same, taken, train
from test_every_row import Awaits

from weighted_freezing_fairseq.core import kernels, kernels_c, kernels_triton, triton_source
from weighted_freezing_fairseq.core.fixed import FixedMaskOptimizer
from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.importance import METRICS
from weighted_freezing_fairseq.core.scope import scope_of

# the interpreter computes with numpy, which warns of what a GPU does silently
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def without_c(monkeypatch):
    """No C compiler, so that what a CPU holds goes to Triton; which kernels it kernels_triton."""
    monkeypatch.setattr(kernels_c, "load", lambda: None)
    assert kernels_triton.works(torch.device("cpu"))
    taken = []
    whole = kernels_triton.guide_
    monkeypatch.setattr(kernels_triton, "guide_", lambda *given: (taken.append("guide_"), whole(*given)))
    return taken


@pytest.mark.skipif(kernels_c.load() is None, reason="no C compiler on this machine")
@pytest.mark.parametrize(  # a case with one of the bases, whose steps are not Triton's
    ("row", "settings", "base"), [(*case, base) for case, base in zip(CASES, cycle(BASES), strict=False)], ids=str
)
def test_launches_give_the_bits_of_the_c_kernels(row, settings, base, monkeypatch):
    in_c = trained(base, row, settings)
    monkeypatch.setattr(kernels_c, "load", lambda: None)
    assert_same_bits(trained(base, row, settings), in_c)


@pytest.mark.parametrize(("row", "stage"), [pair for pair in STAGED if ROWS[pair[0]][0] is not FixedMaskOptimizer])
@pytest.mark.parametrize(
    ("norm", "importance"), [*(("tensor", importance) for importance in METRICS), ("global", "magnitude")]
)
def test_around_another_base_plain_torch_and_triton_train_the_same_bits(row, stage, norm, importance, without_c):
    ways = taken(row, stage=stage, norm=norm, importance=importance)
    fast = a_model()
    by_triton = train(fast, guided_model(row, fast, "momentum", **ways), 3)
    g = TABLE[row].g.value
    computed = g in kernels_c.MASKS or (
        g in kernels_c.FACTORS and stage == "update" and importance == "loss-preserving"
    )
    steps = 3 if computed else 0
    assert without_c.count("guide_") == steps
    with kernels_c.switched_off():
        slow = a_model()
        assert same(train(slow, guided_model(row, slow, "momentum", **ways), 3), by_triton)
    assert without_c.count("guide_") == steps


@pytest.mark.parametrize("row", ROWS)
def test_neutral_settings_leave_the_step_to_the_base(row, without_c):
    if row.startswith("sage") or row in ("weighted_freeze (random)", "mofo", "magma (skip_update)"):
        pytest.skip("its neutral settings are a factor of 1 or a rate of 1, computed")
    model, other = a_model(), a_model()
    optimizer = guided_model(row, model, "adamw", neutral=True, base_fused=False)
    plain = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.1)
    assert same(train(model, optimizer, 3), train(other, plain, 3))
    assert not without_c


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("base", ["fairseq", "momentum"])
@pytest.mark.parametrize("norm", ["tensor", "global"])
def test_no_launch_waits_for_the_gpu(row, base, norm, without_c, monkeypatch):
    monkeypatch.setitem(guided_rows.BASES, "fairseq", BASES["fairseq"])
    model = a_model()
    ways = taken(row, norm=norm)
    optimizer = guided_model(row, model, base, **ways)
    train(model, optimizer, 4)  # the mask of fish_mask is made once, and waits
    with Awaits():
        optimizer.step()


@pytest.mark.parametrize("sizes", [[7, 1], [1023, 1024, 1025], [3, 5000, 1]])
def test_masks_are_those_of_torch_for_any_sizes_and_hide_no_overflow(sizes, without_c):
    results = []
    for plain in (False, True):
        generator = torch.Generator().manual_seed(1)
        model = torch.nn.ParameterList(torch.randn(size, 1, generator=generator) for size in sizes)
        for p in model:
            p.grad = torch.randn(p.shape, generator=generator)
        model[0].grad[0] = torch.nan
        optimizer = GuidedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), scope_of(model, "all"))
        if plain:
            with kernels_c.switched_off():
                optimizer.step()
        else:
            optimizer.step()
        results.append([p.grad for p in model])
    assert without_c == ["guide_"]
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)
    assert results[0][0][0].isnan() and any((grad == 0).any() for grad in results[0])


@pytest.mark.parametrize("variant", range(len(kernels_c.MASKS)))
@pytest.mark.parametrize("shared", [False, True])
def test_no_block_reads_bounds_behind_the_last_row(variant, shared, monkeypatch):
    launched = []

    class Guide:
        def __getitem__(self, grid):
            return lambda table, owner, bounds, *_, SHARED, **__: launched.append((SHARED, len(table), len(bounds)))

    monkeypatch.setattr(triton_source, "guide", Guide())
    weights = [kernels_c.GuidedWeight(torch.ones(5), torch.ones(5)) for _ in range(3)]
    kernels_triton.guide_(weights, "magnitude", kernels_c.Kernel(variant), shared)
    ((reads_first, weight_count, row_count),) = launched
    assert row_count == (1 if reads_first else weight_count)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("nothing", ""),
        ("uniform", "another mask than torch's"),
        ("_to_device", "another step than torch's"),
        ("_table_rows", "RuntimeError: no GPU"),
    ],
)
def test_a_trial_that_goes_wrong_leaves_the_steps_to_torch(broken, words, monkeypatch, caplog):
    whole = {name: getattr(kernels_triton, name) for name in ("uniform", "_to_device")}

    def sent(values, dtype, device):
        return whole["_to_device"](values, dtype, device) * (1.001 if dtype.is_floating_point else 1)

    def rows(parts):
        raise RuntimeError("no GPU")

    instead = {"uniform": lambda *given: 1 - whole["uniform"](*given), "_to_device": sent, "_table_rows": rows}
    if broken in instead:
        monkeypatch.setattr(kernels_triton, broken, instead[broken])
    kernels_triton.works.cache_clear()
    monkeypatch.setattr(kernels_c, "load", lambda: None)
    try:
        found = kernels.module_for([torch.zeros(3)])
    finally:
        kernels_triton.works.cache_clear()
    assert (found is None) == bool(words)
    assert words in caplog.text and ("plain torch on cpu" in caplog.text) == bool(words)
