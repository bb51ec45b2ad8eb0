"""What is true of every optimizer row, whichever it is: one suite over the table."""

import copy
import pickle

import pytest
import torch
from guided_rows import (
    BASES,
    PAIRS,
    ROWS,
    STAGED,
    TABLE,
    WITHOUT_MOMENTUM,
    a_model,
    guided,
    guided_model,
    same,
    taken,
    train,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from weighted_freezing_fairseq.core import kernels_c
from weighted_freezing_fairseq.core.after_step import AfterStepOptimizer
from weighted_freezing_fairseq.core.decay import DecayOptimizer
from weighted_freezing_fairseq.core.fixed import FixedMaskOptimizer
from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.layers import DrawnLayersOptimizer
from weighted_freezing_fairseq.core.optimizers import OPTIMIZERS
from weighted_freezing_fairseq.core.rules import rows
from weighted_freezing_fairseq.core.scope import Slot, scope_of
from weighted_freezing_fairseq.core.soft_mask import SoftMaskOptimizer

every_row = pytest.mark.parametrize("row", ROWS)
every_stage = pytest.mark.parametrize(("row", "stage"), STAGED)
every_pair = pytest.mark.parametrize(("row", "base"), PAIRS)


def test_every_optimizer_row_is_applied_by_one_class_and_no_other_row_by_any():
    for rule in rows():
        assert sum(optimizer.applies(rule) for optimizer in OPTIMIZERS) == (rule.kind == "optimizer"), rule.label


@every_pair
def test_neutral_settings_are_bit_identical_to_the_base_and_allocate_nothing(base, row):
    plain_model, model = a_model(), a_model()
    plain_optimizer = BASES[base](plain_model.parameters())
    plain = train(plain_model, plain_optimizer, 5)
    optimizer = guided_model(row, model, base, neutral=True)
    assert same(train(model, optimizer, 5), plain)
    state, expected = optimizer.state_dict(), plain_optimizer.state_dict()
    assert state.keys() - expected.keys() == {"guided"} and len(state["state"]) == len(expected["state"])
    if not {"average", "gamma", "mask", "tau"} & set(optimizer.rule.needs):
        assert optimizer.extra_bytes == 0


@every_stage
def test_a_base_that_changes_gradients_while_it_steps_is_guided_by_those_from_before(row, stage, monkeypatch):
    """PyTorch's SGD with nesterov, in its implementation for GPUs, adds the momentum to the gradients."""
    results = []
    for foreach in (False, True):
        monkeypatch.setitem(
            BASES, "nesterov", lambda p, f=foreach: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, foreach=f)
        )
        model = a_model()
        optimizer = guided_model(row, model, "nesterov", **taken(row, stage=stage))
        if row == "cautious_decay":
            optimizer.param_groups[0]["weight_decay"] = 0.1
        results.append(train(model, optimizer, 5))
    assert same(*results)


@every_row
@pytest.mark.parametrize("base", ["adam", "adamw"])
def test_neutral_settings_equal_the_base_within_rounding_where_its_step_is_fused(base, row):
    plain_model, model = a_model(), a_model()
    plain = train(plain_model, BASES[base](plain_model.parameters()), 20)
    torch.testing.assert_close(train(model, guided_model(row, model, base, neutral=True, base_fused=True), 20), plain)


@every_pair
def test_ordinary_settings_are_not(base, row):
    if row == "cautious" and base in WITHOUT_MOMENTUM:
        pytest.skip("without momentum and decay every step goes against the gradient")
    plain_model, model = a_model(), a_model()
    plain = train(plain_model, BASES[base](plain_model.parameters()), 5)
    assert not same(train(model, guided_model(row, model, base), 5), plain)


@every_pair
@pytest.mark.parametrize("updates", [1, 3])
def test_a_resumed_run_is_an_uninterrupted_one(base, row, updates):
    whole = a_model()
    expected = train(whole, guided_model(row, whole, base), 6)
    first = a_model()
    optimizer = guided_model(row, first, base)
    train(first, optimizer, updates)
    second = a_model()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = guided_model(row, second, base)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.updates == updates
    assert same(train(second, resumed, 6 - updates, first=updates), expected)
    assert all(torch.equal(a, b) for a, b in zip(tensors(resumed.state_dict()), tensors(again(row, base)), strict=True))


def again(row, base):
    model = a_model()
    optimizer = guided_model(row, model, base)
    train(model, optimizer, 6)
    return optimizer.state_dict()


def tensors(value):
    """Every tensor in a state dict, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [t for v in value for t in tensors(v)] if hasattr(value, "__iter__") and not isinstance(value, str) else []


@every_row
def test_states_hold_tensors_and_plain_values_only(row, tmp_path):
    model = a_model()
    optimizer = guided_model(row, model)
    train(model, optimizer, 3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    guided_model(row, a_model()).load_state_dict(loaded)


@every_row
def test_a_state_comes_back_uncast_to_half_precision_weights(row):
    model = a_model(torch.bfloat16)
    optimizer = guided_model(row, model)
    train(model, optimizer, 4)
    state = optimizer.state_dict()
    for entry in state["state"].values():  # fairseq's Adam keeps float32 moments for half-precision weights
        entry["exp_avg"] = entry["exp_avg"].float() + 1e-6
    other = guided_model(row, a_model(torch.bfloat16))
    other.load_state_dict(copy.deepcopy(state))
    back = other.base.state_dict()["state"]
    assert all(torch.equal(back[i]["exp_avg"], entry["exp_avg"]) for i, entry in state["state"].items())


class Awaits(TorchDispatchMode):
    """Refuses every operation whose result the host must wait for, were the tensors on a GPU."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation.name().partition(".")[0] not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::unique"}
        return operation(*args, **(kwargs or {}))


@every_stage
@pytest.mark.parametrize("norm", ["tensor", "global"])
def test_no_step_waits_for_a_gpu(row, stage, norm):
    model = a_model()
    ways = taken(row, stage=stage, norm=norm)
    optimizer = guided_model(row, model, "momentum", **ways)
    train(model, optimizer, 4)  # the mask of fish_mask is made once, and waits
    optimizer.record = True
    with kernels_c.switched_off(), Awaits():
        optimizer.step()
    assert optimizer.recorded
    with pytest.raises(AssertionError), Awaits():
        float(next(iter(optimizer.recorded.values())))


@every_row
def test_recording_changes_nothing_and_says_what_the_row_does(row):
    plain, recorded = a_model(), a_model()
    optimizer = guided_model(row, recorded)
    optimizer.record = True
    assert same(train(plain, guided_model(row, plain), 4), train(recorded, optimizer, 4))
    effect = optimizer.recorded.get("scale_mean", optimizer.recorded.get("frozen_fraction"))
    assert 0 < effect < 3 and optimizer.recorded["importance_mean"] > 0 and optimizer.recorded["importance_std"] > 0


@every_row
def test_no_row_touches_the_stream_of_dropout(row):
    model = a_model()
    optimizer = guided_model(row, model)
    train(model, optimizer, 3)
    torch.manual_seed(9)
    optimizer.step()
    after = torch.rand(3)
    torch.manual_seed(9)
    assert torch.equal(after, torch.rand(3))


@every_row
def test_a_plain_state_starts_at_update_0_and_another_base_or_row_is_refused(row, caplog):
    model = a_model()
    plain = BASES["adam"](model.parameters())
    train(model, plain, 2)
    optimizer = guided_model(row, model)
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert optimizer.updates == 0 and "starts at update 0" in caplog.text
    train(model, optimizer, 4)
    with pytest.raises(ValueError, match="saved with base 'Adam', but this run has 'SGD'"):
        guided_model(row, a_model(), "sgd").load_state_dict(optimizer.state_dict())
    other = "sage (full)" if row.startswith("weighted_freeze") else "weighted_freeze (important)"
    with pytest.raises(ValueError, match="saved with method"):
        guided_model(other, a_model()).load_state_dict(optimizer.state_dict())


@every_row
@pytest.mark.parametrize("base", ["momentum", "adam"])
def test_a_flat_parameter_is_updated_like_its_parts(row, base):
    if row == "lisa":
        pytest.skip("it refuses flat parameters, as test_layers.py shows")
    model = a_model()
    reference = guided_model(row, model, base)
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    slots, start = [], 0
    for name, p in model.named_parameters():
        slots.append(Slot(name, flat, p.shape, start))
        start += p.numel()
    in_scope = {slot.name for slot in reference.slots}
    optimizer = guided(row, [flat], [slot for slot in slots if slot.name in in_scope], base)
    for step in range(5):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        reference.zero_grad()
        model(x).pow(2).mean().backward()
        flat.grad = torch.cat([p.grad.flatten() for p in model.parameters()])
        reference.step()
        optimizer.step()
        torch.testing.assert_close(flat, torch.cat([p.detach().flatten() for p in model.parameters()]))


@every_row
def test_a_transposed_parameter_is_updated_like_a_straight_one(row):
    torch.manual_seed(1)
    straight = nn.Parameter(torch.randn(5, 9))
    turned = nn.Parameter(straight.detach().t().contiguous().t())
    optimizers = [guided(row, [p], [Slot("w", p, p.shape)], "momentum") for p in (straight, turned)]
    for _ in range(4):
        grad = torch.randn(5, 9)
        for p, optimizer in zip((straight, turned), optimizers, strict=True):
            p.grad = grad.clone()
            optimizer.step()
    assert not turned.is_contiguous()
    torch.testing.assert_close(straight, turned)


@every_row
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_stay_finite_and_move(row, dtype):
    model = a_model(dtype)
    before = [p.detach().clone() for p in model.parameters()]
    after = train(model, guided_model(row, model, "momentum"), 5)
    assert all(torch.isfinite(p).all() and p.dtype == dtype for p in after) and not same(before, after)


@every_row
def test_missing_gradients_empty_tensors_and_nan(row):
    model = a_model()
    empty = nn.Parameter(torch.zeros(0, 3))
    empty.grad = torch.zeros(0, 3)
    slots = [*scope_of(model, "all"), Slot("empty", empty, empty.shape)]
    optimizer = guided(row, [*model.parameters(), empty], slots, "momentum")
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        optimizer.step()  # no gradient anywhere
    assert same([p.detach() for p in model.parameters()], before)
    if TABLE[row].stage != "parameter":
        optimizer.slots[0].parameter.grad = torch.full_like(optimizer.slots[0].weight, torch.nan)
        optimizer.step()
        assert optimizer.slots[0].weight.isnan().all()  # a NaN is shown, frozen or not


@every_row
def test_closure_scheduler_scaler_and_hooks_work_as_in_torch(row):
    model = a_model()
    settings = {"source": "magnitude"} if row == "fish_mask" else {}
    optimizer = guided_model(row, model, **settings)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
    schedule.step()
    scaler.scale(model(torch.ones(2, 6)).sum()).backward()
    scaler.step(optimizer)
    assert optimizer.base.param_groups[0]["lr"] == 0.005
    assert optimizer.updates == 2 and called == [1, 1]
    scaler.update()
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    scaler.scale(model(torch.full((2, 6), torch.inf)).sum()).backward()
    scaler.step(optimizer)  # overflow: skipped, and not counted
    assert optimizer.updates == 2


@every_stage
@pytest.mark.parametrize("base", ["momentum", "adamw"])
@pytest.mark.parametrize("norm", ["tensor", "global"])
def test_plain_torch_and_the_c_kernels_train_the_same_bits(row, base, stage, norm):
    ways = taken(row, stage=stage, norm=norm)
    fast, slow = a_model(), a_model()
    expected = train(fast, guided_model(row, fast, base, **ways), 6)
    with kernels_c.switched_off():
        assert same(train(slow, guided_model(row, slow, base, **ways), 6), expected)


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (GuidedOptimizer, {"method": "sgae"}, "choose one of: weighted_freeze, sage"),
        (GuidedOptimizer, {"method": "ewc"}, "choose one of: weighted_freeze"),
        (GuidedOptimizer, {"method": "fish_mask"}, "choose one of: weighted_freeze, sage, gmt"),
        (AfterStepOptimizer, {"method": "sage"}, "choose one of: cautious, magma, mofo"),
        (DecayOptimizer, {"method": "sage"}, "choose one of: cautious_decay"),
        (SoftMaskOptimizer, {"method": "sage", "fisher": {}}, "choose one of: spg"),
        (DrawnLayersOptimizer, {"method": "sage", "layers": 1}, "choose one of: lisa"),
        (FixedMaskOptimizer, {"method": "sage"}, "choose one of: fish_mask, lfr_cm"),
        (GuidedOptimizer, {"method": "sage", "variant": "heavy"}, "its variants: full, li, light"),
        (GuidedOptimizer, {"importance": "size"}, "choose one of: magnitude, loss-preserving, fisher"),
        (GuidedOptimizer, {"norm": "row"}, "choose one of: tensor, global"),
        (GuidedOptimizer, {"stage": "loss"}, "choose one of: gradient, update"),
        (GuidedOptimizer, {"method": "sage", "beta": 1.0}, r"beta must be in \[0, 1\).* got beta 1.0"),
        (FixedMaskOptimizer, {"density": 0.1, "source": "size"}, "choose one of: fisher, random, magnitude, bias"),
        (FixedMaskOptimizer, {"density": 1.5}, "density must be above 0 and at most 1, got 1.5"),
        (FixedMaskOptimizer, {"density": 0.1, "observe": 0}, "observe must be at least 1, got 0"),
        (FixedMaskOptimizer, {"density": 0.1, "always": "decoder"}, "no parameter in scope .* such as 0.weight"),
        (FixedMaskOptimizer, {"density": 0.01, "source": "random", "always": "^3"}, "a density of at least 0.333334"),
        (FixedMaskOptimizer, {"source": "random"}, "fish_mask needs masks or density"),
        (FixedMaskOptimizer, {"method": "lfr_cm", "quantile": 0.0}, "quantile must be above 0 and at most 1, got 0.0"),
        (FixedMaskOptimizer, {"method": "lfr_cm", "quantile": 0.5, "norm": "row"}, "choose one of: tensor, global"),
        (FixedMaskOptimizer, {"density": 0.1, "never": "0"}, "never is an option of lfr_cm, not of fish_mask"),
        (GuidedOptimizer, {"variant": "random", "keep": 1.5}, "between 0 and 1 .* got 1.5"),
        (GuidedOptimizer, {"variant": "smooth", "keep": 0.5}, r"variant 'random' .* for weighted_freeze \(smooth\)"),
        (GuidedOptimizer, {"method": "gmt"}, "gmt needs fraction, .* such as fraction=0.5"),
        (AfterStepOptimizer, {"method": "mofo"}, "mofo needs fraction, .* such as fraction=0.5"),
        (
            AfterStepOptimizer,
            {"method": "mofo", "fraction": 15},
            "above 0 and at most 1, such as 0.5, .* got 15 for mofo",
        ),
        (GuidedOptimizer, {"method": "sage", "fraction": 0.5}, r"needs method 'gmt'; got 0.5 for sage \(full\)"),
        (AfterStepOptimizer, {"eps": -1.0}, "eps must be at least 0, got -1.0"),
        (AfterStepOptimizer, {"fraction": 0.5}, "needs method 'magma' or 'mofo'; got 0.5 for cautious"),
        (
            SoftMaskOptimizer,
            {"fisher": {"0.weight": torch.rand(6, 20)}},
            r"another model: 0.weight is \(6, 20\) there and \(20, 6\) here; 3.weight is missing; measure it",
        ),
        (DrawnLayersOptimizer, {"layers": 1}, "matches layer_pattern=.* such as 0.weight"),
        (
            DrawnLayersOptimizer,
            {"layers": 3, "layer_pattern": r"\d"},
            "layers must be between 1 and 2, the number of layers in scope, got 3",
        ),
        (DrawnLayersOptimizer, {"layers": 1, "period": 0, "layer_pattern": r"\d"}, "period must be at least 1, got 0"),
        (GuidedOptimizer, {"variant": "soft"}, "its variants: important, printed, smooth, random"),
    ],
)
def test_wrong_settings_say_what_is_right(cls, settings, words):
    model = a_model()
    with pytest.raises(ValueError, match=words):
        cls(BASES["adam"](model.parameters()), scope_of(model), **settings)


@every_pair
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("updates", [1, 3])
def test_a_copy_with_its_model_steps_like_the_original(base, row, duplicate, updates):
    model = a_model()
    optimizer = guided_model(row, model, base)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # puts a function in place of `step`
    optimizer.register_step_post_hook(lambda *_: None)
    train(model, optimizer, updates)
    its_model, its_optimizer = duplicate((model, optimizer))
    parameters = {id(p) for p in its_model.parameters()}
    assert all(id(slot.parameter) in parameters for slot in its_optimizer.slots)
    assert its_optimizer.rule is optimizer.rule  # the table's very row
    expected = train(model, optimizer, 3, first=updates)
    assert same(train(its_model, its_optimizer, 3, first=updates), expected)
    assert its_optimizer.updates == updates + 3


@every_row
def test_a_wrapped_model_gets_the_same_masks(row):
    """Masks are drawn by name, in which wrappers leave no trace."""
    plain, inside = a_model(), a_model()
    wrapped = nn.DataParallel(inside)
    expected = train(plain, guided_model(row, plain), 4)
    assert same(train(wrapped, guided_model(row, wrapped), 4), expected)


@every_row
def test_a_base_that_needs_a_closure_is_refused(row):
    model = a_model()
    with pytest.raises(ValueError, match=r"LBFGS.*closure.*torch\.optim\.AdamW"):
        cls, usual, _ = ROWS[row]
        cls(torch.optim.LBFGS(model.parameters()), scope_of(model), row.split()[0], **usual)


@every_row
def test_foreign_and_doubled_slots_are_refused(row):
    model, other = a_model(), a_model()
    with pytest.raises(ValueError, match="from the same model"):
        guided(row, model.parameters(), scope_of(other))
    with pytest.raises(ValueError, match="a unique name"):
        guided(row, model.parameters(), scope_of(model) * 2)
    with pytest.raises(ValueError, match="scope='all'"):
        guided(row, model.parameters(), [])
